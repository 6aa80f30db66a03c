"""Other trackers, to stand beside ours: holding still, OpenCV's MIL, and VitTrack in a plain loop."""

from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model.crop import Image, cut
from model.geometry import Box, CropBox, crop_window, to_frame
from model.mixformer import IMAGENET_MEAN, IMAGENET_STD

_VITTRACK_TEMPLATE = (2.0, 128)
_VITTRACK_SEARCH = (4.0, 256)
_VITTRACK_CELLS = 16


class Follower(Protocol):
    """A tracker of one target. Frames are uint8 RGB [H, W, 3]."""

    def start(self, image: Image, box: Box) -> object:
        """Begin with the target at `box`."""

    def follow(self, image: Image) -> Box:
        """Where the target is in the next frame."""


class HoldStill:
    """Says that nothing ever moves."""

    def start(self, image: Image, box: Box) -> None:
        """Remembers the box."""
        self._box = box

    def follow(self, image: Image) -> Box:
        """The first box."""
        return self._box


class Mil:
    """OpenCV's MIL tracker, online multiple-instance learning on Haar features."""

    def start(self, image: Image, box: Box) -> None:
        """Learns the first appearance."""
        self._box = box
        self._tracker = cv2.TrackerMIL.create()
        self._tracker.init(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [round(value) for value in box])

    def follow(self, image: Image) -> Box:
        """Where it finds the target, or where it last did."""
        found, box = self._tracker.update(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        if found:
            self._box = Box(*map(float, box))
        return self._box


class VitTrack:
    """OpenCV Zoo's VitTrack from its ONNX file: a confidence, a size and an offset for each of 16 x 16 cells."""

    def __init__(self, path: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def start(self, image: Image, box: Box) -> None:
        """Cuts the template."""
        self._box = box
        self._template = _normalised(image, box, *_VITTRACK_TEMPLATE)

    def follow(self, image: Image) -> Box:
        """The box of the most likely cell. Without a Hann window, which loses it the target of OTB's Crossing."""
        search = _normalised(image, self._box, *_VITTRACK_SEARCH)
        confidence, sizes, offsets = self._session.run(None, {"template": self._template, "search": search})
        row, column = np.unravel_index(np.argmax(confidence[0, 0]), confidence.shape[2:])
        width, height = sizes[0, :, row, column]
        x, y = offsets[0, :, row, column]
        box = CropBox((column + x) / _VITTRACK_CELLS, (row + y) / _VITTRACK_CELLS, width, height)
        side = crop_window(self._box, _VITTRACK_SEARCH[0]).side
        found = to_frame(CropBox(*map(float, box)), self._box, side)
        self._box = _kept_inside(found, image.shape[1], image.shape[0])
        return self._box


def _normalised(image: Image, box: Box, factor: float, size: int) -> NDArray[np.float32]:
    crop = cut(image, crop_window(box, factor), size) / np.float32(255)
    normalised = (crop - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1)[None].astype(np.float32))


def _kept_inside(box: Box, width: int, height: int) -> Box:
    """The box with a usable size and its centre in the frame."""
    box_width, box_height = max(box.width, 2.0), max(box.height, 2.0)
    x = min(max(box.x + box.width / 2, 0.0), width - 1.0) - box_width / 2
    y = min(max(box.y + box.height / 2, 0.0), height - 1.0) - box_height / 2
    return Box(x, y, box_width, box_height)
