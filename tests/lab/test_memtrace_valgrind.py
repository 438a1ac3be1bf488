"""valgrind's system-call lines and first mappings become calls of a trace, in order."""

import io
from pathlib import Path

import numpy as np
import pytest

from emu.lab.errors import LabError
from emu.lab.memtrace.container import Trace, TraceWriter
from emu.lab.memtrace.layout import StartLayout
from emu.lab.memtrace.syscalls import SystemCalls
from emu.lab.memtrace.valgrind import record_memory
from emu.lab.memtrace.words import Call, File, Label, Op, kinds_of

PRIVATE, FIXED, ANONYMOUS, SHARED = 0x2, 0x10, 0x20, 0x1


def calls_of(*lines: str) -> tuple[list[Call], list[File], SystemCalls]:
    out = io.BytesIO()
    writer = TraceWriter(out, {})
    sizes = {"/lib/libc.so": 1000, "/work/db": 50, "/work/sub/x": 7}
    calls = SystemCalls(writer, "/work", lambda path: sizes.get(path, 0))
    for line in lines:
        calls.line(line.encode("utf-8", "surrogateescape"))
    writer.finish()
    trace = Trace(np.frombuffer(out.getvalue(), np.uint8), "t")
    return [step for step in trace.steps() if isinstance(step, Call)], trace.files, calls


def test_a_file_is_followed_from_open_to_mmap() -> None:
    calls, files, _ = calls_of(
        "SYSCALL[5,1](257) sys_openat ( 4294967196, 0x49e5fc0(/lib/libc.so), 524288 ) --> [async] ... ",
        "SYSCALL[5,1](257) ... [async] --> Success(0x4) ",
        "SYSCALL[5,1](9) sys_mmap ( 0x0, 37635, 1, 2, 4, 4096 ) --> [pre-success] Success(0x483c000) ",
        "SYSCALL[5,1](3) sys_close ( 4 )[sync] --> Success(0x0) ",
        "SYSCALL[5,1](9) sys_mmap ( 0x0, 8192, 3, 1, 4, 0 ) --> [pre-success] Success(0x500000) ",
        "SYSCALL[5,1](9) sys_mmap ( 0x0, 8192, 3, 34, 4294967295, 0 ) --> [pre-success] Success(0x600000) ",
        "SYSCALL[5,1](9) sys_mmap ( 0x0, 8192, 3, 34, 4294967295, 0 ) --> [pre-fail] Failure(0xc) ",
    )
    assert files == [File("/lib/libc.so", 1000)]
    assert calls[0] == Call(Op.MMAP, 0x483C000, 37635, prot=1, flags=PRIVATE | FIXED, file=0, offset=4096)
    assert calls[1].flags & ANONYMOUS, "nobody knows what file that was"
    assert calls[2] == Call(Op.MMAP, 0x600000, 8192, prot=3, flags=PRIVATE | FIXED | ANONYMOUS)
    assert len(calls) == 3


def test_paths_and_descriptors_are_followed() -> None:
    mmap = "SYSCALL[5,1](9) sys_mmap ( 0x0, 4096, 3, 1, {}, 0 ) --> [pre-success] Success(0x500000) "
    calls, files, unknown = calls_of(
        "SYSCALL[5,1](2) sys_open ( 0x1(db), 2, 0 ) --> [async] ... ",
        "SYSCALL[5,2](2) sys_open ( 0x1(sub), 2, 0 ) --> [async] ... ",
        "SYSCALL[5,2](2) ... [async] --> Success(0x7) ",
        "SYSCALL[5,1](2) ... [async] --> Success(0x6) ",
        mmap.format(6),
        "SYSCALL[5,1](257) sys_openat ( 7, 0x1(x), 0 ) --> [async] ... ",
        "SYSCALL[5,1](257) ... [async] --> Success(0x8) ",
        "SYSCALL[5,1](32) sys_dup ( 8 )[sync] --> Success(0x9) ",
        mmap.format(9),
        "SYSCALL[5,1](33) sys_dup2 ( 6, 9 )[sync] --> Success(0x9) ",
        mmap.format(9),
        "SYSCALL[5,1](72) sys_fcntl[ARG3=='arg'] ( 8, 1030, 10 )[sync] --> Success(0xa) ",
        mmap.format(10),
        "SYSCALL[5,1](80) sys_chdir ( 0x1(sub/..) ) --> [async] ... ",
        "SYSCALL[5,1](80) ... [async] --> Success(0x0) ",
        "SYSCALL[5,1](85) sys_creat ( 0x1(./sub/x), 420 ) --> [async] ... ",
        "SYSCALL[5,1](85) ... [async] --> Success(0xb) ",
        mmap.format(11),
        mmap.format(99),
    )
    paths = [files[call.file].path if call.file >= 0 else "" for call in calls]
    assert paths == ["/work/db", "/work/sub/x", "/work/db", "/work/sub/x", "/work/sub/x", ""]
    assert unknown.nr_unknown == 1


