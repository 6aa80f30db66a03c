"""Ways to damage bytes: edits, cuts, repeats, numbers at their ends, and bytes put in."""

from random import Random

_ENDS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_HEADERS = 64


def damaged(chance: Random, data: bytes, most: int = 3) -> bytes:
    """The data with at most so many faults."""
    for _ in range(chance.randint(0, most)):
        data = _once(chance, data)
    return data


def _once(chance: Random, data: bytes) -> bytes:
    # Headers are worth as much as all the rest.
    at = chance.randrange(min(len(data), _HEADERS) if chance.random() < 0.5 else len(data)) if data else 0
    length = min(chance.choice((1, 4, 40, 400)), len(data) - at)
    width = chance.choice((1, 2, 4))
    match chance.choice(("edit", "bit", "cut", "drop", "repeat", "big", "little", "insert")):
        case "edit":
            return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
        case "bit":
            return data[:at] + bytes(each ^ 1 << chance.randrange(8) for each in data[at : at + 1]) + data[at + 1 :]
        case "cut":
            return data[:at]
        case "drop":
            return data[:at] + data[at + length :]
        case "repeat":
            return data[:at] + data[at : at + length] * chance.randint(2, 20) + data[at + length :]
        case "big":
            return data[:at] + _end(chance, width).to_bytes(width, "big") + data[at + width :]
        case "little":
            return data[:at] + _end(chance, width).to_bytes(width, "little") + data[at + width :]
        case _:
            return data[:at] + bytes([chance.randrange(256)]) * chance.randint(1, 64) + data[at:]


def _end(chance: Random, width: int) -> int:
    return chance.choice(_ENDS) & (1 << 8 * width) - 1
