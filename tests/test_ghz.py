"""The files for ghz, read back as ghz reads them and replayed against the service as ghz calls it; ghz itself is not needed."""

import json
import re
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.proto import parse_length_prefixed
from processes import Running, service

from mixformer.tracking.v1 import tracking_pb2 as pb
from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceStub
from service.cli import main
from service.commands.clip import Clip, made_up_clip
from service.commands.ghz import STREAM_FILE, UNARY_FILE, export
from service.config import ServeSettings

GHZ = Path(__file__).parents[1] / "deploy" / "ghz"
CONFIGS = ("track.json", "track_stream.json")
PATIENCE_SECONDS = 60


@pytest.fixture(scope="module")
def clip() -> Clip:
    made_up = made_up_clip(96, 96)
    return Clip(made_up.frames[:4], made_up.box)


@pytest.fixture(scope="module")
def folder(clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    exported = tmp_path_factory.mktemp("ghz")
    export(clip, exported)
    return exported


@pytest.fixture(scope="module")
def running(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with service(tiny_weights, tmp_path_factory.mktemp("service"), ServeSettings()) as started:
        yield started


def config(name: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((GHZ / name).read_text())
    return parsed


def metadata(name: str, worker: str) -> tuple[tuple[str, str], ...]:
    """The metadata of one of ghz's workers, its one template filled in."""
    filled = {key: value.replace("{{.WorkerID}}", worker) for key, value in config(name)["metadata"].items()}
    assert "{{" not in str(filled)
    return tuple(filled.items())


def unary_requests(folder: Path) -> list[pb.TrackRequest]:
    with (folder / config("track.json")["binary-file"]).open("rb") as file:
        return list(iter(lambda: parse_length_prefixed(pb.TrackRequest, file), None))


def stream_requests(folder: Path) -> list[pb.TrackStreamRequest]:
    array = json.loads((folder / config("track_stream.json")["data-file"]).read_text())
    return [ParseDict(each, pb.TrackStreamRequest()) for each in array]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_names_a_call_of_the_service(name: str) -> None:
    given = config(name)
    proto = (GHZ / given["proto"]).read_text()
    package, service_name, method = given["call"].rsplit(".", 2)
    assert f"package {package};" in proto
    assert re.search(rf"service {service_name} \{{.*rpc {method}\(", proto, re.DOTALL)


def test_a_stream_may_last_as_long_as_its_frames_take() -> None:
    given = config("track_stream.json")
    lasts = given["stream-call-count"] * float(given["stream-interval"].removesuffix("ms")) / 1000
    assert float(given["timeout"].removesuffix("s")) > 2 * lasts


def test_the_frames_run_forth_and_back_and_each_may_begin_the_session(clip: Clip, folder: Path) -> None:
    requests = unary_requests(folder)
    assert [each.frame.encoded for each in requests] == [clip.frames[number] for number in (0, 1, 2, 3, 2, 1)]
    assert [each.frame.frame_number for each in requests] == list(range(6))
    assert {each.targets[0].ensure.SerializeToString() for each in requests} == {
        pb.BoundingBox(**clip.box._asdict()).SerializeToString()
    }


def test_a_stream_has_the_same_frames_and_its_config_in_the_first(folder: Path) -> None:
    unary, stream = unary_requests(folder), stream_requests(folder)
    assert [(each.frame, each.targets) for each in stream] == [(each.frame, each.targets) for each in unary]
    assert [each.HasField("config") for each in stream] == [True] + [False] * 5


def test_unary_calls_in_any_order_are_answered_in_a_session_of_each_worker(folder: Path, running: Running) -> None:
    workers = cycle(["a", "b", "c"])
    with grpc.insecure_channel(running.address) as channel:
        stub = TrackingServiceStub(channel)
        for request in islice(cycle(unary_requests(folder)), 8):
            sent = metadata("track.json", next(workers))
            answer = stub.Track(request, metadata=sent, timeout=PATIENCE_SECONDS)
            assert (answer.session_id, answer.result.outcome) == (dict(sent)["x-session-id"], pb.FRAME_OUTCOME_PROCESSED)


def test_a_stream_that_begins_again_at_the_end_of_its_array_goes_on(folder: Path, running: Running) -> None:
    with grpc.insecure_channel(running.address) as channel:
        sent = islice(cycle(stream_requests(folder)), 8)
        calls = TrackingServiceStub(channel).TrackStream(
            sent, metadata=metadata("track_stream.json", "a"), timeout=PATIENCE_SECONDS
        )
        outcomes = [event.result.outcome for event in calls if event.HasField("result")]
    assert outcomes == [pb.FRAME_OUTCOME_PROCESSED] * 8


def test_the_command_writes_the_files_and_needs_no_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "new"
    assert main(["loadtest", "--export-ghz", str(written), "--size", "64x64", "--server", "127.0.0.1:1"]) == 0
    assert capsys.readouterr().out.split() == [str(written / UNARY_FILE), str(written / STREAM_FILE)]
    assert len(unary_requests(written)) == len(stream_requests(written)) == 198


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["loadtest", "--export-ghz", str(tmp_path / "file"), "--size", "64x64"]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err
