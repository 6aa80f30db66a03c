"""Bytes of a frame -> uint8 RGB [H, W, 3]. One decoder for the service and the command line.

The size is read from the header by a few exact lines per format, not by an image library: limits must be checked before
anything of the picture's size is allocated, and Pillow's lazy open already builds the canvas of a WebP.
JPEG goes through libjpeg-turbo directly (simplejpeg: half of OpenCV's time) and strictly, since a decoder that fills the
missing half of a truncated frame with grey would have the tracker learn it. PNG and WebP go through OpenCV; a PNG's chunks
are checked before, because OpenCV 5 allocates whatever length a damaged one claims (2 GB, 5 s). Animations are refused.
Orientation tags are ignored: boxes are in the pixels as sent.

A JPEG need only be decoded down to the last row that a crop looks at (`decode_top`): its header is told a smaller height.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg

from model.crop import Image
from service.config import Limits
from service.errors import BadFrame, FrameTooLarge
from service.headers import (
    JPEG,
    JPEG_ERRORS,
    PNG,
    START_OF_SCAN,
    Size,
    check_chunks,
    check_scans,
    encoded_size,
    single_scan,
    with_height,
)

# Clipping keeps at least 10 pixels of every box inside the frame (model/geometry.py).
MIN_SIDE = 10
_END_OF_IMAGE = b"\xff\xd9"
# Chroma is interpolated from the rows below, and blocks are decoded in rows of up to 32 pixels.
_ROWS_BELOW = 32
# Above this share of the rows the whole picture costs hardly more.
_LARGEST_TOP = 0.75
# What libjpeg says, after the last row, of the bytes of the rows that it was not told of.
_STOPPED = "extraneous bytes before marker 0xd9"
# What strict decoding refuses although many cameras send it and nothing of the picture is missing.
_HARMLESS = ("extraneous bytes before marker", "Invalid SOS parameters")


class PixelFormat(IntEnum):
    """Layout of a raw image; numbers equal the API's. NV12 is BT.601, limited range."""

    RGB24 = 1
    BGR24 = 2
    NV12 = 3
    GRAY8 = 4


@dataclass(frozen=True)
class RawImage:
    """Pixels as they are, rows without padding."""

    data: bytes
    width: int
    height: int
    pixel_format: int


Payload = bytes | RawImage


def size_of(payload: Payload) -> int:
    """Its bytes as they were sent."""
    return len(payload) if isinstance(payload, bytes) else len(payload.data)


class Top(NamedTuple):
    """A picture, uint8 RGB [H, W, 3], of which the first `rows` rows are decoded and the others black."""

    image: Image
    rows: int


def decode(payload: Payload, limits: Limits) -> Image:
    """The picture as uint8 RGB [H, W, 3]. Raises FrameTooLarge over the limits, BadFrame where it is no whole picture."""
    size = picture_size(payload, limits)
    if isinstance(payload, RawImage):
        return _decode_raw(payload)
    image = _decode_jpeg(payload) if payload.startswith(JPEG) else _decode_other(payload)
    if image.shape != (size.height, size.width, 3):
        raise BadFrame(f"header says {size.width}x{size.height}, the picture is {image.shape[1]}x{image.shape[0]}")
    return image


def decode_top(payload: Payload, limits: Limits, rows: int) -> Top:
    """The picture with at least its first `rows` rows, each equal to that of `decode`; with all of them where that costs little
    more, or the format has no way to stop. Raises as `decode` does, for what it has seen.
    """
    size = picture_size(payload, limits)
    decoded = max(0, rows) + _ROWS_BELOW
    if isinstance(payload, bytes) and payload.startswith(JPEG) and decoded <= _LARGEST_TOP * size.height:
        # Pages that nobody writes to are never allocated.
        image = np.zeros((size.height, size.width, 3), np.uint8)
        if _decode_rows(payload, image[:decoded]):
            return Top(image, rows)
    return Top(decode(payload, limits), size.height)


def decode_rest(payload: Payload, image: Image) -> None:
    """Decode the picture that `decode_top` stopped in, once more, in its place and whole. Raises BadFrame."""
    assert isinstance(payload, bytes), "only a JPEG is stopped"
    _decode_jpeg(payload, image)


