"""Pictures: every kind that cameras and the malicious send, damaged; bombs; sizes that are none."""

import io
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from random import Random

import cv2
import numpy as np
from pictures import encoded, jpeg_claiming, scene
from PIL import Image as Pillow

from fuzz.damage import damaged
from fuzz.subject import SERVED, Subject, reason_of
from service.config import Limits
from service.decode import Payload, RawImage, decode, decode_rest, decode_top, picture_size
from service.errors import BadFrame, FrameTooLarge
from service.headers import PNG

LIMITS = replace(Limits(), max_frame_pixels=1_000_000, max_frame_bytes=1024 * 1024)
_SIDE = 64
_BOMB_BYTES = 16 * 1024 * 1024


@cache
def seeds() -> tuple[bytes, ...]:
    """Whole pictures of every kind, and bombs."""
    return (*_whole(), *_bombs())


def _whole() -> Iterator[bytes]:
    small = scene(_SIDE, _SIDE)
    for option in ((), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)):
        yield encoded(small, ".jpg", *option)
    for sampling in (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411):
        yield encoded(small, ".jpg", cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling)
    yield encoded(small, ".webp", cv2.IMWRITE_WEBP_QUALITY, 101)
    yield cv2.imencode(".png", small.astype(np.uint16) * 257)[1].tobytes()
    picture, other = Pillow.fromarray(small), Pillow.fromarray(scene(_SIDE, _SIDE, seed=1))
    tags = Pillow.Exif()
    tags[0x112] = 6
    for mode, kinds in (
        ("RGB", "JPEG PNG WEBP"),
        ("L", "JPEG PNG"),
        ("CMYK", "JPEG"),
        ("RGBA", "PNG WEBP"),
        ("P", "PNG"),
        ("1", "PNG"),
    ):
        for kind in kinds.split():
            yield _written(picture.convert(mode), kind, exif=tags)
    for kind in ("PNG", "WEBP"):
        yield _written(picture, kind, save_all=True, append_images=[other])


def _bombs() -> Iterator[bytes]:
    """Pictures whose few bytes stand for many: pixels, text, colour profile; and headers that claim what is not there."""
    yield _written(Pillow.new("L", (990, 990)), "PNG")
    yield _written(Pillow.new("1", (4_000, 4_000)), "PNG")
    yield _written(Pillow.new("RGB", (2_000, 60)), "WEBP", lossless=True)
    plain = _written(Pillow.fromarray(scene(_SIDE, _SIDE)), "PNG")
    bomb = zlib.compress(bytes(_BOMB_BYTES), 1)
    for kind in (b"zTXt", b"iCCP"):
        yield plain[:33] + chunk(kind, b"name\0\0" + bomb) + plain[33:]
    for width, height in ((50_000, 50_000), (65_535, 10), (0, 0)):
        yield jpeg_claiming(width, height)


def _written(picture: Pillow.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG that is whole."""
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def repaired(data: bytes) -> bytes:
    """A damaged PNG whose checksums are right again, so that the damage gets further."""
    parts, at = [data[: len(PNG)]], len(PNG)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        body = data[at + 4 : at + 8 + length]
        if len(body) < 4 + length:
            break
        parts.append(data[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big"))
        at += 12 + length
    return b"".join(parts) + data[at:]


def file(chance: Random) -> bytes:
    """A picture's file, whole, damaged, or nothing of the sort."""
    data = chance.choice(seeds()) if chance.random() < 0.95 else chance.randbytes(chance.randrange(64))
    data = damaged(chance, data)
    return repaired(data) if data.startswith(PNG) and chance.random() < 0.5 else data


def raw(chance: Random) -> RawImage:
    """Pixels with a size that fits, nearly fits, or does not."""
    width, height = (chance.choice((chance.randrange(80), chance.choice((2**16, 2**31, 2**32 - 1)))) for _ in range(2))
    pixel_format = chance.randint(-1, 6)
    fitting = width * height * {3: 1.5, 4: 1}.get(pixel_format, 3)
    return RawImage(bytes(max(0, int(min(fitting, 20_000)) + chance.choice((-1, 0, 0, 0, 1)))), width, height, pixel_format)


def payload(chance: Random) -> Payload:
    """What a frame holds."""
    return raw(chance) if chance.random() < 0.2 else file(chance)


def _drawn(chance: Random) -> tuple[Payload, int]:
    return payload(chance), chance.choice((0, 20, 1000))


def judge(given: tuple[Payload, int]) -> str:
    """A picture of the claimed size, its top equal to the whole's, or an error of ours."""
    payload, rows = given
    try:
        top = decode_top(payload, LIMITS, rows)
        size = picture_size(payload, LIMITS)
        assert top.image.shape == (size.height, size.width, 3) and top.image.dtype == np.uint8
        if top.rows < size.height:
            decode_rest(payload, top.image)
        else:
            np.testing.assert_array_equal(top.image, decode(payload, LIMITS))
    except (BadFrame, FrameTooLarge) as error:
        return reason_of(error)
    return SERVED


PICTURES = Subject("pictures", _drawn, judge)
