"""Cutting a square window out of a frame."""

import cv2
import numpy as np
from numpy.typing import NDArray

from model.geometry import CropWindow, meets_frame

Image = NDArray[np.uint8]

LARGEST_PADDED_SIDE = 4096
LARGEST_SIDE = 1_000_000


def cut(image: Image, window: CropWindow, size: int) -> Image:
    """The window of `image` [H, W, 3], resized to [size, size, 3]; black where it reaches beyond the frame.

    Equal to the original's `sample_target` (lib/train/data/processing_utils.py) to the byte, with its quirk: a window that
    touches or crosses the right or bottom border loses the frame's last column or row. Windows over LARGEST_PADDED_SIDE,
    for which the original would fill hundreds of megabytes with black, are sampled without a padded copy.
    Raises ValueError where the window misses the frame or is absurdly large.
    """
    height, width = image.shape[:2]
    if not meets_frame(window, width, height):
        raise ValueError(f"window of side {window.side} at {window.left},{window.top} misses the frame of {width}x{height}")
    if window.side > LARGEST_PADDED_SIDE:
        return _sample(image, window, size)
    right, bottom = window.left + window.side, window.top + window.side
    left_pad, top_pad = max(0, -window.left), max(0, -window.top)
    right_pad, bottom_pad = max(0, right - width + 1), max(0, bottom - height + 1)
    inside = image[window.top + top_pad : bottom - bottom_pad, window.left + left_pad : right - right_pad]
    if inside.size == 0:  # all that the window shared with the frame was the column or row it loses
        return np.zeros((size, size, 3), np.uint8)
    if left_pad or top_pad or right_pad or bottom_pad:
        # Fresh zeros are not written before somebody reads them, and resizing reads few rows of a large window.
        padded = np.zeros((window.side, window.side, 3), np.uint8)
        padded[top_pad : top_pad + inside.shape[0], left_pad : left_pad + inside.shape[1]] = inside
        inside = padded
    return cv2.resize(inside, (size, size)).astype(np.uint8, copy=False)


def _sample(image: Image, window: CropWindow, size: int) -> Image:
    """The same window by sampling, within 2 levels of the padded way (cv2 weighs by 1/32 of a pixel here)."""
    if window.side > LARGEST_SIDE:
        raise ValueError(f"window of side {window.side} is over {LARGEST_SIDE}")
    scale = window.side / size
    to_source = np.array(
        [[scale, 0, window.left + 0.5 * scale - 0.5], [0, scale, window.top + 0.5 * scale - 0.5]], dtype=np.float64
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, to_source, (size, size), flags=flags).astype(np.uint8, copy=False)
