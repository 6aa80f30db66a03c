"""Boxes drawn for this project on pictures whose data sets have none for them: people, heads, animals and things of several hundred kinds."""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from model.geometry import Box

FILE = Path(__file__).with_name("drawn.jsonl")
TRACKS = Path(__file__).with_name("tracks.jsonl")


class Drawn(NamedTuple):
    """What is drawn on one picture of `width` x `height` pixels: boxes of one kind of thing, x, y, w, h in its pixels.

    `track` names the target where the picture is a frame of a video in which it is followed; the box is one then, and the frame's number
    is the picture's name.
    """

    width: int
    height: int
    kind: str
    boxes: tuple[Box, ...]
    track: str = ""


AllDrawn = dict[tuple[str, str], list[Drawn]]  # by shard and picture


def read_drawn(stills: Path = FILE, tracks: Path = TRACKS) -> AllDrawn:
    """All that is drawn. Raises ValueError with the file and the line that is none, or whose box leaves its picture."""
    drawn: AllDrawn = defaultdict(list)
    _read(stills, _still, drawn)
    _read(tracks, _track, drawn)
    return dict(drawn)


def _read(path: Path, add: Callable[[dict[str, Any], AllDrawn], None], drawn: AllDrawn) -> None:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            add(json.loads(line), drawn)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path.name}, line {number}: {error!r} in {line[:80]!r}") from error


def _still(entry: dict[str, Any], drawn: AllDrawn) -> None:
    """{"image": "bsds/0006.jpg", "size": [321, 214], "kind": "person", "boxes": [[97, 93, 21, 68]]}"""
    shard, image = entry["image"].split("/")
    width, height = entry["size"]
    boxes = tuple(_inside(box, width, height) for box in entry["boxes"])
    drawn[shard, image].append(Drawn(width, height, entry["kind"], boxes))


def _track(entry: dict[str, Any], drawn: AllDrawn) -> None:
    """{"track": "head of the dog", "shard": "davis", "size": [400, 225], "kind": "animal head", "boxes": {"dog/00000.jpg": [187, 20, 41, 38]}}"""
    width, height = entry["size"]
    for image, box in entry["boxes"].items():
        inside = (_inside(box, width, height),)
        drawn[entry["shard"], image].append(Drawn(width, height, entry["kind"], inside, entry["track"]))


def _inside(values: list[float], width: int, height: int) -> Box:
    box = Box(*values)
    if not (0 <= box.x < box.x + box.width <= width and 0 <= box.y < box.y + box.height <= height):
        raise ValueError(f"{tuple(box)} does not lie in {width}x{height}")
    return box
