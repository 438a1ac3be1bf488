"""The emulated kernel's policy: faults, page cache I/O, reclaim, writeback."""
