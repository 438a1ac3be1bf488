"""Ordinary programs on a mount: coreutils, tar, sqlite, git, and saving the way editors do."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fsbackend.mount import TemporaryMount

pytestmark = pytest.mark.fuse

HERE = Path(__file__).resolve().parent.parent.parent


def run(*words: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def test_coreutils(mounted: TemporaryMount) -> None:
    source = HERE / "fsbackend"
    run("cp", "-a", source, "copy", cwd=mounted.path)
    assert run("diff", "-r", "-x", "__pycache__", source, "copy", cwd=mounted.path) == ""
    run("mv", "copy", "moved", cwd=mounted.path)
    run("ln", "moved/bdi.py", "hard", cwd=mounted.path)
    run("ln", "-s", "moved/bdi.py", "soft", cwd=mounted.path)
    assert (mounted.path / "soft").read_bytes() == (source / "bdi.py").read_bytes()
    run("dd", "if=/dev/zero", "of=zeros", "bs=64K", "count=20", "conv=fsync", cwd=mounted.path)
    run("truncate", "-s", "12345", "zeros", cwd=mounted.path)
    run("touch", "-d", "2001-02-03 04:05:06.123456789", "zeros", cwd=mounted.path)
    assert run("stat", "-c", "%s %y", "zeros", cwd=mounted.path).startswith("12345 2001-02-03 04:05:06.123456789")
    run("chmod", "-R", "a-w", "moved", cwd=mounted.path)
    run("df", ".", cwd=mounted.path)
    run("du", "-s", ".", cwd=mounted.path)
    run("tar", "cf", "all.tar", "moved", cwd=mounted.path)
    (mounted.path / "untar").mkdir()
    run("tar", "xf", "../all.tar", cwd=mounted.path / "untar")
    assert run("diff", "-r", "moved", "untar/moved", cwd=mounted.path) == ""
    run("find", ".", "-type", "f", cwd=mounted.path)
    run("rm", "-rf", "moved", "hard", "soft", "zeros", "untar", "all.tar", cwd=mounted.path)
    assert os.listdir(mounted.path) == []


def test_saving_as_editors_do(mounted: TemporaryMount) -> None:
    path = mounted.path / "text"
    path.write_text("one")
    for number in range(20):
        temporary = mounted.path / ".text.swp"
        with temporary.open("w") as file:
            file.write(f"version {number}")
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(path, temporary)
        path.rename(mounted.path / "text~")
        temporary.rename(path)
        assert path.read_text() == f"version {number}"
    assert set(os.listdir(mounted.path)) == {"text", "text~"}


@pytest.mark.parametrize("mode", ["delete", "truncate", "wal", "mmap"])
def test_sqlite(mounted: TemporaryMount, mode: str) -> None:
    path = mounted.path / "data.db"
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute(f"pragma journal_mode={'delete' if mode == 'mmap' else mode}")
        if mode == "mmap":
            db.execute("pragma mmap_size=100000000")
        db.execute("create table t (k integer primary key, v blob)")
        for base in range(0, 1000, 100):
            db.execute("begin")
            for key in range(base, base + 100):
                db.execute("insert into t values (?, ?)", (key, os.urandom(300)))
            db.execute("commit")
        db.execute("delete from t where k % 3 = 0")
        db.execute("vacuum")
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)
    finally:
        db.close()
    other = sqlite3.connect(path)
    try:
        assert other.execute("select count(*) from t").fetchone() == (666,)
    finally:
        other.close()


def test_sqlite_from_several_processes(mounted: TemporaryMount) -> None:
    path = mounted.path / "data.db"
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("pragma journal_mode=wal")
    db.execute("create table t (k integer primary key, who integer)")
    code = (
        "import sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)\n"
        "for _ in range(50): db.execute('insert into t (who) values (?)', (sys.argv[2],))\n"
        "db.close()\n"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(path), str(who)]) for who in range(3)]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    assert db.execute("select count(*) from t").fetchone() == (150,)
    assert db.execute("pragma integrity_check").fetchone() == ("ok",)
    db.close()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_clone_and_fsck(mounted: TemporaryMount, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    name = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    run("git", "init", "-q", ".", cwd=source)
    shutil.copytree(HERE / "fsbackend", source / "fsbackend", ignore=shutil.ignore_patterns("__pycache__"))
    run("git", "add", ".", cwd=source)
    run("git", *name, "commit", "-q", "-m", "one", cwd=source)
    run("git", "clone", "-q", source, "clone", cwd=mounted.path)
    clone = mounted.path / "clone"
    run("git", "fsck", "--full", "--strict", cwd=clone)
    assert run("git", "status", "--porcelain", cwd=clone) == ""
    (clone / "fsbackend" / "bdi.py").write_text("changed\n")
    run("git", *name, "commit", "-q", "-a", "-m", "two", cwd=clone)
    run("git", "gc", "-q", cwd=clone)
    run("git", "fsck", "--full", cwd=clone)
    assert run("git", "status", "--porcelain", cwd=clone) == ""


def test_a_copy_of_a_sparse_file_skips_the_holes(mounted: TemporaryMount) -> None:
    path = mounted.path / "sparse"
    with path.open("wb") as file:
        file.truncate(4 << 40)
        for offset in (5, 1 << 32, (4 << 40) - 3):
            file.seek(offset)
            file.write(b"abc")
    run("cp", path, "copy", cwd=mounted.path)  # of 4 TiB: reading them would take hours
    with (mounted.path / "copy").open("rb") as file:
        for offset in (5, 1 << 32, (4 << 40) - 3):
            file.seek(offset)
            assert file.read(3) == b"abc"
    assert (mounted.path / "copy").stat().st_size == 4 << 40
    assert (mounted.path / "copy").stat().st_blocks <= 64


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount an overlay")
def test_overlayfs_over_mounts_above_and_below(make_mount: Callable[..., TemporaryMount]) -> None:
    mounted = make_mount("disk", xattrs=True)
    below, upper, work, merged = (mounted.path / name for name in ("below", "upper", "work", "merged"))
    for folder in (below, below / "dir", upper, work, merged):
        folder.mkdir()
    for name in ("changed", "removed", "dir/inside"):
        (below / name).write_text(name)
    layers = f"lowerdir={below},upperdir={upper},workdir={work}"
    done = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, merged], check=False, capture_output=True)
    if done.returncode and b"unknown filesystem type" in done.stderr:
        pytest.skip("the kernel has no overlayfs")
    assert not done.returncode, done.stderr
    try:
        (merged / "changed").write_text("anew")
        (merged / "removed").unlink()
        (merged / "made").mkdir()
        (merged / "made").rename(merged / "moved")
        shutil.rmtree(merged / "dir")
        assert sorted(os.listdir(merged)) == ["changed", "moved"]
        assert (merged / "changed").read_text() == "anew"
    finally:
        run("umount", merged, cwd=mounted.base)
    assert sorted(os.listdir(upper)) == ["changed", "dir", "moved", "removed"]  # two of them whiteouts
    assert (below / "dir" / "inside").read_text() == "dir/inside"
