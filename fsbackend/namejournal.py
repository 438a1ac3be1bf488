"""A store whose names can be rolled back: what an ordered journal would not have committed yet is undone.

Each creation, removal and rename is recorded, in order, with the paths of its time. A sync, or an fsync of a file
or directory that changed since the last commit (`transaction`), makes all before it durable, as a journal's commit
does. A power cut keeps a prefix of the rest and undoes what follows, last first, so each path is right again when
its turn comes. What is removed
keeps a hidden link (`RESERVED_NAME`) until then. Owners, modes and times are not rolled back.
"""

import contextlib
import os
import stat
import threading
from dataclasses import dataclass

from fsbackend.dirstore import RESERVED_NAME, DirNode, DirStore
from fsbackend.durability import Choice
from fsbackend.faultyio import Commit, FaultyIo
from fsbackend.node import Attr, Cred, Node, SetAttr
from fsbackend.renaming import RENAME_EXCHANGE
from fsbackend.storeio import StoreIo
from fsbackend.transaction import Transactions

_FOLLOW_NOT = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class NameChange:
    """One change of a name, with what undoes it.

    `kind` is created, removed, or renamed (from `old_path`). `kept` is the hidden link of what was removed or
    renamed over; a removed directory is made again, with `made_as` (mode, uid, gid).
    """

    kind: str
    path: bytes
    old_path: bytes = b""
    kept: bytes = b""
    made_as: tuple[int, int, int] | None = None
    key: tuple[int, int] = (0, 0)


def _split(path: bytes) -> tuple[bytes, bytes]:
    parent, _, name = path.rpartition(b"/")
    return parent, name


