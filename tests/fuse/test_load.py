"""Many threads at once: no error, nothing leaks, everything is what was written."""

import os
import random
import threading
import time
from collections.abc import Callable

import psutil
import pytest

from fsbackend.mount import TemporaryMount
from fsbackend.throttle import DirtyParams

pytestmark = pytest.mark.fuse

BUSY = DirtyParams(background_bytes=1 << 20, dirty_bytes=16 << 20, expire_s=0.2, periodic_s=0.1)


class Client(threading.Thread):
    """One program with files of its own, checked against bytes that it remembers."""

    def __init__(self, mounted: TemporaryMount, number: int, until_s: float) -> None:
        super().__init__(name=f"client-{number}")
        self.folder = mounted.path / f"client-{number}"
        self.chance = random.Random(number)
        self.until_s = until_s
        self.error: BaseException | None = None
        self.nr_operations = 0

    def run(self) -> None:
        try:
            self.folder.mkdir()
            model: dict[str, bytes] = {}
            while time.monotonic() < self.until_s:
                self.step(model)
                self.nr_operations += 1
            for name, data in model.items():
                assert (self.folder / name).read_bytes() == data
        except BaseException as error:  # noqa: BLE001 - told to the test by the main thread
            self.error = error

    def step(self, model: dict[str, bytes]) -> None:
        name = f"file-{self.chance.randrange(8)}"
        path = self.folder / name
        what = self.chance.random()
        if what < 0.4 or name not in model:
            data = self.chance.randbytes(self.chance.randint(0, 60_000))
            path.write_bytes(data)
            model[name] = data
        elif what < 0.7:
            assert path.read_bytes() == model[name]
        elif what < 0.8:
            with path.open("r+b") as file:
                file.seek(100)
                file.write(b"patch")
                file.flush()
                os.fsync(file.fileno())
            model[name] = model[name][:100].ljust(100, b"\0") + b"patch" + model[name][105:]
        elif what < 0.9:
            path.rename(self.folder / "moved")
            model["moved"] = model.pop(name)
        else:
            path.unlink()
            del model[name]
            assert name not in os.listdir(self.folder)


def load(mounted: TemporaryMount, nr_threads: int, seconds: float) -> int:
    clients = [Client(mounted, number, time.monotonic() + seconds) for number in range(nr_threads)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    errors = [client.error for client in clients if client.error is not None]
    assert not errors, errors[0]
    return sum(client.nr_operations for client in clients)


@pytest.mark.parametrize("caps", ["disk", "ramfs", "strict", "disk,stable_writes"])
def test_sixteen_threads(make_mount: Callable[..., TemporaryMount], caps: str) -> None:
    mounted = make_mount(caps, params=BUSY)
    assert load(mounted, 16, 2.0) > 100
    daemon = psutil.Process(mounted.pid)
    mounted.set_control("sync", "1")
    for client in mounted.path.iterdir():
        for path in client.iterdir():
            path.unlink()
        client.rmdir()
    until_s = time.monotonic() + 10
    while daemon.num_fds() > 40 and time.monotonic() < until_s:
        time.sleep(0.1)
    assert daemon.num_fds() <= 40, "descriptors leak"
    assert daemon.num_threads() <= 60
    assert mounted.stats()["nr_dirty"] == 0, "pages of files that are gone do not count"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("caps", ["disk", "ramfs", "strict", "disk,stable_writes"])
def test_sixty_four_threads(make_mount: Callable[..., TemporaryMount], caps: str) -> None:
    mounted = make_mount(caps, params=BUSY)
    load(mounted, 64, 20.0)
    before = psutil.Process(mounted.pid).memory_info().rss
    for client in mounted.path.iterdir():
        for path in client.iterdir():
            path.unlink()
        client.rmdir()
    load(mounted, 64, 60.0)
    assert psutil.Process(mounted.pid).memory_info().rss < 2 * before + (64 << 20), "memory leaks"
