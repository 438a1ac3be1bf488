"""The compiled parts: what runs inside a fault, as a program that tracks its own stores would have it.

Each writes the number of the page into a log and makes the page writable. The log is an array of words: how many
entries, whether something failed (its place tells which call), and from LOG_AT on the entries.
"""

from typing import Any

import numpy as np

from emu.hw.jit import INT, NOTHING, WORD, Word, callback, kernel, libc_function, peek, poke
from emu.trackers.libc import PAGE_SHIFT, PAGE_SIZE, UFFD_EVENT_PAGEFAULT, UFFDIO_WRITEPROTECT

LOG_COUNT, LOG_ERROR, LOG_AT = 0, 1, 8

_U0, _U1, _U3, _U8 = np.uint64(0), np.uint64(1), np.uint64(3), np.uint64(8)
_COUNT, _ERROR, _ENTRIES = np.uint64(8 * LOG_COUNT), np.uint64(8 * LOG_ERROR), np.uint64(8 * LOG_AT)
_PAGE_SHIFT, _PAGE_SIZE = np.uint64(PAGE_SHIFT), np.uint64(PAGE_SIZE)
_SI_ADDR = np.uint64(16)            # offset in siginfo_t on a 64-bit Linux
_READ, _READ_WRITE = 1, 3
_SIGBUS, _SIGSEGV, _SIG_DFL = 7, 11, np.uint64(0)

_mprotect = libc_function("mprotect", INT, WORD, WORD, INT)
_signal = libc_function("signal", WORD, INT, WORD)
_poll = libc_function("poll", INT, WORD, WORD, INT)
_read = libc_function("read", WORD, INT, WORD, WORD)
_ioctl = libc_function("ioctl", INT, INT, WORD, WORD)

# Of a struct uffd_msg of 32 bytes: the event in its first byte, the address in its third word.
_MSG_NBYTES, _MSG_ADDRESS = np.uint64(32), np.uint64(16)
_EVENT_MASK, _PAGEFAULT = np.uint64(0xFF), np.uint64(UFFD_EVENT_PAGEFAULT)
_WRITEPROTECT = np.uint64(UFFDIO_WRITEPROTECT)
_MESSAGES_NBYTES = np.uint64(16 * 32)
_MAX_READ = np.uint64(1 << 20)


def sigbus_handler(log: int, start: int, nbytes: int, uffd: int, argument: int) -> Any:
    """Compile a handler of SIGBUS for a range that a userfaultfd with UFFD_FEATURE_SIGBUS protects; keep it meanwhile.

    `argument` has room for a struct uffdio_writeprotect. A fault elsewhere, or where the ioctl fails, ends the process
    as without a handler.
    """
    where, first, length = np.uint64(log), np.uint64(start), np.uint64(nbytes)
    scratch = np.uint64(argument)

    def on_fault(_number: int, info: Word, _context: Word) -> None:
        vaddr = peek(info + _SI_ADDR)
        if vaddr < first or vaddr - first >= length:
            _signal(_SIGBUS, _SIG_DFL)
            return
        page = (vaddr - first) >> _PAGE_SHIFT
        poke(scratch, first + (page << _PAGE_SHIFT))
        poke(scratch + _U8, _PAGE_SIZE)
        poke(scratch + _U8 + _U8, _U0)
        if _ioctl(uffd, _WRITEPROTECT, scratch) != 0:
            _signal(_SIGBUS, _SIG_DFL)
            return
        count = peek(where + _COUNT)
        poke(where + _ENTRIES + (count << _U3), page)
        poke(where + _COUNT, count + _U1)

    return callback(on_fault, NOTHING, INT, WORD, WORD)


def segv_handler(log: int, start: int, nbytes: int) -> Any:
    """Compile a handler of SIGSEGV for stores into a range that was made read-only; keep it while it is installed.

    Where mprotect fails, all of the range is made writable, which always works, and LOG_ERROR is set. A fault
    elsewhere ends the process as without a handler.
    """
    where, first, length = np.uint64(log), np.uint64(start), np.uint64(nbytes)

    def on_fault(_number: int, info: Word, _context: Word) -> None:
        vaddr = peek(info + _SI_ADDR)
        if vaddr < first or vaddr - first >= length:
            _signal(_SIGSEGV, _SIG_DFL)
            return
        page = (vaddr - first) >> _PAGE_SHIFT
        if _mprotect(first + (page << _PAGE_SHIFT), _PAGE_SIZE, _READ_WRITE) != 0:
            poke(where + _ERROR, _U1)
            _mprotect(first, length, _READ_WRITE)
        count = peek(where + _COUNT)
        poke(where + _ENTRIES + (count << _U3), page)
        poke(where + _COUNT, count + _U1)

    return callback(on_fault, NOTHING, INT, WORD, WORD)


@kernel(NOTHING, INT, WORD, WORD, WORD, WORD)
def serve_userfaults(uffd: int, start: Word, log: Word, scratch: Word, fds: Word) -> None:
    """Serve write-protect faults until the second descriptor of `fds` can be read: log the page, unprotect, wake.

    `fds` are two struct pollfd, `scratch` has room for 16 messages and a struct uffdio_writeprotect behind them.
    """
    argument = scratch + _MESSAGES_NBYTES
    while True:
        if _poll(fds, np.uint64(2), -1) < 0:
            continue
        if peek(fds + _U8) >> np.uint64(48):
            return
        nbytes = _read(uffd, scratch, _MESSAGES_NBYTES)
        if nbytes > _MAX_READ:
            continue        # negative: somebody was faster, or it was interrupted
        at = _U0
        while at < nbytes:
            if peek(scratch + at) & _EVENT_MASK == _PAGEFAULT:
                vaddr = peek(scratch + at + _MSG_ADDRESS) >> _PAGE_SHIFT << _PAGE_SHIFT
                count = peek(log + _COUNT)
                poke(log + _ENTRIES + (count << _U3), (vaddr - start) >> _PAGE_SHIFT)
                poke(log + _COUNT, count + _U1)
                poke(argument, vaddr)
                poke(argument + _U8, _PAGE_SIZE)
                poke(argument + _U8 + _U8, _U0)
                if _ioctl(uffd, _WRITEPROTECT, argument) != 0:
                    poke(log + _ERROR, _U1)
            at += _MSG_NBYTES