def test_the_heap_grows_and_shrinks_by_whole_pages() -> None:
    calls, _, _ = calls_of(
        "SYSCALL[5,1](12) sys_brk ( 0x0 ) --> [pre-success] Success(0x4035010) ",
        "SYSCALL[5,1](12) sys_brk ( 0x4056000 ) --> [pre-success] Success(0x4056001) ",
        "SYSCALL[5,1](12) sys_brk ( 0x4056000 ) --> [pre-success] Success(0x4056800) ",
        "SYSCALL[5,1](12) sys_brk ( 0x4040000 ) --> [pre-success] Success(0x4040000) ",
    )
    flags = PRIVATE | FIXED | ANONYMOUS
    assert calls == [
        Call(Op.MMAP, 0x4036000, 0x21000, Label.HEAP, prot=3, flags=flags),
        Call(Op.MUNMAP, 0x4040000, 0x17000),
    ]


def test_other_calls_that_touch_memory() -> None:
    calls, _, _ = calls_of(
        "SYSCALL[5,1](0) sys_read ( 4, 0x40354a0, 4096 ) --> [async] ... ",
        "SYSCALL[5,1](0) ... [async] --> Success(0xbb4) ",
        "SYSCALL[5,1](0) sys_read ( 4, 0x40354a0, 4096 ) --> [async] ... ",
        "SYSCALL[5,1](0) ... [async] --> Failure(0x4) ",
        "SYSCALL[5,1](18) sys_pwrite64 ( 4, 0x5000, 100, 0 ) --> [async] ... ",
        "SYSCALL[5,1](18) ... [async] --> Success(0x64) ",
        "SYSCALL[5,1](10) sys_mprotect ( 0x4a15000, 16384, 1 )[sync] --> Success(0x0) ",
        "SYSCALL[5,1](11) sys_munmap ( 0x483c000, 37635 )[sync] --> Success(0x0) ",
        "SYSCALL[5,1](25) sys_mremap ( 0x5000, 4096, 8192, 0x1 )[sync] --> Success(0x9000) ",
        "SYSCALL[5,1](28) sys_madvise ( 0x5000, 4096, 4 )[sync] --> Success(0x0) ",
        "SYSCALL[5,1](26) sys_msync ( 0x5000, 4096, 4 ) --> [async] ... ",
        "SYSCALL[5,1](26) ... [async] --> Success(0x0) ",
        "SYSCALL[5,1](216) sys_remap_file_pages ( 0x5000, 4096, 0, 7, 0 )[sync] --> Success(0x0) ",
        "SYSCALL[5,1](318) sys_getrandom ( 0x4a20478, 8, 1 )[sync] --> Success(0x8) ",
        "SYSCALL[5,1](231) exit_group( 0 ) --> [pre-success] Success(0x0) ",
        "SYSCALL[5,1](334) unimplemented (by the kernel) syscall: 334! (ni_syscall)",
        "SYSCALL[5,1](72) sys_fcntl[ARG3=='lock'] ( 4, 6, 0x1ffeffe900 )[sync] --> Success(0x0) ",
        "SYSCALL[5,1](", " --> [pre-fail] Failure(0x26) ",
    )  # fmt: skip
    assert calls == [
        Call(Op.COPY_IN, 0x40354A0, 0xBB4),
        Call(Op.COPY_OUT, 0x5000, 100),
        Call(Op.MPROTECT, 0x4A15000, 16384, prot=1),
        Call(Op.MUNMAP, 0x483C000, 37635),
        Call(Op.MREMAP, 0x5000, 4096, new_nbytes=8192, new_vaddr=0x9000),
        Call(Op.MADVISE, 0x5000, 4096, flags=4),
        Call(Op.MSYNC, 0x5000, 4096, flags=4),
        Call(Op.REMAP_FILE_PAGES, 0x5000, 4096, offset=7),
        Call(Op.COPY_IN, 0x4A20478, 8),
    ]


