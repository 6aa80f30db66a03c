"""Where targets come from. Each source makes three views of one target: for the template, the online template, the search."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model.crop import Image
from model.geometry import Box
from model.mixformer import Network
from training.clutter import Clutter, Things
from training.mistakes import Moments, met
from training.shards import PATCHES, Record, Shards
from training.view import Layer, View, center_of, moved_box, place, side_of, turn

SMALLEST_STILL = 8.0  # side in pixels; below it a still shows nothing that could be told apart
SMALLEST_REGION = 14.0
SMALLEST_IN_PATCH = 16.0  # side in pixels of an object in a small picture,
PATCH_MARGIN = 3.0  # and what must lie between it and the border, or the border would tell where its box ends
LARGEST_SHARE = 0.3  # of the picture's shorter side; a larger target leaves its search region mostly empty
BACKDROP_SIDES = 7.0  # sides of the target that a backdrop reaches across, at least about a search region
BACKDROP = 0.7  # share of examples whose frame lies on another picture
FLAT = 18.0  # standard deviation of grey levels under which a random region has nothing to hold on to


class Triple(NamedTuple):
    """Three views of one target, and the picture it is from: None where it is not an object, but any part of a picture."""

    template: View
    online: View
    search: View
    target: Record | None

    def stretched(self, stretch: float) -> "Triple":
        """The same target, with everything around it, `stretch` times as wide for its height."""
        template, online, search = (view.stretched(stretch) for view in self[:3])
        return Triple(template, online, search, self.target)


class Sources:
    """All pictures of one split, ready to be drawn from. `gap`: how many frames of a video may lie between two views."""

    def __init__(self, shards: Shards, records: Iterable[Record]) -> None:
        records = list(records)
        self._shards = shards
        self._videos: dict[str, list[Record]] = defaultdict(list)
        tracks: dict[str, list[Record]] = defaultdict(list)
        stills: list[tuple[Record, Box]] = []
        photos: dict[tuple[str, str], Record] = {}
        patches: list[Record] = []
        for record in records:
            if record.shard == PATCHES:
                patches.append(record)
                continue
            photos[record.shard, record.image] = record
            if record.track:
                tracks[f"{record.shard}/{record.sequence}/{record.track}"].append(record)
            elif record.sequence and record.boxes:
                self._videos[f"{record.shard}/{record.sequence}"].append(record)
            elif record.boxes:
                stills.extend((record, box) for box in record.boxes if side_of(box) >= SMALLEST_STILL)
        self._small = [(record, record.boxes[0]) for record in patches if _shows_whole(record)]
        self._boxed = _Stills(shards, [(record, box) for record, box in stills if not record.is_drawn])
        self._drawn = _Stills(shards, [(record, box) for record, box in stills if record.is_drawn])
        self._photos = list(photos.values())
        self._video = _Videos(self._videos.values())
        self._track = _Videos(tracks.values())
        self._masked = [name for name, frames in self._videos.items() if frames[0].mask]
        self._things = Things(shards, [record for record in records if not record.track])
        self._clutter = Clutter(self._things)
        self._draw: dict[str, Callable[[np.random.Generator, int], Triple]] = {
            "video": self.video, "track": self.track, "boxed": self.boxed, "drawn": self.drawn, "small": self.small, "region": self.region,
            "pasted": self.pasted,
        }  # fmt: skip

    def draw(self, source: str, rng: np.random.Generator, gap: int) -> Triple:
        """Three views from the named source: video, track, boxed, drawn, small, region or pasted."""
        return self._draw[source](rng, gap)

    def video(self, rng: np.random.Generator, gap: int) -> Triple:
        """Three frames of one video, long videos more often."""
        return self._moving(self._video.one(rng), rng, gap)

    def track(self, rng: np.random.Generator, gap: int) -> Triple:
        """The same with a target that was drawn here: heads, parts, and others than the one that the data set follows."""
        return self._moving(self._track.one(rng), rng, gap)

    def boxed(self, rng: np.random.Generator, gap: int) -> Triple:
        """One picture with a box, seen three times from slightly different places. It has no frames, so `gap` is unused."""
        del gap
        return self._still(*self._boxed.one(rng), rng)

    def drawn(self, rng: np.random.Generator, gap: int) -> Triple:
        """The same with a box that was drawn here: people, and things of many kinds. `gap` is unused."""
        del gap
        return self._still(*self._drawn.one(rng), rng)

    def small(self, rng: np.random.Generator, gap: int) -> Triple:
        """A small picture with a whole object in it, lying on a larger one: blurred, and of many classes. `gap` is unused."""
        del gap
        record, box = self._small[rng.integers(len(self._small))]
        return self._still(self._shards.image(record), box, record, rng, backdrop=1.0, clutter=0.5)

    def region(self, rng: np.random.Generator, gap: int) -> Triple:
        """Any part of any picture as the target. It has no frames, so `gap` is unused."""
        del gap
        image = self._photo(rng)
        return self._still(image, _region(image, rng), None, rng)

    def pasted(self, rng: np.random.Generator, gap: int) -> Triple:
        """An object cut out of three frames of its video; in the search, and at times in the templates, on another picture."""
        name = self._masked[rng.integers(len(self._masked))]
        *shown, search = _three(self._videos[name], rng, gap)
        template, online = (self._frame(each, rng) if rng.random() < 0.5 else self._on_photo(each, rng) for each in shown)
        return Triple(template, online, self._clutter.around(self._on_photo(search, rng), search, rng, likely=0.6), search)

    def seen(self, record: Record) -> View:
        """A frame of a video as it is."""
        return View((Layer(self._shards.image(record), np.eye(3)),), record.boxes[0])

    def moments(self, network: Network, share: float) -> Moments:
        """What the tracker meets on the videos, for this share of examples. Takes minutes."""
        return Moments(met(network, list(self._videos.values()), self._shards.image), share)

    def replaced(self, triple: Triple, rng: np.random.Generator) -> View:
        """The search view with something else, often of the target's kind, in the target's place."""
        return self._clutter.instead(triple.search, triple.target, rng)

    def another(self, triple: Triple, rng: np.random.Generator) -> View | None:
        """Another one of the target's kind in its own surroundings; None where there is none."""
        found = None if triple.target is None else self._things.like(triple.target, rng)
        if found is None:
            return None
        view = _seen(found.image, found.box, rng, strength=0.5)
        return _on_backdrop(view, self._photo(rng), rng) if rng.random() < BACKDROP else view

    def _moving(self, frames: list[Record], rng: np.random.Generator, gap: int) -> Triple:
        records = _three(frames, rng, gap)
        return self._finished([self._frame(record, rng) for record in records], records[0], rng, clutter=0.2)

    def _still(
        self, image: Image, box: Box, target: Record | None, rng: np.random.Generator, backdrop: float = BACKDROP,
        clutter: float = 0.25,
    ) -> Triple:  # fmt: skip
        return self._finished([_seen(image, box, rng, strength=1.0) for _ in range(3)], target, rng, clutter, backdrop)

    def _finished(
        self, views: list[View], target: Record | None, rng: np.random.Generator, clutter: float, backdrop: float = BACKDROP
    ) -> Triple:
        """The three views, most of them on a backdrop: the pictures here are small and their targets large, so that a search
        region reaches far beyond the frame, which it rarely does in a camera's picture. A target must not be what is not black."""
        if rng.random() < backdrop:
            photo = self._photo(rng)
            views = [_on_backdrop(view, photo, rng) for view in views]
        template, online, search = views
        return Triple(template, online, self._clutter.around(search, target, rng, likely=clutter), target)

    def _photo(self, rng: np.random.Generator) -> Image:
        return self._shards.image(self._photos[rng.integers(len(self._photos))])

    def _frame(self, record: Record, rng: np.random.Generator) -> View:
        return _seen(self._shards.image(record), record.boxes[0], rng, strength=0.5)

    def _on_photo(self, record: Record, rng: np.random.Generator) -> View:
        photo = self._photo(rng)
        height, width = photo.shape[:2]
        side = min(height, width) * float(np.exp(rng.uniform(np.log(0.07), np.log(0.22))))
        at = (width * rng.uniform(0.15, 0.85), height * rng.uniform(0.15, 0.85))
        layer, box = self._things.cutout(record).placed(at, side, rng)
        return View((Layer(photo, np.eye(3)), layer), box)


