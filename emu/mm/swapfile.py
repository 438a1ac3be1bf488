"""swapon, swapoff, and what mkswap writes.

A swap area is a host file whose first page is the header that mkswap(8) makes, so that either can make it for the other
(where the page sizes agree). Given a size instead of a file, the area is a temporary file without a name.

Source: Linux v2.6.20 mm/swapfile.c: sys_swapon(), sys_swapoff(), try_to_unuse(); include/linux/swap.h: union
swap_header.
"""

import contextlib
import errno
import fcntl
import os
import stat
import struct
import tempfile
from pathlib import Path

from emu.errors import BusError, KernelBug, OutOfMemory
from emu.hw.swapops import MAX_SWAPFILES, is_swap_pte, max_swap_offset, pte_to_swp_entry, swp_type
from emu.mm.anon_memory import do_swap_page
from emu.mm.filemap import swap_in
from emu.mm.kernel import Kernel
from emu.mm.overcommit import vm_enough_memory, vm_unacct_memory
from emu.mm.swap_state import try_to_free_swap
from emu.mm_types.mm import Mm
from emu.mm_types.swap import SwapInfo
from emu.mm_types.vma import VmArea
from emu.units import parse_size

_MAGIC = b"SWAPSPACE2"
_INFO_BYTE = 1024
_INFO = struct.Struct("<III16s16s")
"""version, last page, number of bad pages, UUID, label (union swap_header, info)."""
_MIN_PAGES = 2


