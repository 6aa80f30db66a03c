"""Things that make a search region hard: look-alikes beside the target or in its place, and objects in front of it."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from model.crop import Image
from model.geometry import Box
from training.shards import PATCHES, Record, Shards
from training.view import Layer, View, center_of, moved_box, place, side_of, turn

LOOK_ALIKE = 0.5  # share of things that are of the target's kind, where there are any
SMALLEST_THING = 16.0  # side in pixels; smaller boxes show nothing that could be taken for a target
_DRAWS = 8  # for another one of the kind


class Cutout(NamedTuple):
    """An object and its mask: picture uint8 [H, W, 3], mask uint8 [H, W] with 255 on the object, and the box around it."""

    image: Image
    mask: Image
    box: Box

    def placed(self, at: tuple[float, float], side: float, rng: np.random.Generator, flip: bool = False) -> tuple[Layer, Box]:
        """The object as a layer centred on `at`, its box covering `side` squared pixels, slightly turned and stretched."""
        angle, stretch = float(rng.normal(0.0, 0.1)), float(np.exp(rng.normal(0.0, 0.1)))
        linear = turn(angle, stretch, side / side_of(self.box)) @ np.diag([-1.0 if flip else 1.0, 1.0])
        placement = place(center_of(self.box), at, linear)
        return Layer(self.image, placement, self.mask), moved_box(self.box, placement)


class Things:
    """All objects that can be cut out: along their mask where there is one, else as rectangles."""

    def __init__(self, shards: Shards, records: Iterable[Record]) -> None:
        self._shards = shards
        self._masked: list[Record] = []
        self._patches: list[Record] = []
        self._of_kind: dict[str, list[tuple[Record, Box]]] = defaultdict(list)
        for record in records:
            if record.mask:
                self._masked.append(record)
            elif record.shard == PATCHES:
                self._patches.append(record)
            if record.kind:
                large = [box for box in record.boxes if record.mask or side_of(box) >= SMALLEST_THING]
                self._of_kind[record.kind].extend((record, box) for box in large)

    def any(self, target: Record | None, rng: np.random.Generator) -> Cutout:
        """Anything, not the target itself as long as there is anything else."""
        if self._masked and (not self._patches or rng.random() < 0.6):
            for _ in range(_DRAWS):
                record = self._masked[int(rng.integers(len(self._masked)))]
                if target is None or record.scene != target.scene:
                    break
            return self.cutout(record)
        record = self._patches[int(rng.integers(len(self._patches)))]
        box = record.boxes[0] if side_of(record.boxes[0]) >= SMALLEST_THING else Box(0.0, 0.0, record.width, record.height)
        return self.cutout(record, box)

    def like(self, target: Record, rng: np.random.Generator) -> Cutout | None:
        """Another one of the target's kind, from another video or picture; None where there is none."""
        kind = self._of_kind.get(target.kind, [])
        for _ in range(_DRAWS if kind else 0):
            record, box = kind[int(rng.integers(len(kind)))]
            if record.scene != target.scene:
                return self.cutout(record, box)
        return None

    def cutout(self, record: Record, box: Box | None = None) -> Cutout:
        """The object of a picture, the first one where none is named."""
        image, box = self._shards.image(record), box or record.boxes[0]
        return Cutout(image, self._shards.mask(record) if record.mask else _rectangle(image, box), box)


class Clutter:
    """Adds things to a view. `target`: the picture that the view's target is from, for things of its kind."""

    def __init__(self, things: Things) -> None:
        self._things = things

    def around(self, view: View, target: Record | None, rng: np.random.Generator, likely: float) -> View:
        """The view with up to two distractors near its target and an occluder, each with probability `likely`, halved for the last."""
        layers = view.layers
        for _ in range(2):
            if rng.random() < likely:
                layers = (*layers, self._distractor(view.box, target, rng))
        if rng.random() < 0.5 * likely:
            layers = (*layers, self._occluder(view.box, target, rng))
        return View(layers, view.box)

    def instead(self, view: View, target: Record | None, rng: np.random.Generator) -> View:
        """The view with a thing where its target was, large enough to hide most of it; the box is the thing's."""
        side = side_of(view.box) * rng.uniform(1.1, 1.4)
        layer, box = self._thing(target, rng).placed(center_of(view.box), side, rng, flip=bool(rng.random() < 0.5))
        return View((*view.layers, layer), box)

    def _distractor(self, box: Box, target: Record | None, rng: np.random.Generator) -> Layer:
        side = side_of(box) * float(np.exp(rng.normal(0.0, 0.3)))
        angle = rng.uniform(0.0, 2.0 * np.pi)
        # an ellipse on which boxes of both sizes just touch, and up to 1.5 target sides further out
        reach = 0.5 * (np.array([box.width, box.height]) + side) + side_of(box) * rng.uniform(0.0, 1.5)
        offset = reach * np.array([np.cos(angle), np.sin(angle)])
        at = (center_of(box)[0] + float(offset[0]), center_of(box)[1] + float(offset[1]))
        return self._thing(target, rng).placed(at, side, rng, flip=bool(rng.random() < 0.5))[0]

    def _occluder(self, box: Box, target: Record | None, rng: np.random.Generator) -> Layer:
        side = side_of(box) * rng.uniform(0.3, 0.7)
        x, y = center_of(box)
        at = (x + box.width * rng.uniform(-0.5, 0.5), y + box.height * rng.uniform(-0.5, 0.5))
        return self._things.any(target, rng).placed(at, side, rng, flip=bool(rng.random() < 0.5))[0]

    def _thing(self, target: Record | None, rng: np.random.Generator) -> Cutout:
        like = self._things.like(target, rng) if target is not None and rng.random() < LOOK_ALIKE else None
        return like or self._things.any(target, rng)


def _rectangle(image: Image, box: Box) -> Image:
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[int(box.y) : int(box.y + box.height), int(box.x) : int(box.x + box.width)] = 255
    return mask
