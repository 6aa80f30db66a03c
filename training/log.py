"""What a training says of itself: a JSON line every few steps, and a picture of its losses."""

import json
import time
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

LOG = "log.jsonl"
PICTURE = "losses.png"

_SIZE = (360, 900)  # height, width
_MARGIN = 50
_INK, _LINE, _PHASE = (40, 40, 40), (180, 90, 30), (205, 205, 205)  # BGR


class Log:
    """Means over the steps since the last line, as JSON lines in `folder`."""

    def __init__(self, folder: Path, phase: int) -> None:
        self._path = folder / LOG
        self._phase = phase
        self._clear()

    def add(self, figures: dict[str, float], pairs: int) -> None:
        """A step's figures, and how many pairs it took."""
        self._figures.append(figures)
        self._pairs += pairs

    def write(self, step: int) -> None:
        """Append a line for the steps since the last one, with the pairs per second."""
        means = {name: round(float(np.mean([each[name] for each in self._figures])), 4) for name in self._figures[0]}
        rate = round(self._pairs / (time.perf_counter() - self._since), 2)
        with self._path.open("a") as file:
            file.write(json.dumps({"phase": self._phase, "step": step} | means | {"pairs_per_second": rate}) + "\n")
        self._clear()

    def _clear(self) -> None:
        self._figures: list[dict[str, float]] = []
        self._pairs = 0
        self._since = time.perf_counter()


def draw_losses(folder: Path) -> None:
    """Draw the loss over the steps of all phases, from the log of `folder` into its losses.png; nothing where there is no log."""
    if not (folder / LOG).exists():
        return
    entries = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    # a resumed training logs some steps again: the last line of a step is the one that counts
    losses = {(entry["phase"], entry["step"]): entry["loss"] for entry in entries}
    keys = sorted(losses)
    values = np.array([losses[key] for key in keys])
    height, width = _SIZE
    canvas = np.full((height, width, 3), 255, np.uint8)
    x = np.linspace(_MARGIN, width - _MARGIN, max(len(keys), 2))[: len(keys)]
    y = height - _MARGIN - values / max(values.max(), 1e-6) * (height - 2 * _MARGIN)
    for place, (before, after) in zip(x[1:], pairwise(keys), strict=True):
        if before[0] != after[0]:
            cv2.line(canvas, (int(place), _MARGIN), (int(place), height - _MARGIN), _PHASE, 1)
    cv2.polylines(canvas, [np.stack([x, y], axis=1).astype(np.int32)], False, _LINE, 2, cv2.LINE_AA)
    cv2.rectangle(canvas, (_MARGIN, _MARGIN), (width - _MARGIN, height - _MARGIN), _INK, 1)
    for text, at in ((f"{values.max():.2f}", (4, _MARGIN + 5)), ("0", (30, height - _MARGIN)), (_caption(keys), (_MARGIN, 30))):
        cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, _INK, 1, cv2.LINE_AA)
    cv2.imwrite(str(folder / PICTURE), canvas)


def _caption(keys: list[tuple[int, int]]) -> str:
    phase, step = keys[-1]
    return f"loss, phase after phase; last: phase {phase}, step {step}"
