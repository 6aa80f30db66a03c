"""What the subcommands share: their error, and the arguments several of them read."""

import argparse
import math

from model.geometry import Box

_LARGEST = 2**31 - 1
# Thirty years in seconds.
_MOST = 1e9
# From the smallest picture that is tracked in up to one of 800 MB.
_SMALLEST_SIDE, _LARGEST_SIDE = 10, 16384


class CommandError(Exception):
    """The command cannot go on. Its message is the one line the user sees; `exit_code` is the process's."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def parse_box(text: str) -> Box:
    """`x,y,w,h` in pixels as a Box. Raises ArgumentTypeError where it is not one."""
    try:
        box = Box(*map(float, text.split(",")))
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is not x,y,w,h in pixels") from None
    if not all(map(math.isfinite, box)) or box.width <= 0 or box.height <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no box: four finite numbers, width and height above 0")
    return box


def positive_float(text: str) -> float:
    """A number above 0 and at most a thousand million. Raises ArgumentTypeError where it is not one."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= _MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and at most {_MOST:g}")
    return value


def seconds(text: str) -> float:
    """Such a number, or 0. Raises ArgumentTypeError where it is not one."""
    return 0.0 if text == "0" else positive_float(text)


def positive_int(text: str) -> int:
    """A whole number of 1 to 2147483647, which every field of the API holds. Raises ArgumentTypeError where it is not one."""
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(_LARGEST)) and 0 < int(text) <= _LARGEST):
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is not a whole number of 1 to {_LARGEST}")
    return int(text)


def parse_size(text: str) -> tuple[int, int]:
    """`WxH` in pixels as (width, height). Raises ArgumentTypeError where it is not one."""
    width, _, height = text.partition("x")
    try:
        size = positive_int(width), positive_int(height)
    except argparse.ArgumentTypeError:
        size = 0, 0
    if min(size) < _SMALLEST_SIDE or max(size) > _LARGEST_SIDE:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT in pixels, {_SMALLEST_SIDE} to {_LARGEST_SIDE} each")
    return size
