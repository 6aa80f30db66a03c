"""What a picture's header says, before anything of the picture's size is allocated."""

import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import simplejpeg

from service.errors import BadFrame

JPEG = b"\xff\xd8\xff"
PNG = b"\x89PNG\r\n\x1a\n"
# A progressive JPEG needs about ten; with thousands a few MB keep a thread busy for minutes.
MAX_JPEG_SCANS = 100
# Cameras write about ten before the first scan.
MAX_JPEG_SEGMENTS = 100
# Of a JPEG's header: a thumbnail and a colour profile fit. libjpeg reads so much in well under a millisecond.
_SHORT_HEADER_BYTES = 128 * 1024
# Encoders write chunks of 8 KiB or more.
MAX_PNG_CHUNKS = 10_000
# Programs write EXIF, IPTC and XMP as one each. libpng inflates every one of them to 8 MB at most: 1,000 of 8 KB took 36 s.
MAX_PNG_COMPRESSED_TEXTS = 4
START_OF_SCAN = b"\xff\xda"
# simplejpeg looks unknown sampling factors up in a dict, and lets the KeyError out.
JPEG_ERRORS = (ValueError, KeyError)
_WEBP_ANIMATED = 0x02
# Of https://www.w3.org/Graphics/JPEG/itu-t81.pdf, table B.1: frames that are decoded row by row, the start of a scan, restart
# intervals (at whose markers decoders mend the picture), and what has no length: 0x00 and 0xFF, which are no markers, and some
# that are.
_SEQUENTIAL = (0xC0, 0xC1)
_SCAN = 0xDA
_RESTART_INTERVAL = 0xDD
_WITHOUT_LENGTH = (0x00, 0x01, *range(0xD0, 0xDA), 0xFF)


class Size(NamedTuple):
    """Pixels across and down."""

    width: int
    height: int


def encoded_size(data: bytes) -> Size:
    """The size of a JPEG, PNG or WebP, told apart by their first bytes. Raises BadFrame for anything else."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp_size(data)
    for magic, size in _SIZES:
        if data.startswith(magic):
            return size(data)
    raise BadFrame(f"{len(data)} bytes are no JPEG, PNG or WebP")


def has_short_header(data: bytes) -> bool:
    """Whether `encoded_size` takes no time to speak of: not for a JPEG whose header is long, or not plain enough to say.

    libjpeg goes through all of the header: 8 MiB of empty segments take it 0.3 s and more.
    """
    if not data.startswith(JPEG):
        return True
    return any(data[at + 1] == _SCAN for at in _segments(data) if at <= _SHORT_HEADER_BYTES)


class SingleScan(NamedTuple):
    """Where a JPEG that is decoded in one go, from top to bottom, keeps its height (two bytes) and its one scan begins."""

    height_at: int
    scan_at: int


def single_scan(data: bytes) -> SingleScan | None:
    """None where a JPEG is progressive, has several scans or restart intervals, or is not plain enough to say.

    Goes through the segments as libjpeg does: what it calls a single scan cannot have another one for the decoder.
    """
    frame_at = -1
    for at in _segments(data):
        if data[at + 1] == _RESTART_INTERVAL:
            return None
        if data[at + 1] == _SCAN:
            # A single scan holds as many components as the frame has.
            is_single = frame_at > 0 and data[at + 4 : at + 5] == data[frame_at + 9 : frame_at + 10]
            return SingleScan(frame_at + 5, at) if is_single else None
        if data[at + 1] in _SEQUENTIAL:
            frame_at = at
    return None


def with_height(data: bytes, scan: SingleScan, rows: int) -> bytes:
    """The same JPEG, of only its first `rows` rows: a decoder stops there and leaves the rest of the bytes alone."""
    return b"".join((data[: scan.height_at], rows.to_bytes(2, "big"), data[scan.height_at + 2 :]))


def check_scans(data: bytes) -> None:
    """Raises BadFrame where a JPEG has more scans than any camera sends. Reads all bytes: 0.4 ms for 300 KB."""
    if single_scan(data) is None and data.count(START_OF_SCAN) > MAX_JPEG_SCANS:
        raise BadFrame(f"JPEG of more than {MAX_JPEG_SCANS} scans")


def check_chunks(data: bytes) -> None:
    """Raises BadFrame where a PNG's chunks are not whole (https://www.w3.org/TR/png-3/#5Chunk-layout), more than a frame has, or it is animated."""
    view, at, texts = memoryview(data), len(PNG), 0
    for _ in range(MAX_PNG_CHUNKS):
        kind, end = bytes(view[at + 4 : at + 8]), at + 12 + int.from_bytes(view[at : at + 4], "big")
        if end > len(data):
            raise BadFrame("PNG is truncated")
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise BadFrame(f"PNG is corrupt: checksum of its chunk {kind!r}")
        if kind == b"acTL":
            raise BadFrame("PNG is animated")
        texts += kind in (b"zTXt", b"iTXt")
        if texts > MAX_PNG_COMPRESSED_TEXTS:
            raise BadFrame(f"PNG of more than {MAX_PNG_COMPRESSED_TEXTS} compressed texts")
        if kind == b"IEND":
            return
        at = end
    raise BadFrame(f"PNG of more than {MAX_PNG_CHUNKS} chunks")


def _segments(data: bytes) -> Iterator[int]:
    """Where a JPEG's segments stand, up to the first that is not plain, and at most MAX_JPEG_SEGMENTS of them."""
    at = 2
    for _ in range(MAX_JPEG_SEGMENTS):
        if data[at : at + 1] != b"\xff" or len(data) < at + 5 or data[at + 1] in _WITHOUT_LENGTH:
            return
        yield at
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def _jpeg_size(data: bytes) -> Size:
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except JPEG_ERRORS as error:
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
    if form == b"VP8X" and data[20] & _WEBP_ANIMATED:
        raise BadFrame("WebP is animated")
    if form == b"VP8X":
        return Size(1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little"))
    if form == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return Size(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    return Size(int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF)


_SIZES: tuple[tuple[bytes, Callable[[bytes], Size]], ...] = ((JPEG, _jpeg_size), (PNG, _png_size))
