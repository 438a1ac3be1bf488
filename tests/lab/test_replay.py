"""Replay: what the MMU is given, what is mapped where, what faults, and that every stored byte is in the files."""

import io
import mmap
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.hw.jit import pure
from emu.hw.mmu import AccessKind, kind_of
from emu.lab.errors import LabError
from emu.lab.ground import plain_ground
from emu.lab.lab import Lab, LabOptions
from emu.lab.memtrace.container import Trace, TraceWriter
from emu.lab.memtrace.opening import find_trace, open_trace
from emu.lab.memtrace.words import Call, File, Kind, Label, Op, U64Array, pack
from emu.lab.progress import NoProgress
from emu.lab.replay.expand import expand, no_recent_pages, values_of
from emu.lab.replay.faithful import replay
from emu.lab.replay.kernels import count_pieces, fill_pieces, touched_pages
from emu.lab.replay.player import Player
from emu.lab.replay.result import Replay, StrategyRow
from emu.lab.replay.rewired import FILE_NAME, price
from emu.lab.replay.shadow import Shadow, cut_at_pages
from emu.lab.replay.space import Sort, Space
from emu.lab.replay.survey import WINDOWS, survey
from emu.mm.rmap import STRATEGIES

Access = tuple[int, int, int]
PAGE = 4096
SHARED, PRIVATE, ANONYMOUS = mmap.MAP_SHARED, mmap.MAP_PRIVATE, mmap.MAP_ANONYMOUS
RW = mmap.PROT_READ | mmap.PROT_WRITE
LOAD, STORE, INSTR, MODIFY = Kind.LOAD, Kind.STORE, Kind.INSTR, Kind.MODIFY
BASE = 0x40_0000


def nothing(_count: int) -> None:
    pass


def words_of(accesses: list[Access]) -> U64Array:
    vaddrs, nbytes, kinds = (np.array(column, np.uint64) for column in zip(*accesses, strict=True))
    return pack(vaddrs, nbytes, kinds)


def trace_of(steps: list[list[Access] | Call], files: tuple[File, ...] = ()) -> Trace:
    out = io.BytesIO()
    writer = TraceWriter(out, {"command": ["made"], "page_size": PAGE})
    for file in files:
        writer.add_file(file)
    for step in steps:
        if isinstance(step, Call):
            writer.call(step)
        else:
            writer.accesses(words_of(step))
    writer.finish()
    return Trace(np.frombuffer(out.getvalue(), np.uint8), "made")


def replayed(trace: Trace, *, anonymous: bool = False, fmt: str = "x86_64", ram: int | None = None) -> Replay:
    with plain_ground() as ground, Lab(ground, LabOptions(format=fmt, events=True, ram=ram)) as lab:
        shift = lab.page_size.bit_length() - 1
        outcome = replay(lab, trace, survey(trace, shift, nothing), anonymous=anonymous, advance=nothing)
        assert not list(ground.directory.iterdir()), "copies are removed"
        return outcome


def priced(trace: Trace, rmap: str, *, writebacks: int = 7, fmt: str = "x86_64", caps: str = "disk") -> StrategyRow:
    with plain_ground() as ground, Lab(ground, LabOptions(format=fmt, rmap=rmap, caps=caps)) as lab:
        shift = lab.page_size.bit_length() - 1
        return price(lab, trace, survey(trace, shift, nothing), writebacks=writebacks, advance=nothing)


# What the MMU is given


def naive_expand(vaddr: int, nbytes: int, kind: int) -> list[tuple[int, int]]:
    found = []
    if kind != STORE:
        access = AccessKind.FETCH if kind == INSTR else AccessKind.LOAD
        found.append((vaddr & ~7, kind_of(access, 8)))
        if nbytes and vaddr // PAGE != (vaddr + nbytes - 1) // PAGE:
            found.append((vaddr + nbytes - 1 & ~7, kind_of(access, 8)))
    if kind in {STORE, MODIFY}:
        for size in (8, 4, 2, 1):
            while nbytes >= size:
                found.append((vaddr, kind_of(AccessKind.STORE, size)))
                vaddr, nbytes = vaddr + size, nbytes - size
    return found


