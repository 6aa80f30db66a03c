"""Load tests: when frames are due, what is counted, and a run against a real gRPC server."""

import json
import math
import signal
import subprocess
import sys
import time
import tracemalloc
from itertools import pairwise
from pathlib import Path

import cv2
import grpc
import numpy as np
import pytest
import simplejpeg
from fake_service import FakeService, listening
from hypothesis import given
from hypothesis import strategies as st

from mixformer.tracking.v1 import tracking_pb2 as pb
from model.geometry import Box
from service.cli import main
from service.commands.clip import Clip, made_up_clip, recorded_clip
from service.commands.pace import Schedule, paced, spread
from service.commands.summary import latency_of, percentile
from service.commands.synthetic import synthetic_clip
from service.commands.tally import Tally


class FakeClock:
    """Time that passes only while someone sleeps, or when told to."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_percentiles_of_one_to_a_hundred_are_their_own_numbers() -> None:
    ordered = [float(number) for number in range(1, 101)]
    assert [percentile(ordered, share) for share in (0.01, 0.5, 0.95, 0.99, 1.0)] == [1, 50, 95, 99, 100]


@given(st.lists(st.floats(0, 10), min_size=1), st.sampled_from((0.5, 0.95, 0.99)))
def test_a_percentile_is_the_least_value_that_its_share_does_not_exceed(values: list[float], share: float) -> None:
    found = percentile(sorted(values), share)
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)


def test_latency_of_nothing_is_none() -> None:
    assert latency_of([]) is None


def test_streams_are_spread_evenly_over_one_interval() -> None:
    schedules = spread(streams=4, rate=10.0, duration_seconds=3.0, begins_at=50.0)
    assert [schedule.frame_count for schedule in schedules] == [30] * 4
    due = sorted(schedule.due_at(number) for schedule in schedules for number in range(30))
    assert all(math.isclose(after - before, 0.025) for before, after in pairwise(due))
    assert due[0] == 50.0


async def test_frames_are_paced_by_the_clock() -> None:
    clock = FakeClock()
    sent = [(number, clock.now) async for number in paced(Schedule(100.0, 0.5, 4), clock, clock.sleep)]
    assert sent == [(0, 100.0), (1, 100.5), (2, 101.0), (3, 101.5)]


async def test_a_late_frame_does_not_shift_the_ones_after_it() -> None:
    clock = FakeClock()
    sent = []
    async for number in paced(Schedule(100.0, 0.5, 5), clock, clock.sleep):
        sent.append(clock.now)
        if number == 1:
            clock.now += 1.2  # the stream is held back
    assert sent == pytest.approx([100.0, 100.5, 101.7, 101.7, 102.0])


def test_latency_counts_from_when_the_frame_was_due_not_from_when_it_was_sent() -> None:
    tally = Tally()
    schedule = Schedule(10.0, 0.5, 1)
    tally.sent(schedule.due_at(0), now=13.0)
    tally.received(pb.FrameResult(outcome=pb.FRAME_OUTCOME_PROCESSED), schedule.due_at(0), now=13.5)
    report = tally.report(2.0, [schedule])
    assert report.latency_seconds is not None
    assert report.send_delay_seconds is not None
    assert (report.latency_seconds.p50, report.send_delay_seconds.p50) == (3.5, 3.0)


def test_the_report_counts_every_due_frame_once() -> None:
    tally = Tally()
    tally.received(pb.FrameResult(outcome=pb.FRAME_OUTCOME_PROCESSED), 10.0, now=10.1)
    tally.received(pb.FrameResult(outcome=pb.FRAME_OUTCOME_DROPPED), 10.0, now=10.2)
    rejected = pb.FrameResult(outcome=pb.FRAME_OUTCOME_REJECTED, error=pb.FrameError(reason="BAD_FRAME"))
    tally.received(rejected, 10.0, now=12.0)
    tally.failed("UNAVAILABLE")
    report = tally.report(1.0, [Schedule(10.0, 1.0, 3), Schedule(10.0, 1.0, 2)])
    assert (report.due, report.processed, report.dropped, report.unanswered) == (5, 1, 1, 2)
    assert (report.rejected, report.stream_errors) == ({"BAD_FRAME": 1}, {"UNAVAILABLE": 1})
    assert report.frames_per_second == 0.5


def test_a_clip_runs_to_and_fro() -> None:
    clip = Clip([b"0", b"1", b"2"], Box(0, 0, 1, 1))
    assert b"".join(clip.frame(number) for number in range(9)) == b"012101210"
    assert Clip([b"0"], clip.box).frame(7) == b"0"


def test_the_made_up_clip_holds_pictures_of_the_size_asked_for() -> None:
    clip = made_up_clip(160, 120)
    assert simplejpeg.decode_jpeg(clip.frames[0]).shape == (120, 160, 3)
    assert clip.box.x + clip.box.width <= 160


def test_the_made_up_clip_takes_the_room_of_one_picture_beside_its_jpegs() -> None:
    tracemalloc.start()
    try:
        made_up_clip(640, 360)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * 640 * 360 * 3


def test_a_recorded_clip_is_the_footage_as_jpeg(tmp_path: Path) -> None:
    images = [image for image, _ in synthetic_clip(64, 48, 3)]
    for number, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image[:, :, ::-1])
    clip = recorded_clip(tmp_path, Box(1, 2, 3, 4))
    assert clip.box == (1, 2, 3, 4)
    decoded = [simplejpeg.decode_jpeg(frame).astype(int) for frame in clip.frames]
    assert [np.abs(found - image).mean() < 12 for found, image in zip(decoded, images, strict=True)] == [True] * 3


def test_a_clip_with_a_broken_picture_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "0.jpg").write_bytes(b"no picture")
    assert main(["loadtest", "--source", str(tmp_path), "--box", "1,2,3,4"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert str(tmp_path) in errors[0]


def run_loadtest(server: str, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str]:
    code = main(["loadtest", "--server", server, "--rate", "50", "--duration", "0.2", "--size", "96x96", *more])
    return code, capsys.readouterr().out


def test_all_frames_of_all_streams_are_sent_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    service = FakeService()
    service.outcomes[3] = pb.FRAME_OUTCOME_DROPPED
    with listening(service) as server:
        code, printed = run_loadtest(server, capsys, "--streams", "3", "--policy", "drop-oldest", "--json")
    report = json.loads(printed)
    assert code == 0
    assert (report["due"], report["processed"], report["dropped"], report["unanswered"]) == (30, 27, 3, 0)
    assert report["latency_seconds"]["p50"] > 0
    assert len(service.frames) == 30
    assert {options.overload_policy for options in service.options} == {pb.OVERLOAD_POLICY_DROP_OLDEST}
    assert sorted(service.deleted) == sorted(config.session_id for config in service.configs)


def test_a_stream_that_fails_is_named_and_its_frames_are_unanswered(capsys: pytest.CaptureFixture[str]) -> None:
    with listening(FakeService(fails_at=4)) as server:
        code, printed = run_loadtest(server, capsys, "--streams", "1", "--patience", "0", "--json")
    report = json.loads(printed)
    assert code == 1
    assert report["stream_errors"] == {"UNAVAILABLE": 1}
    assert (report["processed"], report["unanswered"]) == (4, 6)


def test_a_stream_that_breaks_once_is_resumed_and_its_frames_are_all_answered(capsys: pytest.CaptureFixture[str]) -> None:
    with listening(FakeService(fails_at=4, fails_times=1, token_every=3)) as server:
        code, printed = run_loadtest(server, capsys, "--streams", "1", "--json")
    report = json.loads(printed)
    assert code == 0
    assert (report["processed"], report["unanswered"], report["streams_resumed"]) == (10, 0, 1)


class SlowToDelete(FakeService):
    """Deletes one session at once and the others a little later, where they are still asked for."""

    def delete_session(self, request: pb.DeleteSessionRequest, context: grpc.ServicerContext) -> pb.DeleteSessionResponse:
        if self.deleted:
            time.sleep(0.5)
        return super().delete_session(request, context) if context.is_active() else pb.DeleteSessionResponse()


def test_a_load_that_is_broken_off_leaves_no_session() -> None:
    service = SlowToDelete()
    flags = ("--streams", "5", "--rate", "2", "--duration", "100", "--size", "96x96")
    with listening(service) as server:
        command = [sys.executable, "-m", "service", "loadtest", "--server", server, *flags]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as loading:
            deadline = time.monotonic() + 60
            while len({frame.frame_number for frame in service.frames}) < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
            loading.send_signal(signal.SIGINT)
            said = loading.communicate()[1]
    assert (loading.returncode, said) == (130, "")
    assert sorted(service.deleted) == sorted(config.session_id for config in service.configs)


def test_the_table_names_the_percentiles(capsys: pytest.CaptureFixture[str]) -> None:
    with listening(FakeService()) as server:
        _, printed = run_loadtest(server, capsys, "--streams", "1")
    assert "latency p50 / p95 / p99" in printed
    assert "1 at 50 frames/s" in printed
