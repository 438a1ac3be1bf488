"""Traces of real programs, replayed on the emulated machine."""
