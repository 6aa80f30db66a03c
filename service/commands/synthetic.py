"""A made-up clip with a known answer: a patterned square that circles over a patterned ground, for load tests and tests."""

import math
from collections.abc import Iterator

import cv2
import numpy as np

from model.crop import Image
from model.geometry import Box


def synthetic_clip(width: int, height: int, frame_count: int, seed: int = 0) -> Iterator[tuple[Image, Box]]:
    """`frame_count` frames, uint8 RGB [height, width, 3], each with the square's box; one turn of the circle in all."""
    random = np.random.default_rng(seed)
    ground = _pattern(random, width, height, cell=24)
    side = min(width, height) // 5
    square = _pattern(random, side, side, cell=max(2, side // 6))
    for number in range(frame_count):
        angle = 2 * math.pi * number / frame_count
        left = round((width - side) / 2 + math.cos(angle) * (width - side) / 4)
        top = round((height - side) / 2 + math.sin(angle) * (height - side) / 4)
        image = ground.copy()
        image[top : top + side, left : left + side] = square
        yield image, Box(left, top, side, side)


def _pattern(random: np.random.Generator, width: int, height: int, cell: int) -> Image:
    """Random colors that change smoothly over `cell` pixels."""
    coarse = random.integers(0, 256, (height // cell + 2, width // cell + 2, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.uint8, copy=False)
