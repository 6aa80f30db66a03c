"""`mixformer track`: what it reads, writes and says, in this process and through a server."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from fake_front import bench, start
from fake_service import FakeService, listening
from pictures import encoded, scene

from mixformer.tracking.v1 import tracking_pb2 as pb
from model.checkpoint import load_model
from model.config import UpdateRule
from model.crop import Image
from model.geometry import Box
from service.cli import main
from service.commands.command import CommandError
from service.commands.drawing import COLORS, draw_targets
from service.commands.footage import CODECS, VideoFile, open_footage
from service.commands.results import BoxRecord, TargetRecord, record_of_result
from service.commands.synthetic import synthetic_clip
from service.commands.track_local import Followers
from service.config import Limits
from service.decode import RawImage, decode
from service.device import choose_network

WIDTH, HEIGHT, FRAMES = 160, 120, 4
BOX = "40,30,24,24"


@pytest.fixture(scope="module")
def images() -> list[Image]:
    return [image for image, _ in synthetic_clip(WIDTH, HEIGHT, FRAMES)]


@pytest.fixture
def folder(tmp_path: Path, images: list[Image]) -> Path:
    """Frames as JPEG files, in name order, beside a file that is no picture."""
    path = tmp_path / "frames"
    path.mkdir()
    for number, image in enumerate(images):
        (path / f"{number:05d}.jpg").write_bytes(simplejpeg.encode_jpeg(image))
    (path / "groundtruth.txt").write_text("1,2,3,4")
    return path


@pytest.fixture
def video(tmp_path: Path, images: list[Image]) -> Path:
    path = tmp_path / "clip.avi"
    write_video(path, images)
    return path


def write_video(path: Path, images: list[Image]) -> None:
    with VideoFile(path, frame_rate=20.0) as file:
        for image in images:
            file.write(image)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_in_process_every_frame_has_a_line_and_the_first_is_the_given_box(
    folder: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    assert main(["track", str(folder), "--box", BOX, "--weights", str(tiny_weights), "--output", str(output)]) == 0
    lines = read_lines(output)
    assert [line["frame_number"] for line in lines] == [0, 1, 2, 3]
    box = {"x": 40.0, "y": 30.0, "width": 24.0, "height": 24.0}
    target = {"target_id": "", "box": box, "score": 1.0, "status": "TRACKED"}
    assert lines[0] == {"frame_number": 0, "outcome": "PROCESSED", "targets": [target]}
    assert 0.0 <= lines[1]["targets"][0]["score"] <= 1.0


def test_several_boxes_are_numbered_from_one(folder: Path, tiny_weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    boxes = ["--box", BOX, "--box", "90,40,30,30"]
    assert main(["track", str(folder), *boxes, "--weights", str(tiny_weights), "--output", str(output)]) == 0
    assert [[target["target_id"] for target in line["targets"]] for line in read_lines(output)] == [["1", "2"]] * 4


def test_a_server_and_this_process_write_lines_of_the_same_form(video: Path, tiny_weights: Path, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.jsonl", tmp_path / "theirs.jsonl"
    assert main(["track", str(video), "--box", BOX, "--weights", str(tiny_weights), "--output", str(ours)]) == 0
    with listening(FakeService()) as server:
        assert main(["track", str(video), "--box", BOX, "--server", server, "--output", str(theirs)]) == 0
    ours_first, theirs_first = read_lines(ours)[0], read_lines(theirs)[0]
    theirs_first["targets"][0]["score"] = 1.0  # the fake service has its own
    assert theirs_first == ours_first
    assert len(read_lines(theirs)) == len(read_lines(ours)) == FRAMES


def test_pictures_go_to_a_server_as_the_files_bytes(folder: Path) -> None:
    service = FakeService()
    with listening(service) as server:
        assert main(["track", str(folder), "--box", BOX, "--server", server, "--online-size", "3"]) == 0
    assert [frame.encoded for frame in service.frames] == [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    assert service.options == [pb.SessionOptions(online_templates=3, return_resume_token=True)]


def test_video_frames_go_to_a_server_without_loss(video: Path) -> None:
    service = FakeService()
    with listening(service) as server:
        main(["track", str(video), "--box", BOX, "--server", server])
    capture = cv2.VideoCapture(str(video))
    assert [frame.raw.data for frame in service.frames] == [capture.read()[1].tobytes() for _ in range(FRAMES)]


def test_video_frames_over_the_servers_limit_go_as_jpeg(video: Path) -> None:
    service = FakeService(max_frame_bytes=WIDTH * HEIGHT * 3 - 1)
    with listening(service) as server:
        main(["track", str(video), "--box", BOX, "--server", server])
    assert [decode(frame.encoded, Limits()).shape for frame in service.frames] == [(HEIGHT, WIDTH, 3)] * FRAMES


def test_a_rejected_frame_is_told_and_the_next_one_is_tracked(
    folder: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "00002.jpg").write_bytes(b"no picture")
    output = tmp_path / "out.jsonl"
    assert main(["track", str(folder), "--box", BOX, "--weights", str(tiny_weights), "--output", str(output)]) == 1
    lines = read_lines(output)
    assert [line["outcome"] for line in lines] == ["PROCESSED", "PROCESSED", "REJECTED", "PROCESSED"]
    assert lines[2]["error"]["reason"] == "BAD_FRAME"
    assert "frame 2 REJECTED: BAD_FRAME" in capsys.readouterr().err


async def test_a_frame_on_which_one_target_fails_is_told_as_the_service_tells_it(tiny_weights: Path) -> None:
    boxes = {"near": Box(40.0, 30.0, 24.0, 24.0), "far": Box(270.0, 190.0, 24.0, 24.0)}
    whole, small = encoded(scene()), encoded(scene(96, 72))
    followers = Followers(choose_network(load_model(tiny_weights).model), UpdateRule(), boxes)
    ours = [followers.follow(number, payload) for number, payload in enumerate((whole, small, whole))]
    given = bench()
    session, commands = given.session(), [start(name, box) for name, box in boxes.items()]
    theirs = [
        record_of_result(await given.track(session, 0, *commands)),
        record_of_result(await given.track(session, 1, payload=small)),
    ]
    assert ours[1].error is not None and ours[1].error.message.startswith("target 'far': ")
    assert (ours[1].outcome, ours[1].error) == (theirs[1].outcome, theirs[1].error)
    assert ours[1].targets[1] == theirs[1].targets[1]
    assert [target.score is None for target in ours[1].targets] == [False, True]
    assert (ours[2].outcome, ours[2].error) == ("PROCESSED", None)


def test_a_servers_rejection_is_told_alike(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service = FakeService()
    service.outcomes[2] = pb.FRAME_OUTCOME_REJECTED
    with listening(service) as server:
        assert main(["track", str(folder), "--box", BOX, "--server", server]) == 1
    assert "frame 2 REJECTED: BAD_FRAME: not a picture" in capsys.readouterr().err


@pytest.mark.parametrize("box", ["500,500,20,20", "nan,1,2,3", "1,2,0,4", "1,2,3", "0,0,1e200,1e200", "1.7e308,0,1.7e308,0.1"])
def test_a_box_that_cannot_be_used_ends_in_one_line(
    box: str, folder: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(["track", str(folder), "--box", box, "--weights", str(tiny_weights)])
    except SystemExit as stop:
        code = stop.code
    assert code in (1, 2)
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert "box" in errors[0]


def test_a_server_that_goes_away_ends_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with listening(FakeService(fails_at=2)) as server:
        assert main(["track", str(folder), "--box", BOX, "--server", server, "--patience", "0"]) == 1
    assert capsys.readouterr().err == f"mixformer track: {server}: UNAVAILABLE: draining\n"


def test_a_full_disk_ends_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = ["--box", BOX] * 200  # lines that are longer than a file's buffer
    with listening(FakeService()) as server:
        assert main(["track", str(folder), *boxes, "--server", server, "--output", "/dev/full"]) == 1
    assert capsys.readouterr().err == "mixformer track: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("flag", ["--output", "--video"])
def test_a_result_is_never_written_over_its_source(flag: str, video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = video.read_bytes()
    with listening(FakeService()) as server:
        assert main(["track", str(video), "--box", BOX, "--server", server, flag, str(video)]) == 2
    assert video.read_bytes() == before
    assert capsys.readouterr().err == f"mixformer track: {flag} {video} is the video that is tracked\n"


def test_a_video_can_be_closed_while_a_frame_is_written(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    path = tmp_path / "clip.mp4"
    with ThreadPoolExecutor(1) as threads, VideoFile(path, 25.0) as file:
        writing = [threads.submit(file.write, image) for _ in range(4)]
        writing[0].result()
    assert [each.exception() for each in writing] == [None] * 4
    assert cv2.VideoCapture(str(path)).read()[0]


def test_the_figures_come_as_json_where_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with listening(FakeService()) as server:
        main(["track", str(folder), "--box", BOX, "--server", server, "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert (figures["frames"], figures["rejected"], figures["mean_score"]) == (FRAMES, 0, 0.5)
    assert figures["latency_seconds"]["p99"] >= figures["latency_seconds"]["p50"] > 0


@pytest.mark.parametrize("ending", CODECS)
def test_a_written_video_reads_back(ending: str, tmp_path: Path, images: list[Image]) -> None:
    path = tmp_path / f"clip{ending}"
    write_video(path, images)
    capture = cv2.VideoCapture(str(path))
    frames = [capture.read()[1] for _ in range(FRAMES)]
    assert not capture.read()[0]
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(20.0)
    difference = np.abs(frames[0][:, :, ::-1].astype(int) - images[0]).mean()
    assert difference < 12


def test_the_drawn_video_shows_the_box(folder: Path, tmp_path: Path, images: list[Image]) -> None:
    path = tmp_path / "drawn.avi"
    with listening(FakeService()) as server:
        main(["track", str(folder), "--box", BOX, "--server", server, "--video", str(path)])
    drawn = [decode(payload, Limits()) for payload in open_footage(path).frames]
    assert len(drawn) == FRAMES
    for image in drawn:
        assert np.abs(image[42, 40].astype(int) - COLORS["TRACKED"]).max() < 90


def test_an_ending_without_a_codec_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"\.mp4"):
        VideoFile(tmp_path / "clip.gif", 25.0)


def test_a_video_in_a_folder_that_is_not_there_is_refused(tmp_path: Path, images: list[Image]) -> None:
    with pytest.raises(CommandError, match="cannot be written"):
        write_video(tmp_path / "nowhere" / "clip.mp4", images)


def test_drawing_leaves_the_frame_as_it_was(images: list[Image]) -> None:
    before = images[0].copy()
    drawn = draw_targets(images[0], [TargetRecord("1", BoxRecord(-5.0, 90.0, 300.0, 80.0), None, "UNSPECIFIED")])
    assert (images[0] == before).all()
    assert not (drawn == before).all()


def test_a_folder_without_pictures_and_a_file_that_is_no_video_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="holds no picture"):
        open_footage(tmp_path)
    with pytest.raises(CommandError, match="no such video"):
        open_footage(tmp_path / "absent.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(CommandError, match="not a video"):
        open_footage(tmp_path / "text.mp4")


def test_a_video_that_breaks_off_is_told(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = video.read_bytes()
    torn = tmp_path / "torn.avi"
    torn.write_bytes(whole[: whole.index(b"movi") + (len(whole) - whole.index(b"movi")) // 2])
    with listening(FakeService()) as server:
        assert main(["track", str(torn), "--box", BOX, "--server", server]) == 0
    assert f"{torn} says it holds {FRAMES} frames, 2 could be read" in capsys.readouterr().err


def test_a_video_is_read_frame_by_frame(video: Path) -> None:
    footage = open_footage(video)
    assert (footage.frame_count, footage.frame_rate) == (FRAMES, 20.0)
    frames = list(footage.frames)
    assert len(frames) == FRAMES
    assert all(isinstance(frame, RawImage) and (frame.width, frame.height) == (WIDTH, HEIGHT) for frame in frames)
