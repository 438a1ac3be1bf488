"""The backing filesystem: BDI capabilities, dirty accounting, a flusher and a FUSE mount."""
