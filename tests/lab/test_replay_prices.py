"""What each reverse map pays for a trace, run again as user-mode Linux kept a guest."""

import mmap

import numpy as np
import pytest

from emu.lab.errors import LabError
from emu.lab.ground import plain_ground
from emu.lab.lab import Lab, LabOptions
from emu.lab.memtrace.container import Trace
from emu.lab.memtrace.words import Call, File, Label, Op
from emu.lab.replay.rewired import FILE_NAME, price
from emu.lab.replay.survey import survey
from emu.mm.rmap import STRATEGIES
from tests.lab.traces import ANONYMOUS, BASE, MODIFY, PAGE, PRIVATE, RW, STORE, Access, nothing, priced, trace_of


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
