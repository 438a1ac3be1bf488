"""A recording says how its mount was made, and what was in force when it began: control files may have changed it."""

import json
from pathlib import Path

import pytest

from emu.cli import frame
from emu.lab.activity import read_control
from emu.lab.mount_config import config_of_mount
from emu.lab.observe import Observer
from fsbackend.client import write_control
from fsbackend.mount import temporary_mount
from fsbackend.throttle import DirtyParams

MIB = 1 << 20


@pytest.mark.fuse
def test_what_was_changed_since_the_mount_is_in_the_run_and_differs_in_the_report(tmp_path: Path) -> None:
    params = DirtyParams(background_bytes=4 * MIB, dirty_bytes=8 * MIB)
    first, second = tmp_path / "first", tmp_path / "second"
    with temporary_mount("disk", params=params, seed=7) as mount:
        assert frame.run(["record", str(mount.path), "--seconds", "0.1", "-o", str(first)]) == 0
        write_control(mount.path, "dirty_bytes", str(16 * MIB))
        write_control(mount.path, "inject", "store.write bandwidth=60M")
        write_control(mount.path, "overrides", "wal-*=ramfs")
        (mount.path / "file").write_bytes(b"x")
        assert frame.run(["record", str(mount.path), "--seconds", "0.1", "-o", str(second)]) == 0
    told = [json.loads((run / "manifest.json").read_text()) for run in (first, second)]
    assert [one["seed"] for one in told] == [7, 7]
    assert [one["config"]["mount"]["params"]["dirty_bytes"] for one in told] == [8 * MIB, 8 * MIB]
    assert [one["config"]["in_force"]["dirty_bytes"] for one in told] == [8 * MIB, 16 * MIB]
    assert [one["config"]["in_force"]["inject"] for one in told] == [[], ["store.write bandwidth=60M"]]
    assert [one["config"]["in_force"]["overrides"] for one in told] == [[], ["wal-*=ramfs"]]
    assert told[0]["config"]["store_is"]["fstype"]
    assert frame.run(["report", str(first), str(second), "-o", str(tmp_path / "both")]) == 0
    page = (tmp_path / "both" / "index.html").read_text()
    assert f"dirty_bytes {16 * MIB}" in page
    shown = page.partition("<dt>in force</dt>")[2].partition("</dd>")[0]
    assert f"dirty_bytes {8 * MIB}" in shown
    assert "<mark>" in shown


@pytest.mark.fuse
def test_the_rules_that_a_run_notes_can_be_given_again() -> None:
    with temporary_mount("disk") as mount:
        for rule in ("store.write bandwidth=60M", "fsync p=0.1 delay=0.001", "store.write path=*.db nth=3 error=EIO"):
            write_control(mount.path, "inject", rule)
        noted = config_of_mount(Observer(mount.path))["in_force"]["inject"]
        assert len(noted) == 3
        write_control(mount.path, "inject", "\n".join(["clear", *noted]))
        again = config_of_mount(Observer(mount.path))["in_force"]["inject"]
        assert again == noted
        assert read_control(f"{mount.path}/.bdi/last_error").strip() == b""
