"""fremap status --pauses: the table agrees with the longest pause that is told below it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from emu.cli import status
from fsbackend import mount as mounts
from fsbackend.bdi import BackingDevInfo, parse_caps
from fsbackend.cache import Cache
from fsbackend.controlfiles import stats
from fsbackend.faultyio import FaultyIo
from fsbackend.inject import Injector
from fsbackend.throttle import DirtyParams


@pytest.mark.parametrize(
    ("pause_s", "row", "told"),
    [(0.2004, "over 200ms", "200.4 ms"), (0.2000000001, "over 200ms", "200.001 ms"), (0.2, "200ms", "200 ms")],
)
def test_the_longest_pause_is_where_the_table_counts_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    pause_s: float,
    row: str,
    told: str,
) -> None:
    cache = Cache(BackingDevInfo("test", parse_caps("disk"), DirtyParams()), FaultyIo(Injector(), None))
    cache.record_pause(pause_s)
    served: Any = SimpleNamespace(cache=cache, bdi=cache.bdi)
    (tmp_path / ".bdi").mkdir()
    mounts.control_path(tmp_path, "stats").write_text(stats(served))
    found = mounts.FoundMount(str(tmp_path), "store", "0:1", None, "", stale=False)
    monkeypatch.setattr(mounts, "find_mounts", lambda: [found])
    status.status(tmp_path, pauses=True)
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if "100%" in line).strip().split("  ")[0] == row
    assert lines[-1].endswith(f"the longest {told}")