class _Videos:
    """Videos of a target each, to be drawn from."""

    def __init__(self, videos: Iterable[list[Record]]) -> None:
        self._videos = list(videos)
        self._shares = _shares([len(frames) ** 0.5 for frames in self._videos])

    def one(self, rng: np.random.Generator) -> list[Record]:
        """The frames of one, long ones more often."""
        return self._videos[rng.choice(len(self._videos), p=self._shares)]


class _Stills:
    """Boxes in pictures, to be drawn from; those that fill their picture less often, as they leave nothing to search in."""

    def __init__(self, shards: Shards, stills: list[tuple[Record, Box]]) -> None:
        self._shards = shards
        self._stills = stills
        self._shares = _shares([min(1.0, _room(record) / side_of(box)) for record, box in stills])

    def one(self, rng: np.random.Generator) -> tuple[Image, Box, Record]:
        """A picture, a box in it, and where it is from."""
        record, box = self._stills[rng.choice(len(self._stills), p=self._shares)]
        return self._shards.image(record), box, record


def _three(frames: list[Record], rng: np.random.Generator, gap: int) -> list[Record]:
    """Three frames of a video, the first and the last at most `gap` numbers apart, the second anywhere in between or equal."""
    first = frames[rng.integers(len(frames))]
    near = [record for record in frames if abs(record.frame - first.frame) <= gap]
    last = near[rng.integers(len(near))]
    low, high = sorted((first.frame, last.frame))
    if rng.random() < 0.25:  # as at the start of a track, where the online template is the template itself
        return [first, first, last]
    between = [record for record in near if low <= record.frame <= high]
    return [first, between[rng.integers(len(between))], last]


