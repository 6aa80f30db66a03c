"""Crops and clipping against the recorded ones, and what the original gets wrong."""

import json

import cv2
import numpy as np
import pytest

from benchmarks.recorded import FOLDER, arrays
from model.crop import LARGEST_PADDED_SIDE, LARGEST_SIDE, cut
from model.geometry import Box, CropWindow, clip, crop_window, meets_frame

CROPS = json.loads((FOLDER / "mixcvt_online.meta.json").read_text())["crop"]
RECORDED = [crop for crop in CROPS if "resize_factor" in crop]


def crop_name(crop: dict[str, object]) -> str:
    return f"crop_{crop['i']}_{crop['kind']}"


def inside(crop: dict[str, object]) -> bool:
    image = arrays("mixcvt_online")["crop_image"]
    return meets_frame(crop_window(Box(*crop["box"]), crop["factor"]), image.shape[1], image.shape[0])  # type: ignore[arg-type,misc]


@pytest.mark.parametrize("crop", [crop for crop in RECORDED if inside(crop)], ids=crop_name)
def test_crop_equals_the_recorded_one(crop: dict[str, object]) -> None:
    window = crop_window(Box(*crop["box"]), crop["factor"])  # type: ignore[arg-type,misc]
    ours = cut(arrays("mixcvt_online")["crop_image"], window, crop["size"])  # type: ignore[arg-type]
    recorded = arrays("mixcvt_online")[crop_name(crop)]
    assert np.abs(ours.astype(int) - recorded).max() <= 1  # OpenCV versions may round differently
    assert crop["size"] / window.side == pytest.approx(crop["resize_factor"])  # type: ignore[operator]


@pytest.mark.parametrize("crop", [crop for crop in RECORDED if not inside(crop)], ids=crop_name)
def test_window_beside_the_frame_is_an_error(crop: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"misses the frame of 181x123"):
        cut(arrays("mixcvt_online")["crop_image"], crop_window(Box(*crop["box"]), crop["factor"]), 128)  # type: ignore[arg-type,misc]


def test_clipping_equals_the_recorded_one() -> None:
    recording = arrays("mixcvt_online")
    ours = [clip(Box(*box), 181, 123) for box in recording["clip_in_xywh"]]
    assert np.array_equal(np.array(ours), recording["clip_out_H123_W181_m10"])


def test_window_that_shares_only_the_lost_column_is_black() -> None:
    image = np.full((50, 60, 3), 200, np.uint8)
    assert cut(image, CropWindow(59, 10, 20), 16).max() == 0


@pytest.mark.parametrize(
    "window",
    [
        CropWindow(-20, 10, 40), CropWindow(40, 30, 40), CropWindow(-9, -9, 80), CropWindow(58, 48, 30), CropWindow(-30, 5, 45),
        CropWindow(-1000, -700, 2001), CropWindow(-2000, -2000, LARGEST_PADDED_SIDE),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [64, 112, 288])
def test_window_beyond_the_frame_equals_a_padded_copy_to_the_byte(window: CropWindow, size: int) -> None:
    image = np.random.default_rng(0).integers(0, 255, (50, 60, 3), dtype=np.uint8)
    # The original's way, with its quirk: the last column and row are lost to a border at the right and at the bottom.
    right, bottom = max(0, window.left + window.side - 59), max(0, window.top + window.side - 49)
    left, top = max(0, -window.left), max(0, -window.top)
    seen = image[
        max(0, window.top) : window.top + window.side - bottom, max(0, window.left) : window.left + window.side - right
    ]
    padded = cv2.copyMakeBorder(seen, top, bottom, left, right, cv2.BORDER_CONSTANT)
    assert np.array_equal(cut(image, window, size), cv2.resize(padded, (size, size)))


def test_huge_window_is_sampled_like_a_padded_one() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    image = np.kron(noise, np.ones((60, 60, 1), np.uint8))  # 3000 x 2400
    window = CropWindow(-600, -900, LARGEST_PADDED_SIDE + 4)
    smaller = cut(image, CropWindow(-600, -900, LARGEST_PADDED_SIDE), 256)
    ours = cut(image, window, 256)
    assert np.median(np.abs(ours.astype(int) - smaller)) <= 2


def test_absurd_window_is_an_error() -> None:
    with pytest.raises(ValueError, match=str(LARGEST_SIDE)):
        cut(np.zeros((10, 10, 3), np.uint8), CropWindow(-5, -5, LARGEST_SIDE + 1), 64)


@pytest.mark.parametrize(
    "box",
    [
        Box(1, 1, 0, 5), Box(1, 1, 5, -1), Box(float("nan"), 1, 5, 5), Box(1, 1, float("inf"), 5), Box(1, 1, 1e200, 1e200),
        Box(1.7e308, 1, 1.7e308, 0.1),
    ],
)  # fmt: skip
def test_box_without_area_or_not_finite_gives_no_window(box: Box) -> None:
    with pytest.raises(ValueError, match="box"):
        crop_window(box, 2.0)
