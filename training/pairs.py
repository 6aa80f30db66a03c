"""One training example: template crops, a search crop and the target's box in it, as the tracker would cut them."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model.config import ModelConfig
from model.crop import Image
from model.geometry import Box, CropWindow, crop_window
from training.augment import Augmentation, ColorMatrix, chain, color_matrix, light_matrix, photograph
from training.mistakes import Moment, Moments
from training.sources import Sources, Triple
from training.view import View, box_in_window, center_of, render, side_of

ATTEMPTS = 12
LEAST_INSIDE = 0.7  # share of the target's box that must lie in the search crop
LEAST_SHOWN = 0.4  # share of a search region without the target that must lie in the frame
STRETCH = 0.6  # standard deviation of the logarithm of how much wider a stretched scene is
BESIDE, REPLACED = 0.3, 0.3  # shares of the search regions without the target; the rest show another target


@dataclass(frozen=True)
class PairSettings:
    """How examples are drawn. `shares` of the sources need not sum to 1; gaps are frames, growing over the training.

    `stretched`: the share of examples whose whole scene is made wider or narrower. Of the targets that came with the data sets, one in a
    hundred is 2.5 times as high as wide, and a person who stands is three to four times.
    """

    shares: dict[str, float] = field(default_factory=lambda: {"video": 0.35, "boxed": 0.2, "region": 0.25, "pasted": 0.2})
    center_jitter: float = 3.0
    scale_jitter: float = 0.25
    first_gap: int = 10
    last_gap: int = 100
    absent: float = 0.0
    stretched: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def with_absent(self, share: float) -> "PairSettings":
        """The same, with this share of search regions that do not show the target."""
        return replace(self, absent=share)


class Example(NamedTuple):
    """`templates` uint8 [2, T, T, 3] (template, online template), `search` uint8 [S, S, 3], both RGB; `box` x1 y1 x2 y2
    in shares of the search crop (zeros where the target is not in it) and whether it is."""

    templates: Image
    search: Image
    box: npt.NDArray[np.float32]
    visible: bool


class PairSampler:
    """Example number i, always the same for the same seed and crop sizes: a resumed run sees what an unbroken one sees."""

    def __init__(
        self, sources: Sources, config: ModelConfig, settings: PairSettings, seed: int, total: int, moments: Moments | None = None
    ) -> None:  # fmt: skip
        """`total`: examples of the whole training, over which the gaps grow; `moments`: drawn in the place of some pairs."""
        self._moments = moments
        self._sources, self._config, self._settings = sources, config, settings
        self._seed, self._total = seed, total
        self._names = list(settings.shares)
        shares = np.array([settings.shares[name] for name in self._names], np.float64)
        self._shares = shares / shares.sum()

    def example(self, index: int) -> Example:
        """Example `index`, counted from the start of the training."""
        rng = np.random.default_rng((self._seed, index))
        settings = self._settings
        if self._moments is not None and rng.random() < self._moments.share:
            return self._example(*self._met(self._moments.draw(rng)), rng)
        grown = min(1.0, index / self._total)
        gap = round(settings.first_gap + grown * (settings.last_gap - settings.first_gap))
        stretch = float(np.exp(np.clip(rng.normal(0.0, STRETCH), -1.3, 1.3))) if rng.random() < settings.stretched else 1.0
        triple = self._sources.draw(self._source(rng), rng, gap).stretched(stretch)
        if rng.random() < settings.absent:
            search, box = self._absent(triple, rng, gap, stretch)
        else:
            search, box = self._search(triple.search, rng)
        return self._example([self._template(triple.template), self._template(triple.online), search], box, rng)

    def _example(self, crops: list[Image], box: npt.NDArray[np.float32], rng: np.random.Generator) -> Example:
        crops = self._photographed(crops, rng)
        if rng.random() < 0.5:
            crops = [crop[:, ::-1] for crop in crops]
            box = np.array([1.0 - box[2], box[1], 1.0 - box[0], box[3]], np.float32) if box.any() else box
        return Example(np.stack(crops[:2]), np.ascontiguousarray(crops[2]), box, bool(box.any()))

    def _met(self, moment: Moment) -> tuple[list[Image], npt.NDArray[np.float32]]:
        """The crops as the tracker had them, and where the target is in the search crop."""
        template, view = self._template(self._sources.seen(moment.template)), self._sources.seen(moment.searched)
        window = crop_window(moment.around, self._config.search_factor)
        box = np.clip(box_in_window(view.box, window), 0.0, 1.0)
        shown = box if moment.shows and _area(box) > 0.0 else np.zeros(4, np.float32)
        return [template, template, render(view, window, self._config.search_size)], shown

    def _source(self, rng: np.random.Generator) -> str:
        return self._names[rng.choice(len(self._names), p=self._shares)]

    def _template(self, view: View) -> Image:
        return render(view, crop_window(view.box, self._config.template_factor), self._config.template_size)

    def _search(self, view: View, rng: np.random.Generator) -> tuple[Image, npt.NDArray[np.float32]]:
        for _ in range(ATTEMPTS):
            window = self._window(view.box, rng)
            box = np.clip(box_in_window(view.box, window), 0.0, 1.0)
            if _area(box) * window.side**2 >= LEAST_INSIDE * view.box.width * view.box.height:
                break
        else:
            window = crop_window(view.box, self._config.search_factor)
            box = np.clip(box_in_window(view.box, window), 0.0, 1.0)
        return render(view, window, self._config.search_size), box

    def _absent(
        self, triple: Triple, rng: np.random.Generator, gap: int, stretch: float
    ) -> tuple[Image, npt.NDArray[np.float32]]:
        """A search region without the target: a place beside it, something in its place, or another target, of its kind if possible."""
        way = rng.random()
        if way < BESIDE and (empty := self._beside(triple.search, rng)) is not None:
            return empty, np.zeros(4, np.float32)
        if way > 1.0 - REPLACED:
            return self._search(self._sources.replaced(triple, rng), rng)[0], np.zeros(4, np.float32)
        shown = self._sources.another(triple, rng) if rng.random() < 0.5 else None
        shown = shown or self._sources.draw(self._source(rng), rng, gap).search
        return self._search(shown.stretched(stretch), rng)[0], np.zeros(4, np.float32)

    def _beside(self, view: View, rng: np.random.Generator) -> Image | None:
        """A search region beside the target; None where it lies mostly outside of the frame."""
        away = crop_window(_box_beside(view.box, self._config.search_factor, rng), self._config.search_factor)
        seen = render(view, away, self._config.search_size)
        return seen if seen.any(axis=2).mean() > LEAST_SHOWN else None

    def _window(self, box: Box, rng: np.random.Generator) -> CropWindow:
        """The search window around a jittered box, as in the original (`_get_jittered_box` of its data processing)."""
        settings = self._settings
        width, height = np.array([box.width, box.height]) * np.exp(rng.normal(0.0, settings.scale_jitter, 2))
        reach = np.sqrt(width * height) * settings.center_jitter
        x, y = np.array(center_of(box)) + reach * (rng.random(2) - 0.5)
        jittered = Box(float(x - 0.5 * width), float(y - 0.5 * height), float(width), float(height))
        return crop_window(jittered, self._config.search_factor)

    def _photographed(self, crops: list[Image], rng: np.random.Generator) -> list[Image]:
        augmentation = self._settings.augmentation
        joint = color_matrix(rng, augmentation.joint_color, gray=bool(rng.random() < augmentation.grayscale))
        return [photograph(crop, chain(joint, self._single(rng)), rng, augmentation) for crop in crops]

    def _single(self, rng: np.random.Generator) -> ColorMatrix:
        """How one crop's colours differ from those of the others."""
        augmentation = self._settings.augmentation
        single = color_matrix(rng, augmentation.single_color)
        return chain(single, light_matrix(rng)) if rng.random() < augmentation.light else single


def _area(box: npt.NDArray[np.float32]) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _box_beside(box: Box, factor: float, rng: np.random.Generator) -> Box:
    """A box of equal size so far away that a window of `factor` around it does not show the target."""
    angle = rng.uniform(0.0, 2.0 * np.pi)
    reach = (0.5 * factor + 0.1) * side_of(box) + 0.5 * max(box.width, box.height)
    # scaled to the square's border, not its circle: the window is a square
    direction = np.array([np.cos(angle), np.sin(angle)])
    offset = reach * direction / np.abs(direction).max()
    return Box(box.x + float(offset[0]), box.y + float(offset[1]), box.width, box.height)
