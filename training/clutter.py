"""Things that make a search region hard: look-alikes beside the target and objects in front of it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from model.geometry import Box
from training.shards import Image, Record, Shards
from training.view import Layer, View, center_of, moved_box, place, side_of, turn


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


class Clutter:
    """Adds distractors and occluders to a view: cut-out objects, and small pictures as plain rectangles."""

    def __init__(
        self, cut: Callable[[Record], Cutout], masked: Sequence[Record], shards: Shards, patches: Sequence[Record]
    ) -> None:
        self._cut, self._masked, self._shards, self._patches = cut, masked, shards, patches

    def around(self, view: View, rng: np.random.Generator, likely: float) -> View:
        """The view with up to two distractors near its target and an occluder, each with probability `likely`, halved for the last."""
        layers = view.layers
        for _ in range(2):
            if rng.random() < likely:
                layers = (*layers, self._distractor(view.box, rng))
        if rng.random() < 0.5 * likely:
            layers = (*layers, self._occluder(view.box, rng))
        return View(layers, view.box)

    def _distractor(self, target: Box, rng: np.random.Generator) -> Layer:
        thing = self._thing(rng)
        side = side_of(target) * float(np.exp(rng.normal(0.0, 0.3)))
        angle = rng.uniform(0.0, 2.0 * np.pi)
        # an ellipse on which boxes of both sizes just touch, and up to 1.5 target sides further out
        reach = 0.5 * (np.array([target.width, target.height]) + side) + side_of(target) * rng.uniform(0.0, 1.5)
        offset = reach * np.array([np.cos(angle), np.sin(angle)])
        at = (center_of(target)[0] + float(offset[0]), center_of(target)[1] + float(offset[1]))
        return thing.placed(at, side, rng, flip=bool(rng.random() < 0.5))[0]

    def _occluder(self, target: Box, rng: np.random.Generator) -> Layer:
        side = side_of(target) * rng.uniform(0.3, 0.7)
        x, y = center_of(target)
        at = (x + target.width * rng.uniform(-0.5, 0.5), y + target.height * rng.uniform(-0.5, 0.5))
        return self._thing(rng).placed(at, side, rng, flip=bool(rng.random() < 0.5))[0]

    def _thing(self, rng: np.random.Generator) -> Cutout:
        if self._masked and (not self._patches or rng.random() < 0.6):
            return self._cut(self._masked[int(rng.integers(len(self._masked)))])
        record = self._patches[int(rng.integers(len(self._patches)))]
        image = self._shards.image(record)
        box = record.boxes[0] if side_of(record.boxes[0]) >= 16.0 else Box(0.0, 0.0, record.width, record.height)
        return Cutout(image, _rectangle(image, box), box)


def _rectangle(image: Image, box: Box) -> Image:
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[int(box.y) : int(box.y + box.height), int(box.x) : int(box.x + box.width)] = 255
    return mask
