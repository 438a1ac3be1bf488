"""What random calls once found to differ, or might find too seldom: the emulated kernel and the host's do the same."""

import contextlib
import errno
import mmap
import resource
from collections.abc import Callable, Iterator

import pytest

from emu.errors import SegmentationFault
from emu.host import HostProcess
from emu.host_state import read_flags
from emu.mm_types.vma import VM_LOCKED, VM_LOCKONFAULT
from tests.either import Either, either_process
from tests.stateful.twins import used

PAGE = 4096
BASE = 1 << 37
RW = mmap.PROT_READ | mmap.PROT_WRITE
ANON = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10
SHARED = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | 0x10
GROWSDOWN = 0x100
ONFAULT = 1
DONTUNMAP = 4
DONTFORK, DONTNEED_LOCKED = 10, 24


@pytest.fixture(params=["linear_vmas", "host"])
def process(request: pytest.FixtureRequest) -> Iterator[Either]:
    with either_process(request.param, privileged=False) as process:
        yield process


def borders(process: Either) -> list[tuple[int, int]]:
    vmas = [vma for vma in process.vmas if BASE <= vma.start < BASE + 64 * PAGE]
    return [((vma.start - BASE) // PAGE, (vma.end - BASE) // PAGE) for vma in vmas]


def locks(process: Either) -> list[str]:
    """Return of each mapping whether it is locked ("lo"), on fault ("lf")."""
    if isinstance(process, HostProcess):
        found = [names & {"lo", "lf"} for _start, _end, names in read_flags(process.pid, BASE, BASE + 64 * PAGE)]
    else:
        names = {VM_LOCKED: "lo", VM_LOCKONFAULT: "lf"}
        found = [{name for flag, name in names.items() if vma.flags & flag} for vma in process.vmas]
    return [" ".join(sorted(one)) for one in found]


def fails(number: int, call: Callable[[], object]) -> None:
    with pytest.raises(OSError, match=r".") as caught:
        call()
    assert caught.value.errno == number


@contextlib.contextmanager
def within_limit(process: Either, which: int, nbytes: int) -> Iterator[None]:
    """Let calls use `nbytes` more than what is used now."""
    if isinstance(process, HostProcess):
        with process.within_limit(which, nbytes):
            yield
        return
    mm = process.mm
    was = mm.rlim[which]
    process.setrlimit(which, used(mm, which) + nbytes, was[1])
    yield
    mm.rlim[which] = was


def test_a_mapping_that_is_refused_leaves_cuts_in_what_it_was_to_replace(process: Either) -> None:
    process.sys_mmap(BASE, 8 * PAGE, RW, ANON, -1, 0)
    process.store(BASE + 3 * PAGE, b"x")
    with within_limit(process, resource.RLIMIT_AS, PAGE):
        fails(errno.ENOMEM, lambda: process.sys_mmap(BASE + 2 * PAGE, 16 * PAGE, RW, ANON, -1, 0))
        process.sys_mmap(BASE + 24 * PAGE, PAGE, RW, ANON, -1, 0)
    assert borders(process) == [(0, 2), (2, 8), (24, 25)]
    assert process.load(BASE + 3 * PAGE, 1) == b"x"


def test_mlock_of_too_much_is_refused_before_it_wraps(process: Either) -> None:
    if isinstance(process, HostProcess):
        process.drop_lock_privilege()
    fails(errno.ENOMEM, lambda: process.mlock(BASE, (1 << 64) - PAGE))
    # Rounded up it is nothing.
    process.mlock(BASE, (1 << 64) - 1)


def test_a_mapping_for_a_stack_takes_no_large_pages(process: Either) -> None:
    process.sys_mmap(BASE, 2 * PAGE, RW, ANON, -1, 0)
    process.sys_mmap(BASE + 2 * PAGE, PAGE, RW, ANON | 0x20000, -1, 0)
    assert borders(process) == [(0, 2), (2, 3)]


def test_a_move_of_locked_memory_brings_in_only_what_it_gains(process: Either) -> None:
    process.sys_mmap(BASE, 2 * PAGE, RW, ANON, -1, 0)
    process.mlock(BASE, 2 * PAGE)
    process.madvise(BASE, 2 * PAGE, DONTNEED_LOCKED)
    process.mremap(BASE, 2 * PAGE, 2 * PAGE, 3, BASE + 8 * PAGE)
    assert process.mincore(BASE + 8 * PAGE, 2 * PAGE) == b"\0\0"
    process.mremap(BASE + 8 * PAGE, 2 * PAGE, 3 * PAGE, 3, BASE + 16 * PAGE)
    assert process.mincore(BASE + 16 * PAGE, 3 * PAGE) == b"\0\0\1"


def test_a_remap_to_the_same_page_forgets_what_madvise_said(process: Either) -> None:
    process.sys_mmap(BASE, 3 * PAGE, RW, SHARED, -1, 0)
    process.remap_file_pages(BASE + PAGE, PAGE, 0, 1)
    assert borders(process) == [(0, 3)]
    process.madvise(BASE, 3 * PAGE, mmap.MADV_RANDOM)
    process.remap_file_pages(BASE + PAGE, PAGE, 0, 1)
    assert borders(process) == [(0, 1), (1, 2), (2, 3)]


def test_a_stack_does_not_grow_up_to_memory_that_forks_do_not_copy(process: Either) -> None:
    process.sys_mmap(BASE, PAGE, RW, ANON, -1, 0)
    process.madvise(BASE, PAGE, DONTFORK)
    process.sys_mmap(BASE + 8 * PAGE, PAGE, RW, ANON | GROWSDOWN, -1, 0)
    for _ in range(2):
        with pytest.raises(SegmentationFault):
            process.store(BASE + 4 * PAGE, b"x")
    process.munmap(BASE, PAGE)
    process.store(BASE + 4 * PAGE, b"x")


def test_locks_on_fault(process: Either) -> None:
    process.sys_mmap(BASE, 4 * PAGE, RW, ANON, -1, 0)
    process.store(BASE, b"x")
    process.mlock2(BASE, 2 * PAGE, ONFAULT)
    assert process.mincore(BASE, 4 * PAGE) == b"\1\0\0\0"
    assert (borders(process), locks(process)) == ([(0, 2), (2, 4)], ["lf lo", ""])
    process.mlock2(BASE, 4 * PAGE, 0)
    assert (process.mincore(BASE, 4 * PAGE), locks(process)) == (b"\1\1\1\1", ["lo"])
    process.mlock2(BASE + PAGE, PAGE, ONFAULT)
    assert locks(process) == ["lo", "lf lo", "lo"]
    process.munlock(BASE, 4 * PAGE)
    assert locks(process) == [""]
    fails(errno.EINVAL, lambda: process.mlock2(BASE, PAGE, 2))
    # Memory without any access: a plain lock cannot bring it in, and says so.
    process.sys_mmap(BASE + 8 * PAGE, PAGE, 0, ANON, -1, 0)
    process.mlock2(BASE + 8 * PAGE, PAGE, ONFAULT)
    fails(errno.ENOMEM, lambda: process.mlock2(BASE + 8 * PAGE, PAGE, 0))


def test_mlockall_on_fault(process: Either) -> None:
    fails(errno.EINVAL, lambda: process.mlockall(4))
    process.mlockall(2 | 4)
    process.sys_mmap(BASE, 2 * PAGE, RW, ANON | 0x8000, -1, 0)
    assert (process.mincore(BASE, 2 * PAGE), locks(process)) == (b"\0\0", ["lf lo"])
    process.mlockall(2)
    process.sys_mmap(BASE + 8 * PAGE, PAGE, RW, ANON, -1, 0)
    assert (process.mincore(BASE + 8 * PAGE, PAGE), locks(process)) == (b"\1", ["lf lo", "lo"])
    process.munlockall()
    assert locks(process) == ["", ""]


def test_dontunmap_moves_the_pages_and_leaves_the_mapping(process: Either) -> None:
    process.sys_mmap(BASE, 4 * PAGE, RW, ANON, -1, 0)
    process.mlock(BASE, 4 * PAGE)
    process.store(BASE + PAGE, b"here")
    assert process.mremap(BASE + PAGE, PAGE, PAGE, 1 | 2 | DONTUNMAP, BASE + 8 * PAGE) == BASE + 8 * PAGE
    assert (process.load(BASE + 8 * PAGE, 4), process.mincore(BASE, 4 * PAGE)) == (b"here", b"\1\0\1\1")
    assert (borders(process), locks(process)) == ([(0, 4), (8, 9)], ["", "lo"])
    # A free place that is asked for is taken.
    assert process.mremap(BASE, PAGE, PAGE, 1 | DONTUNMAP, BASE + 16 * PAGE) == BASE + 16 * PAGE
    assert process.load(BASE + PAGE, 4) == bytes(4)
    fails(errno.EINVAL, lambda: process.mremap(BASE, PAGE, PAGE, DONTUNMAP, BASE + 16 * PAGE))
    fails(errno.EINVAL, lambda: process.mremap(BASE, PAGE, 2 * PAGE, 1 | DONTUNMAP, BASE + 24 * PAGE))
    fails(errno.EFAULT, lambda: process.mremap(BASE, 8 * PAGE, 8 * PAGE, 1 | DONTUNMAP, BASE + 24 * PAGE))


def test_dontunmap_of_a_whole_mapping_leaves_one_that_was_never_written(process: Either) -> None:
    process.sys_mmap(BASE, PAGE, RW, ANON, -1, 0)
    process.store(BASE, b"x")
    process.mremap(BASE, PAGE, PAGE, 1 | 2 | DONTUNMAP, BASE + 8 * PAGE)
    # It merges with what has pages of another family.
    process.sys_mmap(BASE + PAGE, PAGE, RW, ANON, -1, 0)
    process.store(BASE + PAGE, b"x")
    assert borders(process) == [(0, 2), (8, 9)]


def test_the_heap(process: Either) -> None:
    start = process.brk()
    assert process.brk(start + 2 * PAGE + 5) == start + 2 * PAGE + 5
    process.store(start + 3 * PAGE - 4, b"heap")
    with pytest.raises(SegmentationFault):
        process.store(start + 3 * PAGE, b"x")
    assert process.brk(start - PAGE) == start + 2 * PAGE + 5
    assert process.brk(1 << 62) == start + 2 * PAGE + 5
    child = process.fork()
    assert child.brk(start + PAGE) == start + PAGE
    child.exit()
    assert process.load(start + 3 * PAGE - 4, 4) == b"heap"
    # Nothing is left to shrink.
    process.munmap(start, 3 * PAGE)
    assert process.brk(start) == start + 2 * PAGE + 5
    assert process.brk(start + 4 * PAGE) == start + 4 * PAGE
    assert process.mincore(start + 3 * PAGE, PAGE) == b"\0"
    fails(errno.ENOMEM, lambda: process.mincore(start + 2 * PAGE, PAGE))


def test_limits_of_the_host() -> None:
    """That they hold around one command only, and count what the command adds."""
    with HostProcess() as host:
        for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
            host.munmap(BASE, 64 * PAGE)
            with host.within_limit(which, 2 * PAGE):
                host.sys_mmap(BASE, 2 * PAGE, RW, ANON, -1, 0)
                fails(errno.ENOMEM, lambda: host.sys_mmap(BASE + 8 * PAGE, 3 * PAGE, RW, ANON, -1, 0))
            host.sys_mmap(BASE + 8 * PAGE, 3 * PAGE, RW, ANON, -1, 0)
        host.drop_lock_privilege()
        with host.within_limit(resource.RLIMIT_MEMLOCK, 2 * PAGE):
            fails(errno.ENOMEM, lambda: host.mlock(BASE + 8 * PAGE, 3 * PAGE))
            host.mlock(BASE + 8 * PAGE, 2 * PAGE)
        host.munmap(BASE, 64 * PAGE)
        host.sys_mmap(BASE + 16 * PAGE, PAGE, RW, ANON | GROWSDOWN, -1, 0)
        with host.within_limit(resource.RLIMIT_STACK, 3 * PAGE), pytest.raises(SegmentationFault):
            host.store(BASE + 13 * PAGE, b"x")
        host.store(BASE + 13 * PAGE, b"x")
        with pytest.raises(ValueError, match="none of"), host.within_limit(resource.RLIMIT_CPU, 1):
            pass


def test_what_a_child_has_of_its_parent_is_not_extended(process: Either) -> None:
    process.sys_mmap(BASE, PAGE, RW, ANON, -1, 0)
    process.store(BASE, b"x")
    child = process.fork()
    child.sys_mmap(BASE + PAGE, PAGE, RW, ANON, -1, 0)
    assert borders(child) == [(0, 1), (1, 2)]
    # What is new has pages of its own, and merges with what has none; in the parent all do.
    child.sys_mmap(BASE + 2 * PAGE, PAGE, RW, ANON | 0x8000, -1, 0)
    assert borders(child) == [(0, 1), (1, 3)]
    process.sys_mmap(BASE + PAGE, PAGE, RW, ANON, -1, 0)
    assert borders(process) == [(0, 2)]
    child.exit()


def test_parts_that_a_child_has_of_one_mapping_merge_again_and_others_do_not(process: Either) -> None:
    process.sys_mmap(BASE, 2 * PAGE, RW, ANON, -1, 0)
    process.store(BASE, b"x" * 2 * PAGE)
    process.sys_mmap(BASE + 2 * PAGE, PAGE, mmap.PROT_READ, ANON, -1, 0)
    process.madvise(BASE + 2 * PAGE, PAGE, 22)
    child = process.fork()
    child.mprotect(BASE, PAGE, mmap.PROT_READ)
    assert borders(child) == [(0, 1), (1, 2), (2, 3)]
    child.mprotect(BASE, PAGE, RW)
    assert borders(child) == [(0, 2), (2, 3)]
    process.mprotect(BASE + 2 * PAGE, PAGE, RW)
    process.store(BASE + 2 * PAGE, b"x")
    assert borders(process) == [(0, 3)]
    child.exit()


def test_a_child_s_new_memory_that_was_only_read_is_left_to_faults(process: Either) -> None:
    process.sys_mmap(BASE + PAGE, PAGE, RW, ANON, -1, 0)
    process.store(BASE + PAGE, b"x")
    child = process.fork()
    child.sys_mmap(BASE, PAGE, RW, ANON, -1, 0)
    child.load(BASE, 1)
    grandchild = child.fork()
    assert grandchild.mincore(BASE, 2 * PAGE) == b"\0\1"
    grandchild.exit()
    child.exit()


def test_what_a_child_never_wrote_merges_where_it_is_moved(process: Either) -> None:
    process.sys_mmap(BASE + PAGE, PAGE, RW, ANON, -1, 0)
    process.store(BASE + PAGE, b"x")
    child = process.fork()
    child.sys_mmap(BASE, PAGE, RW, ANON, -1, 0)
    child.mremap(BASE + PAGE, PAGE, PAGE, 3, BASE + 16 * PAGE)
    child.mremap(BASE, PAGE, PAGE, 3, BASE + 8 * PAGE)
    child.sys_mmap(BASE + 9 * PAGE, PAGE, RW, ANON, -1, 0)
    assert borders(child) == [(8, 10), (16, 17)]
    child.exit()


def test_a_stack_that_may_not_grow_is_copied_by_forks_all_the_same(process: Either) -> None:
    process.sys_mmap(BASE + 16 * PAGE, PAGE, RW, ANON | GROWSDOWN, -1, 0)
    process.load(BASE + 16 * PAGE, 1)
    with within_limit(process, resource.RLIMIT_STACK, 2 * PAGE), pytest.raises(SegmentationFault):
        process.store(BASE + 8 * PAGE, b"x")
    child = process.fork()
    assert child.mincore(BASE + 16 * PAGE, PAGE) == b"\1"
    child.exit()


def test_what_a_child_has_of_its_parent_grows_as_one_mapping(process: Either) -> None:
    process.sys_mmap(BASE, 2 * PAGE, RW, ANON, -1, 0)
    process.store(BASE, b"parent")
    child = process.fork()
    try:
        child.sys_mmap(BASE + 2 * PAGE, PAGE, RW, ANON, -1, 0)
        assert borders(child) == [(0, 2), (2, 3)]
        child.munmap(BASE + 2 * PAGE, PAGE)
        child.mremap(BASE, 2 * PAGE, 3 * PAGE, 0)
        assert borders(child) == [(0, 3)]
        # What has pages of its own stays apart, what has none yet does not.
        child.sys_mmap(BASE + 4 * PAGE, PAGE, RW, ANON, -1, 0)
        child.store(BASE + 4 * PAGE, b"own")
        child.mremap(BASE, 3 * PAGE, 4 * PAGE, 0)
        assert borders(child) == [(0, 4), (4, 5)]
        child.munmap(BASE + 3 * PAGE, 2 * PAGE)
        child.sys_mmap(BASE + 4 * PAGE, PAGE, RW, ANON, -1, 0)
        child.mremap(BASE, 3 * PAGE, 4 * PAGE, 0)
        assert borders(child) == [(0, 5)]
        child.store(BASE + 4 * PAGE, b"child")
        assert (child.load(BASE, 6), child.load(BASE + 4 * PAGE, 5)) == (b"parent", b"child")
    finally:
        child.exit()


def test_mincore_looks_at_the_address_before_the_length(process: Either) -> None:
    if isinstance(process, HostProcess):
        process.drop_lock_privilege()
    # HostProcess may not lock the memory that so long an answer takes.
    process.mlockall(2)
    fails(errno.EINVAL, lambda: process.mincore(BASE + 1, (1 << 64) - 1))
    fails(errno.ENOMEM, lambda: process.mincore(BASE, 1 << 40))
