"""Boxes drawn for this project on photos whose data set has none: people, animals and things of several hundred kinds."""

import json
from pathlib import Path
from typing import NamedTuple

from model.geometry import Box

FILE = Path(__file__).with_name("drawn.jsonl")


class Drawn(NamedTuple):
    """What is drawn on one picture of `width` x `height` pixels: boxes of one kind of thing, x, y, w, h in its pixels."""

    width: int
    height: int
    kind: str
    boxes: tuple[Box, ...]


def read_drawn(path: Path = FILE) -> dict[tuple[str, str], Drawn]:
    """All that is drawn, by shard and picture. Raises ValueError with the line that is none, or whose box leaves its picture."""
    drawn = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            entry = json.loads(line)
            shard, image = entry["image"].split("/")
            width, height = entry["size"]
            boxes = tuple(Box(*box) for box in entry["boxes"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path.name}, line {number}: {error!r} in {line[:80]!r}") from error
        for box in boxes:
            if not (0 <= box.x < box.x + box.width <= width and 0 <= box.y < box.y + box.height <= height):
                raise ValueError(f"{path.name}, line {number}: {tuple(box)} does not lie in {width}x{height}")
        drawn[shard, image] = Drawn(width, height, entry["kind"], boxes)
    return drawn
