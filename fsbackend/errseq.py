"""A file's writeback errors, in a sequence, so that each open descriptor hears of each once.

An error that nobody has heard of yet is heard by whoever opens the file next, too. close(2) tells a failed
writeback without taking it away from fsync: a forked child's close must not take its parent's error.
Source: Linux v4.17 lib/errseq.c: errseq_sample(), errseq_check_and_advance().
"""

import threading


class ErrSeq:
    """The errors of one file: the last one's number, how many there were, and whether anybody was told."""

    __slots__ = ("_close_seq", "_is_seen", "_lock", "_number", "seq")

    def __init__(self) -> None:
        self.seq = 0
        self._number = 0
        self._is_seen = True
        self._close_seq = 0
        self._lock = threading.Lock()

    def failed(self, number: int) -> None:
        """Note a failed writeback."""
        with self._lock:
            self.seq += 1
            self._number = number
            self._is_seen = False
            self._close_seq = self.seq

    def lost(self, number: int) -> None:
        """Note that bytes are gone: to be told to the fsync of descriptors that are open now."""
        with self._lock:
            self.seq += 1
            self._number = number

    def forget_failures(self) -> None:
        """Begin anew, as after a power cut: who opens the file now, and any close, hears of nothing before."""
        with self._lock:
            self._is_seen = True
            self._close_seq = 0

    def sample(self) -> int:
        """Return where a descriptor begins that is opened now."""
        with self._lock:
            return self.seq if self._is_seen else self.seq - 1

    def advance(self, since: int) -> tuple[int, int]:
        """Tell a descriptor that has heard all up to `since`: up to where it has heard now, and an errno, or 0."""
        with self._lock:
            if since == self.seq:
                return since, 0
            self._is_seen = True
            return self.seq, self._number

    def at_close(self, since: int) -> int:
        """Return the errno that close(2) tells a descriptor, or 0."""
        return self._number if since < self._close_seq else 0
