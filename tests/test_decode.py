"""Decoding: every format to the same pixels, limits before pixels, and an error of ours for every bad byte."""

import io
import zlib
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, jpeg_claiming, scene
from PIL import Image as Pillow

from model.crop import Image
from service.config import Limits
from service.decode import PixelFormat, RawImage, decode, decode_top, picture_size
from service.errors import BadFrame, FrameTooLarge
from service.headers import MAX_JPEG_SCANS, MAX_PNG_CHUNKS, MAX_PNG_COMPRESSED_TEXTS

LIMITS = Limits()
PROGRESSIVE = encoded(scene(), ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
WEBP_LOSSLESS = (cv2.IMWRITE_WEBP_QUALITY, 101)


def pillow_bytes(image: Pillow.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_lossless_formats_give_the_very_pixels() -> None:
    for data in (encoded(scene(), ".png"), encoded(scene(), ".webp", *WEBP_LOSSLESS)):
        np.testing.assert_array_equal(decode(data, LIMITS), scene())


@pytest.mark.parametrize("extension", [".jpg", ".webp"])
def test_lossy_formats_give_rgb_near_the_original(extension: str) -> None:
    image = decode(encoded(scene(), extension), LIMITS)
    assert image.dtype == np.uint8 and image.shape == scene().shape
    assert np.abs(image.astype(int) - scene()).mean() < 6


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colour_spaces_of_jpeg_become_rgb(mode: str) -> None:
    picture = Pillow.fromarray(scene()).convert(mode)
    image = decode(pillow_bytes(picture, "JPEG", quality=95), LIMITS)
    assert np.abs(image.astype(int) - np.asarray(picture.convert("RGB"))).mean() < 3


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "I;16"])
def test_other_colour_spaces_of_png_become_rgb(mode: str) -> None:
    grey = scene()[..., 0]
    picture = Pillow.fromarray(grey.astype(np.uint16) * 256) if mode == "I;16" else Pillow.fromarray(scene()).convert(mode)
    assert decode(pillow_bytes(picture, "PNG"), LIMITS).shape == scene().shape


def test_progressive_jpeg_is_decoded() -> None:
    data = pillow_bytes(Pillow.fromarray(scene()), "JPEG", progressive=True)
    assert decode(data, LIMITS).shape == scene().shape


def test_orientation_tags_are_ignored() -> None:
    tags = Pillow.Exif()
    tags[0x112] = 6
    for kind in ("JPEG", "PNG", "WEBP"):
        assert decode(pillow_bytes(Pillow.fromarray(scene()), kind, exif=tags), LIMITS).shape == scene().shape


def raw(image: Image, pixel_format: PixelFormat) -> RawImage:
    pixels = {  # type: ignore[no-untyped-call]
        PixelFormat.RGB24: lambda: image,
        PixelFormat.BGR24: lambda: image[..., ::-1],
        PixelFormat.GRAY8: lambda: image[..., 0],
        PixelFormat.NV12: lambda: nv12(image),
    }[pixel_format]()
    return RawImage(pixels.tobytes(), image.shape[1], image.shape[0], pixel_format)


def nv12(image: Image) -> Image:
    planes = cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420).reshape(-1)
    height, width = image.shape[:2]
    luma, chroma = planes[: height * width], planes[height * width :].reshape(2, -1)
    return np.concatenate([luma, chroma.T.reshape(-1)])


def test_raw_rgb_and_bgr_give_the_very_pixels() -> None:
    for pixel_format in (PixelFormat.RGB24, PixelFormat.BGR24):
        np.testing.assert_array_equal(decode(raw(scene(), pixel_format), LIMITS), scene())


def test_raw_gray_is_repeated() -> None:
    image = decode(raw(scene(), PixelFormat.GRAY8), LIMITS)
    np.testing.assert_array_equal(image, np.repeat(scene()[..., :1], 3, axis=2))


