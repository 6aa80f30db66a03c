"""The frames that a load test sends: JPEG in memory, made before the first one is sent, so that the client is not the limit."""

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import simplejpeg

from model.crop import Image
from model.geometry import Box
from service.commands.command import CommandError
from service.commands.footage import open_footage
from service.commands.synthetic import synthetic_clip
from service.commands.track import FILE_LIMITS
from service.decode import decode

# A longer clip is cut: some 30 MB at 720p.
MAX_FRAMES = 250
SYNTHETIC_FRAMES = 100
JPEG_QUALITY = 90


class Clip(NamedTuple):
    """JPEG frames, and the target's box on the first one."""

    frames: Sequence[bytes]
    box: Box

    def frame(self, number: int) -> bytes:
        """Frame `number` of an endless clip that runs to and fro, so that the target never jumps."""
        last = len(self.frames) - 1
        return self.frames[last - abs(last - number % (2 * last))] if last else self.frames[0]


def recorded_clip(source: Path, box: Box) -> Clip:
    """The first frames of a video or of a folder of pictures. Raises CommandError, BadFrame or FrameTooLarge."""
    payloads = islice(open_footage(source).frames, MAX_FRAMES)
    frames = _to_jpeg(decode(payload, FILE_LIMITS) for payload in payloads)
    if not frames:
        raise CommandError(f"{source} holds no frame that can be read")
    return Clip(frames, box)


def made_up_clip(width: int, height: int) -> Clip:
    """A square that circles over a still ground."""
    # Two passes: all pictures at once would take a hundred times the memory of one.
    _, box = next(synthetic_clip(width, height, SYNTHETIC_FRAMES))
    return Clip(_to_jpeg(image for image, _ in synthetic_clip(width, height, SYNTHETIC_FRAMES)), box)


def _to_jpeg(images: Iterable[Image]) -> list[bytes]:
    return [simplejpeg.encode_jpeg(image, quality=JPEG_QUALITY) for image in images]