def mkswap(path: str | os.PathLike[str], nbytes: int, page_size: int) -> None:
    """Make a file of `nbytes` (whole pages, at least two) a swap area; one page of it is the header."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _write_header(fd, nbytes, page_size)
    finally:
        os.close(fd)


def _write_header(fd: int, nbytes: int, page_size: int) -> None:
    nr_pages = nbytes // page_size
    if nr_pages < _MIN_PAGES:
        raise OSError(errno.EINVAL, f"swap needs at least {_MIN_PAGES} pages of {page_size} bytes, not {nbytes} bytes")
    os.ftruncate(fd, nr_pages * page_size)
    header = bytearray(page_size)
    _INFO.pack_into(header, _INFO_BYTE, 1, nr_pages - 1, 0, bytes(16), b"fremap")
    header[page_size - len(_MAGIC) :] = _MAGIC
    os.pwrite(fd, header, 0)


def swapon(k: Kernel, where: int | str | os.PathLike[str]) -> SwapInfo:
    """Start using a swap area: a file that mkswap made, or a size in bytes or as "64M" (a temporary file of its own).

    Errors: EINVAL (no header, another page size, too small), EBUSY (in use already), EPERM (no area's number left),
    whatever the host says of the file.
    """
    swap_type = next((number for number in range(MAX_SWAPFILES) if number not in k.swap.areas), -1)
    if swap_type < 0:
        raise OSError(errno.EPERM, f"there are {MAX_SWAPFILES} swap areas already")
    nbytes = _size_of(where)
    if nbytes is None:
        name = os.fspath(where)  # type: ignore[arg-type] # no size, so no int
        fd = _open_area(name)
    else:
        name, fd = _temporary(nbytes, k.page_size)
    try:
        max_slots = min(_read_header(fd, name, k.page_size), max_swap_offset(k.fmt) + 1)
    except OSError:
        os.close(fd)
        raise
    area = SwapInfo(swap_type, name, fd, max_slots)
    k.swap.areas[swap_type] = area
    return area


def _size_of(where: int | str | os.PathLike[str]) -> int | None:
    """Return the number of bytes if it is a size, None if it names a file."""
    if isinstance(where, int):
        return where
    if isinstance(where, str):
        with contextlib.suppress(ValueError):
            return parse_size(where)
    return None


def _temporary(nbytes: int, page_size: int) -> tuple[str, int]:
    """Make a swap area without a name, which goes with its descriptor."""
    with tempfile.NamedTemporaryFile(prefix="fremap-swap-") as file:
        _write_header(file.fileno(), nbytes, page_size)
        return file.name, _open_direct(file.name)


def _open_area(name: str) -> int:
    if not stat.S_ISREG(Path(name).stat().st_mode):
        raise OSError(errno.EINVAL, "only regular files can be swapped to", name)
    fd = _open_direct(name)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise OSError(errno.EBUSY, "this file is swapped to already", name) from None
    return fd


def _open_direct(name: str) -> int:
    """Open past the host's cache, which would keep what is swapped out in memory after all; or not, where it must."""
    with contextlib.suppress(OSError):
        return os.open(name, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
    return os.open(name, os.O_RDWR | os.O_CLOEXEC)


def _read_header(fd: int, name: str, page_size: int) -> int:
    """Return how many pages an area has, the header included."""
    with Path(f"/proc/self/fd/{fd}").open("rb", buffering=0) as file:
        header = file.read(page_size)
    if len(header) < page_size or not header.endswith(_MAGIC):
        raise OSError(errno.EINVAL, f"no swap area of {page_size}-byte pages; make one with mkswap", name)
    version, last_page, nr_bad, _, _ = _INFO.unpack_from(header, _INFO_BYTE)
    nr_pages = os.fstat(fd).st_size // page_size
    if version != 1 or nr_bad or not 0 < last_page < nr_pages:
        raise OSError(errno.EINVAL, f"its header says version {version}, last page {last_page}, {nr_bad} bad", name)
    return int(last_page) + 1


def swapoff(k: Kernel, area: SwapInfo) -> None:
    """Bring everything in and stop using an area.

    Errors: ENOMEM if it does not fit, or if without the area more would be promised than may be (overcommit mode 2);
    EIO if a slot cannot be read. After an error the area stays in use.
    """
    nr_pages = area.max_slots - 1
    vm_enough_memory(k, None, nr_pages)
    vm_unacct_memory(k, nr_pages)
    area.closing = True
    try:
        _try_to_unuse(k, area)
    except (OutOfMemory, BusError) as error:
        raise OSError(errno.ENOMEM if isinstance(error, OutOfMemory) else errno.EIO, str(error)) from None
    finally:
        area.closing = False
    _close(k, area)


def _try_to_unuse(k: Kernel, area: SwapInfo) -> None:
    """Bring in what swap PTEs name, then let go of what only the swap cache holds, until nothing is left.

    Again, since making room for one page may send out another that still has its slot.
    """
    while area.inuse_pages:
        for mm in list(k.mms.values()):
            for vma in list(mm.vmas):
                if vma.anon_vma is not None:
                    _unuse_vma(k, mm, vma, area)
        _unuse_shmem(k, area)
        k.io.wait_all()
        for entry, pfn in list(k.swap.cache.items()):
            if swp_type(entry) == area.swap_type:
                try_to_free_swap(k, pfn)


def _unuse_vma(k: Kernel, mm: Mm, vma: VmArea, area: SwapInfo) -> None:
    vaddrs, ptes = mm.pt.entries(vma.start, vma.end)
    for vaddr, pte in zip(vaddrs.tolist(), ptes.tolist(), strict=True):
        if is_swap_pte(k.fmt, pte) and swp_type(pte_to_swp_entry(k.fmt, pte)) == area.swap_type:
            do_swap_page(k, mm, vma, vaddr, mm.pt.get(vaddr), write=False)


def _unuse_shmem(k: Kernel, area: SwapInfo) -> None:
    for mapping in list(k.mappings.values()):
        for pgoff, entry in list(mapping.swapped.items()):
            if swp_type(entry) != area.swap_type:
                continue
            failed = swap_in(k, mapping, pgoff)
            if failed:
                raise OSError(failed, f"page {pgoff} of {mapping.host.name} cannot be read from swap")
            if not mapping.pages.lookup(pgoff):
                raise OSError(errno.ENOMEM, f"no frame for page {pgoff} of {mapping.host.name}")


def _close(k: Kernel, area: SwapInfo) -> None:
    if area.inuse_pages:
        raise KernelBug(f"swap area {area.swap_type} is closed with {area.inuse_pages} slots in use")
    del k.swap.areas[area.swap_type]
    os.close(area.fd)


def close_all(k: Kernel, *, orderly: bool) -> None:
    """Close every area as the machine goes off; `orderly`: all processes have exited, so nothing may be in use."""
    for area in list(k.swap.areas.values()):
        if orderly:
            _close(k, area)
        else:
            del k.swap.areas[area.swap_type]
            os.close(area.fd)
