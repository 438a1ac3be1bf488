"""A store that is slow or refuses: who is killed goes, control files answer, an emulated machine keeps the limit."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from emu.mm.inode import backing_caps
from fsbackend import client
from fsbackend.bdi import BackingDevInfo
from fsbackend.mount import TemporaryMount, find_mounts
from fsbackend.throttle import DirtyParams

pytestmark = pytest.mark.fuse

MakeMount = Callable[..., TemporaryMount]
LAZY = DirtyParams(expire_s=3600, periodic_s=3600)

WRITER = """
import os, signal, sys
signal.signal(signal.SIGUSR1, lambda *_: None)
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
print("ready", flush=True)
while True:
    os.write(fd, bytes(1 << 20))
"""


def wait_for(condition: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until_s, what
        time.sleep(0.02)


def test_a_throttled_writer_can_be_killed_and_only_that_ends_its_pause(make_mount: MakeMount) -> None:
    params = DirtyParams(background_bytes=1 << 20, dirty_bytes=4 << 20, periodic_s=1)
    mounted = make_mount("disk", params=params, inject=["store.write error=EIO"], expect_log="not written back")
    writer = subprocess.Popen(
        [sys.executable, "-S", "-c", WRITER, mounted.path / "file"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"

        def throttled() -> object:
            return json.loads(mounted.control("activity"))["throttled"]

        def held() -> bool:
            return mounted.stats()["nr_dirty"] >= 1024 and bool(throttled())

        wait_for(held, "nobody was throttled")
        nr_dirty = mounted.stats()["nr_dirty"]
        for _ in range(10):
            writer.send_signal(signal.SIGUSR1)
            time.sleep(0.05)
        assert mounted.stats()["nr_dirty"] - nr_dirty <= 32, "a signal with a handler let it write on"
        writer.kill()
        began_s = time.monotonic()
        writer.wait(20)
        assert time.monotonic() - began_s < 3
        wait_for(lambda: not throttled(), "a reply is still held")
    finally:
        mounted.inject("clear")
        writer.kill()
        writer.communicate(timeout=20)


def test_control_files_answer_while_more_requests_are_delayed_than_there_are_workers(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", params=LAZY)
    for number in range(60):
        (mounted.path / f"file-{number}").touch()
    mounted.inject("setattr path=file-* delay=3")
    threads = [threading.Thread(target=os.chmod, args=(mounted.path / f"file-{number}", 0o600)) for number in range(60)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(1.0)  # all of them are in their delay
        began_s = time.monotonic()
        assert "fired 60" in mounted.control("inject")
        assert time.monotonic() - began_s < 1
    finally:
        for thread in threads:
            thread.join(30)


def test_a_truncation_of_a_file_that_is_slowly_written_back_holds_up_no_names(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", params=LAZY)
    (mounted.path / "file").write_bytes(b"x" * 8192)
    mounted.inject("store.write delay=3")
    threads = [threading.Thread(target=client.sync, args=(mounted.path,))]
    threads.append(threading.Thread(target=os.truncate, args=(mounted.path / "file", 100)))
    try:
        threads[0].start()
        wait_for(lambda: mounted.stats()["nr_writeback"] > 0, "no writeback began")
        began_s = time.monotonic()
        threads[1].start()
        time.sleep(0.3)
        mounted.control("inject")
        (mounted.path / "another").touch()
        assert time.monotonic() - began_s < 2
    finally:
        for thread in threads:
            if thread.ident is not None:
                thread.join(30)
    assert (mounted.path / "file").read_bytes() == b"x" * 100


def test_a_child_that_closes_does_not_take_its_parents_error(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", params=LAZY, expect_log="not written back")
    fd = os.open(mounted.path / "file", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"x" * 4096)
    mounted.inject("store.write nth=1 error=EIO")
    assert "not written" in client.sync(mounted.path)
    close = f"import os\ntry: os.close({fd})\nexcept OSError as error: raise SystemExit(error.errno)"
    child = subprocess.run([sys.executable, "-S", "-c", close], pass_fds=[fd], check=False)
    assert child.returncode == errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        os.fsync(fd)
    os.fsync(fd)
    os.close(fd)


@pytest.mark.parametrize(("caps", "max_ratio", "strict"), [("strict", 1, True), ("disk", 100, False)])
def test_an_emulated_machine_has_the_mounts_ratio(
    make_mount: MakeMount, caps: str, max_ratio: int, *, strict: bool
) -> None:
    mounted = make_mount(caps)
    path = mounted.path / "file"
    path.touch()

    def emulated() -> BackingDevInfo:
        return BackingDevInfo("emulated", backing_caps(str(path), path.stat().st_ino, "disk"))

    assert (emulated().max_ratio, emulated().strict_limit) == (max_ratio, strict)
    mounted.set_control("max_ratio", "7\n")
    assert emulated().max_ratio == 7


def test_a_mount_that_answers_slowly_is_found_at_once(make_mount: MakeMount) -> None:
    mounted = make_mount("disk")
    mounted.inject("statfs delay=60")
    finder = threading.Thread(target=find_mounts, daemon=True)
    finder.start()
    finder.join(20)
    hangs = finder.is_alive()
    mounted.inject("clear")
    assert not hangs
    assert any(found.mountpoint == str(mounted.path) and not found.stale for found in find_mounts())
