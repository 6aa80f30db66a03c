"""Benchmarks a user can run: `make bench`. Both sides of a ratio are timed in turn, in one process."""
