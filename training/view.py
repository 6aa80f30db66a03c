"""A view: what a camera sees of one target, as layers that are warped straight into a crop. No full frame is ever drawn."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from model.crop import Image
from model.geometry import Box, CropWindow

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Layer:
    """A picture in the scene: `placement` [3, 3] takes its pixels to the scene; where `mask` [H, W] is 0 it is not there."""

    image: Image
    placement: Matrix
    mask: Image | None = None


@dataclass(frozen=True)
class View:
    """Layers from the back to the front, and the target's box in scene coordinates."""

    layers: tuple[Layer, ...]
    box: Box

    def stretched(self, stretch: float) -> "View":
        """The same scene, `stretch` times as wide for its height, at equal area: all in it is of another shape."""
        matrix = place((0.0, 0.0), (0.0, 0.0), turn(0.0, stretch))
        wider, higher = matrix[0, 0], matrix[1, 1]
        box = Box(self.box.x * wider, self.box.y * higher, self.box.width * wider, self.box.height * higher)
        return View(tuple(Layer(each.image, matrix @ each.placement, each.mask) for each in self.layers), box)


def render(view: View, window: CropWindow, size: int) -> Image:
    """The scene inside `window`, resized to a square: uint8 [size, size, 3], zero where no layer is."""
    to_crop = _to_crop(window, size)
    canvas = np.zeros((size, size, 3), np.uint8)
    for layer in view.layers:
        canvas = _draw(canvas, layer, to_crop @ layer.placement)
    return canvas


def box_in_window(box: Box, window: CropWindow) -> npt.NDArray[np.float32]:
    """The corners of the box, x1 y1 x2 y2 in shares of the window's side. Not clipped."""
    corners = (box.x, box.y, box.x + box.width, box.y + box.height)
    origin = (window.left, window.top, window.left, window.top)
    shares: npt.NDArray[np.float32] = ((np.array(corners) - np.array(origin)) / window.side).astype(np.float32)
    return shares


def place(center: tuple[float, float], to: tuple[float, float], linear: Matrix) -> Matrix:
    """The map [3, 3] that takes `center` to `to` and is `linear` [2, 2] about it."""
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = np.array(to) - linear @ np.array(center)
    return matrix


def turn(angle: float, stretch: float, scale: float = 1.0) -> Matrix:
    """The linear map [2, 2] that stretches x against y by `stretch` at equal area, turns by `angle` (radians) and scales."""
    cosine, sine = math.cos(angle), math.sin(angle)
    root = math.sqrt(stretch)
    return scale * np.array([[cosine, -sine], [sine, cosine]]) @ np.diag([root, 1.0 / root])


def moved_box(box: Box, placement: Matrix) -> Box:
    """The box around the placed ellipse that touches the sides of `box`: objects are rounder than their boxes."""
    center = placement @ np.array([box.x + 0.5 * box.width, box.y + 0.5 * box.height, 1.0])
    half = np.hypot(placement[:2, 0] * 0.5 * box.width, placement[:2, 1] * 0.5 * box.height)
    return Box(*(center[:2] - half).tolist(), *(2.0 * half).tolist())


def center_of(box: Box) -> tuple[float, float]:
    """The centre of the box, x and y."""
    return box.x + 0.5 * box.width, box.y + 0.5 * box.height


def side_of(box: Box) -> float:
    """The side of the square that has the box's area."""
    return math.sqrt(box.width * box.height)


def _to_crop(window: CropWindow, size: int) -> Matrix:
    scale = size / window.side
    return np.array([[scale, 0.0, -window.left * scale], [0.0, scale, -window.top * scale], [0.0, 0.0, 1.0]])


_TO_CORNER = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
_TO_CENTER = np.array([[1.0, 0.0, -0.5], [0.0, 1.0, -0.5], [0.0, 0.0, 1.0]])


def _draw(canvas: Image, layer: Layer, matrix: Matrix) -> Image:
    # OpenCV counts from the centre of the first pixel, boxes count from its corner
    pixels = (_TO_CENTER @ matrix @ _TO_CORNER)[:2]
    size = (canvas.shape[1], canvas.shape[0])
    drawn = cv2.warpAffine(layer.image, pixels, size, flags=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
    if layer.mask is None:
        return drawn
    weight = cv2.warpAffine(layer.mask, pixels, size, flags=cv2.INTER_LINEAR).astype(np.float32) / 255.0
    return cv2.blendLinear(drawn, canvas, weight, 1.0 - weight).astype(np.uint8, copy=False)
