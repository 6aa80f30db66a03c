"""One video in one process, against recorded runs of the original's tracker."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.recorded import arrays, compiled, loaded
from model.geometry import Box
from model.target import TargetStatus
from model.tracker import Tracker

RUNS = [
    ("mixcvt_online", 3, "torch"), ("mixcvt_online", 1, "torch"), ("mixvit_online", 3, "torch"), ("mixvit_online", 1, "torch"),
    ("mixcvt", 1, "torch"), ("mixcvt_online", 3, "openvino"), ("mixvit_online", 3, "openvino"),
]  # fmt: skip


@pytest.mark.parametrize(("variant", "online_size", "backend"), RUNS)
def test_recorded_run_reproduces(variant: str, online_size: int, backend: str) -> None:
    video = arrays("mixcvt_online")["video_rgb"]
    recording = arrays(variant)
    states = recording[f"track_osz{online_size}_state"]
    file = loaded(variant)
    network = compiled(variant) if backend == "openvino" else file.model
    tracker = Tracker(network, replace(file.update_rule, update_interval=5, online_size=online_size))
    tracker.start(video[0], Box(*states[0]))
    reports = [tracker.track(frame) for frame in video[1:]]
    assert np.abs(np.array([report.box for report in reports]) - states[1:]).max() < 0.05
    if file.model.config.has_score_head:
        scores = np.array([report.score for report in reports])
        assert np.abs(scores - recording[f"track_osz{online_size}_score"]).max() < 1e-4
    else:
        assert all(report.score is None and report.status is TargetStatus.UNSPECIFIED for report in reports)


def test_tracking_needs_a_start() -> None:
    with pytest.raises(RuntimeError, match="before start"):
        Tracker(loaded("mixcvt").model, loaded("mixcvt").update_rule).track(arrays("mixcvt_online")["video_rgb"][0])
