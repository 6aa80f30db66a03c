"""The runner as it is on a GPU, on a CPU: passes of fixed sizes, recorded by a tracer that plays the part of CUDA's graphs."""

import logging
from pathlib import Path

import pytest
import tiny
import torch
from frail_worker import SMALL
from test_pooled import Tracer
from test_runner import found, same

from model.checkpoint import save_model
from model.config import VARIANTS
from model.mixformer import MixFormer
from model.pooled import CalledNetwork, Record, RecordedNetwork
from model.pooled import Work as Recorded
from service.worker.runner import Runner
from service.worker.work import Work

SIZES = (4,)
PARTS = 2  # a backbone of one stage, and the heads


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a network of few blocks and small crops."""
    monkeypatch.setitem(VARIANTS, SMALL.name, SMALL)
    torch.manual_seed(0)
    save_model(tmp_path / "small.safetensors", MixFormer(SMALL).eval())
    return tmp_path / "small.safetensors"


def called(weights: Path) -> Runner:
    return Runner(tiny.settings(weights, slots=4, max_batch=4, backend="torch"))


def recording(weights: Path, record: Record) -> Runner:
    """A runner that has warmed up with that recorder."""
    runner = called(weights)
    runner._record = record
    runner._fixed_sizes = SIZES
    runner._make_room()
    runner._warm_up()
    return runner


def work(slot: int, *, seed: int = 0, online: int = 1) -> Work:
    """An item whose memory is new in `slot`."""
    templates = tuple(tiny.crop(100 * slot + number, SMALL.template_size).tobytes() for number in range(1 + online))
    return Work(slot, tiny.crop(slot + seed, SMALL.search_size).tobytes(), templates)


def test_recorded_passes_give_what_called_ones_give_and_are_all_recorded_at_the_start(weights: Path) -> None:
    tracer = Tracer()
    expected, recorded = called(weights), recording(weights, tracer)
    at_start = tracer.recordings
    assert at_start == len(SIZES) * expected._update_rule.online_size * PARTS
    for works in ([work(0), work(1, online=2), work(2)], [work(0)._replace(templates=()), work(3, seed=5)]):
        assert all(map(same, found(recorded, *works), found(expected, *works)))
    assert tracer.recordings == at_start


def test_fewer_slots_are_recorded_anew(weights: Path) -> None:
    recorded = recording(weights, Tracer())
    before = found(recorded, work(1))
    assert recorded.shrink()
    assert isinstance(recorded._tracking, RecordedNetwork)
    assert same(found(recorded, work(1))[0], before[0])


def test_a_device_that_cannot_record_is_called(weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Recorded) -> Recorded:
        raise RuntimeError("operation not permitted when stream is capturing")

    with caplog.at_level(logging.WARNING):
        runner = recording(weights, broken)
    assert "passes cannot be recorded, so each is called anew: RuntimeError('operation not permitted" in caplog.text
    assert isinstance(runner._tracking, CalledNetwork)
    assert len(found(runner, work(0), work(1), work(2))) == 3