def test_raw_nv12_keeps_the_colours() -> None:
    flat = np.broadcast_to(np.array([200, 60, 30], np.uint8), (48, 64, 3)).copy()
    image = decode(raw(flat, PixelFormat.NV12), LIMITS)
    assert np.abs(image.astype(int) - flat).max() <= 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 321}, "RGB24 image of 321x240 needs 231120 bytes, not 230400"),
        ({"height": 0}, "320x0"),
        ({"width": 0}, "0x240"),
        ({"data": b""}, "no bytes"),
        ({"pixel_format": 0}, "pixel format 0"),
        ({"pixel_format": 99}, "pixel format 99"),
        ({"pixel_format": PixelFormat.NV12, "width": 319}, "even"),
    ],
)
def test_a_raw_image_that_does_not_add_up_is_refused_with_its_numbers(change: dict[str, object], words: str) -> None:
    with pytest.raises(BadFrame, match=words):
        decode(replace(raw(scene(), PixelFormat.RGB24), **change), LIMITS)  # type: ignore[arg-type]


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_truncated_pictures_are_refused(extension: str, share: float) -> None:
    data = encoded(scene(), extension)
    with pytest.raises(BadFrame):
        decode(data[: int(share * len(data))], LIMITS)


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"GIF89a" + bytes(99)]
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(BadFrame):
        decode(data, LIMITS)


def test_harmless_faults_of_camera_jpegs_are_forgiven() -> None:
    data = encoded(scene())
    end = data.rindex(b"\xff\xd9")
    image = decode(data[:end] + b"\x12\x34" + data[end:], LIMITS)
    np.testing.assert_array_equal(image, decode(data, LIMITS))


def test_a_harmless_fault_does_not_excuse_a_truncated_jpeg() -> None:
    data = encoded(scene())
    scan = data.rindex(b"\xff\xda")
    with pytest.raises(BadFrame, match="extraneous"):
        decode(data[:scan] + b"\x12\x34" + data[scan : scan + 400], LIMITS)


def png_claiming(width: int, height: int) -> bytes:
    data = bytearray(encoded(scene(64, 64), ".png"))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return bytes(data)


def webp_claiming(width: int, height: int) -> bytes:
    extended = b"VP8X" + (10).to_bytes(4, "little") + bytes(4)
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + (100).to_bytes(4, "little") + b"WEBP" + extended + size + bytes(70)


@pytest.mark.parametrize("claim", [jpeg_claiming, png_claiming, webp_claiming])
def test_a_huge_header_is_refused_by_its_numbers(claim: Callable[[int, int], bytes]) -> None:
    with pytest.raises(FrameTooLarge, match="50000x50000 is over max_frame_pixels 33177600"):
        decode(claim(50000, 50000), LIMITS)


def test_a_frame_of_too_many_bytes_is_refused_by_its_numbers() -> None:
    with pytest.raises(FrameTooLarge, match="frame of 2000 bytes is over max_frame_bytes 1999"):
        decode(bytes(2000), replace(LIMITS, max_frame_bytes=1999))


def test_a_raw_image_over_the_pixel_limit_is_refused_before_its_bytes_are_counted() -> None:
    with pytest.raises(FrameTooLarge, match="100000x100000"):
        decode(RawImage(b"x", 100000, 100000, PixelFormat.RGB24), LIMITS)


def test_a_tiny_picture_is_refused() -> None:
    with pytest.raises(BadFrame, match="16x8 is below 10x10"):
        decode(encoded(scene(16, 16)[:8], ".png"), LIMITS)


def test_a_png_chunk_that_claims_gigabytes_is_refused_at_once() -> None:
    data = bytearray(encoded(scene(), ".png"))
    at = data.index(b"IDAT") - 4
    data[at : at + 4] = (2**31 - 1).to_bytes(4, "big")
    with pytest.raises(BadFrame, match="PNG is truncated"):
        decode(bytes(data), LIMITS)


