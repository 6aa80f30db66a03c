"""Boxes, scores and statuses drawn into a frame."""

from collections.abc import Iterable

import cv2

from model.crop import Image
from service.commands.results import TargetRecord

# RGB. A variant without a score head has no status and is drawn like a tracked target.
COLORS = {"TRACKED": (60, 220, 60), "UNSPECIFIED": (60, 220, 60), "UNCERTAIN": (255, 170, 0), "LOST": (255, 50, 50)}


BLACK = (0, 0, 0)
FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_targets(image: Image, targets: Iterable[TargetRecord]) -> Image:
    """A copy of the frame, uint8 RGB [H, W, 3], with each target's box, id, score and status."""
    drawn = image.copy()
    for target in targets:
        _draw_box(drawn, target)
        _draw_label(drawn, target)
    return drawn


def _draw_box(image: Image, target: TargetRecord) -> None:
    box = target.box
    corners = (round(box.x), round(box.y)), (round(box.x + box.width), round(box.y + box.height))
    cv2.rectangle(image, *corners, COLORS[target.status], max(1, round(image.shape[0] / 240)))


def _draw_label(image: Image, target: TargetRecord) -> None:
    """On a plate of the status's color, above the box where there is room, else inside."""
    score = None if target.score is None else f"{target.score:.2f}"
    status = None if target.status == "UNSPECIFIED" else target.status
    label = " ".join(filter(None, (target.target_id, score, status)))
    size = image.shape[0] / 900
    thickness = max(1, round(image.shape[0] / 480))
    (width, height), descent = cv2.getTextSize(label, FONT, size, thickness)
    left, bottom = max(0, round(target.box.x)), max(height + descent, round(target.box.y))
    cv2.rectangle(image, (left, bottom - height - descent), (left + width, bottom), COLORS[target.status], cv2.FILLED)
    cv2.putText(image, label, (left, bottom - descent), FONT, size, BLACK, thickness, cv2.LINE_AA)
