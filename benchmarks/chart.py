"""Small charts, a column a quantity and a row a unit, drawn with OpenCV."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from model.crop import Image

WIDTH, HEIGHT, MARGIN = 420, 240, 56
LINE = (170, 90, 30)
_INK, _GRID = (60, 60, 60), (225, 225, 225)
_FONT = cv2.FONT_HERSHEY_SIMPLEX

Series = Sequence[tuple[str, float]]


def draw(columns: Mapping[str, Mapping[str, Series]]) -> Image:
    """One picture, uint8 BGR: for every axis a column, and in it a chart for every name with its points from left to right."""
    return np.hstack(
        [np.vstack([_chart(axis, name, points) for name, points in rows.items()]) for axis, rows in columns.items()]
    )


def _chart(axis: str, name: str, points: Series) -> Image:
    """A line from zero up, with its values written at the points."""
    image = np.full((HEIGHT, WIDTH, 3), 255, dtype=np.uint8)
    floor, top = HEIGHT - MARGIN, MARGIN
    highest = max(value for _, value in points) or 1.0
    step = (WIDTH - 2 * MARGIN) / max(1, len(points) - 1)
    places = [
        (round(MARGIN + number * step), round(floor - (floor - top) * value / highest))
        for number, (_, value) in enumerate(points)
    ]
    cv2.line(image, (MARGIN, floor), (WIDTH - MARGIN, floor), _GRID, 1)
    cv2.polylines(image, [np.array(places)], False, LINE, 2, cv2.LINE_AA)
    for (label, value), (x, y) in zip(points, places, strict=True):
        cv2.circle(image, (x, y), 3, LINE, cv2.FILLED, cv2.LINE_AA)
        _write(image, f"{value:.0f}" if value >= 100 else f"{value:.3g}", x, y - 8)
        _write(image, label, x, floor + 16)
    _write(image, f"{name} by {axis}", WIDTH // 2, 20, scale=0.5)
    return image


def _write(image: Image, text: str, x: int, y: int, scale: float = 0.38) -> None:
    """Text with its middle at x and its foot at y."""
    (width, _), _ = cv2.getTextSize(text, _FONT, scale, 1)
    cv2.putText(image, text, (x - width // 2, y), _FONT, scale, _INK, 1, cv2.LINE_AA)
