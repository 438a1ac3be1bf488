"""The code blocks of the documentation, and how each page's are run: in order, in one directory.

- A ```` ```sh ```` block goes to bash as it is printed; ```` ```python ```` to the interpreter.
- A paragraph that ends in "as `NAME`:" has the block after it saved as that file instead.
- A paragraph "*Not run by the tests: REASON*" before a block leaves it out, visibly for readers, too.
"""

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])

# What would take minutes is run small.
SMALLER = {
    "--pages 65536": "--pages 128",
    "count=8000": "count=1500",
    "store.write bandwidth=60M": "store.write bandwidth=200M",
    "--accesses 20000": "--accesses 3000",
    "run disk_writeback --out": "run disk_writeback --filesystems xfs --limits 8M --megabytes 16 --out",
    "--rmap all": "--rmap scan --rmap shadow",
    "compare --all": "compare --all --max-pages 1024 --rmap dirty_index --verify-pages 0",
    "fremap dos": "fremap dos --max-pages 1024 --rmap scan",
}

_BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SAVED = re.compile(r"as `([\w.]+)`:$")
_LEFT_OUT = re.compile(r"^\*Not run by the tests: \S.*\*$", re.DOTALL)
_TIMEOUT_S = 180


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a page; `saved_as` names a file, `left_out` is the paragraph that says why it is not run."""

    kind: str
    text: str
    line: int
    saved_as: str = ""
    left_out: str = ""


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of shell and Python of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        kind, body = match.groups()
        if kind not in {"sh", "python"}:
            continue
        before = text[: match.start()].rstrip().rpartition("\n\n")[2]
        saved = _SAVED.search(before)
        found.append(
            Block(
                kind,
                body,
                text.count("\n", 0, match.start()) + 1,
                saved_as=saved[1] if saved else "",
                left_out=before if _LEFT_OUT.match(before) else "",
            )
        )
    return found


def run_page(page: Path, place: Path) -> None:
    """Run every block of a page in `place`; AssertionError, naming the line, if one fails."""
    (place / ".venv").symlink_to(sys.prefix)
    path = f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}"
    for block in blocks_of(page):
        if block.left_out:
            continue
        if block.saved_as:
            (place / block.saved_as).write_text(block.text, encoding="utf-8")
            continue
        text = block.text.replace("/tmp/store", f"{place}/store").replace("/tmp/mnt", f"{place}/mnt")
        for large, small in SMALLER.items():
            text = text.replace(large, small)
        command = ["bash", "-euo", "pipefail", "-c", text] if block.kind == "sh" else [sys.executable, "-c", text]
        code, said = _run(command, place, os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)})
        assert code == 0, f"{page}:{block.line}\n{text}\n{said}"


def _run(command: list[str], place: Path, environment: dict[str, str]) -> tuple[int | None, str]:
    """Run a block; return its exit code, None if it took too long, and what it said."""
    with subprocess.Popen(
        command,
        cwd=place,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as child:
        try:
            said, _ = child.communicate(timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            # The shell's children, too: else they would work on, and hold its output open.
            os.killpg(child.pid, signal.SIGKILL)
            said, _ = child.communicate()
            return None, f"{said}\n(ended after {_TIMEOUT_S} s)"
    return child.returncode, said


def release(place: Path) -> None:
    """Unmount what a block that failed halfway left mounted."""
    if os.path.ismount(place / "mnt"):
        subprocess.run(["fusermount", "-uz", str(place / "mnt")], check=False)
