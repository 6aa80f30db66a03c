"""Real processes: `mixformer serve` with worker and front, and the other subcommands as its clients."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from service.cli import main
from service.commands.footage import VideoFile
from service.commands.synthetic import synthetic_clip

SERVE = [sys.executable, "-m", "service", "serve", "--device", "cpu", "--threads", "1", "--precision", "float32"]
START_SECONDS = 30.0
STOP_SECONDS = 30.0
BOX = "100,60,48,48"


@pytest.fixture(scope="module")
def process(tiny_weights: Path) -> Iterator["subprocess.Popen[str]"]:
    """The service, on ports the system chose."""
    command = [*SERVE, "--weights", str(tiny_weights), "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        yield running
        if running.poll() is None:
            running.kill()


@pytest.fixture(scope="module")
def server(process: "subprocess.Popen[str]") -> str:
    """HOST:PORT once the service has said that it serves."""
    assert process.stderr is not None
    for line in process.stderr:
        if "serving on " in line:
            return line.rsplit(maxsplit=1)[1]
    pytest.fail(f"the service ended with status {process.wait()}")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    with VideoFile(path, frame_rate=25.0) as file:
        for image, _ in synthetic_clip(240, 180, 8):
            file.write(image)
    return path


def tracked(arguments: list[str], output: Path) -> list[dict[str, Any]]:
    assert main(["track", *arguments, "--update-interval", "3", "--output", str(output)]) == 0
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_the_service_says_that_it_serves_once_its_worker_answers(server: str) -> None:
    with grpc.insecure_channel(server) as channel:
        watch = HealthStub(channel).Watch  # type: ignore[attr-defined]  # the published stubs leave the methods out
        states = watch(health_pb2.HealthCheckRequest(), timeout=START_SECONDS)
        next(state for state in states if state.status == health_pb2.HealthCheckResponse.SERVING)
    assert main(["healthcheck", "--server", server]) == 0


def test_a_server_tracks_as_this_process_does(server: str, video: Path, tiny_weights: Path, tmp_path: Path) -> None:
    clip = [str(video), "--box", BOX, "--box", "20,30,40,60"]
    local = ["--weights", str(tiny_weights), "--precision", "float32"]
    theirs = tracked([*clip, "--server", server], tmp_path / "theirs.jsonl")
    ours = tracked([*clip, *local], tmp_path / "ours.jsonl")
    assert len(theirs) == len(ours) == 8
    for one, other in zip(theirs, ours, strict=True):
        for mine, its in zip(one["targets"], other["targets"], strict=True):
            assert mine["target_id"] == its["target_id"]
            assert mine["status"] == its["status"]
            assert mine["score"] == pytest.approx(its["score"], abs=1e-3)
            assert mine["box"] == pytest.approx(its["box"], abs=0.05)


def test_a_box_outside_the_frame_is_told_in_one_line(server: str, video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["track", str(video), "--box", "5000,60,48,48", "--server", server]) == 1
    assert "first frame: BAD_BOX" in capsys.readouterr().err


def test_a_load_of_several_streams_is_answered(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    load = ["--streams", "3", "--rate", "4", "--duration", "1", "--size", "160x120", "--json"]
    assert main(["loadtest", "--server", server, *load]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["due"], report["processed"], report["unanswered"]) == (12, 12, 0)


def test_a_signal_ends_it_with_code_0_and_then_it_serves_no_more(process: "subprocess.Popen[str]", server: str) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(STOP_SECONDS) == 0
    assert main(["healthcheck", "--server", server]) == 1
