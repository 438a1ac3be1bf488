"""Replay: what faults, what is refused, and that every stored byte is in the files."""

import mmap
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from emu.lab.errors import LabError
from emu.lab.ground import plain_ground
from emu.lab.lab import Lab, LabOptions
from emu.lab.memtrace.opening import find_trace, open_trace
from emu.lab.memtrace.words import Call, File, Label, Op, U64Array
from emu.lab.progress import NoProgress
from emu.lab.replay.faithful import replay
from emu.lab.replay.player import Player
from emu.lab.replay.shadow import Shadow
from emu.lab.replay.survey import survey
from tests.lab.traces import (
    ANONYMOUS,
    BASE,
    INSTR,
    LOAD,
    MODIFY,
    PAGE,
    PRIVATE,
    RW,
    SHARED,
    STORE,
    Access,
    nothing,
    replayed,
    trace_of,
)


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
