"""Runs as traces for the tools that people have: Perfetto's protobuf, and the kernel's own ftrace text."""
