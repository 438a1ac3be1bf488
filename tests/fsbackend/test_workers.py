"""Workers over a socket that keeps message boundaries, as /dev/fuse does."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fsbackend.pagepool import PagePool
from fsbackend.workers import Workers


def until(holds: Callable[[], bool], timeout_s: float = 10.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end_s, "it did not come to hold"
        time.sleep(0.001)


class Server:
    """Serves by noting who served what; ``block`` waits for `release`."""

    def __init__(self) -> None:
        self.kernel, mine = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._mine = mine
        self.served: list[tuple[str, bytes]] = []
        self.release = threading.Event()
        self.workers = Workers(mine.fileno(), self._serve, PagePool())

    def _serve(self, address: int, nbytes: int) -> None:
        block = self.workers.local.block
        assert address == block.address
        message = bytes(block.request[:nbytes])
        if message == b"block":
            assert self.release.wait(20)
        self.served.append((threading.current_thread().name, message))

    def ask(self, message: bytes) -> None:
        nr_before = len(self.served)
        self.kernel.send(message)
        until(lambda: len(self.served) > nr_before)


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    server.workers.start()
    try:
        yield server
    finally:
        server.release.set()
        server.kernel.close()
        server.workers.join(10.0)
        server._mine.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("worker-")]


def test_one_thread_serves_who_asks_one_by_one() -> None:
    with serving() as server:
        for number in range(300):
            server.ask(b"%d" % number)
        assert {name for name, _ in server.served} == {"worker-0"}
        assert [message for _, message in server.served] == [b"%d" % number for number in range(300)]


def test_a_request_behind_a_blocked_worker_is_served_by_another() -> None:
    with serving() as server:
        server.kernel.send(b"block")
        server.ask(b"behind")
        server.ask(b"and on")
        assert {name for name, _ in server.served} == {"worker-1"}
        server.release.set()
        until(lambda: len(server.served) == 3)


def test_as_many_as_block_are_served_and_most_park_again() -> None:
    with serving() as server:
        for _ in range(5):
            server.kernel.send(b"block")
        server.ask(b"behind all")
        server.release.set()
        until(lambda: len(server.served) == 6)

        def one_is_active() -> bool:
            server.ask(b"again")
            return len(server.workers._active) == 1

        until(one_is_active)
        server.release.clear()
        server.kernel.send(b"block")  # a parked one comes back, no new thread is made
        server.ask(b"behind")
        assert len(server.workers._threads) == 6


def test_the_monitor_sleeps_while_nothing_comes_and_wakes() -> None:
    with serving() as server:
        server.ask(b"one")
        until(lambda: server.workers._monitor_asleep)
        server.kernel.send(b"block")
        server.ask(b"behind")
        assert not server.workers._monitor_asleep
