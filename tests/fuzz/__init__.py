"""Hostile input: what it is drawn from, and what must become of it. Used by the suite and by `make fuzz`."""
