"""What the hardware does with entries of a format, as data: the levels, `WalkRules`, and what a fault's code says.

`PteFormat` says how a kernel makes and reads entries; this says how the MMU judges them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

WITH_LEVEL = 1 << 63


class Rule(NamedTuple):
    """True of an entry where ``entry & mask == value``."""

    mask: int
    value: int


ALWAYS = Rule(0, 0)
NEVER = Rule(0, 1)


class Step(NamedTuple):
    """Clear, then set bits of an entry; only of entries for which `when` holds."""

    clear: int
    set: int
    when: Rule = ALWAYS


class Level(NamedTuple):
    """One level of the tree: an entry spans ``1 << shift`` bytes, a table has ``1 << bits`` entries."""

    shift: int
    bits: int


class LevelRule(NamedTuple):
    """How the walker reads the entries of one level."""

    present: Rule
    leaf_mask: int = 0          # a leaf if any of these bits is set ...
    leaf_inverted: bool = False     # ... or, inverted, if none is
    reserved_leaf: int = 0      # bits that must be 0 in a leaf
    reserved_table: int = 0     # bits that must be 0 in a table entry
    given: int = 0              # permission bits that this level lacks and that count as set
    table_accessed: int = 0     # set in a table entry when it is used
    table_global: int = 0       # a table entry with these bits makes all below it global


class Allowed(NamedTuple):
    """Which accesses an entry allows; `reserved` if the combination of its bits is reserved."""

    load: bool
    store: bool
    fetch: bool
    kernel_load: bool
    kernel_store: bool
    kernel_fetch: bool
    reserved: bool = False

    def as_bits(self) -> int:
        """Return the number that stands in the walker's permission table."""
        rights = self[:6]
        return sum(1 << bit for bit, right in enumerate(rights) if right) | self.reserved << 7


class FaultRules(NamedTuple):
    """How the architecture's fault code tells what was tried and why it failed."""

    write: Rule
    present: Rule
    execute: Rule


EVERYTHING = Allowed(*(True,) * 6)


def permission_table(nr_bits: int, decide: Callable[..., Allowed]) -> tuple[int, ...]:
    """Return 64 rows: what `decide` says for every combination of an entry's `nr_bits` permission bits."""
    flags = [[bool(number >> bit & 1) for bit in range(nr_bits)] for number in range(64)]
    return tuple(decide(*row).as_bits() for row in flags)


@dataclass(frozen=True, slots=True)
class WalkRules:
    """The walker's side of a format.

    `leaf_bits` and `table_bits` are at most six bit numbers of an entry, the lowest first in the index of
    `leaf_allowed` and `table_allowed`. `error_codes` is indexed by ``cause * 8 + mode + kind`` (mode 3 for
    supervisor); in a code with the bit `WITH_LEVEL` the architecture's number of the level takes its place:
    that of the root is `first_level`.
    """

    levels: tuple[LevelRule, ...]
    dirty: Rule                 # a leaf that the hardware need not make dirty
    set_dirty: Step
    is_global: Rule
    leaf_bits: tuple[int, ...]
    leaf_allowed: tuple[int, ...]
    table_bits: tuple[int, ...]
    table_allowed: tuple[int, ...]
    error_codes: tuple[int, ...]
    first_level: int = 0
    user_writable_not_executed: bool = False    # the kernel executes nothing that user mode may write
