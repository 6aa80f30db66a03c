"""A batch of crops to the device and predictions back, and the process that does so (`python -m service.worker.runner`).

With `device.py` and its neighbours `marks.py`, `passes.py` and `upload.py` the only room of the service that imports torch.
"""

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TypeVar

import torch
from einops import rearrange

from model.checkpoint import load_model
from model.config import ModelConfig
from model.memory import MemoryPool
from model.official import CheckpointError
from model.pooled import CalledNetwork, PooledNetwork, RecordedNetwork, cuda_recorder
from service.config import ServeSettings, SettingsError
from service.cpu import usable_cores
from service.device import choose_device, choose_dtype, choose_network
from service.messages import PROTOCOL_VERSION, Hello, TrackItem
from service.worker.heap import keep_freed_memory
from service.worker.marks import marks_of
from service.worker.passes import EncodePass, Place, RunningStep, TrackPass
from service.worker.upload import Upload
from service.worker.work import Refused, StepResult, Work, crop_fault
from service.worker.worker import serve

_CPU_POOL_BYTES = 512 * 1024 * 1024
_CUDA_POOL_SHARE = 0.25
_AUTOMATIC_SLOTS = (8, 1024)

_log = logging.getLogger(__name__)

Request = TypeVar("Request")
Result = TypeVar("Result")


