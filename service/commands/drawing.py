"""Boxes, scores and statuses drawn into a frame."""

from collections.abc import Iterable

import cv2

from model.crop import Image
from service.commands.results import TargetRecord

# RGB. A variant without a score head has no status and is drawn like a tracked target.
COLORS = {"TRACKED": (60, 220, 60), "UNSPECIFIED": (60, 220, 60), "UNCERTAIN": (255, 170, 0), "LOST": (255, 50, 50)}


def draw_targets(image: Image, targets: Iterable[TargetRecord]) -> Image:
    """A copy of the frame, uint8 RGB [H, W, 3], with each target's box, id, score and status."""
    drawn = image.copy()
    thickness = max(1, round(image.shape[0] / 240))
    for target in targets:
        _draw(drawn, target, thickness)
    return drawn


def _draw(image: Image, target: TargetRecord, thickness: int) -> None:
    box, color = target.box, COLORS[target.status]
    left, top = round(box.x), round(box.y)
    cv2.rectangle(image, (left, top), (round(box.x + box.width), round(box.y + box.height)), color, thickness)
    score = "" if target.score is None else f"{target.score:.2f}"
    label = " ".join(word for word in (target.target_id, score, target.status) if word and word != "UNSPECIFIED")
    size = image.shape[0] / 900
    baseline = max(round(30 * size), top - 2 * thickness)
    cv2.putText(
        image, label, (max(0, left), baseline), cv2.FONT_HERSHEY_SIMPLEX, size, color, max(1, thickness // 2), cv2.LINE_AA
    )
