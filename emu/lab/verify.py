"""The last word: an ordinary process reads files with ordinary reads and says what is in them.

Run as ``python -m emu.lab.verify --seed S --page-size P PATH...``. It shares no memory, descriptor or cache
with the emulator: it opens each path, reads it from beginning to end, and writes one byte a page to its
standard output: the generation whose stamp the page holds whole, or 255. One header line of JSON comes first.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emu.lab.errors import LabError
from emu.lab.stamps import generations_of

_CHUNK_PAGES = 1024


def read_generations(path: Path, seed: int, page_size: int, up_to: int = 2) -> npt.NDArray[np.uint8]:
    """Read a stamped file and return the generation of each of its pages."""
    parts = []
    pgoff = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_PAGES * page_size):
            parts.append(
                generations_of(np.frombuffer(chunk, np.uint8), seed, pgoff, page_size, up_to=up_to)
            )
            pgoff += _CHUNK_PAGES
    return np.concatenate(parts) if parts else np.empty(0, np.uint8)


def read_by_ordinary_process(
    paths: Sequence[Path], seed: int, page_size: int, up_to: int = 2
) -> list[npt.NDArray[np.uint8]]:
    """Have another process read `paths`, and return what it found, one array of generations a path.

    Raises
    ------
    LabError
        If it could not read them; with its own words.

    """
    command = [sys.executable, "-m", "emu.lab.verify", "--seed", str(seed), "--page-size", str(page_size)]
    command += ["--up-to", str(up_to), *map(str, paths)]
    child = subprocess.run(command, capture_output=True, check=False, timeout=600)  # noqa: S603 - our module
    if child.returncode:
        raise LabError(f"the reading process failed: {child.stderr.decode(errors='replace').strip()[-300:]}")
    header, _newline, body = child.stdout.partition(b"\n")
    lengths = json.loads(header)["nr_pages"]
    ends = np.cumsum([0, *lengths])
    found = np.frombuffer(body, np.uint8)
    return [found[start:stop] for start, stop in pairwise(ends)]


def main(argv: Sequence[str] | None = None) -> int:
    """Read the files that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m emu.lab.verify", description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--page-size", type=int, required=True)
    parser.add_argument("--up-to", type=int, default=2, help="the highest generation to look for")
    parser.add_argument("paths", nargs="+", type=Path)
    options = parser.parse_args(argv)
    try:
        found = [read_generations(p, options.seed, options.page_size, options.up_to) for p in options.paths]
    except OSError as error:
        sys.stderr.write(f"{error.filename}: {error.strerror}\n")
        return 1
    sys.stdout.buffer.write(json.dumps({"nr_pages": [len(pages) for pages in found]}).encode() + b"\n")
    for pages in found:
        sys.stdout.buffer.write(pages.tobytes())
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
