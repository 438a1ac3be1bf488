"""The control files: ``.bdi/`` at the mount's root, named as in /sys/class/bdi, its debugfs stats, /proc/sys/vm.

The directory is reached by its name and is not listed, so that copies and removals of a whole tree do not
meet it. The owner of the mount alone may write. What a file shows is made when it is opened.
"""

import errno
import os
import stat
from collections.abc import Callable

from fsbackend.node import Attr, Node, current_time_ns

CONTROL_NAME = b".bdi"
_CONTROL_INO = 0xFFFF_FFFF_0000_0000

Reader = Callable[[], str]
Writer = Callable[[str], None]


class ControlNode(Node):
    """A control file or directory; never in the store."""

    __slots__ = ("_reader", "_resolver", "_writer", "children", "keep", "time_ns")

    def __init__(
        self, ino: int, *, reader: Reader | None = None, writer: Writer | None = None, keep: bool = True
    ) -> None:
        is_file = reader is not None or writer is not None
        super().__init__(ino, stat.S_IFREG if is_file else stat.S_IFDIR)
        self._reader = reader
        self._writer = writer
        self._resolver: Callable[[bytes], ControlNode | None] | None = None
        self.children: dict[bytes, ControlNode] = {}
        self.keep = keep
        self.time_ns = current_time_ns()

    def attr(self) -> Attr:
        """Return what stat shows; the size of a file is not known before it is read."""
        if self.is_dir:
            mode = stat.S_IFDIR | 0o555
        else:
            mode = stat.S_IFREG | (0o444 if self._reader else 0) | (0o200 if self._writer else 0)
        nlink = 2 if self.is_dir else 1
        return Attr(
            self.ino, mode, nlink, os.geteuid(), os.getegid(), 0, 0, 0, self.time_ns, self.time_ns, self.time_ns
        )

    def lookup(self, name: bytes) -> "ControlNode":
        """Return the file of a name; ENOENT."""
        node = self.children.get(name)
        if node is None and self._resolver is not None:
            node = self._resolver(name)
        if node is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        node.parent, node.name = self, name
        return node

    def entries(self) -> list[tuple[bytes, int, int]]:
        """Return (name, inode number, type) of each file."""
        return [(name, child.ino, child.kind) for name, child in self.children.items()]

    def open(self, *, writes: bool) -> bytes:
        """Return the text as of now."""
        if writes and self._writer is None:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return self._reader().encode("utf-8", "surrogateescape") if self._reader else b""

    def write(self, data: bytes) -> None:
        """Take one command; EINVAL if it makes no sense."""
        if self._writer is None:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        self._writer(data.decode("utf-8", "surrogateescape"))


class ControlTree:
    """The directory ``.bdi`` and what is in it."""

    def __init__(self) -> None:
        self._next_ino = _CONTROL_INO
        self.root = ControlNode(self._ino())
        self.last_error = ""
        self.add("last_error", lambda: self.last_error + "\n" if self.last_error else "")

    def _ino(self) -> int:
        self._next_ino += 1
        return self._next_ino

    def add(self, name: str, reader: Reader | None = None, writer: Writer | None = None) -> None:
        """Add a file. A ValueError of the writer becomes EINVAL, its line is in ``last_error``."""
        node = ControlNode(self._ino(), reader=reader, writer=self._guard(writer))
        self.root.children[name.encode()] = node

    def _guard(self, writer: Writer | None) -> Writer | None:
        if writer is None:
            return None

        def guarded(text: str) -> None:
            try:
                writer(text)
            except ValueError as error:
                self.last_error = str(error)
                raise OSError(errno.EINVAL, str(error)) from error

        return guarded

    def add_directory(self, name: str, resolve: Callable[[str], Reader | None]) -> None:
        """Add a directory whose files are found by `resolve` (name -> reader or None), and are not listed."""
        directory = ControlNode(self._ino())

        def resolver(child: bytes) -> ControlNode | None:
            reader = resolve(os.fsdecode(child))
            return None if reader is None else ControlNode(self._ino(), reader=reader, keep=False)

        directory._resolver = resolver  # noqa: SLF001 - the tree builds its nodes
        self.root.children[name.encode()] = directory
