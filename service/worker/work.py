"""What a step of the device is given and what it gives back. Plain values, so that whoever handles them needs no torch."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from model.config import MAX_ONLINE_TEMPLATES, ModelConfig
from model.geometry import CropBox
from service.messages import Hello, TrackItem


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
    """The device could not run this item, alone either. `is_for_memory`: it may, where slots are given back."""

    message: str
    is_for_memory: bool = False


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


class Step(Protocol):
    """A batch that the device has been asked for."""

    def result(self) -> StepResult:
        """Waits for the device. Raises RuntimeError where it is lost."""


class DeviceRunner(Protocol):
    """What the worker needs of whatever runs its batches: the network (`runner.py`), or a stand-in for it (`simulated.py`).

    `steps_under_way`: steps that may be asked for before the first of them is waited for.
    """

    slots: int
    max_batch: int
    steps_under_way: int

    def hello(self) -> Hello:
        """What a front needs to know of this worker."""

    def fault(self, item: TrackItem) -> str | None:
        """What is wrong with an item's crops, in words; None where they fit."""

    def ping(self) -> None:
        """One round trip to the device. Raises RuntimeError where it is lost."""

    def start(self, works: Sequence[Work]) -> Step:
        """Ask the device for one step. The device takes steps in their order. Raises RuntimeError where it is lost."""

    def shrink(self) -> bool:
        """Give half of the slots back to the device, and forget all memories. Whether there was anything to give."""


def crop_fault(item: TrackItem, config: ModelConfig) -> str | None:
    """What is wrong with an item's crops, in words; None where they fit the network."""
    search, template = 3 * config.search_size**2, 3 * config.template_size**2
    if len(item.search) != search:
        return f"search crop of {len(item.search)} bytes, {config.name} needs {search}"
    if any(len(crop) != template for crop in item.templates):
        return f"template crops of {[len(crop) for crop in item.templates]} bytes, {config.name} needs {template}"
    if item.templates and not 2 <= len(item.templates) <= 1 + MAX_ONLINE_TEMPLATES:
        return f"{len(item.templates) - 1} online templates, outside 1 to {MAX_ONLINE_TEMPLATES}"
    return None
