"""Which inodes changed in a journal's running transaction: that decides whether a barrier commits anything.

A journaling filesystem gathers changes of inodes and names in one transaction. A barrier commits it, and all that
is in it, if the inode that it is asked for changed in it; if not, it commits nothing, and names that changed
elsewhere wait. fdatasync asks only for changes without which bytes could not be found: of size and of blocks.
Source: Linux v2.6.36 fs/ext4/fsync.c: ext4_sync_file(); later ext4_update_inode_fsync_trans(). Unlike there, no
transaction is committed for its age, and an inode that is read anew is not taken for changed.
"""

import threading

InodeKey = tuple[int, int]
"""Device and number: what stays the same when the kernel forgets an inode and looks it up again."""


class Transactions:
    """The running transaction's number (tid), and, of each inode changed since the last commit, its last one's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 1
        self._committed = 0
        self._sync_tid: dict[InodeKey, int] = {}
        self._datasync_tid: dict[InodeKey, int] = {}

    def inode_changed(self, key: InodeKey, *, data: bool) -> None:
        """Note a change of an inode; with `data`, one that fdatasync asks for, too."""
        with self._lock:
            self._sync_tid[key] = self._running
            if data:
                self._datasync_tid[key] = self._running

    def begin_commit(self, key: InodeKey | None, *, datasync: bool) -> int:
        """Return the transaction that a barrier of an inode (None: of all) commits, or 0 for none; begin the next."""
        with self._lock:
            waiting = self._datasync_tid if datasync else self._sync_tid
            if key is not None and waiting.get(key, 0) <= self._committed:
                return 0
            self._running += 1
            return self._running - 1

    def committed(self, tid: int) -> None:
        """Note that a transaction, and with it all before, is durable."""
        with self._lock:
            self._committed = max(self._committed, tid)
            for tids in (self._sync_tid, self._datasync_tid):
                for key in [key for key, last in tids.items() if last <= self._committed]:
                    del tids[key]