class JournaledStore(DirStore):
    """A DirStore that remembers the changes of names since the last barrier."""

    def __init__(self, path: str, io: FaultyIo) -> None:
        super().__init__(path)
        self._io = io
        self._names_lock = threading.Lock()
        self._next_kept = 0
        self._nr_committed = 0
        self._transactions = Transactions()
        self.changes: list[NameChange] = []
        self.kept: dict[tuple[int, int], list[bytes]] = {}
        os.mkdir(RESERVED_NAME, 0o700, dir_fd=self.root_fd)
        self._kept_fd = os.open(RESERVED_NAME, _FOLLOW_NOT, dir_fd=self.root_fd)
        io.names = self

    def close(self) -> None:
        """Drop what was kept, and let the store go."""
        self.confirm(self.nr_changes())
        os.close(self._kept_fd)
        with contextlib.suppress(OSError):
            os.rmdir(RESERVED_NAME, dir_fd=self.root_fd)
        super().close()

    # ---- recording

    @staticmethod
    def _path(parent: Node, name: bytes) -> bytes:
        above = parent.path()
        return above + b"/" + name if above else name

    def inode_changed(self, node: Node, *, data: bool) -> None:
        """Note that a barrier of the inode has something to commit; with `data`, an fdatasync, too."""
        if isinstance(node, DirNode):
            self._transactions.inode_changed((node.dev, node.ino), data=data)

    def _append(self, change: NameChange, *nodes: Node | None) -> None:
        """Record a change, then the inodes that it changed: a commit between the two confirms too little."""
        with self._names_lock:
            self.changes.append(change)
        for node in nodes:
            if node is not None:
                self.inode_changed(node, data=False)

    def _created(self, parent: Node, name: bytes, node: Node) -> None:
        self._append(NameChange("created", self._path(parent, name)), parent)
        self.inode_changed(node, data=True)

    def create(self, parent: Node, name: bytes, mode: int, cred: Cred) -> tuple[DirNode, int]:
        """Make a regular file."""
        made = super().create(parent, name, mode, cred)
        self._created(parent, name, made[0])
        return made

    def tmpfile(self, parent: Node, mode: int, cred: Cred, *, linkable: bool) -> tuple[DirNode, int]:
        """Make a regular file that has no name."""
        made = super().tmpfile(parent, mode, cred, linkable=linkable)
        self.inode_changed(made[0], data=True)
        return made

    def _made(self, parent: Node, name: bytes, mode: int, cred: Cred) -> DirNode:
        node = super()._made(parent, name, mode, cred)
        self._created(parent, name, node)
        return node

    def link(self, node: Node, parent: Node, name: bytes) -> None:
        """Give an inode one more name."""
        super().link(node, parent, name)
        self._append(NameChange("created", self._path(parent, name)), parent, node)

    def unlink(self, parent: Node, name: bytes) -> DirNode:
        """Take a name away, keeping the inode for a while."""
        change = self._keep("removed", self._path(parent, name), parent, name)
        try:
            node = super().unlink(parent, name)
        except BaseException:
            self._unkeep(change)
            raise
        self._append(change, parent, node)
        return node

    def rmdir(self, parent: Node, name: bytes) -> DirNode:
        """Remove an empty directory."""
        info = os.lstat(name, dir_fd=self.dir_fd(parent))
        node = super().rmdir(parent, name)
        made_as = (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid)
        self._append(NameChange("removed", self._path(parent, name), made_as=made_as), parent, node)
        return node

    def rename(self, parent: Node, name: bytes, new_parent: Node, new_name: bytes, flags: int = 0) -> DirNode | None:
        """Move a name over another, keeping the inode that the other one named; or as the flags say."""
        old_path, path = self._path(parent, name), self._path(new_parent, new_name)
        if flags & RENAME_EXCHANGE:
            both = self.lookup(parent, name), self.lookup(new_parent, new_name)
            super().rename(parent, name, new_parent, new_name, flags)
            self._append(NameChange("exchanged", path, old_path), parent, new_parent, *both)
            return None
        try:
            change = self._keep("renamed", path, new_parent, new_name)
        except FileNotFoundError:
            change = NameChange("renamed", path)
        change.old_path = old_path
        try:
            source = os.lstat(name, dir_fd=self.dir_fd(parent))
            over = super().rename(parent, name, new_parent, new_name, flags)
        except BaseException:
            self._unkeep(change)
            raise
        if change.key == (source.st_dev, source.st_ino):
            self._unkeep(change)  # two names of one inode: nothing was done
        else:
            self._append(change, parent, new_parent, self.by_ino.get((source.st_dev, source.st_ino)), over)
        return over

    def setattr(self, node: Node, change: SetAttr) -> None:
        """Change owner, mode and times, which a cut does not undo, but an fsync commits."""
        super().setattr(node, change)
        self.inode_changed(node, data=False)

    def _keep(self, kind: str, path: bytes, parent: Node, name: bytes) -> NameChange:
        info = os.lstat(name, dir_fd=self.dir_fd(parent))
        if stat.S_ISDIR(info.st_mode):
            return NameChange(kind, path, made_as=(stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid))
        with self._names_lock:
            self._next_kept += 1
            kept = b"%d" % self._next_kept
            key = (info.st_dev, info.st_ino)
            os.link(name, kept, src_dir_fd=self.dir_fd(parent), dst_dir_fd=self._kept_fd, follow_symlinks=False)
            self.kept.setdefault(key, []).append(kept)
        return NameChange(kind, path, kept=kept, key=key)

    def _unkeep(self, change: NameChange) -> None:
        with self._names_lock:
            self._drop_kept(change)

    def _drop_kept(self, change: NameChange) -> None:
        if change.kept:
            os.unlink(change.kept, dir_fd=self._kept_fd)
            links = self.kept[change.key]
            links.remove(change.kept)
            if not links:
                del self.kept[change.key]

    # ---- what others see

    def getattr(self, node: Node) -> Attr:
        """Return what stat shows, without the hidden links."""
        attr = super().getattr(node)
        if self.kept and isinstance(node, DirNode):
            attr.nlink -= len(self.kept.get((node.dev, node.ino), ()))
        return attr

    def open_data(self, node: Node) -> int:
        """Open a regular file; one without a name by its hidden link."""
        try:
            return super().open_data(node)
        except FileNotFoundError:
            links = self.kept.get((node.dev, node.ino)) if isinstance(node, DirNode) else None
            if not links:
                raise
            return os.open(links[0], os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._kept_fd)

    def fsync_dir(self, node: Node, fd: int) -> None:
        """Make a directory's names durable, unless a rule lies about it: all before now, as a commit does."""
        self._io.fsync(node, fd, datasync=False)

    # ---- barriers and cuts

    def nr_changes(self) -> int:
        """Return up to which change, counted since the mount, a barrier that starts now will confirm."""
        with self._names_lock:
            return self._nr_committed + len(self.changes)

    def begin_commit(self, node: Node | None, *, datasync: bool) -> Commit | None:
        """Return what a barrier of an inode that starts now (None: of the store) will confirm; None: nothing."""
        key = (node.dev, node.ino) if isinstance(node, DirNode) else None
        tid = self._transactions.begin_commit(key, datasync=datasync)
        return Commit(tid, self.nr_changes()) if tid else None

    def committed(self, commit: Commit) -> None:
        """Note that a barrier succeeded."""
        self.confirm(commit.nr_changes)
        self._transactions.committed(commit.tid)

    def confirm(self, count: int) -> None:
        """Note that the changes up to this one are durable; another barrier may have said so of some already."""
        with self._names_lock:
            count = max(count - self._nr_committed, 0)
            self._nr_committed += count
            done, self.changes = self.changes[:count], self.changes[count:]
            for change in done:
                self._drop_kept(change)

    def pending(self) -> list[NameChange]:
        """Return the changes that no barrier has confirmed."""
        with self._names_lock:
            return list(self.changes)

    def cut(self, choice: Choice) -> list[tuple[Node, bytes]]:
        """Undo all but a prefix of the pending changes; return the names touched, to be looked up anew."""
        with self._names_lock:
            count = choice.prefix(len(self.changes))
            undone, self.changes = self.changes[count:], self.changes[:count]
        touched: list[tuple[Node, bytes]] = []
        for change in reversed(undone):
            touched += self._undo(change)
        self.confirm(self.nr_changes())
        StoreIo.sync_store(self._io, self.root_fd)  # what the cut left is durable, whatever rules say
        return touched

    def _resolve(self, path: bytes) -> Node:
        node: Node = self.root
        for name in filter(None, path.split(b"/")):
            node = self.lookup(node, name)
        return node

    def _undo(self, change: NameChange) -> list[tuple[Node, bytes]]:
        above, name = _split(change.path)
        parent = self._resolve(above)
        touched = [(parent, name)]
        if change.kind == "created":
            if self.lookup(parent, name).is_dir:
                super().rmdir(parent, name)
            else:
                super().unlink(parent, name)
        if change.kind in {"renamed", "exchanged"}:
            old_above, old_name = _split(change.old_path)
            old_parent = self._resolve(old_above)
            flags = RENAME_EXCHANGE if change.kind == "exchanged" else 0
            super().rename(parent, name, old_parent, old_name, flags)
            touched.append((old_parent, old_name))
        if change.kept:
            os.link(change.kept, name, src_dir_fd=self._kept_fd, dst_dir_fd=self.dir_fd(parent), follow_symlinks=False)
            self.lookup(parent, name)
            self._unkeep(change)
        elif change.made_as is not None:
            mode, uid, gid = change.made_as
            os.mkdir(name, 0o700, dir_fd=self.dir_fd(parent))
            os.chown(name, uid, gid, dir_fd=self.dir_fd(parent), follow_symlinks=False)
            os.chmod(name, mode, dir_fd=self.dir_fd(parent))
        return touched
