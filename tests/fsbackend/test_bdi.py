"""Capabilities: presets, flags, contradictions, round trips; a device's counters."""

import pytest

from fsbackend.bdi import NO_ACCT_AND_WRITEBACK, BackingDevInfo, BdiCap, parse_caps
from fsbackend.throttle import Thresholds


def test_bits_are_those_of_linux_4() -> None:
    assert [flag.value for flag in BdiCap if flag] == [1, 2, 4, 8, 16]


def test_presets() -> None:
    ramfs, disk, strict = (parse_caps(name) for name in ("ramfs", "disk", "strict"))
    assert (ramfs.flags, ramfs.account_dirty, ramfs.writeback) == (NO_ACCT_AND_WRITEBACK, False, False)
    assert (disk.flags, disk.account_dirty, disk.writeback) == (BdiCap.NONE, True, True)
    assert (strict.flags, strict.max_ratio, strict.strict) == (BdiCap.STRICTLIMIT, 1, True)


@pytest.mark.parametrize(
    "text",
    [
        "ramfs",
        "disk",
        "strict",
        "disk,stable_writes",
        "strict,max_ratio=5",
        "disk,no_acct_dirty",
        "disk,strictlimit,max_ratio=3",
    ],
)
def test_caps_round_trip(text: str) -> None:
    caps = parse_caps(text)
    assert str(caps) == text
    assert parse_caps(str(caps)) == caps


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "preset"),
        ("floppy", "ramfs, disk, strict"),
        ("stable_writes", "preset"),
        ("disk,ramfs", "two presets"),
        ("disk,shiny", "no flag 'shiny'"),
        ("ramfs,stable_writes", "never under writeback"),
        ("ramfs,strictlimit", "not accounted"),
        ("ramfs,max_ratio=5", "no share"),
        ("disk,no_writeback", "say ramfs"),
        ("disk,max_ratio=101", "percentage"),
        ("disk,max_ratio=x", "percentage"),
    ],
)
def test_bad_caps_say_what_to_do(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        parse_caps(text)
    assert "\n" not in str(caught.value)


def test_counters_follow_a_page_through_writeback() -> None:
    bdi = BackingDevInfo("t", parse_caps("disk"))
    bdi.account_page_dirtied(5)
    bdi.start_writeback(3)
    assert (bdi.nr_dirty, bdi.nr_writeback) == (2, 3)
    bdi.end_writeback(2)
    bdi.end_writeback(1, failed=True)
    bdi.account_page_cleaned()
    assert (bdi.nr_dirty, bdi.nr_writeback, bdi.nr_dirtied, bdi.nr_written) == (2, 0, 5, 2)


def test_ratios_keep_their_order() -> None:
    bdi = BackingDevInfo("t", parse_caps("strict"))
    assert bdi.thresholds(Thresholds(1000, 2000)) == Thresholds(10, 20)
    with pytest.raises(ValueError, match="min_ratio"):
        bdi.set_min_ratio(2)
    bdi.set_max_ratio(50)
    bdi.set_min_ratio(2)
    with pytest.raises(ValueError, match="max_ratio"):
        bdi.set_max_ratio(1)
    bdi.set_max_ratio(100)
    with pytest.raises(ValueError, match=r"must be below 100$"):
        bdi.set_min_ratio(100)
    bdi.others_min_ratio = 60
    bdi.set_min_ratio(39)
    with pytest.raises(ValueError, match="below 100; the other devices have 60"):
        bdi.set_min_ratio(40)
