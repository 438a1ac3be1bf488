"""Every command and program of the README and of the pages under docs/ runs as printed there."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, ROOT, SMALLER, blocks_of, release, run_page

RunPage = Callable[[Path], None]


def _marked(page: Path) -> object:
    """Return a page as a parameter, with the facilities that its blocks need."""
    text = "".join(block.text for block in blocks_of(page) if not block.left_out)
    marks = [pytest.mark.fuse] if "fremap" in text else []
    if "disk_writeback" in text:
        marks.append(pytest.mark.disk)
    return pytest.param(page, marks=marks, id=str(page.relative_to(ROOT)))


@pytest.fixture(scope="module")
def run_it(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunPage]:
    """Return a function that runs a page, or waits until it has run: two run at a time, as most wait for processes."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    wanted = [call.params["page"] for call in calls if call is not None and "page" in call.params]
    results: dict[Path, Future[None]] = {}

    def run(page: Path, place: Path) -> None:
        try:
            run_page(page, place)
        finally:
            release(place)

    with ThreadPoolExecutor(2) as pool:

        def result(page: Path) -> None:
            # Not before the first is asked for: where nothing can be mounted none ever is.
            for one in wanted if not results else ():
                results[one] = pool.submit(run, one, tmp_path_factory.mktemp(one.stem))
            results[page].result()

        yield result
        pool.shutdown(cancel_futures=True)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", [_marked(page) for page in PAGES if blocks_of(page)])
def test_every_block_runs(page: Path, run_it: RunPage) -> None:
    run_it(page)


def test_no_block_is_indented_out_of_sight() -> None:
    # The runner looks for fences at the start of a line: one in a list would never run.
    for page in PAGES:
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            assert not line.startswith((" ```sh", "  ```sh", "   ```sh", "    ```sh")), f"{page}:{number}"


def test_no_page_writes_where_another_kind_of_run_of_another_page_is() -> None:
    # Who follows the pages in order, in one directory, would be refused: "holds a run already".
    users: dict[str, set[tuple[str, str]]] = {}
    for page in PAGES:
        for block in blocks_of(page):
            for command, name in re.findall(r"fremap (\w+)[^\n]*? (?:-o|--out|--report) (runs/[\w.-]+)", block.text):
                # `compare` may write over its own earlier report, wherever that was asked for.
                who = command if command == "compare" else str(page)
                users.setdefault(name, set()).add((command, who))
    assert "runs/compare" in users
    assert {name: who for name, who in users.items() if len(who) > 1} == {}


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
