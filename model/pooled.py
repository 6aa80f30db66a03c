"""The tracking pass for targets whose memories lie in a pool: called anew each time, or recorded once and replayed.

A pass is hundreds of short kernels. On a GPU, asking for them one by one takes longer than running them, so each batch size is
recorded as CUDA graphs, reading of the pool included. A stage is a graph of its own: the time of a part inside a graph cannot
be asked for, between two graphs an event does it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from model.memory import MemoryPool
from model.mixformer import MixFormer, Network, Prediction, ignore_mark

Work = Callable[[], None]
# Gives what does the same work again, on the same tensors.
Record = Callable[[Work], Work]


class PooledNetwork(Protocol):
    """What finds the targets whose memories lie in the slots of a pool."""

    def track(self, crops: Tensor, slots: Sequence[int], mark: Callable[[str], None] = ignore_mark) -> Prediction:
        """crops uint8 [B, S, S, 3] on the device, a slot for each -> as `Network.track`, to be read before the next call.

        Raises ValueError where the memories differ in their number of online templates.
        """


class CalledNetwork:
    """Reads the memories and calls the network."""

    def __init__(self, network: Network, pool: MemoryPool) -> None:
        self._network = network
        self._pool = pool

    def track(self, crops: Tensor, slots: Sequence[int], mark: Callable[[str], None] = ignore_mark) -> Prediction:
        """As PooledNetwork says."""
        return self._network.track(crops, self._pool.read(slots), mark)


class RecordedNetwork:
    """Records the pass for every batch size and number of online templates when it first comes, and replays it."""

    def __init__(self, model: MixFormer, pool: MemoryPool, record: Record) -> None:
        """`model` in evaluation mode, on the pool's device; `record`: `cuda_recorder` of that device."""
        self._model = model
        self._pool = pool
        self._record = record
        self._passes: dict[tuple[int, int], _RecordedPass] = {}

    def track(self, crops: Tensor, slots: Sequence[int], mark: Callable[[str], None] = ignore_mark) -> Prediction:
        """As PooledNetwork says."""
        size = (len(crops), self._pool.common_online_count(slots))
        if size not in self._passes:
            self._passes[size] = _RecordedPass(self._model, self._pool, *size, self._record)
        return self._passes[size].replay(crops, slots, mark)


class _Part(NamedTuple):
    name: str
    replay: Work


class _RecordedPass:
    """One batch size: tensors that stay where they are, and the parts that work on them in turn."""

    def __init__(self, model: MixFormer, pool: MemoryPool, batch_size: int, online_count: int, record: Record) -> None:
        side = model.config.search_size
        self._crops = torch.zeros((batch_size, side, side, 3), dtype=torch.uint8, device=model.device)
        self._slots = torch.zeros(batch_size, dtype=torch.int64, device=model.device)
        self._record = record
        self._parts: list[_Part] = []
        maps, first = self._crops, 0
        for number, stage in enumerate(model.config.stages):
            blocks = range(first, first + stage.depth)
            maps = self._add(f"stage{number}", partial(self._stage, model, pool, number, maps, online_count, blocks))
            first = blocks.stop
        self._found = self._add("head", partial(self._heads, model, pool, maps))

    def replay(self, crops: Tensor, slots: Sequence[int], mark: Callable[[str], None]) -> Prediction:
        self._crops.copy_(crops)
        self._slots.copy_(torch.tensor(slots, pin_memory=self._slots.is_cuda), non_blocking=True)
        *stages, head = self._parts
        for part in stages:
            part.replay()
            if len(stages) > 1:
                mark(part.name)
        mark("backbone")
        head.replay()
        mark(head.name)
        return Prediction(self._found[:, :4], self._found[:, 4] if self._found.shape[1] > 4 else None)

    def _stage(self, model: MixFormer, pool: MemoryPool, number: int, maps: Tensor, online_count: int, blocks: range) -> Tensor:
        return model.run_stage(number, maps, pool.layers(self._slots, online_count, blocks))

    def _heads(self, model: MixFormer, pool: MemoryPool, features: Tensor) -> Tensor:
        """Boxes and, where there are any, scores: [B, 4] or [B, 5]."""
        boxes, scores = model.predict(features, pool.template_tokens(self._slots))
        return boxes if scores is None else torch.cat([boxes, scores[:, None]], dim=1)

    def _add(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """Record one part. Gives the tensor that every replay writes anew."""
        kept = compute().clone()
        self._parts.append(_Part(name, self._record(lambda: _write(compute, kept))))
        return kept


def _write(compute: Callable[[], Tensor], kept: Tensor) -> None:
    kept.copy_(compute())


def cuda_recorder() -> Record:
    """Records CUDA graphs on the current device. They share their temporary memory: one is replayed at a time, in one stream."""
    memory = torch.cuda.graph_pool_handle()

    def record(work: Work) -> Work:
        _run_aside(work)  # whatever libraries set up on first use cannot be recorded
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=memory):
            work()
        return graph.replay

    return record


def _run_aside(work: Work) -> None:
    """In a stream of its own, as recording does it."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
