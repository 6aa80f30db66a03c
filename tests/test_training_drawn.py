"""Boxes drawn here: the file that ships, what is refused in such a file, and whose pictures get them."""

from pathlib import Path

import numpy as np
import pytest
from shards import write_shards

from model.geometry import Box
from training.calibrate import videos_of
from training.drawn import Drawn, read_drawn
from training.shards import SHARDS, Shards
from training.sources import Sources

NAMES = ("davis", "vehicles", "bsds")
BOX = Box(40, 30, 20, 60)


def with_drawn(folder: Path, *pictures: str, size: tuple[int, int] = (160, 128)) -> Shards:
    write_shards(folder)
    return Shards(folder, NAMES, {("bsds", picture): [Drawn(*size, "person", (BOX,))] for picture in pictures})


def with_tracks(folder: Path) -> Shards:
    """A track on five of eight frames of the video that is trained on and of the one held out, three of them left out after the first."""
    write_shards(folder)
    frames = [record for record in Shards(folder, NAMES, {}).records if record.sequence and record.frame not in (1, 2, 3)]
    drawn = {("davis", each.image): [Drawn(160, 128, "head", (BOX,), "head")] for each in frames}
    return Shards(folder, NAMES, drawn)


def test_the_boxes_that_ship_can_be_read() -> None:
    drawn = read_drawn()
    assert {shard for shard, _ in drawn} <= set(SHARDS)
    entries = [each for found in drawn.values() for each in found]
    assert all(each.boxes and each.kind for each in entries)
    tall = [box for each in entries for box in each.boxes if not each.track and box.height > 2.5 * box.width]
    assert len(tall) > 50  # what the other sources lack
    assert len({each.track for each in entries}) > 50


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "bsds/0.jpg", "size": [90, 80], "kind": "cat", "boxes": [[80, 10, 11, 20]]}', r"line 2: .* does not lie in 90x80"),
        ('{"image": "bsds/0.jpg", "size": [90, 80], "kind": "cat", "boxes": [[8, 10, 0, 20]]}', r"line 2: .* does not lie in 90x80"),
        ('{"image": "bsds/0.jpg", "kind": "cat", "boxes": []}', r"line 2: KeyError\('size'\)"),
        ('{"image": "0.jpg", "size": [90, 80], "kind": "cat", "boxes": []}', "line 2: ValueError"),
        ('{"image": ', "line 2: JSONDecodeError"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_picture_is_named(tmp_path: Path, line: str, message: str) -> None:
    file, none = tmp_path / "drawn.jsonl", tmp_path / "tracks.jsonl"
    none.touch()
    file.write_text('{"image": "bsds/1.jpg", "size": [90, 80], "kind": "cat", "boxes": [[1, 2, 30, 40]]}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        read_drawn(file, none)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"track": "cat", "shard": "davis", "size": [90, 80], "kind": "cat", "boxes": {"cat/0.jpg": [80, 10, 11, 20]}}',
         "tracks.jsonl, line 1: .* does not lie in 90x80"),
        ('{"track": "cat", "shard": "davis", "size": [90, 80], "kind": "cat", "boxes": [[8, 10, 10, 20]]}', "line 1: AttributeError"),
        ('{"shard": "davis", "size": [90, 80], "kind": "cat", "boxes": {"cat/0.jpg": [8, 10, 11, 20]}}', r"line 1: KeyError\('track'\)"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_track_is_named(tmp_path: Path, line: str, message: str) -> None:
    none, file = tmp_path / "drawn.jsonl", tmp_path / "tracks.jsonl"
    none.touch()
    file.write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        read_drawn(none, file)


def test_only_a_picture_without_boxes_and_of_the_same_size_gets_them(tmp_path: Path) -> None:
    drawn = [record for record in with_drawn(tmp_path / "same", "0.jpg").records if record.is_drawn]
    assert [(record.image, record.kind, record.boxes) for record in drawn] == [("0.jpg", "person", (BOX,))]
    assert not any(record.is_drawn for record in with_drawn(tmp_path / "other", "0.jpg", size=(161, 128)).records)


def test_a_picture_with_boxes_of_its_own_keeps_them(tmp_path: Path) -> None:
    write_shards(tmp_path)
    before = Shards(tmp_path, NAMES, {})
    after = Shards(tmp_path, NAMES, {("vehicles", "0.png"): [Drawn(160, 128, "person", (BOX,))]})
    assert after.records == before.records


def test_they_are_a_source_of_their_own(tmp_path: Path) -> None:
    shards = with_drawn(tmp_path, "0.jpg", "1.jpg")
    sources, rng = Sources(shards, shards.training()), np.random.default_rng(0)
    shown = {sources.draw("drawn", rng, gap=0).target for _ in range(20)}
    assert {record.image for record in shown if record is not None} == {"0.jpg", "1.jpg"}
    boxed = {sources.draw("boxed", rng, gap=0).target for _ in range(20)}
    assert {record.shard for record in boxed if record is not None} == {"vehicles"}


def test_several_kinds_on_one_picture_are_a_record_each(tmp_path: Path) -> None:
    write_shards(tmp_path)
    head = Box(44, 30, 10, 10)
    both = [Drawn(160, 128, "person", (BOX,)), Drawn(160, 128, "head", (head,))]
    shards = Shards(tmp_path, NAMES, {("bsds", "0.jpg"): both})
    assert [(each.kind, each.boxes) for each in shards.records if each.is_drawn] == [("person", (BOX,)), ("head", (head,))]


def test_a_track_is_a_source_of_its_own_and_its_video_stays_what_it_was(tmp_path: Path) -> None:
    shards = with_tracks(tmp_path)
    sources, rng = Sources(shards, shards.training()), np.random.default_rng(0)
    shown = [sources.draw("track", rng, gap=8).target for _ in range(20)]
    assert {(each.sequence, each.track, each.boxes) for each in shown if each is not None} == {("swan", "head", (BOX,))}
    followed = [sources.draw("video", rng, gap=8).target for _ in range(20)]
    assert {each.track for each in followed if each is not None} == {""}
    assert [len(frames) for frames in videos_of(shards.records)] == [8, 8]


def test_a_track_is_held_out_with_its_video(tmp_path: Path) -> None:
    tracks = [record for record in with_tracks(tmp_path).records if record.track]
    assert {record.sequence for record in tracks if record.is_validation} == {"libby"}
    assert {record.sequence for record in tracks if not record.is_validation} == {"swan"}
