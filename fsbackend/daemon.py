"""The daemon of one mount: builds store, cache, flusher and session, serves, and writes everything back at the end.

Started as ``python -m fsbackend.daemon`` with the options as JSON on its standard input. When the mount serves
it writes a line to its standard output and closes it; before that, a line that begins with ``error`` says why
it cannot. Threads start here, in the one process that serves: nothing forks after them.
"""

import contextlib
import ctypes
import ctypes.util
import errno
import logging
import os
import resource
import select
import signal
import sys
import threading
import time

from fsbackend import state
from fsbackend.bdi import BackingDevInfo, parse_caps
from fsbackend.cache import Cache
from fsbackend.control import ControlNode, ControlTree
from fsbackend.controlfiles import add_control_files
from fsbackend.dirstore import DirStore
from fsbackend.durability import DurabilityJournal
from fsbackend.faultyio import FaultyIo
from fsbackend.filesystem import FileSystem
from fsbackend.flusher import Flusher
from fsbackend.inject import Injector
from fsbackend.namejournal import JournaledStore
from fsbackend.node import Node
from fsbackend.options import MountOptions
from fsbackend.powercut import Gate, PowerCutter
from fsbackend.ramstore import RamStore
from fsbackend.share import SharedLimit

log = logging.getLogger("fremap")

