"""A row: one tracker on one kind of memory, what it cost, and whether it was right."""

from dataclasses import dataclass, fields
from typing import Any, Self

OK, UNAVAILABLE, FAILED, WRONG = "ok", "unavailable", "failed", "wrong"
HOST, EMULATED = "host", "emulated"


@dataclass(slots=True)
class TrackerRow:
    """One row. None: not known, or never measured.

    Times are microseconds for each dirtied page, the median of the rounds: `arm_us` until stores are tracked again,
    `store_us` for the stores, `collect_us` to learn which pages they went to; `untracked_us` for the same number of
    stores without a tracker, in the fastest round. Bytes are for all dirtied pages together: `kernel_bytes` of page
    tables and VMAs that tracking added, `user_bytes` of the tracker's own memory. `visits` are PTEs and nodes that the
    emulated kernel looked at for each page. `status` is ok, unavailable (this kernel does not have it), failed (it gave
    up), or wrong (it reported other pages than those stored to); `reason` says why in one line.
    """

    tracker: str
    memory: str
    pages: int
    dirty: int
    title: str = ""
    clock: str = HOST
    status: str = OK
    reason: str | None = None
    rounds: int = 0
    arm_us: float | None = None
    store_us: float | None = None
    collect_us: float | None = None
    untracked_us: float | None = None
    kernel_bytes: int | None = None
    user_bytes: int | None = None
    nr_vmas: int | None = None
    visits: float | None = None

    @property
    def us(self) -> float | None:
        """Microseconds for each dirtied page: arm, stores and collect, with what the bare stores cost."""
        if self.arm_us is None or self.store_us is None or self.collect_us is None:
            return None
        return self.arm_us + self.store_us + self.collect_us

    @property
    def bytes_a_page(self) -> float | None:
        """Bytes for each dirtied page, of the kernel's and of the tracker's own memory."""
        if self.kernel_bytes is None or self.user_bytes is None:
            return None
        return (self.kernel_bytes + self.user_bytes) / self.dirty

    def as_json(self) -> dict[str, Any]:
        """Return the fields, and what is computed from them."""
        known = {field.name: getattr(self, field.name) for field in fields(self)}
        return known | {"us": self.us, "bytes_a_page": self.bytes_a_page}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """Return the row of a record."""
        return cls(**{field.name: record[field.name] for field in fields(cls) if field.name in record})
