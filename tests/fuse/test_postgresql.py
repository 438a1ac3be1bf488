"""PostgreSQL in the mount: initdb, pgbench, and recovery after power cuts: no acknowledged transaction is lost."""

import contextlib
import os
import pwd
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from fsbackend.mount import TemporaryMount
from fsbackend.throttle import DirtyParams

pytestmark = [pytest.mark.fuse, pytest.mark.slow, pytest.mark.timeout(600)]

BUSY = DirtyParams(background_bytes=1 << 20, dirty_bytes=256 << 20, expire_s=0.2, periodic_s=0.1)
LAZY = DirtyParams(expire_s=3600, periodic_s=3600)
MakeMount = Callable[..., TemporaryMount]

CONFIG = """
listen_addresses = ''
unix_socket_directories = '{sockets}'
shared_buffers = 16MB
max_connections = 20
checkpoint_timeout = 30s
"""


def binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    return found[-1].parent


def drop_to() -> str | None:
    """Return the user that the server runs as: it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")


class Cluster:
    """One database cluster in a mount."""

    def __init__(self, mounted: TemporaryMount, sockets: Path) -> None:
        self.mounted = mounted
        self.bin = binaries()
        self.user = drop_to()
        self.sockets = sockets
        self.data = mounted.path / "cluster"
        self.log = sockets / "log"
        if self.user is not None:
            account = pwd.getpwnam(self.user)
            for path in (sockets, mounted.path):
                os.chown(path, account.pw_uid, account.pw_gid)
            mounted.base.chmod(0o755)
        self.run("initdb", "-A", "trust", "-U", "test", "--no-sync", str(self.data))
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(CONFIG.format(sockets=sockets))
        mounted.set_control("sync", "1")

    def run(self, name: str, *words: str, check: bool = True) -> str:
        command = [str(self.bin / name), *words]
        done = subprocess.run(
            command, user=self.user, cwd=self.sockets, capture_output=True, text=True, check=False, timeout=200
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.server_log()}"
        return done.stdout

    def server_log(self) -> str:
        return self.log.read_text()[-4000:] if self.log.exists() else ""

    def start(self) -> None:
        command = [str(self.bin / "pg_ctl"), "start", "-w", "-t", "100", "-D", str(self.data), "-l", str(self.log)]
        done = subprocess.run(
            command, user=self.user, cwd=self.sockets, stdout=subprocess.DEVNULL, check=False, timeout=200
        )
        assert done.returncode == 0, self.server_log()

    def stop(self, mode: str) -> None:
        self.run("pg_ctl", "stop", "-w", "-m", mode, "-D", str(self.data), check=False)

    def freeze(self) -> list[psutil.Process]:
        """Stop every process of it where it stands; what it acknowledged so far is all that it ever will."""
        postmaster = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
        postmaster.suspend()
        processes = [postmaster, *postmaster.children(recursive=True)]
        for process in processes[1:]:
            process.suspend()
        return processes

    def cut(self, survive: str) -> None:
        """Cut the power under the running server; its memory goes with it."""
        processes = self.freeze()
        self.mounted.power_cut(survive)
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, 20)

    def sql(self, text: str) -> str:
        return self.run("psql", "-h", str(self.sockets), "-U", "test", "-d", "postgres", "-qAt", "-c", text).strip()

    def pgbench(self, *words: str) -> str:
        return self.run("pgbench", "-h", str(self.sockets), "-U", "test", *words, "postgres")


@pytest.fixture
def sockets() -> Iterator[Path]:
    """Return a short path for Unix sockets, which pytest's are too long for."""
    path = Path(tempfile.mkdtemp(prefix="fremap-pg-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def make_cluster(make_mount: MakeMount, sockets: Path) -> Iterator[Callable[..., Cluster]]:
    made: list[Cluster] = []

    def make(**options: object) -> Cluster:
        binaries(), drop_to()
        mounted = make_mount("disk", allow_other=True, power_cut=True, **options)
        made.append(Cluster(mounted, sockets))
        return made[-1]

    yield make
    for cluster in made:
        cluster.stop("immediate")


class Client(threading.Thread):
    """A session that inserts one row a transaction, and what was acknowledged to it."""

    def __init__(self, cluster: Cluster, first: int) -> None:
        super().__init__(name=f"client-{first}")
        words = ["-h", str(cluster.sockets), "-U", "test", "-d", "postgres", "-qAt", "-v", "ON_ERROR_STOP=1"]
        self.process = subprocess.Popen(
            [str(cluster.bin / "psql"), *words],
            user=cluster.user,
            cwd=cluster.sockets,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.first = first
        self.committed: list[int] = []
        self.enough = threading.Event()

    def run(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stderr is not None
        with contextlib.suppress(BrokenPipeError):
            for key in range(self.first, self.first + 100_000):
                self.process.stdin.write(f"insert into t values ({key}, repeat('x', 300));\n\\warn {key}\n")
                self.process.stdin.flush()
                said = self.process.stderr.readline()
                if said != f"{key}\n":
                    break
                self.committed.append(key)
                if len(self.committed) >= 20:
                    self.enough.set()
        self.enough.set()

    def close(self) -> None:
        self.process.kill()
        self.join()
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()


def commit_and_cut(cluster: Cluster, first: int, survive: str) -> set[int]:
    """Have three sessions commit rows, cut the power meanwhile; return the keys that were acknowledged."""
    clients = [Client(cluster, first + number * 100_000) for number in range(3)]
    try:
        for client in clients:
            client.start()
        for client in clients:
            assert client.enough.wait(120)
        cluster.cut(survive)
    finally:
        for client in clients:
            client.close()
    committed = {key for client in clients for key in client.committed}
    assert len(committed) >= 60, cluster.server_log()
    return committed


def keys(cluster: Cluster) -> set[int]:
    return {int(key) for key in cluster.sql("select k from t").split()}


def test_pgbench(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(params=BUSY)
    cluster.start()
    cluster.pgbench("-i", "-q", "-s", "1")
    said = cluster.pgbench("-n", "-c", "4", "-T", "4")
    done = re.search(r"actually processed: (\d+)", said)
    assert done is not None
    cluster.stop("fast")
    cluster.mounted.umount()
    cluster.mounted.remount()
    cluster.start()
    assert int(cluster.sql("select count(*) from pgbench_history")) == int(done[1]) > 0
    sums = {cluster.sql(f"select sum({name[0]}balance) from pgbench_{name}") for name in ("accounts", "branches")}
    assert sums == {cluster.sql("select sum(delta) from pgbench_history")}


def test_no_acknowledged_transaction_is_lost(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(params=BUSY)
    cluster.start()
    cluster.sql("create table t (k integer primary key, v text)")
    committed: set[int] = set()
    for number, survive in enumerate(("none", "1", "2", "none", "all")):
        committed |= commit_and_cut(cluster, number * 1_000_000, survive)
        cluster.start()
        assert committed <= keys(cluster)
        assert cluster.sql("set enable_indexscan = off; select count(*), count(distinct v) from t").endswith("|1")
        cluster.sql("vacuum t" if number % 2 else "checkpoint")


def test_a_lying_disk_loses_transactions(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(params=LAZY)
    cluster.start()
    cluster.sql("create table t (k integer primary key, v text)")
    cluster.sql("checkpoint")
    cluster.mounted.set_control("sync", "1")
    cluster.mounted.inject("store.fsync lie")
    committed = commit_and_cut(cluster, 0, "none")
    cluster.mounted.inject("clear")
    cluster.start()
    assert committed - keys(cluster), "the cut is real: what the disk lied about is gone"
