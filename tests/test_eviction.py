"""Twice as many targets as slots, on a real (tiny) network: memories come and go, boxes stay what they were."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from attached import Attached, item

from service.messages import MemoryMissing, Ping, Pong, Predicted, ToFront
from service.pulse import Pulse
from service.worker.runner import Runner
from service.worker.worker import Worker

TARGETS, FRAMES = 6, 2
Boxes = dict[int, tuple[float, ...]]


def heard(worker: Worker, front: Attached) -> Iterator[ToFront]:
    """What a front hears of one step."""
    front.say(Ping(1))
    worker.step()
    while not isinstance(message := front.hear(), Pong):
        yield message


def tracked(weights: Path, slots: int) -> tuple[Boxes, int]:
    """The box of every frame of every target, and how often a memory was missing on the way."""
    worker = Worker(Runner(tiny.settings(weights, slots=slots, max_batch=3)), 4, Pulse(60.0), clock=lambda: 100.0)
    front = Attached(worker)
    boxes: Boxes = {}
    missing = 0
    for frame in range(FRAMES):
        wanted = {frame * TARGETS + number: number for number in range(TARGETS)}
        front.say(*(item(item_id, number, brings=frame == 0) for item_id, number in wanted.items()))
        while wanted.keys() - boxes.keys():
            for message in heard(worker, front):
                if isinstance(message, Predicted):
                    boxes[message.item_id] = message.box
                if isinstance(message, MemoryMissing):
                    missing += 1
                    front.say(item(message.item_id, wanted[message.item_id]))
    front.leave()
    return boxes, missing


def test_boxes_under_eviction_are_those_without(tiny_weights: Path) -> None:
    undisturbed, none = tracked(tiny_weights, slots=TARGETS)
    evicted, some = tracked(tiny_weights, slots=TARGETS // 2)
    assert (none, some) == (0, TARGETS // 2), "half of them had gone"
    for item_id, box in undisturbed.items():
        assert evicted[item_id] == pytest.approx(box, abs=1e-4)
