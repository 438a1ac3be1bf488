"""The FUSE adapter: a handler for each of the kernel's requests, libfuse's calls to the FileSystem's."""

import errno
import os
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

    def on_lseek(self, req: int, node_id: int, whence: int, offset: int) -> None:
        """Find data or a hole, for lseek(2): LSEEK comes as BMAP.

        Where we see a hole the kernel may have pages that a mapping made dirty: it is asked for those first.
        """
        found = self.fs.seek(node_id, offset, whence)
        if found.hole is not None:
            start, end = found.hole
            with self.outside():
                self.session.inval_range(node_id, start, end - start)
            found = self.fs.seek(node_id, offset, whence)
        if found.offset is None:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        ll.reply_bmap(req, found.offset)
