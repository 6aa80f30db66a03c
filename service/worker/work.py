"""What a step of the device is given and what it gives back. Plain values, so that whoever handles them needs no torch."""

from typing import NamedTuple

from model.geometry import CropBox


class Work(NamedTuple):
    """One item for the device. `templates` (crops, the original first) are given where the slot has still to be written."""

    slot: int
    search: bytes
    templates: tuple[bytes, ...]


class Found(NamedTuple):
    """The network's answer, finite or not, and the pass it was made in."""

    box: CropBox
    score: float | None
    backbone_seconds: float
    batch_size: int


class Refused(NamedTuple):
    """The device could not run this item, alone either."""

    message: str


class StepTimes(NamedTuple):
    """What a step took, summed over its passes; `stage_seconds` has an entry per backbone stage and `all`."""

    padded_size: int
    stage_seconds: dict[str, float]
    head_seconds: float
    encoded: int
    encode_seconds: float


class StepResult(NamedTuple):
    """An outcome for every item, in the order they came, and the slots whose memory could not be made."""

    outcomes: tuple[Found | Refused, ...]
    unwritten: frozenset[int]
    times: StepTimes
