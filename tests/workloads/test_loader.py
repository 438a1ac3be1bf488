"""Loading workloads: typed parameters, and one line for what is wrong with a file."""

from pathlib import Path

import pytest

from emu.lab.errors import LabError
from emu.lab.workload import bundled_names, load_workload

GOOD = '''
from typing import Literal
from emu.lab.lab import Lab
def _helper(): pass
def twice(lab: Lab, *, pages: int = 3, kind: Literal["a", "b"] = "a") -> dict[str, object]:
    """Do it twice.

    More words.
    """
    return {"pages": 2 * pages}
'''


def write(tmp_path: Path, text: str, name: str = "work.py") -> str:
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def test_parameters_and_words_come_from_the_function(tmp_path: Path) -> None:
    workload = load_workload(write(tmp_path, GOOD))
    assert workload.name == "twice"
    assert workload.summary == "Do it twice."
    assert workload.defaults() == {"pages": 3, "kind": "a"}
    assert [p.name for p in workload.parameters] == ["pages", "kind"]


def test_the_bundled_ones_load() -> None:
    assert {"late_store", "window", "shuffle"} <= set(bundled_names())
    for name in bundled_names():
        workload = load_workload(name)
        assert workload.name == name
        assert workload.summary.endswith((".", ":"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def f(lab, *, pages):\n  pass", "needs a type"),
        ("def f():\n  pass", "laboratory first"),
        ("def f(*, lab):\n  pass", "laboratory first"),
        ("def f(lab, **more: int):\n  pass", "cannot become an option"),
        ("def f(lab, x: dict = {}):\n  pass", "x cannot become an option: its type must be int"),
        ("def f(lab, x: list[dict] | None = None):\n  pass", "x cannot become an option"),
        ("def f(lab, seed: int = 1):\n  pass", "--seed"),
        ("def f(lab, x: Nowhere = 1):\n  pass", "Nowhere"),
        ("def f(lab): pass\ndef g(lab): pass", "one public function"),
        ("x = 1", "it has none"),
        ("def f(lab:\n", "work.py:1"),
        ("import nowhere_at_all", "nowhere_at_all"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_file_that_is_no_workload_is_refused_with_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(LabError) as error:
        load_workload(write(tmp_path, text))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_what_the_command_line_can_read_is_accepted(tmp_path: Path) -> None:
    text = """
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal, Optional
class Kind(Enum):
    ONE = "one"
def work(lab, *, a: int, b: float | None, c: Optional[str], d: bool, e: Path, f: Literal["x"], g: Kind,
         h: Annotated[list[int] | None, "words"] = None):
    pass
"""
    assert [p.name for p in load_workload(write(tmp_path, text)).parameters] == list("abcdefgh")


def test_among_several_functions_the_one_named_as_the_file_is_chosen(tmp_path: Path) -> None:
    text = "def other(lab): pass\ndef work(lab, *, n: int = 1): pass"
    assert load_workload(write(tmp_path, text)).name == "work"


def test_a_name_that_is_no_file_names_the_bundled_ones() -> None:
    with pytest.raises(LabError, match="late_store"):
        load_workload("nothing")
