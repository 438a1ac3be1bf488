"""What is swept from the state directory: logs a week old, unless their mount lives."""

import json
import os
import time
from pathlib import Path

import pytest

from fsbackend import state


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return state.state_dir()


def old_log(state_dir: Path, name: str, pid: int) -> Path:
    path = state_dir / f"{name}.log"
    path.write_text("serving\n")
    os.utime(path, ns=(1, 1))
    record = {"pid": pid, "log": str(path), "mountpoint": f"/nowhere/{name}", "started": 1.0}
    (state_dir / f"{pid}.json").write_text(json.dumps(record))
    return path


def test_a_living_mount_keeps_its_log(state_dir: Path) -> None:
    living, dead = old_log(state_dir, "living", os.getpid()), old_log(state_dir, "dead", 1 << 30)
    young = state_dir / "young.log"
    young.write_text("x")
    killed, loud = state_dir / "killed.log", state_dir / "loud.log"
    for path, text in ((killed, "INFO serving"), (loud, "t ERROR main: not written back")):
        path.write_text(text)
        os.utime(path, (time.time() - 600,) * 2)
    state.sweep()
    assert not killed.exists(), "it warns of nothing, and its daemon is gone"
    assert loud.exists(), "what could not be written is told for a week"
    assert living.exists()
    assert young.exists()
    assert not dead.exists()
    assert not (state_dir / f"{1 << 30}.json").exists()
