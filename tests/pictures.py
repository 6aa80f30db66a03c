"""Pictures for tests, made here: no third-party picture is committed."""

from functools import cache

import cv2
import numpy as np

from model.crop import Image


@cache
def scene(width: int = 320, height: int = 240, seed: int = 0) -> Image:
    """A smooth picture with structure everywhere, uint8 RGB [H, W, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.uint8)


def encoded(image: Image, extension: str = ".jpg", *options: int) -> bytes:
    """The picture as a file of this kind; `options` are pairs of OpenCV's."""
    done, data = cv2.imencode(extension, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert done
    return data.tobytes()


def jpeg_claiming(width: int, height: int) -> bytes:
    """A JPEG whose header claims a size that it does not have."""
    data = bytearray(encoded(scene(64, 64)))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)
