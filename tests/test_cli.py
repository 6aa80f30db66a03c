"""The command line: wrong arguments, exit codes, and what each subcommand is handed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from service.cli import main
from service.commands.arguments import parse
from service.commands.serve import settings_of
from service.commands.weights import DEFAULT_WEIGHTS
from service.config import SettingsError
from service.sources import FLAGS, SETTINGS

TRACK = ["track", "clip.mp4", "--box", "1,2,3,4"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "COMMAND"),
        (["nonsense"], "nonsense"),
        (["track", "clip.mp4"], "--box"),
        ([*TRACK, "--box", "1,2,3"], "'1,2,3'"),
        ([*TRACK, "--box", "1,2,inf,4"], "'1,2,inf,4'"),
        ([*TRACK, "--box=1,2,-3,4"], "'1,2,-3,4'"),
        ([*TRACK, "--online-size", "9"], "--online-size"),
        ([*TRACK, "--update-interval", "0"], "'0'"),
        ([*TRACK, "--server", "localhost:1", "--update-interval", "99999999999"], "1 to 2147483647"),
        ([*TRACK, "--update-interval", "9" * 5000], "1 to 2147483647"),
        ([*TRACK, "--precision", "float8"], "float8"),
        ([*TRACK, "--variant", "resnet"], "resnet"),
        ([*TRACK, "--server", "localhost:1", "--weights", "w"], "--weights"),
        ([*TRACK, "--server", "localhost:1", "--precision", "auto"], "--precision"),
        (["serve", "--lisen", "127.0.0.1:1"], "--lisen"),
        (["loadtest", "--streams", "0"], "'0'"),
        (["loadtest", "--rate", "nan"], "'nan'"),
        (["loadtest", "--rate", "1e308"], "at most 1e+09"),
        (["loadtest", "--size", "640"], "'640'"),
        (["loadtest", "--size", "640x9"], "10 to 16384"),
        (["loadtest", "--size", "16385x640"], "10 to 16384"),
        (["loadtest", "--source", "clip.mp4"], "--box"),
        (["healthcheck", "--timeout", "-1"], "--timeout"),
        (["convert", "only-one"], "DESTINATION"),
    ],
)
def test_a_wrong_command_line_ends_with_code_2_and_one_line(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert named in errors[0]


def test_a_box_may_begin_outside_the_frame() -> None:
    (box,) = parse(["track", "clip.mp4", "--box=-5,-2.5,30,40"]).boxes
    assert box == (-5.0, -2.5, 30.0, 40.0)


@pytest.mark.parametrize("arguments", [["serve", "--precision", "float8"], ["serve", "--listen", "nowhere"]])
def test_a_wrong_setting_ends_with_code_2_and_its_value(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert arguments[-1] in errors[0]


def test_every_setting_has_a_flag() -> None:
    parsed = parse(["serve"])
    assert {name: getattr(parsed, name) for name in FLAGS} == dict.fromkeys(FLAGS)
    assert SETTINGS.keys() - FLAGS.keys() == {"tokens"}, "a secret stands in no command line"


def test_flags_beat_the_environment_and_the_environment_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('max_batch = 3\nslots = 30\nlog_level = "debug"')
    monkeypatch.setenv("MIXFORMER_MAX_BATCH", "4")
    monkeypatch.setenv("MIXFORMER_SLOTS", "40")
    settings = settings_of(parse(["serve", "--config", str(file), "--max-batch", "5"]))
    assert (settings.max_batch, settings.slots, settings.log_level) == (5, 40, "debug")


def test_without_weights_named_the_ones_that_come_along_are_served() -> None:
    assert settings_of(parse(["serve"])).weights == str(DEFAULT_WEIGHTS)
    assert settings_of(parse(["serve", "--weights", "mine.pth"])).weights == "mine.pth"


def test_an_unknown_variable_of_ours_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXFORMER_LISEN", "127.0.0.1:1")
    with pytest.raises(SettingsError, match="MIXFORMER_LISEN"):
        settings_of(parse(["serve"]))


@pytest.mark.parametrize(
    ("arguments", "module"),
    [
        (TRACK, "service.commands.track_local"),
        ([*TRACK, "--server", "localhost:1"], "service.commands.track_server"),
        (["convert", "a", "b"], "service.commands.convert"),
    ],
)
def test_only_what_needs_the_network_is_handed_to_a_module_with_it(arguments: list[str], module: str) -> None:
    assert parse(arguments).module == module


def test_a_missing_weights_file_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    missing = tmp_path / "missing.safetensors"
    assert main([*TRACK, "--weights", str(missing)]) == 1
    assert capsys.readouterr().err == f"mixformer track: {missing}: no such file\n"


def test_a_file_that_is_no_checkpoint_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source = tmp_path / "words.pth"
    source.write_text("words")
    assert main(["convert", str(source), str(tmp_path / "out.safetensors")]) == 1
    assert capsys.readouterr().err.startswith(f"mixformer convert: {source}: ")


def test_results_that_cannot_be_printed_end_in_one_line() -> None:
    with health_server(health_pb2.HealthCheckResponse.SERVING) as server, open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "service", "healthcheck", "--server", server]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (1, "mixformer healthcheck: [Errno 28] No space left on device\n")


def test_a_file_of_ours_is_not_converted_again(capsys: pytest.CaptureFixture[str], tiny_weights: Path, tmp_path: Path) -> None:
    assert main(["convert", str(tiny_weights), str(tmp_path / "out.safetensors")]) == 2
    assert capsys.readouterr().err == f"mixformer convert: {tiny_weights}: the source is a .safetensors file already\n"


def test_a_missing_video_is_one_line(tiny_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["track", "absent.mp4", "--box", "1,2,3,4", "--weights", str(tiny_weights)]) == 1
    assert capsys.readouterr().err == "mixformer track: no such video or folder: absent.mp4\n"


def test_an_output_that_cannot_be_written_is_one_line(
    tmp_path: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    output = tmp_path / "absent" / "out.jsonl"
    assert main(["track", str(tmp_path), "--box", "1,2,3,4", "--weights", str(tiny_weights), "--output", str(output)]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert str(output) in errors[0]


@contextmanager
def health_server(status: int) -> Iterator[str]:
    """A server whose health is `status`; gives HOST:PORT."""
    servicer = health.HealthServicer()
    servicer.set("", status)
    server = grpc.server(ThreadPoolExecutor(2))
    add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(grace=None).wait()


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (health_pb2.HealthCheckResponse.SERVING, 0),
        (health_pb2.HealthCheckResponse.NOT_SERVING, 1),
        (health_pb2.HealthCheckResponse.UNKNOWN, 1),
    ],
)
def test_healthcheck_succeeds_only_where_the_server_is_serving(
    status: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with health_server(status) as server:
        assert main(["healthcheck", "--server", server]) == code
    assert capsys.readouterr().out == f"{health_pb2.HealthCheckResponse.ServingStatus.Name(status)}\n"


def test_healthcheck_of_a_service_that_is_not_known_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with health_server(health_pb2.HealthCheckResponse.SERVING) as server:
        assert main(["healthcheck", "--server", server, "--service", "camera"]) == 1
    assert "NOT_FOUND" in capsys.readouterr().err


def test_healthcheck_of_nothing_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with health_server(health_pb2.HealthCheckResponse.SERVING) as server:
        pass
    assert main(["healthcheck", "--server", server, "--timeout", "2"]) == 1
    assert server in capsys.readouterr().err
