"""Open files, and the globs that give files capabilities of their own."""

import fnmatch

from fsbackend.bdi import parse_caps
from fsbackend.node import FileData, Node


class Override:
    """Files whose name or path matches a glob have capabilities of their own."""

    __slots__ = ("caps", "glob")

    def __init__(self, text: str) -> None:
        """Read ``GLOB=CAPS``; ValueError with one line."""
        glob, sep, caps = text.rpartition("=")
        while sep and "=" in glob and caps.strip().isdigit():  # the "=" of max_ratio=N is not ours
            glob, sep, rest = glob.rpartition("=")
            caps = f"{rest}={caps}"
        if not sep or not glob:
            raise ValueError(f"override {text!r} must be GLOB=CAPS, such as 'wal-*=ramfs'")
        self.glob = glob.strip()
        self.caps = parse_caps(caps.strip())

    def matches(self, path: str) -> bool:
        """Return whether the glob matches the path or its last part."""
        return fnmatch.fnmatchcase(path, self.glob) or fnmatch.fnmatchcase(path.rpartition("/")[2], self.glob)

    def __str__(self) -> str:
        return f"{self.glob}={self.caps}"


class Handle:
    """An open file or directory."""

    __slots__ = ("close_seq", "data", "direct", "entries", "err_seq", "node", "text")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.data: FileData | None = None
        self.direct = False
        self.err_seq = 0
        self.close_seq = 0
        self.entries: list[tuple[bytes, int, int]] = []
        self.text: bytes | None = None
