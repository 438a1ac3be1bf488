"""Requests that are newer than libfuse2, put into the words of older ones; and the INIT reply that asks for them.

libfuse 2.9 speaks FUSE 7.19: it answers later requests with ENOSYS, and the kernel does not even send RENAME2 to
who says 7.19. Three of them carry what an older one does, in nearly the same places, and are rewritten in place:

- RENAME2 (7.23) becomes RENAME; its flags wait beside it, in `rename_flags`;
- LSEEK (7.24), for SEEK_DATA and SEEK_HOLE, becomes BMAP, which the kernel sends for block devices only: both are
  two numbers, answered by one;
- TMPFILE (7.37) becomes CREATE of the name ``/``, which no file can have.

No request that libfuse2 knows is laid out differently in 7.31.
Source: Linux v6.12 include/uapi/linux/fuse.h; fs/fuse/dir.c: fuse_rename2(), fuse_tmpfile(); file.c: fuse_lseek().
"""

import struct
import threading

RENAME, INIT, CREATE, BMAP, RENAME2, LSEEK, TMPFILE = 12, 26, 35, 37, 45, 46, 51
NEWER = frozenset({RENAME2, LSEEK, TMPFILE})


TMPFILE_NAME = b"/"

INIT_DONT_MASK, INIT_POSIX_ACL = 1 << 6, 1 << 20
_MINOR = 31
_MINOR_OF_RENAME2 = 23

_HEADER_NBYTES = 40
_OPCODE = struct.Struct("=II")  # length, opcode
_INIT_IN = struct.Struct("=IIII")  # major, minor, max_readahead, flags
_OUT_HEADER = struct.Struct("=IiQ")
_INIT_OUT_MINOR, _INIT_OUT_FLAGS = 20, 28
_RENAME2_IN = struct.Struct("=QII")
_LSEEK_IN = struct.Struct("=QQII")


def opcode_of(request: memoryview) -> int:
    """Return which request it is."""
    return int(_OPCODE.unpack_from(request)[1])


class NewerRequests(threading.local):
    """A thread's way to newer requests; `rename_flags` are those of the one that it is serving now."""

    rename_flags = 0

    def translate(self, request: memoryview, nbytes: int) -> int:
        """Rewrite a newer request as an older one; return its length then."""
        opcode = opcode_of(request)
        body = _HEADER_NBYTES
        if opcode == RENAME2:
            _, self.rename_flags, _ = _RENAME2_IN.unpack_from(request, body)
            names = bytes(request[body + _RENAME2_IN.size : nbytes])
            nbytes -= 8
            request[body + 8 : nbytes] = names
            opcode = RENAME
        elif opcode == LSEEK:
            _, offset, whence, _ = _LSEEK_IN.unpack_from(request, body)
            struct.pack_into("=QII", request, body, offset, whence, 0)
            nbytes -= 8
            opcode = BMAP
        elif opcode == TMPFILE:
            opcode = CREATE
        _OPCODE.pack_into(request, 0, nbytes, opcode)
        return nbytes


class InitReply:
    """What is answered to INIT: libfuse's words, with a later version, and flags that it does not know.

    `wanted` are asked for if the kernel has offered them.
    """

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self._minor = 0
        self._offered = 0

    def note_request(self, request: memoryview) -> None:
        """Remember what the kernel offers."""
        _, self._minor, _, self._offered = _INIT_IN.unpack_from(request, _HEADER_NBYTES)

    def amend(self, reply: bytearray) -> None:
        """Change libfuse's reply, unless it is a refusal or the kernel is older than what we add."""
        if _OUT_HEADER.unpack_from(reply)[1] or self._minor < _MINOR_OF_RENAME2:
            return
        struct.pack_into("=I", reply, _INIT_OUT_MINOR, min(self._minor, _MINOR))
        flags = struct.unpack_from("=I", reply, _INIT_OUT_FLAGS)[0]
        struct.pack_into("=I", reply, _INIT_OUT_FLAGS, flags | self.wanted & self._offered)
