"""Where compiled kernels are kept: somewhere the user may write, and nobody else."""

import os
import tempfile
from pathlib import Path

import pytest

from emu.hw import jit


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"fremap-kernels-{os.geteuid()}"


def test_sources_then_home_then_the_temporary_directory(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    found = list(jit._cache_places(Path("/src")))
    assert found == [Path("/src/__pycache__"), Path("/home/anna/.cache/fremap"), temporary]
    assert temporary.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("home", ["not/absolute", None])
def test_a_user_without_a_home_has_the_temporary_directory(
    home: str | None, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    if home is None:
        monkeypatch.setattr(Path, "home", fail)
    else:
        monkeypatch.setenv("HOME", home)
    assert list(jit._cache_places(Path("/src"))) == [Path("/src/__pycache__"), temporary]


def test_what_others_may_write_into_is_no_cache(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    temporary.mkdir()
    temporary.chmod(0o777)
    assert temporary not in jit._cache_places(Path("/src"))
    temporary.rmdir()
    temporary.symlink_to("/")
    assert temporary not in jit._cache_places(Path("/src"))