def test_a_png_of_endless_chunks_is_refused_before_decoding() -> None:
    data = encoded(scene(), ".png")
    empty = bytes(4) + b"tEXt" + zlib.crc32(b"tEXt").to_bytes(4, "big")
    with pytest.raises(BadFrame, match="10000 chunks"):
        decode(data[:33] + empty * MAX_PNG_CHUNKS + data[33:], LIMITS)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_a_png_of_many_compressed_texts_is_refused_before_they_are_inflated(kind: bytes) -> None:
    data = encoded(scene(), ".png")
    head = b"key\0\0" if kind == b"zTXt" else b"key\0\1\0\0\0"
    content = kind + head + zlib.compress(bytes(1000))
    text = (len(content) - 4).to_bytes(4, "big") + content + zlib.crc32(content).to_bytes(4, "big")
    assert np.array_equal(decode(data[:33] + text * MAX_PNG_COMPRESSED_TEXTS + data[33:], LIMITS), decode(data, LIMITS))
    with pytest.raises(BadFrame, match="more than 4 compressed texts"):
        decode(data[:33] + text * (MAX_PNG_COMPRESSED_TEXTS + 1) + data[33:], LIMITS)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animations_are_refused(kind: str) -> None:
    first, second = Pillow.fromarray(scene()), Pillow.fromarray(scene(seed=1))
    with pytest.raises(BadFrame, match="animated"):
        decode(pillow_bytes(first, kind, save_all=True, append_images=[second]), LIMITS)


def test_a_jpeg_of_endless_scans_is_refused_before_decoding() -> None:
    with pytest.raises(BadFrame, match="scans"):
        decode(PROGRESSIVE + b"\xff\xda" * (MAX_JPEG_SCANS + 1), LIMITS)


def test_a_header_with_fill_bytes_does_not_hide_scans() -> None:
    # For libjpeg one segment of 0xF000 bytes; who takes the fill byte for a marker finds 0xE2F0 bytes, and a plain frame and scan.
    plain, hidden = encoded(scene()), bytearray(b"\xff\xd8\xff\xff\xe2\xf0\x00" + bytes(0xF000 - 2))
    frame, scan = plain.index(b"\xff\xc0"), plain.index(b"\xff\xda")
    shown, at = plain[frame : frame + 19] + plain[scan : scan + 14], 4 + 0xE2F0
    hidden[at : at + len(shown)] = shown
    with pytest.raises(BadFrame, match="scans"):
        decode(bytes(hidden) + PROGRESSIVE[2:] + b"\xff\xda" * (MAX_JPEG_SCANS + 1), LIMITS)


def test_a_jpeg_of_one_scan_cannot_have_another() -> None:
    data = encoded(scene())
    with pytest.raises(BadFrame):
        decode(data[:-2] + data[data.rindex(b"\xff\xda") :], LIMITS)


@pytest.mark.parametrize(("extension", "options"), [(".jpg", ()), (".png", ()), (".webp", ()), (".webp", WEBP_LOSSLESS)])
def test_sizes_are_read_from_headers(extension: str, options: tuple[int, ...]) -> None:
    assert picture_size(encoded(scene(304, 208), extension, *options), LIMITS) == (304, 208)


def test_the_size_of_an_extended_webp_is_read() -> None:
    picture = Pillow.fromarray(scene(304, 208))
    picture.putalpha(128)
    data = pillow_bytes(picture, "WEBP")
    assert data[12:16] == b"VP8X"
    assert picture_size(data, LIMITS) == (304, 208)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from([".jpg", ".png", ".webp"]),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
    share=st.floats(0.1, 1),
    rows=st.sampled_from([0, 48]),
)
def test_damaged_bytes_give_a_picture_of_the_claimed_size_or_an_error_of_ours(
    kind: str, edits: list[tuple[float, int]], share: float, rows: int
) -> None:
    data = bytearray(encoded(scene(64, 48), kind))
    for place, value in edits:
        data[int(place * len(data))] = value
    damaged = bytes(data[: int(share * len(data))])
    try:
        image = decode_top(damaged, replace(LIMITS, max_frame_pixels=1_000_000), rows).image
    except (BadFrame, FrameTooLarge):
        return
    assert (image.shape[1], image.shape[0]) == picture_size(damaged, LIMITS)
