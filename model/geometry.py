"""Boxes and crop windows: where a target is in a frame, and what part of the frame the network looks at.

All coordinates are pixels of the full frame: origin top left, x right, y down.
"""

import math
from typing import NamedTuple


class Box(NamedTuple):
    """An axis-aligned box: top-left corner and size, in pixels, fractions allowed."""

    x: float
    y: float
    width: float
    height: float


class CropBox(NamedTuple):
    """A box as the network predicts it: centre and size in shares of the crop's side, 0 to 1."""

    center_x: float
    center_y: float
    width: float
    height: float


class CropWindow(NamedTuple):
    """A square of the frame: top-left corner and side in whole pixels. It may reach beyond the frame."""

    left: int
    top: int
    side: int


def crop_window(box: Box, factor: float) -> CropWindow:
    """The square around `box` whose side is `factor` times the square root of the box's area.

    Corners are rounded half to even, as in the original's `sample_target` (lib/train/data/processing_utils.py).
    Raises ValueError where the box, its far corner or its area is not finite, or the side would be below one pixel.
    """
    if not all(map(math.isfinite, (*box, box.x + box.width, box.y + box.height, box.width * box.height))):
        raise ValueError(f"box {tuple(box)} is not finite")
    if box.width <= 0 or box.height <= 0:
        raise ValueError(f"box of {box.width:g}x{box.height:g} has no area")
    side = math.ceil(math.sqrt(box.width * box.height) * factor)
    if side < 1:
        raise ValueError(f"box of {box.width:g}x{box.height:g} gives an empty crop at factor {factor:g}")
    left = round(box.x + 0.5 * box.width - 0.5 * side)
    top = round(box.y + 0.5 * box.height - 0.5 * side)
    return CropWindow(left, top, side)


def meets_frame(window: CropWindow, frame_width: int, frame_height: int) -> bool:
    """Whether the window shares at least one pixel with the frame."""
    inside_x = window.left < frame_width and window.left + window.side > 0
    inside_y = window.top < frame_height and window.top + window.side > 0
    return inside_x and inside_y


def to_frame(prediction: CropBox, last_box: Box, side: int) -> Box:
    """The predicted box in frame pixels; `side` is the side of the search window cut around `last_box`.

    Offsets from the unrounded centre of the last box, not from the window's rounded corner: the original does
    (`map_box_back` of lib/test/tracker/mixformer_cvt_online.py).
    """
    center_x = prediction.center_x * side + (last_box.x + 0.5 * last_box.width - 0.5 * side)
    center_y = prediction.center_y * side + (last_box.y + 0.5 * last_box.height - 0.5 * side)
    width, height = prediction.width * side, prediction.height * side
    return Box(center_x - 0.5 * width, center_y - 0.5 * height, width, height)


def clip(box: Box, frame_width: int, frame_height: int, margin: int = 10) -> Box:
    """The box with at least `margin` pixels of it inside the frame and at least `margin` pixels wide and high.

    The original's `clip_box` (lib/utils/box_ops.py).
    """
    left = min(max(0.0, box.x), frame_width - margin)
    right = min(max(margin, box.x + box.width), frame_width)
    top = min(max(0.0, box.y), frame_height - margin)
    bottom = min(max(margin, box.y + box.height), frame_height)
    return Box(left, top, max(margin, right - left), max(margin, bottom - top))


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes, 0 to 1."""
    width = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    height = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (one.width * one.height + other.width * other.height - shared)
