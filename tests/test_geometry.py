"""Boxes and windows: where rounding and clipping have rules of their own."""

import pytest

from model.geometry import Box, CropBox, CropWindow, clip, crop_window, meets_frame, overlap, to_frame


def test_window_is_centred_and_its_side_rounded_up() -> None:
    assert crop_window(Box(60, 40, 30, 20), 2.0) == CropWindow(left=50, top=26, side=49)


def test_corner_rounds_half_to_even() -> None:
    assert crop_window(Box(10.5, 11.5, 4, 4), 2.0)[:2] == (8, 10)  # 8.5 and 9.5


def test_predicted_box_maps_back_around_the_last_centre() -> None:
    box = to_frame(CropBox(0.5, 0.25, 0.2, 0.1), Box(100, 80, 20, 20), side=100)
    assert box == pytest.approx(Box(100, 60, 20, 10))


def test_clipping_keeps_a_margin_of_the_box_inside() -> None:
    assert clip(Box(-50, 300, 20, 20), 200, 100) == Box(0.0, 90, 10, 10)


def test_window_meets_the_frame_by_one_pixel() -> None:
    assert meets_frame(CropWindow(-9, 0, 10), 50, 50)
    assert not meets_frame(CropWindow(-10, 0, 10), 50, 50)
    assert not meets_frame(CropWindow(0, 50, 10), 50, 50)


@pytest.mark.parametrize(
    ("other", "share"), [(Box(0, 0, 10, 10), 1.0), (Box(5, 0, 10, 10), 1 / 3), (Box(10, 0, 5, 5), 0.0), (Box(2, 2, 5, 4), 0.2)]
)
def test_overlap_is_intersection_over_union(other: Box, share: float) -> None:
    assert overlap(Box(0, 0, 10, 10), other) == pytest.approx(share)
