"""The FUSE adapter: a handler for each of the kernel's requests, libfuse's calls to the FileSystem's."""

from typing import Any

from fsbackend import lowlevel as ll
from fsbackend.fileops import FileHandlers
from fsbackend.nameops import NameHandlers


class Operations(NameHandlers, FileHandlers):
    """The handlers of a mount: ``on_NAME`` for each request NAME that is answered."""

    def on_init(self, _userdata: int, conn: Any) -> None:
        """Ask for what we need of what the kernel offers."""
        info = conn.contents
        info.want |= info.capable & (ll.CAP_BIG_WRITES | ll.CAP_EXPORT_SUPPORT | ll.CAP_ASYNC_READ)
        info.max_background = 64
        info.congestion_threshold = 48
