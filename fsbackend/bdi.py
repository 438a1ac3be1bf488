"""Backing devices: what may be done with their dirty pages, their ratios and their counters.

Flags are those of Linux v4.9 include/linux/backing-dev.h, with the same bits. A `Caps` is a preset with flags
added; a `BackingDevInfo` is the mutable state of one device.
"""

from dataclasses import dataclass, field
from enum import IntFlag

from fsbackend.throttle import DirtyParams, DirtyTask, Thresholds, WbThrottle, wb_calc_thresh


class BdiCap(IntFlag):
    """Capabilities of a backing device (BDI_CAP_*)."""

    NONE = 0
    NO_ACCT_DIRTY = 0x01
    NO_WRITEBACK = 0x02
    NO_ACCT_WB = 0x04
    STABLE_WRITES = 0x08
    STRICTLIMIT = 0x10


NO_ACCT_AND_WRITEBACK = BdiCap.NO_ACCT_DIRTY | BdiCap.NO_WRITEBACK | BdiCap.NO_ACCT_WB
"""What ramfs had (BDI_CAP_NO_ACCT_AND_WRITEBACK)."""

PRESETS: dict[str, tuple[BdiCap, int]] = {
    "ramfs": (NO_ACCT_AND_WRITEBACK, 100),
    "disk": (BdiCap.NONE, 100),
    "strict": (BdiCap.STRICTLIMIT, 1),
}
"""Preset -> (flags, max_ratio in percent). `strict` is how the kernel treats FUSE itself."""

_FLAGS = {str(flag.name).lower(): flag for flag in BdiCap if flag}


@dataclass(frozen=True, slots=True)
class Caps:
    """What holds for a device or a file: a preset, flags, and the most of the dirty limit that it may use."""

    preset: str
    flags: BdiCap
    max_ratio: int = 100
    account_dirty: bool = field(init=False, compare=False, repr=False)
    """Whether dirty pages count, are throttled, and shared mappings are write-protected when clean."""
    writeback: bool = field(init=False, compare=False, repr=False)
    """Whether dirty pages are ever written to the store."""
    stable_writes: bool = field(init=False, compare=False, repr=False)
    """Whether a page under writeback must not change."""
    strict: bool = field(init=False, compare=False, repr=False)
    """Whether the device is judged by its own limit alone."""

    def __post_init__(self) -> None:
        """Spell the flags out once: they are asked for at every write."""
        for name, value in (
            ("account_dirty", not self.flags & BdiCap.NO_ACCT_DIRTY),
            ("writeback", not self.flags & BdiCap.NO_WRITEBACK),
            ("stable_writes", bool(self.flags & BdiCap.STABLE_WRITES)),
            ("strict", bool(self.flags & BdiCap.STRICTLIMIT)),
        ):
            object.__setattr__(self, name, value)

    def flag_names(self) -> list[str]:
        """Return the names of the flags that are set, in the kernel's spelling."""
        return [str(flag.name) for flag in BdiCap if flag and flag & self.flags]

    def __str__(self) -> str:
        flags, max_ratio = PRESETS[self.preset]
        words = [self.preset]
        words += [name for name, flag in _FLAGS.items() if flag & self.flags & ~flags]
        if self.max_ratio != max_ratio:
            words.append(f"max_ratio={self.max_ratio}")
        return ",".join(words)


def parse_caps(text: str) -> Caps:
    """Read ``PRESET[,flag...]``, such as ``disk,stable_writes`` or ``strict,max_ratio=5``.

    Raises
    ------
    ValueError
        One line, for an unknown word or flags that contradict each other.

    """
    words = [word.strip().lower() for word in text.split(",")]
    if words[0] not in PRESETS:
        raise ValueError(f"caps {text!r} must start with a preset: one of {', '.join(PRESETS)}")
    preset = words[0]
    flags, max_ratio = PRESETS[preset]
    for word in words[1:]:
        if word.startswith("max_ratio="):
            max_ratio = parse_ratio(word.partition("=")[2], "max_ratio")
        elif word in PRESETS:
            raise ValueError(f"caps {text!r} name two presets, {preset} and {word}: choose one")
        elif word in _FLAGS:
            flags |= _FLAGS[word]
        else:
            raise ValueError(f"caps {text!r}: no flag {word!r}; there are {', '.join(_FLAGS)}, max_ratio=N")
    _refuse_contradictions(text, preset, flags, max_ratio)
    return Caps(preset, flags, max_ratio)


def _refuse_contradictions(text: str, preset: str, flags: BdiCap, max_ratio: int) -> None:
    reason = ""
    if flags & BdiCap.NO_WRITEBACK and flags & BdiCap.STABLE_WRITES:
        reason = "pages that are never written back are never under writeback: drop stable_writes"
    elif flags & BdiCap.NO_ACCT_DIRTY and flags & BdiCap.STRICTLIMIT:
        reason = "what is not accounted cannot be held to a limit: drop strictlimit or the no_acct_dirty"
    elif flags & BdiCap.NO_ACCT_DIRTY and max_ratio != PRESETS[preset][1]:
        reason = "what is not accounted has no share of the dirty limit: drop max_ratio"
    elif preset != "ramfs" and flags & BdiCap.NO_WRITEBACK:
        reason = "a disk that is never written back is ramfs: say ramfs, or drop no_writeback"
    if reason:
        raise ValueError(f"caps {text!r} contradict themselves: {reason}")


