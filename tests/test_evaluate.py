"""Evaluation: the measures on cases worked out by hand, the layouts of sequences, and one pass from end to end."""

import json
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, scene

from model.geometry import Box
from model.target import TargetReport, TargetStatus
from training.__main__ import main
from training.calibrate import judged
from training.evaluate import Run, watched
from training.measures import mean, measure
from training.sequences import Sequence as Video
from training.sequences import SequenceError, read_sequences

TRUTH = Box(10, 10, 20, 20)


def write_sequence(folder: Path, images: Path, count: int = 4, separator: str = ",", side: int = 160) -> None:
    images.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (images / f"{number + 1:05d}.jpg").write_bytes(encoded(scene(side, side, 3)))
    (folder / "groundtruth.txt").write_text("".join(separator.join(("30", "40", "24", "20")) + "\n" for _ in range(count)))


def test_equal_boxes_miss_only_the_last_threshold() -> None:
    equal = measure([TRUTH], [TRUTH], 1.0)
    assert equal.auc == pytest.approx(20 / 21)  # overlap 1 is not above 1
    assert (equal.precision, equal.normalised_precision, equal.mean_overlap) == (1.0, 1.0, 1.0)


def test_half_overlap_passes_the_thresholds_below_it() -> None:
    half = measure([Box(10, 10, 20, 10)], [TRUTH], 1.0)
    assert half.auc == pytest.approx(10 / 21)  # 0, 0.05, ... 0.45; 0.5 is not above 0.5
    assert half.mean_overlap == 0.5


def test_precision_is_in_pixels_and_normalised_by_the_targets_size() -> None:
    moved = measure([Box(15, 10, 20, 20)], [TRUTH], 1.0)  # 5 pixels, a quarter of the size
    assert moved.precision == 1.0
    assert moved.normalised_precision == 0.0


def test_frames_without_annotation_do_not_count() -> None:
    absent = Box(np.nan, np.nan, np.nan, np.nan)
    both = measure([TRUTH, TRUTH], [TRUTH, absent], 0.5)
    assert both.mean_overlap == 1.0
    assert both.frames_per_second == 4.0


def test_mean_counts_every_sequence_once() -> None:
    good, bad = measure([TRUTH] * 9, [TRUTH] * 9, 1.0), measure([Box(90, 90, 5, 5)], [TRUTH], 1.0)
    assert mean([good, bad]).mean_overlap == 0.5


@pytest.mark.parametrize("separator", [",", "\t", " "])
def test_both_layouts_and_all_separators_are_read(tmp_path: Path, separator: str) -> None:
    write_sequence(tmp_path / "Otb", tmp_path / "Otb/img", separator=separator)
    write_sequence(tmp_path / "Got", tmp_path / "Got", separator=separator)
    found = read_sequences(tmp_path)
    assert [video.name for video in found] == ["Got", "Otb"]
    assert all(video.boxes[0] == Box(30, 40, 24, 20) and len(video.frames) == 4 for video in found)


def test_second_target_uses_the_frames_of_the_first(tmp_path: Path) -> None:
    write_sequence(tmp_path / "Run-1", tmp_path / "Run-1/img")
    write_sequence(tmp_path / "Run-2", tmp_path / "Run-1/img")
    one, two = read_sequences(tmp_path, frames=3)
    assert one.frames == two.frames
    assert len(two.boxes) == 3


def test_what_is_wrong_with_a_sequence_is_named(tmp_path: Path) -> None:
    with pytest.raises(SequenceError, match=r"groundtruth\.txt"):
        read_sequences(tmp_path)
    write_sequence(tmp_path / "Bad", tmp_path / "Bad/img")
    (tmp_path / "Bad/groundtruth.txt").write_text("1,2,three,4\n")
    with pytest.raises(SequenceError, match=r"Bad.*three"):
        read_sequences(tmp_path)
    (tmp_path / "Bad/groundtruth.txt").write_text("1,2,30,40\n\n1,2,30,40\n")  # leaving it out would move all boxes after it
    with pytest.raises(SequenceError, match="Bad: '' is no box"):
        read_sequences(tmp_path)


@pytest.mark.parametrize(
    "boxes", ["30,40,24,20", "30,40,24,20\nnan,nan,nan,nan", "0,0,0,0\n30,40,24,20"], ids=["alone", "gone", "no first"]
)
def test_a_sequence_with_nothing_to_follow_is_refused(tmp_path: Path, boxes: str) -> None:
    write_sequence(tmp_path / "Short", tmp_path / "Short/img")
    (tmp_path / "Short/groundtruth.txt").write_text(boxes)
    with pytest.raises(SequenceError, match="Short: a box is needed on the first frame and on one after it"):
        read_sequences(tmp_path)


@pytest.mark.parametrize("frames", [0, 1])
def test_too_few_frames_to_follow_anything_are_refused(tmp_path: Path, frames: int) -> None:
    write_sequence(tmp_path / "Short", tmp_path / "Short/img")
    with pytest.raises(SequenceError, match="Short: a box is needed"):
        read_sequences(tmp_path, frames)


def test_evaluate_prints_every_tracker_and_writes_its_boxes(
    tmp_path: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sequence(tmp_path / "videos/Still", tmp_path / "videos/Still/img", count=3)
    result = tmp_path / "result.json"
    asked = ["evaluate", str(tmp_path / "videos"), "--weights", str(tiny_weights), "--bfloat16", "--json", str(result)]
    assert main(asked) == 0
    table = capsys.readouterr().out
    assert all(
        name in table
        for name in (
            "mixvit_tiny",
            "mixvit_tiny bfloat16",
            "hold still",
            "MIL",
            "Still",
            "mean",
            "area under the ROC curve",
            "called LOST: ",
        )
    )
    runs = json.loads(result.read_text())
    assert runs["hold still"]["Still"]["mean_overlap"] == 1.0
    assert len(runs["mixvit_tiny"]["Still"]["boxes"]) == 2
    assert set(runs["mixvit_tiny"]["Still"]["statuses"]) <= {status.name for status in TargetStatus}


def test_scores_are_judged_by_whether_their_boxes_lie_on_the_target() -> None:
    away, absent = Box(90, 90, 20, 20), Box(np.nan, np.nan, np.nan, np.nan)
    video = Video("Still", (Path("1.jpg"),) * 5, (TRUTH, TRUTH, TRUTH, TRUTH, absent))
    boxes, scores = [TRUTH, away, TRUTH, away], [0.9, 0.5, 0.4, 0.99]
    reports = [
        TargetReport(box, score, TargetStatus.LOST if score < 0.45 else TargetStatus.TRACKED, 0, template_updated=False)
        for box, score in zip(boxes, scores, strict=True)
    ]
    run = Run(boxes, reports, measure([TRUTH], [TRUTH], 1.0))
    found = judged(watched({"Still": run}, [video]))
    assert found.roc_area == 0.5  # 0.9 is above 0.5, 0.4 is not; what has no annotation does not count
    assert found.good_called_lost == 0.5
    assert watched({"Still": run._replace(reports=[])}, [video]) == [[]]


def test_wrong_weights_are_an_error_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sequence(tmp_path / "videos/Still", tmp_path / "videos/Still/img", count=2)
    assert main(["evaluate", str(tmp_path / "videos"), "--weights", str(tmp_path / "none.safetensors")]) == 1
    assert "none.safetensors" in capsys.readouterr().err
