"""Inode: a host file that the emulated kernel maps, its descriptors, and its backing device.

Two descriptors, since the last page of a file may end where O_DIRECT cannot: `fd_direct` moves whole pages past the
host's cache, `fd_buffered` writes tails, truncates and syncs. Where the host refuses O_DIRECT both are the same.
"""

import contextlib
import errno
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from emu.mm.overcommit import vm_enough_memory, vm_unacct_memory
from emu.mm.trace import name_mapping
from emu.mm_types.address_space import AddressSpace
from fsbackend.bdi import BackingDevInfo, BdiCap, Caps, parse_caps

if TYPE_CHECKING:
    from emu.mm.kernel import Kernel
    from emu.mm_types.mm import Mm


class Inode:
    """A regular host file, open as long as the kernel knows it; or shared anonymous memory, with no file behind it.

    `nr_accounted`: pages of that memory promised so far; `noreserve`: not all at once, but page by page. `noexec`: its
    mount forbids to execute it.
    """

    def __init__(self, name: str, fd_buffered: int, fd_direct: int, *, writable: bool) -> None:
        self.name = name
        self.fd_buffered = fd_buffered
        self.fd_direct = fd_direct
        self.writable = writable
        self.nr_accounted = 0
        self.noreserve = False
        self.noexec = False
        self.mapping: AddressSpace

    @property
    def anonymous(self) -> bool:
        """Whether there is no host file behind it."""
        return self.fd_buffered < 0

    @property
    def i_size(self) -> int:
        """The length in bytes, as the emulated kernel has it."""
        return self.mapping.i_size

    def refresh_size(self) -> int:
        """Take over the length that the host has now, and return it."""
        if not self.anonymous:
            self.mapping.i_size = os.fstat(self.fd_buffered).st_size
        return self.mapping.i_size

    def close(self) -> None:
        """Close the descriptors.

        They are gone whatever close(2) says (ENOTCONN: the mount's daemon has died), and writes reported their errors.
        """
        for fd in {self.fd_buffered, self.fd_direct} - {-1}:
            with contextlib.suppress(OSError):
                os.close(fd)
        self.fd_buffered = self.fd_direct = -1


def open_inode(k: "Kernel", path: str, *, writable: bool) -> Inode:
    """Return the inode of a host file, opened at its first use (iget).

    `path` may be /proc/self/fd/N. OSError as open(2) gives it; EACCES if it must be writable and was opened before
    without; ENODEV if it is no regular file.
    """
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.ENODEV, "only regular files can be mapped", path)
    key = (status.st_dev, status.st_ino)
    inode = k.inodes.get(key)
    if inode is not None:
        if writable and not inode.writable:
            _reopen_writable(k, inode, path)
        return inode
    flags = os.O_RDWR if writable else os.O_RDONLY
    fd_buffered = os.open(path, flags | os.O_CLOEXEC)
    fd_direct = _open_direct(k, path, flags, fd_buffered)
    inode = Inode(os.path.realpath(path), fd_buffered, fd_direct, writable=writable)
    inode.noexec = bool(os.fstatvfs(fd_buffered).f_flag & os.ST_NOEXEC)
    caps = backing_caps(inode.name, status.st_ino, k.options.plain_caps)
    _attach(k, inode, _bdi(k, status.st_dev, caps))
    name_mapping(k, inode.mapping, status.st_dev, status.st_ino)
    inode.refresh_size()
    k.inodes[key] = inode
    return inode


def open_shmem(k: "Kernel", mm: "Mm", nbytes: int, *, noreserve: bool = False) -> Inode:
    """Return an inode for shared anonymous memory of `nbytes`, with ramfs's capabilities (shmem_file_setup).

    All of it is promised now (ENOMEM), or with `noreserve` each page when it is touched first.
    """
    nr_accounted = 0 if noreserve else nbytes >> k.page_shift
    vm_enough_memory(k, mm, nr_accounted)
    inode = Inode("/dev/zero (deleted)", -1, -1, writable=True)
    _attach(k, inode, _bdi(k, 0, parse_caps("ramfs")))
    name_mapping(k, inode.mapping, 0, inode.mapping.ident)
    inode.nr_accounted = nr_accounted
    inode.noreserve = noreserve
    inode.mapping.swappable = True
    inode.mapping.i_size = nbytes
    k.inodes[0, inode.mapping.ident] = inode
    return inode


def forget_inode(k: "Kernel", inode: Inode) -> None:
    """Close an inode that has neither pages nor VMAs (evict)."""
    vm_unacct_memory(k, inode.nr_accounted)
    for key, known in list(k.inodes.items()):
        if known is inode:
            del k.inodes[key]
    k.mappings.pop(inode.mapping.ident, None)
    inode.close()


def _attach(k: "Kernel", inode: Inode, bdi: BackingDevInfo) -> None:
    mapping = AddressSpace(k.new_ident(), inode, bdi, k.locks.new(k.locks.i_mmap_lock))
    inode.mapping = mapping
    k.mappings[mapping.ident] = mapping


def _reopen_writable(k: "Kernel", inode: Inode, path: str) -> None:
    fd_buffered = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    fd_direct = _open_direct(k, path, os.O_RDWR, fd_buffered)
    inode.close()
    inode.fd_buffered, inode.fd_direct, inode.writable = fd_buffered, fd_direct, True


def _open_direct(k: "Kernel", path: str, flags: int, fd_buffered: int) -> int:
    """Open past the host's cache, or settle for the buffered descriptor where that is not supported."""
    if k.options.guest_cache != "none":
        return fd_buffered
    try:
        return os.open(path, flags | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return fd_buffered


def _bdi(k: "Kernel", dev: int, caps: Caps) -> BackingDevInfo:
    """Return the backing device for files of `dev` with these capabilities; a file of its own caps has its own."""
    key = (dev, str(caps))
    bdi = k.bdis.get(key)
    if bdi is None:
        name = f"{os.major(dev)}:{os.minor(dev)}"
        bdi = k.bdis[key] = BackingDevInfo(name, caps, params=k.params, page_size=k.page_size)
    return bdi


def backing_caps(path: str, ino: int, plain_caps: str) -> Caps:
    """Return the capabilities of a file: its mount's word if that is fremap's, else `plain_caps`.

    The mount's word is .bdi/files/INODE at its root (design, section 7).
    """
    root = Path(path)
    while not root.is_mount():
        root = root.parent
    try:
        text = (root / ".bdi" / "files" / str(ino)).read_text()
    except OSError:
        return parse_caps(plain_caps)
    told = json.loads(text)
    flags = BdiCap.NONE
    for name in told["flags"]:
        flags |= BdiCap[name]
    return Caps(told["preset"], flags, told["max_ratio"])
