"""The peer: a plain fusepy loopback with big_writes, as people write one. Run: python loopback.py ROOT MOUNTPOINT."""
# ruff: noqa: PTH102, PTH108, PTH208

import os
import sys
from typing import Any

import fuse


class Loopback(fuse.Operations):  # type: ignore[misc]
    """Every call goes to the same call on the root's path."""

    use_ns = True
    getxattr = None
    listxattr = None

    def __init__(self, root: str) -> None:
        self.root = root

    def __call__(self, op: str, path: str, *args: Any) -> Any:
        return super().__call__(op, self.root + (path or ""), *args)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:  # noqa: ARG002 - fusepy's signature
        info = os.lstat(path)
        names = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks", "st_ino")
        attrs = {name: getattr(info, name) for name in names}
        return attrs | {"st_mtime": info.st_mtime_ns, "st_ctime": info.st_ctime_ns, "st_atime": info.st_atime_ns}

    def create(self, path: str, mode: int, fi: Any = None) -> int:  # noqa: ARG002 - as above
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)

    def open(self, path: str, flags: int) -> int:
        return os.open(path, flags & ~os.O_DIRECT)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:  # noqa: ARG002 - as above
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:  # noqa: ARG002 - as above
        return os.pwrite(fh, data, offset)

    def fsync(self, path: str, datasync: int, fh: int) -> None:  # noqa: ARG002 - as above
        (os.fdatasync if datasync else os.fsync)(fh)

    def release(self, path: str, fh: int) -> None:  # noqa: ARG002 - as above
        os.close(fh)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:  # noqa: ARG002 - as above
        os.truncate(path, length)

    def readdir(self, path: str, fh: int) -> list[str]:  # noqa: ARG002 - as above
        return [".", "..", *os.listdir(path)]

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(path, mode)


if __name__ == "__main__":
    fuse.FUSE(Loopback(sys.argv[1]), sys.argv[2], foreground=True, big_writes=True, subtype="fremap-peer")
