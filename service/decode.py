"""Bytes of a frame -> uint8 RGB [H, W, 3]. One decoder for the service and the command line.

The size is read from the header by a few exact lines per format, not by an image library: limits must be checked before
anything of the picture's size is allocated, and Pillow's lazy open already builds the canvas of a WebP.
JPEG goes through libjpeg-turbo directly (simplejpeg: half of OpenCV's time) and strictly, since a decoder that fills the
missing half of a truncated frame with grey would have the tracker learn it. PNG and WebP go through OpenCV, which refuses
truncated ones. Orientation tags are ignored: boxes are in the pixels as sent.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg

from model.crop import Image
from service.config import Limits
from service.errors import BadFrame, FrameTooLarge

# Clipping keeps at least 10 pixels of every box inside the frame (model/geometry.py).
MIN_SIDE = 10
# A progressive JPEG needs about ten; with thousands a few MB keep a thread busy for minutes.
MAX_JPEG_SCANS = 100
_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
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


class Size(NamedTuple):
    """Pixels across and down."""

    width: int
    height: int


def decode(payload: Payload, limits: Limits) -> Image:
    """The picture as uint8 RGB [H, W, 3]. Raises FrameTooLarge over the limits, BadFrame where it is no whole picture."""
    size = picture_size(payload, limits)
    if isinstance(payload, RawImage):
        return _decode_raw(payload)
    image = _decode_jpeg(payload) if payload.startswith(_JPEG) else _decode_other(payload)
    if image.shape != (size.height, size.width, 3):
        raise BadFrame(f"header says {size.width}x{size.height}, the picture is {image.shape[1]}x{image.shape[0]}")
    return image


def picture_size(payload: Payload, limits: Limits) -> Size:
    """The picture's size by its header, without decoding. Raises FrameTooLarge over the limits, BadFrame for no picture."""
    length = len(payload.data if isinstance(payload, RawImage) else payload)
    if length > limits.max_frame_bytes:
        raise FrameTooLarge(f"frame of {length} bytes is over max_frame_bytes {limits.max_frame_bytes}")
    if length == 0:
        raise BadFrame("frame has no bytes")
    size = _raw_size(payload) if isinstance(payload, RawImage) else _encoded_size(payload)
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


def _decode_jpeg(data: bytes, *, strict: bool = True) -> Image:
    try:
        image: Image = simplejpeg.decode_jpeg(data, "RGB", strict=strict)
    except ValueError as error:
        is_whole = data.rfind(_END_OF_IMAGE) > data.rfind(_START_OF_SCAN)
        if strict and is_whole and any(words in str(error) for words in _HARMLESS):
            return _decode_jpeg(data, strict=False)
        raise BadFrame(f"JPEG cannot be decoded: {error}") from error
    return image


def _decode_other(data: bytes) -> Image:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise BadFrame(f"picture cannot be decoded: {error.err}") from error
    if image is None:
        raise BadFrame("picture cannot be decoded: truncated or corrupt")
    return image.astype(np.uint8, copy=False)


def _jpeg_size(data: bytes) -> Size:
    if data.count(_START_OF_SCAN) > MAX_JPEG_SCANS:
        raise BadFrame(f"JPEG of more than {MAX_JPEG_SCANS} scans")
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except ValueError as error:
        raise BadFrame(f"JPEG header cannot be read: {error}") from error
    return Size(int(width), int(height))


def _png_size(data: bytes) -> Size:
    if data[12:16] != b"IHDR" or len(data) < 24:
        raise BadFrame("PNG header cannot be read")
    return Size(int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"))


def _webp_size(data: bytes) -> Size:
    """The three forms of https://developers.google.com/speed/webp/docs/riff_container: lossy, lossless, extended."""
    form = data[12:16]
    if len(data) < 30 or form not in (b"VP8 ", b"VP8L", b"VP8X"):
        raise BadFrame("WebP header cannot be read")
    if form == b"VP8X":
        return Size(1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little"))
    if form == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return Size(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    return Size(int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF)


_JPEG = b"\xff\xd8\xff"
_SIZES: tuple[tuple[bytes, Callable[[bytes], Size]], ...] = ((_JPEG, _jpeg_size), (b"\x89PNG\r\n\x1a\n", _png_size))


def _encoded_size(data: bytes) -> Size:
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp_size(data)
    for magic, size in _SIZES:
        if data.startswith(magic):
            return size(data)
    raise BadFrame(f"{len(data)} bytes are no JPEG, PNG or WebP")
