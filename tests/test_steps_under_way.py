"""A device that is asked for a second batch before it has done the first: who is answered when, and what one batch's failure means for the next."""

from collections.abc import Iterator, Sequence

import pytest
from attached import Attached, item
from test_simulated import Time

from service.config import ServeSettings
from service.messages import BatchStarted, BatchStats, Failed, MemoryMissing, Ping, Pong, Predicted
from service.pulse import Pulse
from service.worker.simulated import RunningStep, SimulatedRunner
from service.worker.work import Refused, Work
from service.worker.worker import Worker

PASS_SECONDS = 0.020


class Device(SimulatedRunner):
    """Simulated time; it can be told to fail a step once that step is waited for, as a device does."""

    def __init__(self, slots: int) -> None:
        self.time = Time()
        settings = ServeSettings(
            device="simulated", simulated_batch_ms=1000 * PASS_SECONDS, simulated_item_ms=0, simulated_steps=2, slots=slots, max_batch=2
        )  # fmt: skip
        super().__init__(settings, self.time.clock, self.time.sleep)
        self.refuses_next = False

    def start(self, works: Sequence[Work]) -> RunningStep:
        step = super().start(works)
        if not self.refuses_next:
            return step
        self.refuses_next = False
        refused = Refused("RuntimeError: no memory today")
        told = step.told._replace(outcomes=(refused,) * len(works), unwritten=frozenset(work.slot for work in works))
        return step._replace(told=told)


@pytest.fixture
def device() -> Device:
    return Device(slots=4)


@pytest.fixture
def worker(device: Device) -> Worker:
    return Worker(device, max_encodes=2, pulse=Pulse(60.0), clock=device.time.clock)


@pytest.fixture
def front(worker: Worker) -> Iterator[Attached]:
    attached = Attached(worker)
    yield attached
    attached.socket.close()


def test_the_next_batch_is_asked_for_before_the_first_is_answered(worker: Worker, device: Device, front: Attached) -> None:
    front.say(*(item(number, number) for number in range(1, 7)))
    worker.step()
    front.hear_all(BatchStarted)
    worker.step()
    front.hear_all(BatchStarted, Predicted, Predicted, BatchStats)
    assert device.time.now == pytest.approx(PASS_SECONDS), "the second is not waited for"
    worker.step()
    front.hear_all(BatchStarted, Predicted, Predicted, BatchStats)
    assert device.time.now == pytest.approx(2 * PASS_SECONDS), "the device had no pause"


def test_nothing_waits_for_company(worker: Worker, device: Device, front: Attached) -> None:
    front.say(item(1, 1))
    worker.step()
    worker.step()
    front.hear_all(BatchStarted, Predicted, BatchStats)
    assert device.time.now == pytest.approx(PASS_SECONDS)


def test_a_ping_is_answered_while_steps_are_under_way(worker: Worker, front: Attached) -> None:
    front.say(item(1, 1))
    worker.step()
    front.say(Ping(7))
    worker.step()
    *_, pong = front.hear_all(BatchStarted, Predicted, BatchStats, Pong)
    assert pong == Pong(7, 1)


def test_without_slots_for_two_batches_the_first_is_answered_first() -> None:
    device = Device(slots=3)
    worker = Worker(device, max_encodes=2, pulse=Pulse(60.0), clock=device.time.clock)
    front = Attached(worker)
    front.say(*(item(number, number) for number in range(1, 5)))
    worker.step()
    worker.step()
    front.hear_all(BatchStarted, Predicted, Predicted, BatchStats, BatchStarted)
    front.leave()


def test_who_counted_on_a_memory_that_was_not_written_is_asked_for_it(worker: Worker, device: Device, front: Attached) -> None:
    front.say(item(1, 1))
    device.refuses_next = True
    worker.step()
    front.say(item(2, 1, brings=False), item(3, 3))
    worker.step()
    answers = front.hear_all(BatchStarted, BatchStarted, MemoryMissing, Predicted, BatchStats, Failed, BatchStats)
    assert answers[2] == MemoryMissing(2)
    assert answers[5] == Failed(1, "RuntimeError: no memory today")
    assert worker.slots_in_use == 1
    front.say(item(2, 1))
    worker.step()
    worker.step()
    front.hear_all(BatchStarted, Predicted, BatchStats)


def test_equal_memories_of_two_steps_keep_their_slot_until_both_are_done(worker: Worker, front: Attached) -> None:
    front.say(item(1, 1), item(2, 2), item(3, 1), item(4, 4))
    worker.step()
    worker.step()
    front.leave()
    other = Attached(worker, number=2)
    other.say(item(5, 5))
    worker.step()
    worker.step()
    other.hear_all(BatchStarted, BatchStats, Predicted, BatchStats)
    other.leave()
    assert worker.slots_in_use == 0