def picture_size(payload: Payload, limits: Limits) -> Size:
    """The picture's size by its header, without decoding. Raises FrameTooLarge over the limits, BadFrame for no picture."""
    length = size_of(payload)
    if length > limits.max_frame_bytes:
        raise FrameTooLarge(f"frame of {length} bytes is over max_frame_bytes {limits.max_frame_bytes}")
    if length == 0:
        raise BadFrame("frame has no bytes")
    size = _raw_size(payload) if isinstance(payload, RawImage) else encoded_size(payload)
    if size.width * size.height > limits.max_frame_pixels:
        raise FrameTooLarge(f"frame of {size.width}x{size.height} is over max_frame_pixels {limits.max_frame_pixels}")
    if min(size) < MIN_SIDE:
        raise BadFrame(f"frame of {size.width}x{size.height} is below {MIN_SIDE}x{MIN_SIDE}")
    return size


def _raw_size(raw: RawImage) -> Size:
    if raw.pixel_format not in list(PixelFormat):
        raise BadFrame(f"pixel format {raw.pixel_format} is none of {', '.join(known.name for known in PixelFormat)}")
    return Size(raw.width, raw.height)


def _raw_bytes(raw: RawImage) -> int:
    match raw.pixel_format:
        case PixelFormat.NV12:
            return raw.width * raw.height * 3 // 2
        case PixelFormat.GRAY8:
            return raw.width * raw.height
        case _:
            return raw.width * raw.height * 3


def _decode_raw(raw: RawImage) -> Image:
    name = f"{PixelFormat(raw.pixel_format).name} image of {raw.width}x{raw.height}"
    if raw.pixel_format == PixelFormat.NV12 and (raw.width % 2 or raw.height % 2):
        raise BadFrame(f"{name} needs an even width and height")
    if len(raw.data) != _raw_bytes(raw):
        raise BadFrame(f"{name} needs {_raw_bytes(raw)} bytes, not {len(raw.data)}")
    pixels = np.frombuffer(raw.data, np.uint8)
    match raw.pixel_format:
        case PixelFormat.NV12:
            return _convert(pixels.reshape(raw.height * 3 // 2, raw.width), cv2.COLOR_YUV2RGB_NV12)
        case PixelFormat.GRAY8:
            return _convert(pixels.reshape(raw.height, raw.width), cv2.COLOR_GRAY2RGB)
        case PixelFormat.BGR24:
            return _convert(pixels.reshape(raw.height, raw.width, 3), cv2.COLOR_BGR2RGB)
        case _:
            return pixels.reshape(raw.height, raw.width, 3)


def _convert(pixels: Image, code: int) -> Image:
    return cv2.cvtColor(pixels, code).astype(np.uint8, copy=False)


def _decode_jpeg(data: bytes, into: Image | None = None, *, strict: bool = True) -> Image:
    check_scans(data)
    try:
        image: Image = simplejpeg.decode_jpeg(data, "RGB", buffer=into, strict=strict)
    except JPEG_ERRORS as error:
        is_whole = data.rfind(_END_OF_IMAGE) > data.rfind(START_OF_SCAN)
        if strict and is_whole and any(words in str(error) for words in _HARMLESS):
            return _decode_jpeg(data, into, strict=False)
        raise BadFrame(f"JPEG cannot be decoded: {error}") from error
    return image


def _decode_rows(data: bytes, into: Image) -> bool:
    """The first rows of a whole JPEG into `into`; whether that went well."""
    scan = single_scan(data)
    if scan is None or data.rfind(_END_OF_IMAGE) < scan.scan_at:
        return False
    try:
        simplejpeg.decode_jpeg(with_height(data, scan, len(into)), "RGB", buffer=into)
    except JPEG_ERRORS as error:
        return _STOPPED in str(error)
    return True


def _decode_other(data: bytes) -> Image:
    if data.startswith(PNG):
        check_chunks(data)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise BadFrame(f"picture cannot be decoded: {error.err}") from error
    if image is None:
        raise BadFrame("picture cannot be decoded: truncated or corrupt")
    return image.astype(np.uint8, copy=False)
