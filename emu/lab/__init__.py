"""Experiments: run a workload on a machine, compare strategies, judge the outcome by reading files."""
