"""The compiled kernels against their own source, with bounds checks, and with caches that must not go stale."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.hw import access, invalidate, tlb
from emu.hw.pte import FORMATS
from emu.hw.tlb import TlbModel
from tests.emu.hw.plain import plain
from tests.emu.hw.space import Space

ROOT = Path(__file__).parents[3]
SMALL = TlbModel("small", 2, 2, 4, 2, pwc_entries=2, source="this test")
BASE = 0x4000_0000
NR_PAGES = 12

# What may happen: an access (page, offset, kind and size, value), an invalidation, or a change of a PTE
EVENTS = st.one_of(
    st.tuples(
        st.just("access"), st.integers(0, NR_PAGES), st.integers(0, 4095), st.integers(0, 15), st.integers(0, 2**64 - 1)
    ),
    st.tuples(st.just("page"), st.integers(0, NR_PAGES), st.integers(1, 2)),
    st.tuples(st.just("asid"), st.integers(1, 2)),
    st.tuples(st.just("all")),
    st.tuples(st.just("root"), st.integers(1, 2)),
    st.tuples(st.just("clean"), st.integers(0, NR_PAGES - 1)),
    st.tuples(st.just("bytes"), st.integers(0, NR_PAGES), st.integers(0, 4095), st.integers(0, 9000)),
)


class Twin:
    """A machine driven through the compiled kernels, or through their source."""

    def __init__(self, name: str, *, compiled: bool) -> None:
        self.space = Space(name, 40, SMALL)
        for page in range(NR_PAGES):
            self.space.map(BASE + page * self.space.fmt.page_size, write=page % 3 > 0)
        self.compiled = compiled

    def call(self, kernel: object, *arguments: object) -> int:
        function = kernel if self.compiled else plain(kernel)
        words = [np.uint64(one) if isinstance(one, int) else one for one in arguments]
        with np.errstate(over="ignore"):
            return int(function(self.space.mmu.state, *words) or 0)  # type: ignore[operator]

    def do(self, event: tuple[object, ...]) -> object:  # noqa: PLR0911 - one return a kind of event
        space, ram = self.space, self.space.physmem
        match event:
            case ("access", int(page), int(at), int(kind), int(value)):
                return self.call(access.access, ram.u64, BASE + page * space.fmt.page_size + at, kind, value)
            case ("page", int(page), int(asid)):
                return self.call(invalidate.invalidate_page, BASE + page * space.fmt.page_size, asid)
            case ("asid", int(asid)):
                return self.call(invalidate.invalidate_asid, asid)
            case ("all",):
                return self.call(invalidate.invalidate_all)
            case ("root", int(asid)):
                space.mmu.load_root(space.root, asid)
                return 0
            case ("clean", int(page)):
                vaddr = BASE + page * space.fmt.page_size
                space.set(vaddr, space.fmt.pte_mkclean(space.get(vaddr)))
                return 0
            case ("bytes", int(page), int(at), int(nbytes)):
                buffer = np.zeros(nbytes, np.uint8)
                vaddr = BASE + page * space.fmt.page_size + at
                done = self.call(access.load_bytes, ram.u64, ram.u8, vaddr, buffer)
                return done, buffer.tobytes(), self.call(access.store_bytes, ram.u64, ram.u8, vaddr, buffer)
        raise AssertionError(event)


@pytest.mark.parametrize("name", ["i386", "x86_64", "sv39", "arm64_4k"])
@settings(max_examples=25, deadline=None)
@given(events=st.lists(EVENTS, min_size=5, max_size=40))
def test_compiled_and_plain_kernels_do_the_same(name: str, events: list[tuple[object, ...]]) -> None:
    compiled, source = Twin(name, compiled=True), Twin(name, compiled=False)
    for event in events:
        assert compiled.do(event) == source.do(event), event
    assert compiled.space.mmu.state.tolist() == source.space.mmu.state.tolist()
    assert compiled.space.physmem.u8.tobytes() == source.space.physmem.u8.tobytes()


def test_a_batch_compiled_and_plain() -> None:
    rng = np.random.default_rng(2)
    results = []
    for compiled in (True, False):
        twin = Twin("x86_64", compiled=compiled)
        rng = np.random.default_rng(2)
        vaddrs = (BASE + rng.integers(0, NR_PAGES * 4096 - 8, 3000)).astype(np.uint64)
        vaddrs[::2] &= ~np.uint64(7)
        kinds = rng.integers(0, 2, 3000).astype(np.uint8)
        kinds[kinds == 1] = np.where(vaddrs[kinds == 1] // np.uint64(4096) % np.uint64(3) > 1, 1, 0)
        values = rng.integers(0, 2**63, 3000).astype(np.uint64)
        where = 0
        stops = []
        while where < 3000:
            where = twin.call(access.run, twin.space.physmem.u64, vaddrs, kinds, values, where, 3000)
            stops.append(where)
            where += 1
        results.append((stops, values.tolist(), twin.space.mmu.state.tolist(), twin.space.physmem.u8.tobytes()))
    assert results[0] == results[1]


@settings(deadline=None)
@given(vaddr=st.integers(0, 2**64 - 1), kind=st.integers(0, 2))
def test_no_address_hits_what_was_cached_for_another(vaddr: int, kind: int) -> None:
    space = Space("x86_64", model=SMALL)
    space.map(BASE, execute=True)
    for warm in range(3):
        space.mmu.access(BASE, warm, 0)
    data = tlb.translate(space.mmu.state, space.physmem.u64, vaddr, kind)
    assert (data != 0) == (vaddr >> 12 == BASE >> 12)


def _run_tests(cache: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)} | settings
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def checked_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the kernels with bounds checks are cached: compiling them takes seconds."""
    return tmp_path_factory.mktemp("checked")


def test_everything_here_passes_with_bounds_checks(checked_cache: Path) -> None:
    tests = ["tests/emu/hw/test_mmu.py", "tests/emu/hw/test_tlbs.py", "tests/emu/hw/test_walk.py", "-k", "not compiled"]
    done = _run_tests(checked_cache, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, NUMBA_BOUNDSCHECK="1")
    assert done.returncode == 0, done.stdout[-4000:]


def test_an_index_out_of_bounds_is_seen_by_that_run(checked_cache: Path) -> None:
    code = """
import numpy as np
from emu.hw import access
ram = np.zeros(4, np.uint64)
access.load_part(ram, 64, 8, 0)
"""
    done = _run_tests(checked_cache, "-c", code, NUMBA_BOUNDSCHECK="1")
    assert "IndexError" in done.stderr


def test_a_read_only_home_and_a_changed_source_are_no_obstacle(tmp_path: Path) -> None:
    code = "import emu.hw.jit as j; print(j._CACHE_DIRECTORY)"
    first = _run_tests(tmp_path / "a", "-c", code, NUMBA_BOUNDSCHECK="0").stdout.strip()
    checked = _run_tests(tmp_path / "a", "-c", code, NUMBA_BOUNDSCHECK="1").stdout.strip()
    assert first.startswith(str(tmp_path / "a"))
    assert Path(first).is_dir()
    assert first != checked, "code with bounds checks must not be taken for code without"
    nowhere = _run_tests(Path("/dev/null/x"), "-c", code)
    assert (nowhere.returncode, nowhere.stdout.strip()) == (0, ""), "compiled anew, not refused"


def test_all_formats_are_numbered_for_the_walker() -> None:
    for name in FORMATS:
        assert int(Space(name).mmu.state[33]) == FORMATS[name].nr_levels
