"""Plain values with some of them replaced by others that make no sense."""

from random import Random
from typing import Any

_WILD: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**31, 2**63 - 1, 2**64 - 1, -(2**63), 0.5, -0.5, float("nan"), float("inf"), 1e30, 1e308, "", "a",
    "\n\x00\u2028", "x" * 3000, b"", b"\xff" * 16, [], {}, [[0]], {"a": 1},
)  # fmt: skip
_DEPTH = 100_000


def altered(chance: Random, value: Any) -> Any:
    """The value with a part of it replaced, taken away or doubled."""
    if isinstance(value, dict) and value and chance.random() < 0.95:
        key = chance.choice(list(value))
        without = {other: each for other, each in value.items() if other != key}
        return without if chance.random() < 0.03 else without | {key: altered(chance, value[key])}
    if isinstance(value, list) and value and chance.random() < 0.95:
        at = chance.randrange(len(value))
        return [*value[:at], *[altered(chance, value[at])] * chance.choice((1,) * 20 + (0, 2)), *value[at + 1 :]]
    if isinstance(value, int | float) and chance.random() < 0.4:
        other = value * chance.choice((-1, 2, 1000, 1e9))
        return other if isinstance(other, float) else min(max(other, -(2**63)), 2**64 - 1)
    return chance.choice(_WILD)


def nested(chance: Random) -> bytes:
    """Msgpack deeper than any stack: lists, or maps, in one another."""
    return chance.choice((b"\x91", b"\x81\xa1a")) * _DEPTH