class Runner:
    """The network, its memory pool and its device. Used by one thread."""

    def __init__(self, settings: ServeSettings) -> None:
        """Loads and warms up. Raises SettingsError where the settings cannot be run."""
        # One core stays with the front: on two cores, a second thread that waits passively gains the network nothing.
        torch.set_num_threads(settings.threads or max(1, (usable_cores() - 1) // len(settings.worker_devices)))
        self._device = choose_device(settings.device)
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # where events are recorded
        else:
            keep_freed_memory()
        self._dtype = choose_dtype(settings.precision, self._device, settings.backend)
        try:
            loaded = load_model(settings.weights, settings.variant or None, self._device, self._dtype)
        except CheckpointError as error:
            raise SettingsError(str(error)) from error
        threads = settings.threads or max(1, usable_cores() // len(settings.worker_devices))
        self._model = loaded.model
        self._network = choose_network(
            loaded.model, loaded.ranges, settings.precision, settings.backend, threads, settings.cache_dir
        )
        self._config = loaded.model.config
        self._update_rule = loaded.update_rule
        self._sha256 = loaded.sha256
        self.slots = settings.slots or _automatic_slots(self._config, self._device, self._dtype)
        self.max_batch = min(settings.max_batch, self.slots)
        # On a CPU a step is over when it has been asked for.
        self.steps_under_way = 2 if self._device.type == "cuda" else 1
        self._upload = Upload(self._device)
        self._record = cuda_recorder() if self._device.type == "cuda" else None
        self._make_room()
        self._fixed_sizes = _fixed_sizes(self.max_batch) if self._device.type == "cuda" else ()
        self._warm_up()

    def hello(self) -> Hello:
        """What a front needs to know of this worker."""
        config = self._config
        return Hello(
            protocol_version=PROTOCOL_VERSION, pid=os.getpid(), variant=config.name, weights_sha256=self._sha256,
            device=str(self._device), precision=str(self._network.precision).removeprefix("torch."), slots=self.slots,
            max_batch=self.max_batch, template_size=config.template_size, search_size=config.search_size,
            template_factor=config.template_factor, search_factor=config.search_factor,
            has_score_head=config.has_score_head, update_rule=asdict(self._update_rule),
        )  # fmt: skip

    def fault(self, item: TrackItem) -> str | None:
        """What is wrong with an item's crops, in words; None where they fit the network."""
        return crop_fault(item, self._config)

    def ping(self) -> None:
        """One round trip to the device. Raises RuntimeError where it is lost."""
        torch.ones(1, device=self._device).item()

    def run(self, works: Sequence[Work]) -> StepResult:
        """One step, waited for."""
        return self.start(works).result()

    @torch.inference_mode()
    def start(self, works: Sequence[Work]) -> RunningStep:
        """Encode what has to be encoded, then track everything, in as few passes as the memories allow.

        Where a pass raises, its items are run one by one, so that one bad item fails alone. Where it is for want of memory, in
        halves, and `max_batch` stays there. Raises RuntimeError where the device itself is lost.
        """
        encodes: list[EncodePass] = []
        tracks: list[TrackPass] = []
        refused = self._encode_all(works, encodes)
        places: dict[int, Place | Refused] = {
            index: refused[work.slot] for index, work in enumerate(works) if work.slot in refused
        }
        groups: defaultdict[int, list[int]] = defaultdict(list)
        for index, work in enumerate(works):
            if index not in places:
                groups[self._pool.online_count(work.slot)].append(index)
        for indices in groups.values():
            found = self._each(partial(self._track, passes=tracks), [works[index] for index in indices])
            places |= zip(indices, found, strict=True)
        return RunningStep([places[index] for index in range(len(works))], frozenset(refused), encodes, tracks)

    def shrink(self) -> bool:
        """Give half of the slots back to the device, and forget all memories. Whether there was anything to give."""
        if self.slots == 1:
            return False
        self.slots //= 2
        self.max_batch = min(self.max_batch, self.slots)
        del self._tracking, self._pool  # first, or there is no room for the smaller one
        self._make_room()
        _log.warning("out of memory: %d slots are left", self.slots)
        return True

    def _make_room(self) -> None:
        self._pool = _pool(self._config, self.slots, self._device, self._dtype)
        self._tracking: PooledNetwork = CalledNetwork(self._network, self._pool)
        if self._record is not None:
            self._tracking = RecordedNetwork(self._model, self._pool, self._record)

    def _encode_all(self, works: Sequence[Work], passes: list[EncodePass]) -> dict[int, Refused]:
        """Write the memories that are new. Gives the slots that could not be written, with the reason."""
        fresh = {work.slot: work for work in works if work.templates}
        groups: defaultdict[int, list[Work]] = defaultdict(list)
        for work in fresh.values():
            groups[len(work.templates)].append(work)
        refused: dict[int, Refused] = {}
        for group in groups.values():
            outcomes = self._each(partial(self._encode, passes=passes), group)
            refused |= {work.slot: each for work, each in zip(group, outcomes, strict=True) if isinstance(each, Refused)}
        return refused

    def _each(
        self, run: Callable[[Sequence[Request]], Sequence[Result]], requests: Sequence[Request]
    ) -> list[Result | Refused]:
        try:
            return list(run(requests))
        except (RuntimeError, ValueError, MemoryError) as error:  # of these items alone, as long as the device still answers
            _log.warning("a pass of %d failed: %r", len(requests), error)
            is_for_memory = _is_out_of_memory(error)
            refused = Refused(f"{type(error).__name__}: {error}", is_for_memory)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self.ping()
        if len(requests) == 1:
            return [refused]
        size = 1
        if is_for_memory:
            size = len(requests) // 2
            self.max_batch = min(self.max_batch, size)
        parts = (requests[start : start + size] for start in range(0, len(requests), size))
        return [outcome for part in parts for outcome in self._each(run, part)]

    def _encode(self, works: Sequence[Work], passes: list[EncodePass]) -> Sequence[None]:
        marks = marks_of(self._device)
        crops = self._upload([crop for work in works for crop in work.templates], self._config.template_size)
        memory = self._network.encode(rearrange(crops, "(b k) h w c -> b k h w c", b=len(works)))
        self._pool.write([work.slot for work in works], memory)
        marks("encode")
        marks.end()
        passes.append(EncodePass(len(works), marks))
        return [None] * len(works)

    def _track(self, works: Sequence[Work], passes: list[TrackPass]) -> Sequence[Place]:
        padded = self._pad(works)
        crops = self._upload([work.search for work in padded], self._config.search_size)
        marks = marks_of(self._device)
        boxes, scores = self._tracking.track(crops, [work.slot for work in padded], marks)
        # Not waited for: they go to pinned memory, in their turn.
        host_boxes = boxes.to("cpu", non_blocking=True)
        host_scores = None if scores is None else scores.to("cpu", non_blocking=True)
        marks.end()
        passes.append(TrackPass(len(works), len(padded), host_boxes, host_scores, marks))
        return [Place(passes[-1], row) for row in range(len(works))]

    def _pad(self, works: Sequence[Work]) -> list[Work]:
        """The batch in one of the fixed sizes of the device, filled up with its last item."""
        size = next((size for size in self._fixed_sizes if size >= len(works)), len(works))
        return [*works, *[works[-1]] * (size - len(works))]

    def _warm_up(self) -> None:
        """Run each size once, so that the first frame does not pay for what the device sets up on its first use."""
        try:
            self._run_each_size()
        except RuntimeError as error:
            if self._record is None:
                raise
            _log.warning("passes cannot be recorded, so each is called anew: %r", error)
            self._record = None
            self._tracking = CalledNetwork(self._network, self._pool)
            self._run_each_size()

    @torch.inference_mode()
    def _run_each_size(self) -> None:
        search, template = bytes(3 * self._config.search_size**2), bytes(3 * self._config.template_size**2)
        for online_count in range(1, 1 + self._update_rule.online_size):
            self._encode([Work(0, search, (template,) * (1 + online_count))], [])
            for size in self._fixed_sizes or (1, min(2, self.max_batch)):
                self._track([Work(0, search, ())] * size, [])


def _is_out_of_memory(error: Exception) -> bool:
    # The allocator of the CPU raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _pool(config: ModelConfig, slots: int, device: torch.device, dtype: torch.dtype) -> MemoryPool:
    """Raises SettingsError where the device has no room for so many: a worker that is started again would have none either."""
    size = slots * MemoryPool(config, 1, "meta", dtype).bytes_per_slot
    # Main memory is promised beyond what there is, and the process killed when it uses it.
    if device.type == "cpu" and size > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        raise SettingsError(f"slots={slots} need {size} bytes, more than this machine has")
    try:
        return MemoryPool(config, slots, device, dtype)
    except RuntimeError as error:
        raise SettingsError(f"slots={slots} need {size} bytes, {device} has no room for them: {error}") from error


def _automatic_slots(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> int:
    """As many as fit into a fixed amount of main memory, or a share of what is free on the device."""
    room = _CPU_POOL_BYTES
    if device.type == "cuda":
        room = int(torch.cuda.mem_get_info(device)[0] * _CUDA_POOL_SHARE)
    least, most = _AUTOMATIC_SLOTS
    return min(most, max(least, room // MemoryPool(config, 1, "meta", dtype).bytes_per_slot))


def _fixed_sizes(max_batch: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to `max_batch`."""
    return (*(2**power for power in range((max_batch - 1).bit_length())), max_batch)


if __name__ == "__main__":
    serve(Runner)
