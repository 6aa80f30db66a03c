"""Frames from a video file or a folder of pictures, and a video file to write drawn frames to."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np

from model.crop import Image
from service.commands.command import CommandError
from service.decode import Payload, PixelFormat, RawImage

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
FOLDER_FRAME_RATE = 25.0
# By the file's ending. OpenCV's wheels carry no H.264 encoder, and their VP9 takes a second a frame; VP8 is what browsers play.
CODECS = {".mp4": "mp4v", ".mkv": "mp4v", ".avi": "MJPG", ".webm": "VP80"}


@dataclass(frozen=True)
class Footage:
    """A clip that can be read once: a video's frames as raw BGR, a picture's as the file's own bytes.

    `frame_count` is what the file says (0: it does not), `frame_rate` is frames a second.
    """

    frame_count: int
    frame_rate: float
    frames: Iterator[Payload]


def open_footage(path: Path) -> Footage:
    """The frames of a video file, or of a folder's pictures in name order. Raises CommandError where there is nothing to read."""
    if path.is_dir():
        pictures = sorted(each for each in path.iterdir() if each.suffix.lower() in PICTURE_SUFFIXES)
        if not pictures:
            raise CommandError(f"folder {path} holds no picture ({', '.join(PICTURE_SUFFIXES)})")
        return Footage(len(pictures), FOLDER_FRAME_RATE, (picture.read_bytes() for picture in pictures))
    if not path.is_file():
        raise CommandError(f"no such video or folder: {path}")
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise CommandError(f"{path} is not a video that can be read")
    frame_rate = capture.get(cv2.CAP_PROP_FPS) or FOLDER_FRAME_RATE
    return Footage(max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))), frame_rate, _read_video(capture))


def _read_video(capture: cv2.VideoCapture) -> Iterator[RawImage]:
    try:
        while True:
            is_read, image = capture.read()
            if not is_read:
                return
            yield RawImage(image.tobytes(), image.shape[1], image.shape[0], PixelFormat.BGR24)
    finally:
        capture.release()


class VideoFile:
    """A video being written, in the codec its ending asks for. The first frame gives its size; others are scaled to it."""

    def __init__(self, path: Path, frame_rate: float) -> None:
        """Raises CommandError where the ending names no codec."""
        if path.suffix.lower() not in CODECS:
            raise CommandError(f"{path}: a video is written as one of {', '.join(CODECS)}")
        self._path = path
        self._frame_rate = frame_rate
        self._size = (0, 0)
        self._writer: cv2.VideoWriter | None = None
        # Ctrl-C closes it while a thread writes, and OpenCV would crash.
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            if self._writer is not None:
                self._writer.release()

    def write(self, image: Image) -> None:
        """Appends a frame, uint8 RGB [H, W, 3]. Raises CommandError where the file cannot be written."""
        with self._lock:
            if self._writer is None:
                self._writer = self._open((image.shape[1], image.shape[0]))
            if image.shape[1::-1] != self._size:
                image = cv2.resize(image, self._size).astype(np.uint8, copy=False)
            self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def _open(self, size: tuple[int, int]) -> cv2.VideoWriter:
        self._size = size
        code = cv2.VideoWriter.fourcc(*CODECS[self._path.suffix.lower()])
        writer = cv2.VideoWriter(str(self._path), code, self._frame_rate, size)
        if not writer.isOpened():
            raise CommandError(f"{self._path} cannot be written")
        return writer
