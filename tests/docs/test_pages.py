"""Every command and program of the README and of the pages under docs/ runs as printed there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, ROOT, SMALLER, blocks_of, release, run_page


def _marked(page: Path) -> object:
    """Return a page as a parameter, with the facilities that its blocks need."""
    text = "".join(block.text for block in blocks_of(page) if not block.left_out)
    marks = [pytest.mark.fuse] if "fremap" in text else []
    if "disk_writeback" in text:
        marks.append(pytest.mark.disk)
    return pytest.param(page, marks=marks, id=str(page.relative_to(ROOT)))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    release(tmp_path)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", [_marked(page) for page in PAGES if blocks_of(page)])
def test_every_block_runs(page: Path, place: Path) -> None:
    run_page(page, place)


def test_no_block_is_indented_out_of_sight() -> None:
    # The runner looks for fences at the start of a line: one in a list would never run.
    for page in PAGES:
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            assert not line.startswith((" ```sh", "  ```sh", "   ```sh", "    ```sh")), f"{page}:{number}"


def test_what_is_run_smaller_is_still_there() -> None:
    texts = "".join(block.text for page in PAGES for block in blocks_of(page))
    assert [large for large in SMALLER if large not in texts] == []


def test_blocks_are_found_saved_and_left_out(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Save this as `a.py`:\n\n```python\nx = 1\n```\n\n"
        "*Not run by the tests: it takes\nan hour.*\n\n```sh\nsleep 3600\n```\n\n"
        "```text\nno code\n```\n\n```sh\ntrue\n```\n"
    )
    found = blocks_of(page)
    assert [(block.kind, block.text, block.saved_as, bool(block.left_out)) for block in found] == [
        ("python", "x = 1\n", "a.py", False),
        ("sh", "sleep 3600\n", "", True),
        ("sh", "true\n", "", False),
    ]
    assert [block.line for block in found] == [3, 10, 18]


def test_a_block_that_fails_fails_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\nfalse | cat\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md:1"):
        run_page(page, tmp_path)


def test_every_strategy_is_explained_in_the_readme() -> None:
    from emu.mm.rmap import STRATEGIES  # noqa: PLC0415 - the other tests need no machine

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in STRATEGIES:
        assert f"| `{name}` |" in text
