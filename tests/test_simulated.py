"""The device that is not there: what it makes up depends on the crop and the memory alone, and takes the time it was told."""

import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from grpc import aio
from processes import PATIENCE_SECONDS, served

from mixformer.tracking.v1 import tracking_pb2 as pb
from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceStub
from service.config import ServeSettings, SettingsError
from service.worker.simulated import SimulatedRunner
from service.worker.work import Found, StepResult, Work

SETTINGS = ServeSettings(device="simulated", simulated_batch_ms=20.0, simulated_item_ms=2.0)


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def run(*works: Work, runner: SimulatedRunner | None = None) -> StepResult:
    time = Time()
    return (runner or SimulatedRunner(SETTINGS, time.clock, time.sleep)).run(works)


def found(*works: Work, runner: SimulatedRunner | None = None) -> list[Found]:
    return [each for each in run(*works, runner=runner).outcomes if isinstance(each, Found)]


def work(slot: int, crop: int = 0, memory: int | None = None) -> Work:
    return Work(slot, tiny.search_crop(crop), () if memory is None else tiny.template_crops(memory))


def test_a_box_depends_on_crop_and_templates_and_on_nothing_else() -> None:
    (alone,) = found(work(0, crop=1, memory=7))
    _, elsewhere = found(work(2, crop=5, memory=6), work(5, crop=1, memory=7))
    assert (alone.box, alone.score) == (elsewhere.box, elsewhere.score)
    others = found(work(0, crop=2, memory=7), work(1, crop=1, memory=8))
    assert len({alone.box, *(each.box for each in others)}) == 3


def test_a_slot_keeps_its_memory_until_another_is_written() -> None:
    time = Time()
    runner = SimulatedRunner(SETTINGS, time.clock, time.sleep)
    (first,) = found(work(3, memory=7), runner=runner)
    (again,) = found(work(3), runner=runner)
    (other,) = found(work(3, memory=8), runner=runner)
    assert (again.box, other.box == first.box) == (first.box, False)


def test_a_pass_takes_the_time_that_it_is_told() -> None:
    time = Time()
    runner = SimulatedRunner(SETTINGS, time.clock, time.sleep)
    runner.run([work(slot, memory=slot) for slot in range(3)])
    assert time.now == pytest.approx(0.020 + 3 * 0.002 + 3 * 0.002)
    result = runner.run([work(slot) for slot in range(3)])
    assert time.now == pytest.approx(0.032 + 0.020 + 3 * 0.002)
    assert result.times.encoded == 0
    assert result.times.stage_seconds == {"all": pytest.approx(0.026)}


def test_a_target_stays_in_the_middle_of_its_crop() -> None:
    for seed in range(20):
        (answer,) = found(work(0, crop=seed, memory=1))
        assert answer.box == pytest.approx((0.5, 0.5, 1 / 4.5, 1 / 4.5), abs=0.01)
        assert answer.score is not None and 0.8 <= answer.score < 1


def test_a_variant_that_is_not_known_is_a_wrong_setting() -> None:
    with pytest.raises(SettingsError, match="variant='warp' is none of"):
        SimulatedRunner(ServeSettings(device="simulated", variant="warp"))


def test_it_starts_without_the_network_library() -> None:
    code = "import sys, service.worker.simulated; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=PATIENCE_SECONDS, check=False).returncode == 0


async def test_a_service_on_it_says_so_in_its_log_and_to_its_clients(tmp_path: Path) -> None:
    with served(tmp_path, "--device", "simulated") as running:
        async with aio.insecure_channel(running.address) as channel:
            info = await TrackingServiceStub(channel).GetServerInfo(pb.GetServerInfoRequest())
        assert info.device == "simulated"
        assert "SIMULATED DEVICE: no network runs here and every box is made up" in running.log.read_text()
