"""The writer of the disk experiment, a program of its own: `python disk_writer.py DIRECTORY MIB LOG_EVERY_MS`.

It writes a large file as fast as it is let, while a second thread appends a record to a small log every so often and
syncs it, as a database does. At the end it prints, as JSON, how long each took. Only the standard library: it must
start at once, and is the same program whatever serves the directory.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

CHUNK_NBYTES = 64 << 10
RECORD_NBYTES = 512


def _keep_log(path: Path, every_s: float, done: threading.Event, synced_s: list[float]) -> None:
    with path.open("ab", buffering=0) as log:
        while not done.wait(every_s):
            began_s = time.perf_counter()
            log.write(b"r" * RECORD_NBYTES)
            os.fsync(log.fileno())
            synced_s.append(time.perf_counter() - began_s)


def write(directory: Path, nbytes: int, log_every_s: float) -> dict[str, object]:
    """Write, and return what was measured; times in seconds."""
    done, synced_s = threading.Event(), list[float]()
    logger = threading.Thread(target=_keep_log, args=(directory / "log", log_every_s, done, synced_s))
    logger.start()
    longest_s = 0.0
    chunk = os.urandom(CHUNK_NBYTES)
    began_s = time.perf_counter()
    try:
        with (directory / "data").open("wb", buffering=0) as data:
            for _ in range(nbytes // CHUNK_NBYTES):
                call_s = time.perf_counter()
                data.write(chunk)
                longest_s = max(longest_s, time.perf_counter() - call_s)
            written_s = time.perf_counter() - began_s
            os.fsync(data.fileno())
    finally:
        done.set()
        logger.join()
    return {
        "written_s": written_s,
        "synced_s": time.perf_counter() - began_s,
        "longest_write_s": longest_s,
        "fsync_s": synced_s,
        "nbytes": nbytes // CHUNK_NBYTES * CHUNK_NBYTES + len(synced_s) * RECORD_NBYTES,
    }


if __name__ == "__main__":
    print(json.dumps(write(Path(sys.argv[1]), int(sys.argv[2]) << 20, float(sys.argv[3]) / 1000)))  # noqa: T201
