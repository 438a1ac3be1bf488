"""Seeded faults: rules that make an operation fail, wait, crawl, tear, lie, or cut the power.

A rule is one line of words::

    OP[,OP...] [path=GLOB] [nth=N | every=N | p=P] [times=K] ACTION
    torn | lie | reorder [path=GLOB] ...          the same for the one operation that it is for

OP is a call of a program (``open create read write fsync unlink rename mkdir rmdir setattr lookup ...``), or
what the mount does to its store (``store.read store.write store.fsync store.truncate``), or ``*``. ACTION is
one of ``error=EIO`` (any errno's name), ``delay=SECONDS``, ``bandwidth=BYTES`` (a second; K, M, G),
``torn`` (a part of a store.write gets through, then EIO), ``lie`` (store.fsync says done and does nothing),
``reorder`` or ``reorder=PAGES`` (store.write goes through a disk's cache of so many pages that persists them in
any order until the file's next fsync), ``cut=none|all|SEED`` (power cut, just before). nth and every count the
operations that match; p is drawn from the mount's seed. A rule with nth fires once; others as often as `times`
allows.
"""

import errno
import fnmatch
import math
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fsbackend.diskcache import DEFAULT_LIMIT
from fsbackend.durability import Choice
from fsbackend.storeio import PowerCutError

_LONGEST_S = 86400
_SUFFIXES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
STORE_OPS = frozenset({"store.read", "store.write", "store.fsync", "store.truncate"})
CALL_OPS = frozenset(
    {
        "lookup",
        "getattr",
        "setattr",
        "readlink",
        "mknod",
        "mkdir",
        "unlink",
        "rmdir",
        "symlink",
        "rename",
        "link",
        "open",
        "create",
        "read",
        "write",
        "flush",
        "fsync",
        "opendir",
        "readdir",
        "fsyncdir",
        "statfs",
        "fallocate",
    }
)


_ONLY_OPS = {"torn": "store.write", "reorder": "store.write", "lie": "store.fsync"}
"""Actions that mean something for one operation only; a rule may begin with them."""


def _bad(line: str, why: str) -> ValueError:
    return ValueError(f"rule {line!r}: {why}")


@dataclass(slots=True)
class Rule:
    """One rule and how often it matched and fired."""

    line: str
    ops: frozenset[str]
    action: str
    value: str
    glob: str = "*"
    nth: int = 0
    every: int = 0
    probability: float = 1.0
    times: int = 0
    nr_matched: int = 0
    nr_fired: int = 0
    number: float = field(default=0.0)

    def due(self, chance: random.Random) -> bool:
        """Count a match and return whether the rule fires now."""
        self.nr_matched += 1
        if self.times and self.nr_fired >= self.times:
            return False
        if self.nth:
            fires = self.nr_matched == self.nth
        elif self.every:
            fires = self.nr_matched % self.every == 0
        else:
            fires = self.probability >= 1.0 or chance.random() < self.probability
        self.nr_fired += fires
        return fires


def parse_rule(line: str) -> Rule:
    """Read a rule; ValueError with one line that says what is wrong."""
    words = line.split()
    if not words:
        raise _bad(line, "it is empty; write OP ... ACTION, such as 'store.write nth=3 error=EIO'")
    only_op = _ONLY_OPS.get(words[0].partition("=")[0])
    if only_op is not None:
        words.insert(0, only_op)
    ops = frozenset(words[0].split(","))
    unknown = ops - STORE_OPS - CALL_OPS - {"*"}
    if unknown:
        raise _bad(
            line, f"no operation {', '.join(sorted(unknown))}; there are {', '.join(sorted(STORE_OPS | CALL_OPS))}"
        )
    rule = Rule(line, ops, "", "")
    try:
        for word in words[1:]:
            _parse_word(rule, *word.partition("=")[::2])
    except ValueError as error:
        raise _bad(line, f"{word!r}: {error}") from error
    only_op = _ONLY_OPS.get(rule.action)
    if only_op is not None and not ops & {only_op, "*"}:
        raise _bad(line, f"{rule.action} is for {only_op} only")
    if not rule.action:
        raise _bad(line, "it has no action: error=, delay=, bandwidth=, torn, lie, reorder or cut=")
    if sum((rule.nth > 0, rule.every > 0, rule.probability < 1.0)) > 1:
        raise _bad(line, "nth=, every= and p= exclude each other: give one of them")
    return rule


