"""valgrind's --trace-syscalls lines, turned into the calls of a trace.

    SYSCALL[4710,1](9) sys_mmap ( 0x0, 37635, 1, 2, 4, 0 ) --> [pre-success] Success(0x483c000)
    SYSCALL[4710,1](0) sys_read ( 4, 0x40354a0, 4096 ) --> [async] ...
    SYSCALL[4710,1](0) ... [async] --> Success(0xbb4)

They stand in the same stream as the accesses, so their order is right. A table of descriptors, kept from open, dup and
close, tells which file a mapping shows. brk becomes mmap and munmap of the heap; what read(2) put into memory, and
what write(2) took from it, become COPY_IN and COPY_OUT, since lackey sees the program's own accesses only.

Source of the format: valgrind 3.19 coregrind/m_syswrap/syswrap-main.c: VG_(client_syscall)(), and the PRINT of each
wrapper in syswrap-generic.c and syswrap-linux.c.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

from emu.lab.memtrace.container import TraceWriter
from emu.lab.memtrace.words import Call, File, Label, Op

MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS = 0x2, 0x10, 0x20
PROT_READ_WRITE = 3
_PAGE = 4096
_F_DUPFD, _F_DUPFD_CLOEXEC = 0, 1030
_WORD = 1 << 64

_HEAD = r"SYSCALL\[\d+,(\d+)\]\( *(\d+)\)"
_BEGIN = re.compile(_HEAD + r" +(\w+)[^(]*\((.*)\)[^()]*(\[async\] \.\.\.|--> .*?\w+\([^()]*\)) *$")
_END = re.compile(_HEAD + r" \.\.\. \[async\] --> (.*)$")
_SUCCESS = re.compile(r"Success\((0x[0-9a-fA-F]+)")
_NUMBER = re.compile(r"\s*(0x[0-9a-fA-F]+|-?\d+)\s*(?:\((.*)\))?\s*", re.DOTALL)

Sizes = Callable[[str], int]


def file_size(path: str) -> int:
    """Return how long a file is now; 0 if that cannot be known."""
    try:
        return Path(path).stat().st_size
    except (OSError, ValueError):
        return 0


def _arguments(text: str) -> list[tuple[int, str]]:
    """Return the arguments as numbers, and of each the string that valgrind shows behind it."""
    found = []
    for part in text.split(", "):
        match = _NUMBER.fullmatch(part)
        found.append((int(match[1], 0) % _WORD, match[2] or "") if match else (0, ""))
    return found


class SystemCalls:
    """Follows one program's system calls and writes those that matter to a trace.

    `cwd` is where relative paths begin. `nr_unknown` counts mappings of a descriptor whose file is not known.
    """

    def __init__(self, writer: TraceWriter, cwd: str, sizes: Sizes = file_size) -> None:
        self.nr_unknown = 0
        self._writer = writer
        self._cwd = cwd
        self._sizes = sizes
        self._paths: dict[int, str] = {}
        self._numbers: dict[tuple[str, int], int] = {}
        self._pending: dict[tuple[str, str], tuple[str, str]] = {}
        self._brk = 0

    def line(self, raw: bytes) -> None:
        """Take one line; what is not understood is passed over."""
        text = raw.decode("utf-8", "surrogateescape")
        end = _END.match(text)
        if end is not None:
            begun = self._pending.pop((end[1], end[2]), None)
            if begun is not None:
                self._did(*begun, end[3])
            return
        begin = _BEGIN.match(text)
        if begin is None:
            return
        if begin[5].startswith("[async]"):
            self._pending[begin[1], begin[2]] = (begin[3], begin[4])
        else:
            self._did(begin[3], begin[4], begin[5])

    def _did(self, name: str, arguments: str, outcome: str) -> None:
        success = _SUCCESS.search(outcome)
        handler = getattr(self, f"_{name}", None)
        if success is None or handler is None:
            return
        given = _arguments(arguments)
        # Missing arguments count as 0; wrappers print as many as they know.
        given += [(0, "")] * (6 - len(given))
        handler(given, int(success[1], 16))

    def file_number(self, path: str, nbytes: int) -> int:
        """Return the number of a file in the trace; it is added if it is new, or longer than before."""
        key = (path, nbytes)
        if key not in self._numbers:
            self._numbers[key] = self._writer.add_file(File(path, nbytes))
        return self._numbers[key]

    # Descriptors

    def _resolve(self, directory: int, path: str) -> str:
        fd = directory % (1 << 32)
        base = self._cwd if fd >= 1 << 31 else self._paths.get(fd, self._cwd)
        return os.path.normpath(Path(base) / path)

    def _sys_open(self, given: list[tuple[int, str]], result: int) -> None:
        self._paths[result] = self._resolve(-1, given[0][1])

    _sys_creat = _sys_open

    def _sys_openat(self, given: list[tuple[int, str]], result: int) -> None:
        self._paths[result] = self._resolve(given[0][0], given[1][1])

    def _sys_memfd_create(self, given: list[tuple[int, str]], result: int) -> None:
        self._paths[result] = f"memfd:{given[0][1]}:{result}"

    def _sys_close(self, given: list[tuple[int, str]], _result: int) -> None:
        self._paths.pop(given[0][0], None)

    def _sys_dup(self, given: list[tuple[int, str]], result: int) -> None:
        if given[0][0] in self._paths:
            self._paths[result] = self._paths[given[0][0]]
        else:
            self._paths.pop(result, None)

    _sys_dup2 = _sys_dup
    _sys_dup3 = _sys_dup

    def _sys_fcntl(self, given: list[tuple[int, str]], result: int) -> None:
        if given[1][0] in {_F_DUPFD, _F_DUPFD_CLOEXEC}:
            self._sys_dup(given, result)

    def _sys_chdir(self, given: list[tuple[int, str]], _result: int) -> None:
        self._cwd = self._resolve(-1, given[0][1])

    # Memory

    def _sys_mmap(self, given: list[tuple[int, str]], result: int) -> None:
        (_hint, _), (nbytes, _), (prot, _), (flags, _), (fd, _), (offset, _) = given
        number = -1
        if not flags & MAP_ANONYMOUS:
            path = self._paths.get(fd % (1 << 32))
            if path is None:
                self.nr_unknown += 1
                flags |= MAP_ANONYMOUS
            else:
                number = self.file_number(path, self._sizes(path))
        self._writer.call(
            Call(Op.MMAP, result, nbytes, prot=prot & 0xFF, flags=flags | MAP_FIXED, file=number, offset=offset)
        )

    def _sys_mmap2(self, given: list[tuple[int, str]], result: int) -> None:
        self._sys_mmap([*given[:5], (given[5][0] * _PAGE, "")], result)

    def _sys_munmap(self, given: list[tuple[int, str]], _result: int) -> None:
        self._writer.call(Call(Op.MUNMAP, given[0][0], given[1][0]))

    def _sys_mprotect(self, given: list[tuple[int, str]], _result: int) -> None:
        self._writer.call(Call(Op.MPROTECT, given[0][0], given[1][0], prot=given[2][0] & 0xFF))

    def _sys_mremap(self, given: list[tuple[int, str]], result: int) -> None:
        self._writer.call(
            Call(Op.MREMAP, given[0][0], given[1][0], new_nbytes=given[2][0], new_vaddr=result)
        )

    def _sys_madvise(self, given: list[tuple[int, str]], _result: int) -> None:
        self._writer.call(Call(Op.MADVISE, given[0][0], given[1][0], flags=given[2][0] & 0xFFFF))

    def _sys_msync(self, given: list[tuple[int, str]], _result: int) -> None:
        self._writer.call(Call(Op.MSYNC, given[0][0], given[1][0], flags=given[2][0] & 0xFF))

    def _sys_remap_file_pages(self, given: list[tuple[int, str]], _result: int) -> None:
        (vaddr, _), (nbytes, _), (prot, _), (pgoff, _), (flags, _) = given[:5]
        self._writer.call(
            Call(Op.REMAP_FILE_PAGES, vaddr, nbytes, prot=prot & 0xFF, flags=flags & 0xFFFFFFFF, offset=pgoff)
        )

    def _sys_brk(self, _given: list[tuple[int, str]], result: int) -> None:
        before, self._brk = self._brk, result
        old, new = -(-before // _PAGE) * _PAGE, -(-result // _PAGE) * _PAGE
        if not before or old == new:
            return
        if new > old:
            flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
            heap = Call(Op.MMAP, old, new - old, label=Label.HEAP, prot=PROT_READ_WRITE, flags=flags)
            self._writer.call(heap)
        else:
            self._writer.call(Call(Op.MUNMAP, new, old - new))

    # The kernel's own accesses

    def _copied(self, op: Op, buffer: int, nbytes: int) -> None:
        if nbytes:
            self._writer.call(Call(op, buffer, nbytes))

    def _sys_read(self, given: list[tuple[int, str]], result: int) -> None:
        self._copied(Op.COPY_IN, given[1][0], min(result, given[2][0]))

    _sys_pread64 = _sys_read
    _sys_recvfrom = _sys_read

    def _sys_getrandom(self, given: list[tuple[int, str]], result: int) -> None:
        self._copied(Op.COPY_IN, given[0][0], min(result, given[1][0]))

    def _sys_write(self, given: list[tuple[int, str]], result: int) -> None:
        self._copied(Op.COPY_OUT, given[1][0], min(result, given[2][0]))

    _sys_pwrite64 = _sys_write
    _sys_sendto = _sys_write