def parse_ratio(text: str, name: str) -> int:
    """Read a percentage from 0 to 100; ValueError with one line otherwise."""
    try:
        ratio = int(text)
    except ValueError:
        ratio = -1
    if not 0 <= ratio <= 100:
        raise ValueError(f"{name} is a percentage: give 0 to 100, not {text.strip()!r}")
    return ratio


@dataclass(slots=True)
class BackingDevInfo:
    """The state of one backing device: ratios, dirty and writeback counts in pages, and its throttle.

    The owner changes the counters under its own lock, through the methods here.
    """

    name: str
    caps: Caps
    params: DirtyParams = field(default_factory=DirtyParams)
    page_size: int = 4096
    min_ratio: int = 0
    max_ratio: int = -1
    others_min_ratio: int = 0
    strict_limit: bool = False
    nr_dirty: int = 0
    nr_writeback: int = 0
    share: float = 1.0
    throttle: WbThrottle = field(init=False)

    def __post_init__(self) -> None:
        """Take what the capabilities say, where nothing else was said."""
        if self.max_ratio < 0:
            self.max_ratio = self.caps.max_ratio
        self.strict_limit = self.strict_limit or self.caps.strict
        self.throttle = WbThrottle(self.params, self.page_size)

    def set_params(self, params: DirtyParams) -> None:
        """Change the knobs of a live device."""
        self.params = params
        self.throttle.params = params

    def set_min_ratio(self, ratio: int) -> None:
        """Reserve a part of the dirty limit; ValueError as bdi_set_min_ratio() refuses."""
        if not 0 <= ratio <= self.max_ratio:
            raise ValueError(f"min_ratio must be from 0 to max_ratio, {self.max_ratio}")
        if ratio and ratio + self.others_min_ratio >= 100:
            theirs = f"; the other devices have {self.others_min_ratio}" if self.others_min_ratio else ""
            raise ValueError(f"min_ratio of all devices together must be below 100{theirs}")
        self.min_ratio = ratio

    def set_max_ratio(self, ratio: int) -> None:
        """Cap the part of the dirty limit; ValueError as bdi_set_max_ratio() refuses."""
        if not self.min_ratio <= ratio <= 100:
            raise ValueError(f"max_ratio must be from min_ratio, {self.min_ratio}, to 100")
        self.max_ratio = ratio

    @property
    def nr_dirtied(self) -> int:
        """Pages that ever became dirty."""
        return self.throttle.nr_dirtied

    @property
    def nr_written(self) -> int:
        """Pages whose writeback ever ended."""
        return self.throttle.nr_written

    @property
    def nr_reclaimable_and_writeback(self) -> int:
        """Pages dirty or under writeback: what the limits are held against."""
        return self.nr_dirty + self.nr_writeback

    def account_page_dirtied(self, nr_pages: int = 1) -> None:
        """Count pages that became dirty; not for devices that do not account."""
        self.nr_dirty += nr_pages
        self.throttle.nr_dirtied += nr_pages

    def account_page_cleaned(self, nr_pages: int = 1) -> None:
        """Count pages that stopped being dirty without writeback (truncated)."""
        self.nr_dirty -= nr_pages

    def start_writeback(self, nr_pages: int = 1) -> None:
        """Count pages that went from dirty to under writeback."""
        self.nr_dirty -= nr_pages
        self.nr_writeback += nr_pages

    def end_writeback(self, nr_pages: int = 1, *, failed: bool = False) -> None:
        """Count pages whose writeback ended; a failed one makes them dirty again."""
        self.nr_writeback -= nr_pages
        if failed:
            self.nr_dirty += nr_pages
        else:
            self.throttle.nr_written += nr_pages

    def thresholds(self, limits: Thresholds) -> Thresholds:
        """Return this device's part of the machine-wide limits."""
        return wb_calc_thresh(
            limits,
            share=self.share,
            min_ratio=self.min_ratio,
            max_ratio=self.max_ratio,
            others_min_ratio=self.others_min_ratio,
        )

    def balance(
        self, now_s: float, pages_dirtied: int, global_dirty: int, limits: Thresholds, task: DirtyTask | None = None
    ) -> float:
        """Return the pause in seconds that a dirtier of this device owes now (WbThrottle.balance)."""
        return self.throttle.balance(
            now_s,
            pages_dirtied,
            global_dirty,
            self.nr_reclaimable_and_writeback,
            limits,
            bdi_thresholds=self.thresholds(limits) if self.strict_limit or global_dirty > limits.freerun else None,
            strict=self.strict_limit,
            task=task,
        )
