"""What a mount is asked to be: checked once, handed to the daemon as JSON."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Self

from fsbackend.bdi import parse_caps
from fsbackend.throttle import DirtyParams


@dataclass(slots=True)
class MountOptions:
    """Everything that a daemon needs to know. Paths are absolute.

    A temporary mount has an owner: when that process is gone, however it ended, the daemon unmounts, and
    removes the directory `scratch`.
    """

    store: str
    mountpoint: str
    caps: str = "disk"
    overrides: list[str] = field(default_factory=list)
    params: DirtyParams = field(default_factory=DirtyParams)
    max_ratio: int | None = None
    min_ratio: int = 0
    allow_other: bool = False
    power_cut: bool = False
    metadata: bool = False
    xattrs: bool = False
    direct: bool = False
    timeout_s: float = 1.0
    log_path: str = ""
    inject: list[str] = field(default_factory=list)
    seed: int = 0
    kernel_max_ratio: int | None = None
    kernel_strict_limit: bool | None = None
    owner_pid: int = 0
    scratch: str = ""

    def to_json(self) -> str:
        """Write as JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        values = json.loads(text)
        values["params"] = DirtyParams(**values["params"])
        return cls(**values)

    @property
    def is_ram(self) -> bool:
        """Whether names and bytes live in RAM."""
        return not parse_caps(self.caps).writeback
