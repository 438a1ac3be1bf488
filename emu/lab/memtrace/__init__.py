"""Traces of real programs' memory accesses: formats, conversion, recording."""