PR_SET_IO_FLUSHER = 57

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that ask for an orderly end. They wait until the mount serves: else one could leave it without a daemon."""


def set_io_flusher() -> bool:
    """Tell the kernel that we clean dirty pages, so that it never makes us wait for that; needs a capability."""
    libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    return bool(libc.prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0)


def _refuse() -> contextlib.AbstractContextManager[None]:
    """Answer a request of a daemon that ends."""
    raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))


class Daemon:
    """One mount, from start to end."""

    def __init__(self, options: MountOptions) -> None:
        from fsbackend.operations import Operations  # noqa: PLC0415 - loads libfuse: its absence is an answer
        from fsbackend.xattrs import XattrOperations  # noqa: PLC0415 - as above

        self.options = options
        self.orphaned = False
        self._unmounting = threading.Lock()
        self.device = ""
        caps = parse_caps(options.caps)
        self.bdi = BackingDevInfo(options.mountpoint, caps, options.params)
        if options.max_ratio is not None:
            self.bdi.set_max_ratio(options.max_ratio)
        self.shared = SharedLimit(state.state_dir() / "dirty-limit")
        if not options.params.dirty_bytes:
            self.bdi.others_min_ratio = self.shared.exchange(0, 0.0, 0).min_ratio
        self.bdi.set_min_ratio(options.min_ratio)
        self.injector = Injector(options.seed)
        self.injector.set_rules(options.inject)
        journal = DurabilityJournal() if options.power_cut or options.metadata else None
        self.io = FaultyIo(self.injector, journal, options.seed)
        self.cache = Cache(self.bdi, self.io)
        self.cache.direct = options.direct
        self.store = self._make_store()
        self.fs = FileSystem(self.store, self.cache, caps, options.overrides)
        if isinstance(self.store, DirStore):
            self.cache.free_nbytes = self._free_nbytes
            self.cache.max_file_nbytes = self.store.max_file_nbytes()
        self.flusher = Flusher(self.cache, after_pass=self.fs.reap)
        self.flusher.share_with = self.shared.exchange
        handlers = XattrOperations if options.xattrs else Operations
        self.operations = handlers(self.fs, self.injector, options.timeout_s)
        self.cutter: PowerCutter | None = None
        if journal is not None:
            self._enable_power_cut(journal)
        self.fs.control = ControlTree()
        add_control_files(self)

    def _make_store(self) -> "DirStore | RamStore":
        if self.options.is_ram:
            return RamStore(self.io)
        if self.options.metadata:
            return JournaledStore(self.options.store, self.io)
        return DirStore(self.options.store)

    def _enable_power_cut(self, journal: DurabilityJournal) -> None:
        if not isinstance(self.store, DirStore):
            raise OSError(errno.EINVAL, "ramfs loses everything in a power cut: power_cut needs a disk")
        gate = Gate()
        self.cutter = PowerCutter(self.fs, self.io, journal, gate)
        self.cutter.invalidate = self._invalidate
        self.injector.cut = self.cutter.trigger
        self.flusher.gate = gate.inside
        self.operations.gate, self.operations.outside = gate.inside, gate.outside
        self.operations.cutter = self.cutter

    def _invalidate(self, nodes: list[Node], names: list[tuple[Node, bytes]]) -> None:
        for parent, name in names:
            if parent.id:
                self.session.inval_entry(parent.id, name)
                self.session.inval_inode(parent.id)
        for node in nodes:
            if node.nlookup > 0 and node.is_file and not isinstance(node, ControlNode):
                self.session.inval_inode(node.id)

    def _free_nbytes(self) -> int:
        figures = self.fs.statfs()
        return figures.f_bavail * figures.f_frsize

    def mount(self) -> None:
        """Mount and start serving."""
        from fsbackend.session import Session  # noqa: PLC0415 - as above

        options: dict[str, str | bool] = {
            "fsname": self.options.store or "ram",
            "subtype": state.SUBTYPE,
            "default_permissions": True,
            "max_read": str(128 << 10),
        }
        if self.options.allow_other:
            options["allow_other"] = True
        self.session = Session(self.options.mountpoint, options, self.operations, self.fs.cache.pool)
        self.operations.session = self.session
        self.device = state.device_of(self.options.mountpoint)
        self.injector.sleep = self.session.sleep
        if self.cutter is not None:
            self.cutter.keep_awake = self.session.keep_awake
        self.flusher.start()
        self.session.start()
        self.watch_owner()

    def serve(self, early: list[int]) -> int:
        """Serve until unmounted, or not at all if a signal came `early`; return the exit status."""
        for number in ENDING:
            signal.signal(number, lambda _number, _frame: self.unmount_self())
        if early:
            self.unmount_self()
        self.session.done.wait()
        self._unmounting.acquire()  # for good: a signal that comes now changes nothing
        self.flusher.stop()
        self.shared.close()
        self.session.close()
        failures = self.fs.close()
        for line in failures:
            log.error("not written back at unmount: %s", line)
        log.info("unmounted")
        return 1 if failures else 0

    def watch_owner(self) -> None:
        """Unmount when the process that owns this temporary mount is gone."""
        owner_pid = self.options.owner_pid
        if owner_pid:
            threading.Thread(target=self._watch_owner, args=(owner_pid,), name="owner", daemon=True).start()

    def _watch_owner(self, owner_pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(owner_pid)
            if os.getppid() == owner_pid:  # else the number may be another process's by now
                select.select([pidfd], [], [])
            os.close(pidfd)
        self.orphaned = True
        log.info("the owner of this temporary mount, process %d, is gone", owner_pid)
        error = state.kernel_unmount(self.options.mountpoint, lazy=True)
        if error:
            log.error("not unmounted after the owner's end: %s", error)

    def unmount_self(self) -> None:
        """Write back and unmount, on a signal; another signal meanwhile asks for nothing more."""
        if self._unmounting.acquire(blocking=False):
            threading.Thread(target=self._unmount_self, name="unmount", daemon=True).start()

    def _unmount_self(self) -> None:
        try:
            is_detached = bool(self.device) and not state.is_mounted(self.device)
            if is_detached:
                self.session.keep_awake(awake=True)
                self._fetch_mapped()
            with self.flusher.gate():
                failures = self.fs.sync()
            for line in failures:
                log.error("not unmounting on the signal, not written back: %s", line)
            if failures:
                self.session.keep_awake(awake=False)
            elif is_detached:
                self._end_detached()
            else:
                error = state.kernel_unmount(self.options.mountpoint, lazy=True)
                if error:
                    log.error("not unmounted on the signal: %s", error)
        except Exception:
            log.exception("bug: the unmount on a signal failed")
        finally:
            self._unmounting.release()

    def _fetch_mapped(self) -> None:
        """Have the kernel write to us what it has of open files: stores through mappings, of which we do not know."""
        for node in list(self.fs.nodes.values()):
            if node.nlookup > 0 and node.data is not None and node.data.nr_open:
                self.session.inval_inode(node.id)

    def _end_detached(self) -> None:
        """End where the mount is gone and files are open yet; whoever has them open gets ENOTCONN from now on.

        All was just written back. Workers cannot be woken from their read of /dev/fuse, so the process ends here.
        """
        self.operations.gate = _refuse
        self.session.wait_until_answered(timeout_s=1.0)
        self.flusher.stop()
        self.shared.close()
        failures = self.fs.close()
        for line in failures:
            log.error("not written back at the end: %s", line)
        log.info("ended on the signal; files were still open")
        state.remove_record(os.getpid())
        if not failures:
            state.remove_quiet_log(self.options.log_path)
        if self.orphaned and self.options.scratch:
            state.remove_scratch(self.options.scratch)
        os._exit(1 if failures else 0)


def main() -> int:
    """Run a daemon with the options on standard input."""
    options = MountOptions.from_json(sys.stdin.read())
    early: list[int] = []
    for ending in ENDING:
        signal.signal(ending, lambda number, _frame: early.append(number))
    os.umask(0)
    os.chdir("/")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    logging.basicConfig(
        filename=options.log_path,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(threadName)s: %(message)s",
    )
    answer = os.dup(1)
    log_fd = os.open(options.log_path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    null_fd = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null_fd, 0)
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)
    try:
        daemon = Daemon(options)
        daemon.mount()
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", None) or errno.EINVAL
        reason = getattr(error, "strerror", None) or str(error)
        os.write(answer, f"error {number} {reason}\n".encode())
        return 1
    if not set_io_flusher():
        log.info("PR_SET_IO_FLUSHER is not permitted here")
    record = {"pid": os.getpid(), "log": options.log_path, "started": time.time()}
    record |= {"store": options.store, "device": daemon.device}
    owner = {"owner": options.owner_pid, "scratch": options.scratch}
    state.write_record(options.mountpoint, record | owner)
    log.info("serving %s at %s as %s", options.store or "RAM", options.mountpoint, options.caps)
    os.write(answer, b"serving\n")
    os.close(answer)
    status = daemon.serve(early)
    state.remove_record(os.getpid())
    if status == 0:
        state.remove_quiet_log(options.log_path)
    if daemon.orphaned and options.scratch:
        state.remove_scratch(options.scratch)
    return status


if __name__ == "__main__":
    sys.exit(main())
