"""The subcommands as a user types them: what they print, and one clear line for each mistake."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fsbackend import mount as mounts
from fsbackend.inject import parse_rule

pytestmark = pytest.mark.fuse


def fremap(*words: str | Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "emu.cli", *(str(word) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    store, mountpoint = tmp_path / "store", tmp_path / "mnt"
    store.mkdir()
    mountpoint.mkdir()
    yield store, mountpoint
    if any(found.mountpoint == str(mountpoint) for found in mounts.find_mounts()):
        mounts.umount(mountpoint, force=True)


def test_a_session(folders: tuple[Path, Path], tmp_path: Path) -> None:
    store, mountpoint = folders
    log = tmp_path / "log"
    code, said = fremap("mount", store, mountpoint, "--override", "*.tmp=ramfs", "--power-cut", "--log", log)
    assert (code, f"mounted at {mountpoint}" in said) == (0, True), said
    (mountpoint / "file").write_bytes(b"x" * 100)
    code, said = fremap("status", mountpoint)
    assert code == 0
    assert "4.0 KiB" in said
    code, said = fremap("status", mountpoint, "--pauses")
    assert (code, "0 pauses, 0.00 s in all, the longest 0 ms" in said) == (0, True), said
    assert fremap("sync", mountpoint) == (0, f"all of {mountpoint} is written back and durable\n")
    assert (store / "file").read_bytes() == b"x" * 100
    os.truncate(mountpoint / "file", 10)
    code, said = fremap("power-cut", mountpoint, "--report")
    assert "file: 0 pages in RAM" in said
    assert fremap("power-cut", mountpoint)[0] == 0
    assert (mountpoint / "file").read_bytes() == b"x" * 100
    assert fremap("inject", mountpoint, "mkdir error=EROFS") == (0, f"1 rule in force on {mountpoint}\n")
    assert "mkdir error=EROFS" in fremap("inject", mountpoint)[1]
    with pytest.raises(OSError, match="Read-only"):
        (mountpoint / "folder").mkdir()
    assert fremap("umount", mountpoint) == (0, f"{mountpoint} is unmounted\n")
    assert "INFO" in log.read_text()


def test_mistakes_are_one_line(folders: tuple[Path, Path]) -> None:
    store, mountpoint = folders
    for words, says in (
        (("mount", store / "no", mountpoint), "mkdir -p"),
        (("mount", store, mountpoint / "no"), "mkdir -p"),
        (("mount", store, store.parent), "is not empty"),
        (("mount", store, ""), "'MOUNTPOINT': it is empty"),
        (("umount", ""), "'MOUNTPOINT': it is empty"),
        (("mount", store, mountpoint, "--caps", "ramfs,strictlimit"), "contradict"),
        (("mount", store, mountpoint, "--dirty-ratio", "101"), "percentage"),
        (("umount", mountpoint), "no mount of fremap"),
        (("status", mountpoint), "no mount of fremap"),
        (("sync", mountpoint), "no mount of fremap"),
        (("power-cut", mountpoint), "no mount of fremap"),
    ):
        code, said = fremap(*words)
        assert code != 0, words
        assert says in said, said
        assert said.count("\n") == 1, said
        assert "Traceback" not in said


def test_a_limit_below_the_default_background_takes_that_along(folders: tuple[Path, Path]) -> None:
    store, mountpoint = folders
    code, said = fremap("mount", store, mountpoint, "--dirty-ratio", "5")
    assert code == 0
    assert "note: --dirty-ratio 5 is not above the background ratio, 10 by default" in said
    assert mounts.control_path(mountpoint, "dirty_background_ratio").read_text() == "2\n"
    mounts.umount(mountpoint)


def test_rules_never_lock_control_files_up(folders: tuple[Path, Path]) -> None:
    store, mountpoint = folders
    mounts.mount(store, mountpoint, power_cut=True)
    mounts.inject(mountpoint, ["* every=1 error=EIO"])
    with pytest.raises(OSError, match="Input/output"):
        (mountpoint / "file").write_bytes(b"x")
    assert "fired" in mounts.control_path(mountpoint, "inject").read_text()
    mounts.power_cut(mountpoint)
    mounts.inject(mountpoint, ["clear"])
    (mountpoint / "file").write_bytes(b"x")
    mounts.inject(mountpoint, ["store.write error=EIO"])
    with pytest.raises(mounts.MountError, match="--force"):
        mounts.umount(mountpoint)
    mounts.inject(mountpoint, ["clear"])
    mounts.umount(mountpoint)


def test_a_mount_is_known_by_links_to_it(folders: tuple[Path, Path], tmp_path: Path) -> None:
    mounts.mount(*folders)
    (tmp_path / "link").symlink_to("mnt")
    (tmp_path / "link to it").symlink_to(tmp_path / "link")
    (tmp_path / "endless").symlink_to(tmp_path / "endless")
    assert fremap("status", tmp_path / "link to it")[0] == 0
    assert "no mount of fremap" in fremap("status", tmp_path / "endless")[1]


def test_power_cuts_need_pre_images(folders: tuple[Path, Path]) -> None:
    store, mountpoint = folders
    mounts.mount(store, mountpoint)
    for words in (("inject", mountpoint, "store.fsync cut=none"), ("power-cut", mountpoint, "--at", "store.fsync")):
        code, said = fremap(*words)
        assert (code, "mount it with --power-cut" in said) == (1, True), said
    assert fremap("inject", mountpoint) == (0, "no rules in force\n")
    mounts.umount(mountpoint)
    mounts.mount(store, mountpoint, power_cut=True)
    assert fremap("power-cut", mountpoint, "--report") == (0, "a cut would lose nothing now\n")


def test_libfuse_s_own_words_are_shown(folders: tuple[Path, Path]) -> None:
    """Without the right to mount, only fusermount knows why it failed."""
    if os.geteuid():
        pytest.skip("needs root, to give its capabilities away")
    command = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sys.executable, "-m", "emu.cli"]
    done = subprocess.run([*command, "mount", *folders], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "not permitted: mounting needs root" in done.stderr


@pytest.mark.parametrize(
    "rule", ["open nth=1 every=2 error=EIO", "open p=0.5 nth=1 error=EIO", "open path= error=EIO", "open cut=some"]
)
def test_rules_that_contradict_themselves_are_refused(rule: str) -> None:
    with pytest.raises(ValueError, match=rf"rule '{rule}': .*(exclude each other|a glob|none, all or a seed)"):
        parse_rule(rule)


@pytest.mark.parametrize("rule", ["open p=2 error=EIO", "open p=nan lie", "open error=EFOO", "open nth=x error=EIO"])
def test_rules_that_make_no_sense_say_why_in_plain_words(rule: str) -> None:
    with pytest.raises(ValueError, match=rf"rule '{rule}': .*(between 0 and 1|such as EIO|whole number)"):
        parse_rule(rule)


def test_unmounting_waits_for_a_reader_of_statistics(folders: tuple[Path, Path]) -> None:
    store, mountpoint = folders
    mounts.mount(store, mountpoint)
    reader = mounts.control_path(mountpoint, "stats").open()
    threading.Timer(0.3, reader.close).start()
    mounts.umount(mountpoint)


def test_a_quiet_log_goes_with_its_mount(folders: tuple[Path, Path]) -> None:
    info = mounts.mount(*folders)
    assert Path(info.log).stat().st_mode & 0o777 == 0o600
    mounts.umount(folders[1])
    assert not Path(info.log).exists()


def test_status_makes_no_directory_and_gives_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    code, said = fremap("status", "--json")
    assert (code, isinstance(json.loads(said), list)) == (0, True)
    assert not (tmp_path / "fremap").exists()
