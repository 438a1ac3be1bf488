"""Writers that know what was acknowledged, and power cuts in between: what is missing afterwards is a bug."""

import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fsbackend.mount import TemporaryMount


def write_synced(path: Path, data: bytes) -> None:
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def fdatasync_after_cuts(fd: int, *, lost: bool) -> None:
    """Sync a descriptor that was open through cuts; it hears once that what it wrote before may be gone."""
    if lost:
        with pytest.raises(OSError, match="Input/output error"):
            os.fdatasync(fd)
    os.fdatasync(fd)


def cut_many_times(mounted: TemporaryMount, nr_cuts: int, seed: int) -> None:
    """Write with random syncs, cut, and check each acknowledged page, again and again."""
    chance = random.Random(seed)
    nr_pages, size = 24, 24 * 4096
    path = mounted.path / "file"
    write_synced(path, bytes(size))
    durable = [0] * nr_pages
    generation = 0
    lost = unsynced = False
    fd = os.open(path, os.O_RDWR)
    try:
        for _ in range(nr_cuts):
            allowed = [{stamp} for stamp in durable]
            for _ in range(chance.randint(1, 12)):
                generation += 1
                unsynced = True
                first = chance.randrange(nr_pages)
                count = min(chance.randint(1, 4), nr_pages - first)
                os.pwrite(fd, generation.to_bytes(8, "little") * 512 * count, first * 4096)
                for pgoff in range(first, first + count):
                    allowed[pgoff].add(generation)
                    durable[pgoff] = generation
                if chance.random() < 0.3:
                    fdatasync_after_cuts(fd, lost=lost)
                    lost = unsynced = False
                    allowed = [{stamp} for stamp in durable]
            survive = chance.choice(["none", "all", str(chance.randrange(1000))])
            mounted.power_cut(survive)
            lost, unsynced = lost or (unsynced and survive != "all"), False
            data = os.pread(fd, size, 0)
            assert len(data) == size
            for pgoff in range(nr_pages):
                page = data[pgoff * 4096 : pgoff * 4096 + 4096]
                stamp = int.from_bytes(page[:8], "little")
                assert page == stamp.to_bytes(8, "little") * 512, f"page {pgoff} is torn"
                assert stamp in allowed[pgoff], f"page {pgoff}: {stamp}, not one of {allowed[pgoff]}"
                if survive == "none":
                    assert stamp == min(allowed[pgoff])
                durable[pgoff] = stamp
    finally:
        os.close(fd)


WRITER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute(f"pragma journal_mode={sys.argv[2]}")
db.execute("pragma synchronous=full")
db.execute("create table if not exists t (k integer primary key, v)")
print(db.execute("select count(*) from t").fetchone()[0], flush=True)
while True:
    db.execute("insert into t (v) values (randomblob(500))")
    print("committed", flush=True)
"""


def committed_and_found(mounted: TemporaryMount, mode: str, nr_rounds: int) -> Iterator[tuple[int, int, str]]:
    """Have a writer commit, kill it, cut the power; yield what was acknowledged, what is found, and the check."""
    path = mounted.path / "data.db"
    for round_ in range(nr_rounds):
        command = [sys.executable, "-c", WRITER, str(path), mode]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            nr_committed = int(writer.stdout.readline())
            for _ in range(5 + round_):
                assert writer.stdout.readline() == "committed\n"
                nr_committed += 1
            writer.kill()
            nr_committed += writer.stdout.read().count("committed\n")
        mounted.power_cut(str(round_))
        db = sqlite3.connect(path)
        try:
            check = db.execute("pragma integrity_check").fetchone()[0]
            yield nr_committed, db.execute("select count(*) from t").fetchone()[0], check
        except sqlite3.DatabaseError as error:
            yield nr_committed, -1, str(error)
            return
        finally:
            db.close()