_accesses = st.lists(
    st.tuples(
        st.integers(BASE, BASE + 3 * PAGE) | st.integers(BASE + PAGE - 40, BASE + PAGE + 8),
        st.integers(0, 40) | st.integers(0, 600),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=50,
)


@settings(max_examples=150, deadline=None)
@given(_accesses)
def test_accesses_become_what_the_mmu_takes(accesses: list[Access]) -> None:
    words = words_of(accesses)
    batch = expand(np.array([access[0] for access in accesses], np.uint64), words, 12, 5)
    expected = [piece for access in accesses for piece in naive_expand(*access)]
    assert list(zip(batch.vaddrs.tolist(), batch.kinds.tolist(), strict=True)) == expected
    touched = {place >> 12 for vaddr, nbytes, _ in accesses for place in (vaddr, vaddr + max(nbytes, 1) - 1)}
    assert batch.pages.tolist() == sorted(touched)
    assert batch.values.tolist() == values_of(5, len(expected)).tolist()
    assert len(set(batch.values.tolist())) == len(expected), "each store has a value of its own"


def test_the_compiled_passes_do_what_their_python_does() -> None:
    rng = np.random.default_rng(2)
    vaddrs = rng.integers(BASE, BASE + 9 * PAGE, 300, np.uint64)
    words = pack(vaddrs, rng.integers(0, 70, 300), rng.integers(0, 4, 300))
    total = int(count_pieces(words, vaddrs, np.uint64(PAGE)))
    filled, touched = [], []
    with np.errstate(over="ignore"):
        assert int(pure(count_pieces)(words, vaddrs, np.uint64(PAGE))) == total
        for fill, touch in ((fill_pieces, touched_pages), (pure(fill_pieces), pure(touched_pages))):
            where, values, pages = np.zeros(total, np.uint64), np.zeros(total, np.uint64), np.zeros(600, np.uint64)
            kinds = np.zeros(total, np.uint8)
            fill(words, vaddrs, np.uint64(12), np.uint64(9), where, kinds, values, pages, no_recent_pages())
            filled.append([array.tolist() for array in (where, kinds, values, pages)])
            code, data, stored = (np.zeros(600, np.uint64) for _ in range(3))
            counts = np.zeros(7, np.uint64)
            touch(words, vaddrs, np.uint64(12), code, data, stored, no_recent_pages(3), counts)
            touched.append([array.tolist() for array in (code, data, stored, counts)])
    assert filled[0] == filled[1]
    assert touched[0] == touched[1]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 8), st.integers(0, (1 << 64) - 1)), max_size=30))
def test_a_shadow_holds_what_was_stored_last(stores: list[tuple[int, int, int]]) -> None:
    expected = bytearray(280)
    for place, nbytes, value in stores:
        data = value.to_bytes(8, "little")[:nbytes]
        room = max(0, 280 - place)
        expected[place : place + len(data[:room])] = data[:room]
    shadow = Shadow(bytes(280))
    places, sizes, values = (np.array([store[i] for store in stores], kind) for i, kind in enumerate("QqQ"))
    shadow.store(*cut_at_pages(places, sizes, values, 64))
    assert shadow._bytes.tobytes() == bytes(expected)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 60), st.integers(1, 20), st.sampled_from(Sort)), max_size=30))
def test_a_space_knows_what_is_mapped_where(steps: list[tuple[bool, int, int, Sort]]) -> None:
    space, naive = Space(), [Sort.UNMAPPED] * 100
    for add, start, length, sort in steps:
        if add and sort != Sort.UNMAPPED:
            space.add(start, start + length, sort, start)
            naive[start : start + length] = [sort] * length
        else:
            space.remove(start, start + length)
            naive[start : start + length] = [Sort.UNMAPPED] * length
    assert space.sorts_at(np.arange(100, dtype=np.uint64)).tolist() == naive
    for start, end, sort, _ in space.within(10, 50):
        assert 10 <= start < end <= 50
        assert set(naive[start:end]) == {sort}


