"""Decoding a JPEG down to a row: the rows equal those of the whole picture, and what cannot be stopped is decoded whole."""

import cv2
import numpy as np
import pytest
from pictures import encoded, scene

from service.config import Limits
from service.decode import Payload, PixelFormat, RawImage, decode, decode_rest, decode_top
from service.errors import BadFrame
from service.headers import MAX_JPEG_SEGMENTS

LIMITS = Limits()
NOISY = np.clip(scene(333, 416) + np.random.default_rng(0).integers(-40, 40, scene(333, 416).shape), 0, 255).astype(np.uint8)
SAMPLINGS = {
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:4:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "4:1:1": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
}


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_top_of_a_jpeg_is_the_top_of_the_whole(sampling: str) -> None:
    data = encoded(NOISY, ".jpg", cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[sampling])
    whole = decode(data, LIMITS)
    for rows in (1, 15, 16, 17, 100, 255):
        top = decode_top(data, LIMITS, rows)
        assert (top.rows, top.image.shape, top.image[rows + 32 :].max()) == (rows, whole.shape, 0)
        np.testing.assert_array_equal(top.image[:rows], whole[:rows])


def test_the_rest_of_a_jpeg_is_decoded_in_its_place() -> None:
    data = encoded(NOISY)
    image = decode_top(data, LIMITS, 50).image
    decode_rest(data, image)
    np.testing.assert_array_equal(image, decode(data, LIMITS))


WHOLE: dict[str, Payload] = {
    "progressive": encoded(scene(), ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restart intervals": encoded(scene(), ".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, 5),
    "PNG": encoded(scene(), ".png"),
    "WebP": encoded(scene(), ".webp"),
    "raw": RawImage(scene().tobytes(), 320, 240, PixelFormat.RGB24),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_what_cannot_be_stopped_is_decoded_whole(kind: str) -> None:
    top = decode_top(WHOLE[kind], LIMITS, 20)
    assert top.rows == 240
    np.testing.assert_array_equal(top.image, decode(WHOLE[kind], LIMITS))


def test_most_of_a_jpeg_is_decoded_whole() -> None:
    top = decode_top(encoded(scene()), LIMITS, 160)
    assert top.rows == 240


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_jpeg_that_is_truncated_below_the_top_is_refused(share: float) -> None:
    data = encoded(NOISY)
    with pytest.raises(BadFrame):
        decode_top(data[: int(share * len(data))], LIMITS, 20)


def test_a_jpeg_whose_top_is_missing_is_refused() -> None:
    data = encoded(NOISY)
    scan = data.rindex(b"\xff\xda")
    with pytest.raises(BadFrame, match="premature end"):
        decode_top(data[: scan + 500] + b"\xff\xd9", LIMITS, 100)


def test_a_header_that_leads_astray_costs_no_more_than_the_whole_picture() -> None:
    astray = b"\xff\xd8\xff\xc0\x00\x11" + encoded(scene())[2:]
    with pytest.raises(BadFrame):
        decode_top(astray, LIMITS, 20)
    padded = encoded(scene()).replace(b"\xff\xdb", b"\xff\xe1\x00\x02" * MAX_JPEG_SEGMENTS + b"\xff\xdb", 1)
    assert decode_top(padded, LIMITS, 20).rows == 240