def _number(value: str, least: float, most: float, says: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        raise ValueError(says)
    return number


def _errno(value: str) -> int:
    number = getattr(errno, value, None)
    if not value.startswith("E") or not isinstance(number, int):
        raise ValueError("there is no such error; write its name, such as EIO, ENOSPC or EROFS")
    return number


def _parse_word(rule: Rule, name: str, value: str) -> None:
    if name == "path":
        if not value:
            raise ValueError("give a glob, such as path=*.db")
        rule.glob = value
    elif name in {"nth", "every", "times"}:
        if not value.isdecimal() or int(value) < 1:
            raise ValueError("give a whole number from 1 up")
        setattr(rule, name, int(value))
    elif name == "p":
        rule.probability = _number(value, 0.0, 1.0, "a probability lies between 0 and 1")
    elif name in _ACTIONS:
        rule.action, rule.value = name, value
        rule.number = _ACTIONS[name](value)
    else:
        raise ValueError("no such word; a rule is OP [path=] [nth=|every=|p=] [times=] ACTION")


def _bandwidth(value: str) -> float:
    unit = _SUFFIXES.get(value[-1:].upper(), 1)
    return unit * _number(value[:-1] if unit > 1 else value, 1e-6, 1e18, "give bytes a second above 0, such as 10M")


def _survivors(value: str) -> float:
    Choice(value)  # refuses what is no choice
    return 0.0


_ACTIONS: dict[str, Callable[[str], float]] = {
    "error": _errno,
    "delay": lambda value: _number(value, 0.0, _LONGEST_S, f"give 0 to {_LONGEST_S} seconds"),
    "bandwidth": _bandwidth,
    "torn": lambda _value: 0.0,
    "lie": lambda _value: 0.0,
    "reorder": lambda value: _number(value or str(DEFAULT_LIMIT), 1, 1 << 20, "give 1 to 1048576 pages, or nothing"),
    "cut": _survivors,
}
"""What reads an action's value; ValueError with what to give instead."""


class Injector:
    """The rules of a mount, and their one source of chance."""

    def __init__(self, seed: int = 0) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - faults must repeat, not be secret
        self._lock = threading.Lock()
        self.rules: list[Rule] = []
        self.has_calls = False
        self.has_store = False
        self.cut: Callable[[str], None] = lambda _survive: None
        self.sleep: Callable[[float], None] = time.sleep

    def set_rules(self, lines: Sequence[str]) -> None:
        """Replace all rules; a line beginning with + in `add_text` adds instead."""
        self._use([parse_rule(line) for line in lines])

    def take(self, text: str) -> None:
        """Take rules as the control file is written: lines are added; ``clear`` removes all."""
        with self._lock:
            rules = list(self.rules)
        for line in text.splitlines():
            if line.strip() == "clear":
                rules = []
            elif line.strip():
                rules.append(parse_rule(line.strip()))
        self._use(rules)

    def _use(self, rules: list[Rule]) -> None:
        with self._lock:
            self.rules = rules
            self.has_calls = any(rule.ops & CALL_OPS or "*" in rule.ops for rule in rules)
            self.has_store = any(rule.ops & STORE_OPS or "*" in rule.ops for rule in rules)

    def show(self) -> str:
        """Return the rules with how often each matched and fired."""
        return "".join(f"{rule.line}  # matched {rule.nr_matched}, fired {rule.nr_fired}\n" for rule in self.rules)

    def fire(self, op: str, path: str, nbytes: int = 0) -> Rule | None:
        """Do what the first rule that fires says; return it if the caller has to do the rest (torn, lie, reorder)."""
        with self._lock:
            fired = next(
                (
                    rule
                    for rule in self.rules
                    if (op in rule.ops or "*" in rule.ops) and self._matches(rule, path) and rule.due(self._chance)
                ),
                None,
            )
        if fired is None:
            return None
        if fired.action == "error":
            number = int(fired.number)
            raise OSError(number, os.strerror(number))
        if fired.action == "delay":
            self.sleep(fired.number)
        elif fired.action == "bandwidth":
            self.sleep(nbytes / fired.number)
        elif fired.action == "cut":
            self.cut(fired.value)
            raise PowerCutError
        return fired

    @staticmethod
    def _matches(rule: Rule, path: str) -> bool:
        glob = rule.glob
        return glob == "*" or fnmatch.fnmatchcase(path, glob) or fnmatch.fnmatchcase(path.rpartition("/")[2], glob)

    def part(self, nbytes: int) -> int:
        """Draw how much of a torn write gets through."""
        with self._lock:
            return self._chance.randrange(nbytes) if nbytes else 0
