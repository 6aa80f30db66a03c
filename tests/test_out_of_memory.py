"""A device that runs out of memory: smaller batches, then fewer slots, and only then is anything refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from attached import Attached, item

from model.compiled import CompiledMixFormer
from model.mixformer import MixFormer
from service.messages import BatchStarted, BatchStats, Failed, MemoryMissing, Predicted
from service.pulse import Pulse
from service.worker.runner import Runner
from service.worker.work import Found, Refused, Work
from service.worker.worker import Worker


@pytest.fixture
def runner(tiny_weights: Path) -> Runner:
    return Runner(tiny.settings(tiny_weights, slots=4, max_batch=4))


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The most items that a pass has memory for, to be set by the test; and after it, the sizes of the passes that failed."""
    most: list[int] = []

    def failing(track: Callable[..., object]) -> Callable[..., object]:
        def limited(self: object, crops: torch.Tensor, *others: object) -> object:
            if most and len(crops) > most[0]:
                most.append(len(crops))
                raise torch.OutOfMemoryError("no room")
            return track(self, crops, *others)

        return limited

    for network in (MixFormer, CompiledMixFormer):
        monkeypatch.setattr(network, "track", failing(network.track))
    return most


def works(count: int) -> list[Work]:
    return [Work(slot, tiny.search_crop(slot), tiny.template_crops(slot)) for slot in range(count)]


def test_a_batch_without_room_is_halved_and_stays_so(runner: Runner, limit: list[int]) -> None:
    alone = [runner.run([each]).outcomes[0] for each in works(4)]
    limit.append(2)
    together = runner.run(works(4)).outcomes
    assert all(isinstance(each, Found) for each in together)
    assert [each.box for each in together if isinstance(each, Found)] == [
        pytest.approx(each.box, abs=1e-5) for each in alone if isinstance(each, Found)
    ]
    assert (limit[1:], runner.max_batch) == ([4], 2)


def test_an_item_without_room_alone_is_refused_for_memory(runner: Runner, limit: list[int]) -> None:
    limit.append(0)
    assert runner.run(works(2)).outcomes == (Refused("OutOfMemoryError: no room", True),) * 2


def test_slots_are_halved_to_the_last(runner: Runner) -> None:
    assert [runner.shrink(), runner.slots, runner.max_batch] == [True, 2, 2]
    assert isinstance(runner.run(works(2)).outcomes[1], Found)
    assert [runner.shrink(), runner.slots, runner.shrink(), runner.slots] == [True, 1, False, 1]


def test_the_allocator_of_the_cpu_has_words_of_its_own(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        torch.empty(2**50, dtype=torch.uint8)

    for network in (MixFormer, CompiledMixFormer):
        monkeypatch.setattr(network, "track", full)
    (outcome,) = runner.run(works(1)).outcomes
    assert isinstance(outcome, Refused) and outcome.is_for_memory


def test_a_worker_gives_slots_back_before_it_refuses_and_asks_for_the_item_again(runner: Runner, limit: list[int]) -> None:
    worker = Worker(runner, max_encodes=2, pulse=Pulse(60.0))
    front = Attached(worker)
    front.say(item(1, 1))
    limit.append(0)
    for slots in (2, 1):
        worker.step()
        *_, missing, stats = front.hear_all(BatchStarted, MemoryMissing, BatchStats)
        assert missing == MemoryMissing(1)
        assert isinstance(stats, BatchStats) and (stats.slots_in_use, stats.slots, stats.max_batch) == (0, slots, slots)
        front.say(item(1, 1))
    worker.step()
    _, failed, _ = front.hear_all(BatchStarted, Failed, BatchStats)
    assert failed == Failed(1, "OutOfMemoryError: no room")
    limit.clear()
    front.say(item(2, 2))
    worker.step()
    front.hear_all(BatchStarted, Predicted, BatchStats)
    front.leave()
    later = Attached(worker)
    assert (later.hello.slots, later.hello.max_batch) == (1, 1)
    later.leave()


def test_a_worker_makes_its_next_batches_smaller(runner: Runner, limit: list[int]) -> None:
    worker = Worker(runner, max_encodes=4, pulse=Pulse(60.0))
    front = Attached(worker)
    limit.append(2)
    front.say(*(item(number, number) for number in range(1, 5)))
    worker.step()
    *_, stats = front.hear_all(BatchStarted, *[Predicted] * 4, BatchStats)
    assert isinstance(stats, BatchStats) and (stats.slots, stats.max_batch) == (4, 2)
    front.say(*(item(number, number) for number in range(5, 9)))
    worker.step()
    assert front.hear() == BatchStarted((5, 6))
    front.leave()
