"""Passes of the network that may still be under way on the device, and a step that is made of them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from model.geometry import CropBox
from service.worker.marks import Marks
from service.worker.work import Found, Refused, StepResult, StepTimes


class EncodePass(NamedTuple):
    """So many template memories made."""

    size: int
    marks: Marks


@dataclass(frozen=True)
class TrackPass:
    """So many targets tracked, and so many places with padding. `boxes` [B, 4] and `scores` [B] are in main memory, and there once
    the marks have come.
    """

    size: int
    padded_size: int
    boxes: Tensor
    scores: Tensor | None
    marks: Marks

    @cached_property
    def found(self) -> list[Found]:
        """An answer for every target. Waits for the device."""
        seconds = self.marks.seconds()
        backbone = sum(seconds.values()) - seconds["head"]
        scores: list[float | None] = [None] * self.size if self.scores is None else self.scores.tolist()
        boxes: list[list[float]] = self.boxes.tolist()[: self.size]
        return [Found(CropBox(*box), score, backbone, self.size) for box, score in zip(boxes, scores, strict=False)]


class Place(NamedTuple):
    """Where in which pass a target's answer will be."""

    within: TrackPass
    row: int


@dataclass(frozen=True)
class RunningStep:
    """A step that the device has been asked for: a place or a refusal for every item, and the slots that could not be written."""

    places: Sequence[Place | Refused]
    unwritten: frozenset[int]
    encodes: Sequence[EncodePass]
    tracks: Sequence[TrackPass]

    def result(self) -> StepResult:
        """Waits for the device. Raises RuntimeError where it is lost."""
        outcomes = tuple(each if isinstance(each, Refused) else each.within.found[each.row] for each in self.places)
        return StepResult(outcomes, self.unwritten, self._times())

    def _times(self) -> StepTimes:
        """What the passes took together."""
        marks: defaultdict[str, float] = defaultdict(float)
        for each in self.tracks:
            for name, seconds in each.marks.seconds().items():
                marks[name] += seconds
        head = marks.pop("head", 0.0)
        stages = {name: seconds for name, seconds in marks.items() if name != "backbone"} | {"all": sum(marks.values())}
        return StepTimes(
            padded_size=sum(each.padded_size for each in self.tracks), stage_seconds=stages, head_seconds=head,
            encoded=sum(each.size for each in self.encodes),
            encode_seconds=sum(each.marks.seconds()["encode"] for each in self.encodes),
        )  # fmt: skip