def _seen(image: Image, box: Box, rng: np.random.Generator, strength: float) -> View:
    angle = strength * float(np.clip(rng.normal(0.0, 0.12), -0.35, 0.35))
    stretch = float(np.exp(strength * rng.normal(0.0, 0.12)))
    center = center_of(box)
    placement = place(center, center, turn(angle, stretch))
    return View((Layer(image, placement),), moved_box(box, placement) if angle or stretch != 1.0 else box)


def _on_backdrop(view: View, photo: Image, rng: np.random.Generator) -> View:
    """The view in front of a picture large enough for any search region around its target."""
    height, width = photo.shape[:2]
    scale = BACKDROP_SIDES * side_of(view.box) / min(height, width) * rng.uniform(0.7, 1.3)
    placement = place((0.5 * width, 0.5 * height), center_of(view.box), scale * np.eye(2))
    return View((Layer(photo, placement), *(_cut_to_frame(layer) for layer in view.layers)), view.box)


def _cut_to_frame(layer: Layer) -> Layer:
    """The layer without what lies outside its picture, which would be drawn black."""
    return (
        layer if layer.mask is not None else Layer(layer.image, layer.placement, np.full(layer.image.shape[:2], 255, np.uint8))
    )


def _shows_whole(record: Record) -> bool:
    box = record.boxes[0]
    margin = min(box.x, box.y, record.width - box.x - box.width, record.height - box.y - box.height)
    return margin >= PATCH_MARGIN and side_of(box) >= SMALLEST_IN_PATCH


def _room(record: Record) -> float:
    return LARGEST_SHARE * min(record.width, record.height)


def _shares(weights: list[float]) -> npt.NDArray[np.float64]:
    return np.array(weights) / sum(weights)


def _region(image: Image, rng: np.random.Generator) -> Box:
    height, width = image.shape[:2]
    for _ in range(6):
        side = float(np.exp(rng.uniform(np.log(SMALLEST_REGION), np.log(LARGEST_SHARE * min(height, width)))))
        root = float(np.exp(0.5 * np.clip(rng.normal(0.0, 0.5), -1.2, 1.2)))
        box_width, box_height = min(side * root, width - 2.0), min(side / root, height - 2.0)
        box = Box(rng.uniform(0, width - box_width), rng.uniform(0, height - box_height), box_width, box_height)
        top, left = int(box.y), int(box.x)
        if image[top : int(box.y + box_height) + 1, left : int(box.x + box_width) + 1].std() > FLAT:
            break
    return box
