"""The recorded pass against the called one.

A tracer plays the part of CUDA's graphs: what it replays are the operations of the recording on the tensors of the recording, without
the Python that asked for them, so a value that does not go through those tensors shows.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from tiny import crop
from torch.fx.experimental.proxy_tensor import make_fx

from model.config import VARIANTS, ModelConfig
from model.layers import fold_batch_norms
from model.memory import MemoryPool
from model.mixformer import MixFormer, Prediction
from model.pooled import CalledNetwork, RecordedNetwork, Work, cuda_recorder

SLOTS = 4


def small(name: str) -> ModelConfig:
    """The variant with few blocks and small crops."""
    config = VARIANTS[name]
    stages = tuple(replace(stage, depth=min(stage.depth, 2)) for stage in config.stages)
    return replace(config, stages=stages, template_size=64, search_size=128, head_channels=32)


class Tracer:
    """A Record that remembers how often it was asked."""

    def __init__(self) -> None:
        self.recordings = 0

    def __call__(self, work: Work) -> Work:
        self.recordings += 1
        return make_fx(work)()


class House:
    """A network, a pool with a memory in every slot, and both ways to use them."""

    def __init__(self, config: ModelConfig, device: str = "cpu", record: Callable[[Work], Work] | None = None) -> None:
        torch.manual_seed(0)
        self.model = MixFormer(config).eval().requires_grad_(False).to(device)
        fold_batch_norms(self.model)
        self.pool = MemoryPool(config, SLOTS, device, torch.float32)
        self.tracer = Tracer()
        self.called = CalledNetwork(self.model, self.pool)
        self.recorded = RecordedNetwork(self.model, self.pool, record or self.tracer)
        for slot in range(SLOTS):
            self.write(slot, online=1)

    def write(self, slot: int, *, online: int, seed: int = 0) -> None:
        side = self.model.config.template_size
        crops = torch.stack([torch.from_numpy(crop(100 * slot + seed + number, side)) for number in range(1 + online)])
        self.pool.write([slot], self.model.encode(crops[None].to(self.model.device)))

    def both(self, *slots: int, seed: int = 0) -> tuple[Prediction, Prediction]:
        side = self.model.config.search_size
        crops = torch.stack([torch.from_numpy(crop(seed + number, side)) for number, _ in enumerate(slots)])
        crops = crops.to(self.model.device)
        return self.called.track(crops, slots), self.recorded.track(crops, slots)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


WITHOUT_SCORE = replace(small("mixvit_tiny"), has_score_head=False)


@pytest.fixture(
    scope="module", params=[small("mixvit_tiny"), small("mixcvt_small"), WITHOUT_SCORE], ids=["vit", "cvt", "no score"]
)
def house(request: pytest.FixtureRequest) -> House:
    """With a score head and without, of one stage and of three, with both kinds of corner heads."""
    with torch.inference_mode():
        return House(request.param)


def assert_equal(predictions: tuple[Prediction, Prediction]) -> None:
    called, recorded = predictions
    assert torch.allclose(called.boxes, recorded.boxes, atol=1e-6)
    assert (called.scores is None) == (recorded.scores is None)
    if called.scores is not None and recorded.scores is not None:
        assert torch.allclose(called.scores, recorded.scores, atol=1e-6)


def test_a_replay_sees_new_crops_and_other_slots(house: House) -> None:
    for seed, slots in enumerate([(0, 1), (2, 3), (3, 0), (1, 1)]):
        assert_equal(house.both(*slots, seed=seed))
    one, other = house.both(0, 1)[1].boxes
    assert not torch.equal(one, other), "the targets must differ for this to mean something"


def test_a_replay_sees_a_memory_that_was_written_since(house: House) -> None:
    before = house.both(2)[1].boxes.clone()
    house.write(2, online=1, seed=7)
    after = house.both(2)
    assert_equal(after)
    assert not torch.equal(after[1].boxes, before)


def test_every_batch_size_and_number_of_templates_is_recorded_once() -> None:
    house = House(small("mixvit_tiny"))
    house.write(0, online=3)
    for _ in range(2):
        for slots in ((0,), (2,), (2, 3)):
            assert_equal(house.both(*slots))
    assert house.tracer.recordings == 3 * 2, "a backbone of one stage and the heads"


def test_memories_of_different_size_cannot_share_a_pass() -> None:
    house = House(small("mixvit_tiny"))
    house.write(0, online=2)
    with pytest.raises(ValueError, match=r"slots \[0, 1\] hold memories of \[1, 2\] online templates"):
        house.recorded.track(torch.zeros(2, 128, 128, 3, dtype=torch.uint8), (0, 1))


@pytest.mark.parametrize("name", ["mixvit_tiny", "mixcvt_small"])
def test_the_parts_are_marked_as_the_network_marks_them(name: str) -> None:
    house = House(small(name))
    crops = torch.zeros(1, 128, 128, 3, dtype=torch.uint8)
    marks: dict[str, list[str]] = {"called": [], "recorded": []}
    house.called.track(crops, (0,), marks["called"].append)
    house.recorded.track(crops, (0,), marks["recorded"].append)
    assert marks["called"] == marks["recorded"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_graphs_give_what_calls_give() -> None:
    house = House(small("mixvit_tiny"), "cuda", cuda_recorder())
    for seed, slots in enumerate([(0, 1), (2, 3), (1,)]):
        assert_equal(house.both(*slots, seed=seed))
    house.write(1, online=1, seed=7)
    assert_equal(house.both(1))