LAYOUT = b"""--9905:1:    main ... /tmp/replay
--9905:1: aspacem <<< SHOW_SEGMENTS: Memory layout at client startup (34 segments)
--9905:1: aspacem 3 segment names in 3 slots
--9905:1: aspacem freelist is empty
--9905:1: aspacem (0,4,9) /usr/libexec/valgrind/lackey-amd64-linux
--9905:1: aspacem (1,49,7) /usr/bin/sort
--9905:1: aspacem   0: RSVN 0000000000-0000107fff 1081344 ----- SmFixed
--9905:1: aspacem   1: file 000010b000-000011cfff   73728 r-x-- d=0xfe00 i=260879  o=12288   (1,49)
--9905:1: aspacem  10: anon 0004035000-0004035fff    4096 rwx--
--9905:1: aspacem  11: RSVN 0004036000-0004834fff 8384512 ----- SmLower
--9905:1: aspacem  13: FILE 0058000000-0058000fff    4096 r---- d=0xfe00 i=341618  o=0       (0,4)
--9905:1: aspacem  15: file 005807d000-005807dfff    4096 r-x-- d=0xfe00 i=341618  o=512000  (0,4)
--9905:1: aspacem  19: ANON 0058232000-0058c24fff      9m rw---
--9905:1: aspacem  23:      100278c000-1ffe800fff  65472m
--9905:1: aspacem  24: RSVN 1ffe801000-1ffeffefff 8380416 ----- SmUpper
--9905:1: aspacem  25: anon 1ffefff000-1fff000fff    8192 rw---
--9905:1: aspacem >>>
--9905:1: aspacem  99: anon 0005555000-0005555fff    4096 rwx--
"""


def test_the_first_mappings_come_from_valgrinds_debug_log() -> None:
    layout = StartLayout()
    for line in LAYOUT.splitlines(keepends=True):
        layout.line(line)
    assert layout.complete
    out = io.BytesIO()
    writer = TraceWriter(out, {})
    calls = list(layout.calls(SystemCalls(writer, "/"), "/usr/bin/sort"))
    fixed = PRIVATE | FIXED
    assert calls == [
        Call(Op.MMAP, 0x10B000, 73728, Label.PROGRAM, 5, fixed, 0, offset=12288),
        Call(Op.MMAP, 0x4035000, 4096, Label.HEAP, 7, fixed | ANONYMOUS),
        Call(Op.MMAP, 0x5807D000, 4096, prot=5, flags=fixed, file=1, offset=512000),
        Call(Op.MMAP, 0x1FFE801000, 0x800000, Label.STACK, 3, fixed | ANONYMOUS),
    ]
    assert [file.path for file in writer.files] == ["/usr/bin/sort", "/usr/libexec/valgrind/lackey-amd64-linux"]


@pytest.mark.valgrind
def test_a_program_is_recorded_with_its_mappings(tmp_path: Path) -> None:
    path = tmp_path / "cat.ftr"
    given = tmp_path / "given.txt"
    given.write_bytes(b"x" * 5000)
    seen: list[int] = []
    done = record_memory(["cp", str(given), str(tmp_path / "copy.txt")], path, seen.append)
    assert done.exit_code == 0
    assert (tmp_path / "copy.txt").read_bytes() == given.read_bytes()
    assert done.has_layout
    assert sum(seen) == done.nr_accesses > 100_000
    trace = Trace.open(path)
    assert trace.complete
    assert (trace.nr_accesses, trace.nr_calls) == (done.nr_accesses, done.nr_calls)
    calls = [step for step in trace.steps() if isinstance(step, Call)]
    labels = {call.label for call in calls}
    assert labels >= {Label.PROGRAM, Label.STACK, Label.HEAP}
    assert any("libc" in file.path for file in trace.files)
    kinds = np.concatenate([kinds_of(step) for step in trace.steps() if not isinstance(step, Call)])
    assert set(np.unique(kinds).tolist()) == {0, 1, 2, 3}


@pytest.mark.valgrind
def test_the_exit_code_and_the_words_are_the_programs(tmp_path: Path) -> None:
    err = io.BytesIO()
    done = record_memory(["sh", "-c", "echo oops >&2; exit 3"], tmp_path / "t.ftr", lambda _count: None, err=err)
    assert done.exit_code == 3
    assert err.getvalue() == b"oops\n"
    killed = record_memory(["sh", "-c", "kill -9 $$"], tmp_path / "t.ftr", lambda _count: None, err=err)
    assert killed.exit_code == 128 + 9


def test_what_cannot_be_recorded_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "valgrind").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "valgrind").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(LabError, match="cannot run nosuch-command: no such command"):
        record_memory(["nosuch-command"], tmp_path / "t.ftr", lambda _count: None)
    with pytest.raises(LabError, match=r"valgrind traced nothing \(exit code 1\)"):
        record_memory(["true"], tmp_path / "t.ftr", lambda _count: None)
    assert not (tmp_path / "t.ftr").exists()
    with pytest.raises(FileNotFoundError):
        record_memory(["touch", str(tmp_path / "ran")], tmp_path / "missing" / "t.ftr", lambda _count: None)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(LabError, match=r"valgrind is not installed: install it \(Debian.*apt-get install valgrind"):
        record_memory(["true"], tmp_path / "t.ftr", lambda _count: None)
