"""Annotated sequences in OTB layout (NAME/img/*.jpg) or GOT-10k layout (NAME/*.jpg), with NAME/groundtruth.txt."""

import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from model.crop import Image
from model.geometry import Box
from training.measures import is_usable

ANNOTATION = "groundtruth.txt"


class SequenceError(ValueError):
    """The folder holds no usable sequence; the message names it."""


@dataclass(frozen=True)
class Sequence:
    """A video as files, and a box for each frame: x, y, width, height in pixels; not finite where there is none."""

    name: str
    frames: tuple[Path, ...]
    boxes: tuple[Box, ...]


def read_sequences(folder: Path, frames: int | None = None) -> list[Sequence]:
    """Every sequence below `folder`, by name, at most the first `frames` of each. Raises SequenceError."""
    found = sorted(path.parent for path in folder.glob(f"*/{ANNOTATION}"))
    if not found:
        raise SequenceError(f"{folder}: no folder with a {ANNOTATION} in it")
    return [_read(path, frames) for path in found]


def read_frame(path: Path) -> Image:
    """A frame, uint8 RGB [H, W, 3]. Raises SequenceError where it is no picture."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise SequenceError(f"{path}: not a readable picture")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def _read(folder: Path, limit: int | None) -> Sequence:
    boxes = [_box(folder, line) for line in (folder / ANNOTATION).read_text().rstrip().split("\n")]
    images = sorted(path for path in _pictures(folder).iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not images or len(images) < len(boxes):
        raise SequenceError(f"{folder.name}: {len(images)} pictures for {len(boxes)} boxes")
    given = boxes[:limit]
    if not any(map(is_usable, given[:1])) or not any(map(is_usable, given[1:])):
        raise SequenceError(f"{folder.name}: a box is needed on the first frame and on one after it, {len(given)} frames given")
    return Sequence(folder.name, tuple(images[: len(given)]), tuple(given))


def _pictures(folder: Path) -> Path:
    """Where the frames are: in OTB a second target (NAME-2) is annotated in the frames of the first (NAME-1)."""
    first = folder.with_name(re.sub(r"-\d+$", "-1", folder.name))
    for candidate in (folder / "img", first / "img"):
        if candidate.is_dir():
            return candidate
    return folder


def _box(folder: Path, line: str) -> Box:
    try:
        return Box(*map(float, re.split(r"[,\s]+", line.strip())))
    except (TypeError, ValueError) as error:
        raise SequenceError(f"{folder.name}: {line!r} is no box of x,y,width,height") from error
