"""The arguments of Process.mmap and HostProcess.mmap, read as Python's mmap.mmap reads its own."""

import mmap as host_mmap

from emu.mapping_owner import MappedFile


def apply_access(flags: int, prot: int, access: int) -> tuple[int, int]:
    """Translate Python's ACCESS_* to flags and prot, as mmap.mmap does."""
    if access == host_mmap.ACCESS_DEFAULT:
        return flags, prot
    if flags != host_mmap.MAP_SHARED or prot != host_mmap.PROT_READ | host_mmap.PROT_WRITE:
        raise ValueError("mmap can't specify both access and flags, prot.")
    if access == host_mmap.ACCESS_READ:
        return host_mmap.MAP_SHARED, host_mmap.PROT_READ
    if access == host_mmap.ACCESS_WRITE:
        return host_mmap.MAP_SHARED, host_mmap.PROT_READ | host_mmap.PROT_WRITE
    if access == host_mmap.ACCESS_COPY:
        return host_mmap.MAP_PRIVATE, host_mmap.PROT_READ | host_mmap.PROT_WRITE
    raise ValueError("mmap invalid access parameter.")


def check_signs(length: int, offset: int) -> None:
    """Refuse negative numbers, as mmap.mmap does."""
    if length < 0:
        raise OverflowError("memory mapped length must be positive")
    if offset < 0:
        raise OverflowError("memory mapped offset must be positive")


def length_within(file: MappedFile, length: int, offset: int) -> int:
    """Return the length to map, as mmap.mmap works it out and checks it."""
    if not length:
        if not file.i_size:
            raise ValueError("cannot mmap an empty file")
        if offset >= file.i_size:
            raise ValueError("mmap offset is greater than file size")
        return file.i_size - offset
    if offset > file.i_size or file.i_size - offset < length:
        raise ValueError("mmap length is greater than file size")
    return length
