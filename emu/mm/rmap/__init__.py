"""Reverse-map strategies, one file each."""
