"""What the MMU is given, what is mapped where, which pages are touched: each pass against a naive one."""


import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.hw.jit import pure
from emu.hw.mmu import AccessKind, kind_of
from emu.lab.memtrace.words import Call, Kind, Op, pack
from emu.lab.replay.expand import expand, no_recent_pages, values_of
from emu.lab.replay.kernels import count_pieces, fill_pieces, touched_pages
from emu.lab.replay.shadow import Shadow, cut_at_pages
from emu.lab.replay.space import Sort, Space
from emu.lab.replay.survey import WINDOWS, survey
from tests.lab.traces import BASE, INSTR, LOAD, MODIFY, PAGE, STORE, Access, nothing, trace_of, words_of


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