def test_a_survey_finds_distinct_pages_by_window() -> None:
    rng = np.random.default_rng(3)
    accesses = [
        (BASE + int(where), int(size), int(kind))
        for where, size, kind in zip(
            rng.integers(0, 40 * PAGE, 6400), rng.integers(1, 64, 6400), rng.integers(0, 4, 6400), strict=True
        )
    ]
    trace = trace_of([accesses[:1000], Call(Op.COPY_IN, BASE + 90 * PAGE - 4, 8), accesses[1000:]])
    found = survey(trace, 12, nothing)
    assert len(found.windows) == WINDOWS
    seen: list[int] = []
    for number, window in enumerate(found.windows):
        part = accesses[number * 100 : number * 100 + 100]
        pages = {kind: set[int]() for kind in Kind}
        for vaddr, size, kind in part:
            for page in dict.fromkeys((vaddr >> 12, vaddr + size - 1 >> 12)):
                pages[Kind(kind)].add(page)
        extra = {BASE // PAGE + 89, BASE // PAGE + 90} if number == 10 else set[int]()
        data = pages[LOAD] | pages[STORE] | pages[MODIFY] | extra
        assert (window.code_pages, window.data_pages) == (len(pages[INSTR]), len(data))
        assert window.stored_pages == len(pages[STORE] | pages[MODIFY] | extra)
        assert window.pages == len(pages[INSTR] | data)
        seen += [page for page in data | pages[INSTR] if page not in seen]
        assert window.pages_so_far == len(seen)
        assert window.end == (number + 1) * 100
    assert found.pages.tolist() == sorted(seen)
    assert sorted(found.first_order.tolist()) == list(range(len(seen)))
    first = found.pages[int(np.argmin(found.first_order))]
    assert int(first) == accesses[0][0] >> 12 or accesses[0][2] != INSTR


# Mappings, faults, and bytes


def test_the_programs_mappings_are_made_and_faults_are_told_apart(tmp_path: Path) -> None:
    library = tmp_path / "lib.so"
    library.write_bytes(b"code" * PAGE)
    files = (File(str(library), 4 * PAGE), File("/gone/file", 2 * PAGE))
    stack, gone = BASE + 64 * PAGE, BASE + 32 * PAGE
    outcome = replayed(
        trace_of(
            [
                Call(Op.MMAP, BASE, 4 * PAGE, prot=5, flags=PRIVATE, file=0),
                Call(Op.MMAP, gone, 2 * PAGE - 100, prot=RW, flags=PRIVATE, file=1),
                Call(Op.MMAP, stack, 8 * PAGE, Label.STACK, RW, PRIVATE | ANONYMOUS),
                [(BASE, 4, INSTR), (BASE + PAGE - 2, 4, INSTR), (stack + 8, 8, STORE), (stack + PAGE, 8, LOAD)],
                [(gone + 8, 8, LOAD), (gone + 8, 8, MODIFY)],
                Call(Op.COPY_IN, stack + 2 * PAGE - 4, 8),
                Call(Op.COPY_OUT, BASE + 100, 8),
                Call(Op.MUNMAP, stack, 8 * PAGE),
                [(BASE + 20 * PAGE, 8, STORE)],
            ],
            files,
        )
    )
    rows = {row.memory: (row.faults, row.for_stores) for row in outcome.fault_rows}
    assert rows == {
        "libraries and private files": (4, 1),
        "stack": (4, 3),
        "mapped by no call of the trace": (1, 1),
    }
    assert outcome.faults["page faults"] == 9
    assert outcome.stand_ins == ["/gone/file"]
    assert outcome.pages_mapped_on_demand == 1
    assert outcome.calls == {"mmap": 3, "copy_in": 1, "copy_out": 1, "munmap": 1}
    assert (outcome.signals, outcome.refused_calls, outcome.copied_bytes) == ({}, {}, 16)
    assert outcome.tlb["faults"] == 9
    assert library.read_bytes() == b"code" * PAGE


def test_shared_files_are_copies_that_hold_every_stored_byte(tmp_path: Path) -> None:
    base = tmp_path / "base.db"
    base.write_bytes(bytes(range(256)) * 64)
    before = base.read_bytes()
    rng = np.random.default_rng(5)
    accesses: list[Access] = [
        (BASE + int(where), int(size), int(kind))
        for where, size, kind in zip(
            rng.integers(0, 4 * PAGE - 64, 3000), rng.integers(1, 64, 3000), rng.integers(1, 4, 3000), strict=True
        )
    ]
    high = BASE + 100 * PAGE
    second = [(vaddr - BASE + high, size, kind) for vaddr, size, kind in accesses[::7] if vaddr < BASE + 2 * PAGE - 64]
    trace = trace_of(
        [
            Call(Op.MMAP, BASE, 4 * PAGE, prot=RW, flags=SHARED, file=0),
            accesses,
            Call(Op.MMAP, high, 2 * PAGE, prot=RW, flags=SHARED, file=0, offset=2 * PAGE),
            second,
            Call(Op.COPY_IN, high + PAGE - 50, 100),
            Call(Op.MREMAP, high, 2 * PAGE, new_nbytes=2 * PAGE, new_vaddr=high + 50 * PAGE),
            [(high + 51 * PAGE, 8, STORE)],
            Call(Op.MSYNC, BASE, 4 * PAGE, flags=4),
            Call(Op.MPROTECT, BASE, PAGE, prot=mmap.PROT_READ),
            [(BASE + 16, 8, STORE)],
        ],
        (File(str(base), len(before)),),
    )
    outcome = replayed(trace)
    assert outcome.signals == {"SIGSEGV": 1}
    assert outcome.shared_pages_wrong == 0
    assert outcome.shared_bytes_checked > 3 * PAGE
    assert outcome.shared_files == [str(base)]
    assert outcome.dirty_file_pages_max > 0
    assert base.read_bytes() == before, "the user's file is not touched"


def test_a_window_that_moves_stores_where_it_shows() -> None:
    """Nonlinear mappings of the program's own: pages of a file shown in a window, as remap_file_pages has it."""
    steps: list[list[Access] | Call] = [Call(Op.MMAP, BASE, 16 * PAGE, prot=RW, flags=SHARED, file=0)]
    rng = np.random.default_rng(4)
    for turn, pgoff in enumerate(rng.permutation(16).tolist()):
        slot = int(rng.integers(0, 15))
        steps += [
            Call(Op.REMAP_FILE_PAGES, BASE + slot * PAGE + 5, PAGE + 7, offset=pgoff),
            [(BASE + slot * PAGE + 4090, 12, STORE), (BASE + int(rng.integers(0, 16 * PAGE - 8)), 8, MODIFY)],
        ]
        if turn % 5 == 0:
            steps.append(Call(Op.MSYNC, BASE, 16 * PAGE, flags=4))
    outcome = replayed(trace_of(steps, (File("/gone/db", 16 * PAGE),)))
    assert outcome.calls["remap_file_pages"] == 16
    assert not outcome.refused_calls
    assert outcome.shared_bytes_checked > 200
    assert outcome.shared_pages_wrong == 0


def test_a_byte_that_is_not_in_the_file_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = trace_of(
        [Call(Op.MMAP, BASE, 2 * PAGE, prot=RW, flags=SHARED, file=0), [(BASE + PAGE + 9, 3, STORE), (BASE, 1, LOAD)]],
        (File("/gone/base", 2 * PAGE),),
    )
    assert replayed(trace).shared_pages_wrong == 0
    told = Shadow.store

    def tell_wrong(self: Shadow, places: U64Array, nbytes: npt.NDArray[np.int64], values: U64Array) -> None:
        told(self, places, nbytes, values + np.uint64(1))

    monkeypatch.setattr(Shadow, "store", tell_wrong)
    assert replayed(trace).shared_pages_wrong == 1


def test_signals_and_refused_calls_are_counted_and_passed_over(tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(b"x" * 100)
    outcome = replayed(
        trace_of(
            [
                Call(Op.MMAP, BASE, 2 * PAGE, prot=mmap.PROT_READ, flags=PRIVATE | ANONYMOUS),
                Call(Op.MMAP, BASE + 8 * PAGE, 4 * PAGE, prot=mmap.PROT_READ, flags=PRIVATE, file=0),
                [(BASE, 8, LOAD), (BASE, 8, STORE), (BASE + 8, 8, LOAD), (BASE + 10 * PAGE, 8, LOAD)],
                Call(Op.MPROTECT, BASE + 1, PAGE, prot=RW),
                Call(Op.MADVISE, BASE, PAGE, flags=9999),
                Call(Op.COPY_IN, BASE, 8),
            ],
            (File(str(short), 100),),
        )
    )
    assert outcome.signals == {"SIGSEGV": 2, "SIGBUS": 1}
    assert outcome.first_signal == f"SIGSEGV at {BASE:#x}: the mapping is not writable, near access 1"
    assert outcome.refused_calls == {"mprotect: EINVAL": 1, "madvise: EINVAL": 1}
    assert outcome.accesses == 4


def test_a_trace_that_hardly_works_ends_in_one_line() -> None:
    trace = trace_of(
        [Call(Op.MMAP, BASE, PAGE, prot=mmap.PROT_READ, flags=PRIVATE | ANONYMOUS), [(BASE, 8, STORE)] * 10_001]
    )
    with pytest.raises(LabError, match="10,000 accesses got a signal, the first: SIGSEGV at 0x400000"):
        replayed(trace)


def test_too_little_ram_is_one_line() -> None:
    trace = trace_of([[(BASE + page * PAGE, 8, STORE) for page in range(200)]])
    with pytest.raises(LabError, match=r"the machine's RAM is too small for this trace .* give more --ram, or --swap"):
        replayed(trace, ram=64 * PAGE)


@pytest.mark.parametrize("fmt", ["x86_64", "i386", "i386_pae", "sv32", "sv39", "arm64_4k"])
def test_what_lies_too_high_is_moved_and_all_else_stays(fmt: str) -> None:
    far, kernel = 0x1FFF_0000_0000 // 64, (1 << 64) - 0xA00000
    steps: list[list[Access] | Call] = [
        Call(Op.MMAP, far, 4 * PAGE, Label.STACK, RW, PRIVATE | ANONYMOUS),
        Call(Op.MMAP, BASE, PAGE, prot=RW, flags=SHARED, file=0),
        [(far + 8, 8, STORE), (far + 3 * PAGE - 4, 8, STORE), (BASE, 4, STORE), (kernel, 4, INSTR), (8, 4, LOAD)],
        Call(Op.COPY_IN, far + PAGE, 8),
    ]
    outcome = replayed(trace_of(steps, (File("/gone/x", PAGE),)), fmt=fmt)
    assert outcome.faults["page faults"] == 7
    assert outcome.shared_bytes_checked == 4
    assert outcome.shared_pages_wrong == 0
    assert not outcome.signals
    assert len(outcome.moved) == (3 if fmt in {"i386", "i386_pae", "sv32", "sv39"} else 2)


def test_what_does_not_fit_is_one_line() -> None:
    store: Access = (1 << 40, 8, STORE)
    trace = trace_of([Call(Op.MMAP, 1 << 40, 4 << 30, prot=RW, flags=PRIVATE | ANONYMOUS), [store]])
    assert replayed(trace).faults["page faults"] == 1
    with pytest.raises(LabError, match=r"made maps 4\.0 GiB, which do not fit into the address space of i386"):
        replayed(trace, fmt="i386")


def test_large_pages_take_anonymous_replays() -> None:
    accesses: list[Access] = [(BASE + place, 8, STORE) for place in range(0, 64 * PAGE, 512)]
    outcome = replayed(trace_of([Call(Op.MUNMAP, BASE, PAGE), accesses]), anonymous=True, fmt="arm64_64k")
    assert outcome.faults["page faults"] == 4
    assert outcome.pages_touched == 4


# What reverse maps would have paid


def rewired_trace() -> Trace:
    rng = np.random.default_rng(11)
    steps: list[list[Access] | Call] = [
        Call(Op.MMAP, BASE, 64 * PAGE, Label.HEAP, RW, PRIVATE | ANONYMOUS),
        Call(Op.MMAP, BASE + 64 * PAGE, 8 * PAGE, prot=RW, flags=PRIVATE, file=0),
    ]
    for turn in range(8):
        where = rng.integers(0, 40 * PAGE, 400)
        steps.append([(BASE + int(place), int(size), STORE) for place, size in zip(where, where % 17, strict=True)])
        steps.append([(BASE + (64 + turn) * PAGE + 4090, 12, MODIFY), (BASE + 90 * PAGE, 8, STORE)])
        if turn == 5:
            steps += [
                Call(Op.MREMAP, BASE + 60 * PAGE, 4 * PAGE, new_nbytes=6 * PAGE, new_vaddr=BASE + 200 * PAGE),
                [(BASE + 203 * PAGE, 8, STORE)],
                Call(Op.MUNMAP, BASE + 30 * PAGE, 4 * PAGE),
                Call(Op.MPROTECT, BASE, PAGE, prot=mmap.PROT_READ),
                Call(Op.MPROTECT, BASE, PAGE, prot=RW),
                Call(Op.COPY_IN, BASE + PAGE - 20, 50),
            ]
    return trace_of(steps, (File("/gone/data", 8 * PAGE),))


@pytest.mark.parametrize("rmap", list(STRATEGIES))
def test_only_none_loses_pages_of_a_guest(rmap: str) -> None:
    row = priced(rewired_trace(), rmap)
    assert row.error is None
    assert row.mkclean_calls
    assert row.visits_per_mkclean is not None
    if rmap == "none":
        assert row.lost_pages
        assert row.lost_pages > 20
        return
    assert row.lost_pages == 0
    assert row.dirty_pages
    assert row.dirty_pages > 40
    assert (row.pte_visits or 0) >= (row.mkclean_calls or 0) * 0.9
    assert bool(row.own_bytes) == (rmap != "scan")


def test_without_writebacks_or_accounting_nothing_is_lost() -> None:
    assert priced(rewired_trace(), "none", writebacks=0).lost_pages == 0
    assert priced(rewired_trace(), "none", caps="ramfs").lost_pages == 0
    assert priced(rewired_trace(), "dirty_index", fmt="i386").lost_pages == 0


def test_a_file_of_the_users_is_not_overwritten() -> None:
    trace = rewired_trace()
    with plain_ground() as ground, Lab(ground, LabOptions()) as lab:
        kept = ground.directory / FILE_NAME
        kept.write_text("mine")
        with pytest.raises(LabError, match="exists"):
            price(lab, trace, survey(trace, 12, nothing), writebacks=0, advance=nothing)
        assert [path.read_text() for path in ground.directory.iterdir()] == ["mine"]


# Real programs

def test_a_bundled_trace_replays_whole() -> None:
    with open_trace(find_trace("gzip"), NoProgress()) as trace:
        outcome = replayed(trace)
        assert outcome.accesses == trace.nr_accesses == sum(outcome.by_kind.values())
        assert not outcome.signals
        assert not outcome.refused_calls
        assert outcome.pages_mapped_on_demand == 0
        memories = {row.memory: row.faults for row in outcome.fault_rows}
        assert set(memories) >= {"libraries and private files", "program", "heap", "stack", "anonymous memory"}
        assert sum(memories.values()) == outcome.faults["page faults"] >= outcome.pages_touched
        assert outcome.windows[-1].end == outcome.accesses
        assert sum(row.faults for row in outcome.windows) <= outcome.faults["page faults"]
        assert outcome.tlb["accesses"] >= outcome.accesses
        again = replayed(trace, fmt="i386")
        assert [row.pages for row in again.windows] == [row.pages for row in outcome.windows]


def test_a_program_in_too_little_ram_swaps_and_loses_nothing() -> None:
    with (
        open_trace(find_trace("sqlite3"), NoProgress()) as trace,
        plain_ground() as ground,
        Lab(ground, LabOptions(events=True, ram=1200 << 10)) as lab,
    ):
        outcome = replay(lab, trace, survey(trace, 12, nothing), swap="8M", advance=nothing)
        assert outcome.faults["pages swapped out"] > 0
        assert outcome.faults["pages reclaimed by kswapd"] > 0
        assert outcome.resident_pages_max < 300 < outcome.pages_touched
        assert outcome.shared_bytes_checked > 30_000
        assert outcome.shared_pages_wrong == 0


def test_sqlite_stores_into_its_shared_index() -> None:
    with open_trace(find_trace("sqlite3"), NoProgress()) as trace:
        outcome = replayed(trace)
        assert outcome.shared_bytes_checked > 30_000
        assert outcome.shared_pages_wrong == 0
        assert not outcome.signals
        assert outcome.faults["first stores into shared pages"] >= 8
        assert any(path.endswith("-shm") for path in outcome.shared_files)


def test_the_player_leaves_nothing_open(tmp_path: Path) -> None:
    del tmp_path
    trace = trace_of([Call(Op.MMAP, BASE, PAGE, prot=RW, flags=SHARED, file=0)], (File("/gone/x", 5),))
    with plain_ground() as ground, Lab(ground, LabOptions()) as lab:
        lab.boot()
        player = Player(lab, trace, survey(trace, 12, nothing))
        player.play(nothing)
        assert [path.stat().st_size for path in ground.directory.glob("*/*")] == [5]
        player.close()
        assert not list(ground.directory.iterdir())
