"""Settings tried on the videos of the training data."""

from pathlib import Path

import numpy as np
from shards import write_shards

from model.checkpoint import load_model
from model.config import MAX_RULE_FRAMES
from model.geometry import Box
from service.commands.weights import DEFAULT_WEIGHTS
from training.calibrate import videos_of
from training.tune import FRAMES_OF_SWEEP, Scene, Trial, swept, tune


def test_every_trial_is_run_with_its_own_settings(tmp_path: Path) -> None:
    shards = write_shards(tmp_path)
    videos = videos_of(shards.validation())
    same, wider, again = (Trial(MAX_RULE_FRAMES, 1, factor) for factor in (None, 9.0, 4.5))
    found = dict(tune(load_model(DEFAULT_WEIGHTS), shards, videos, (same, wider, again)))
    assert all(0.0 <= value <= 1.0 for worth in found.values() for value in worth)
    assert found[wider] != found[same] == found[again]  # 4.5 is the variant's own
    assert [str(trial) for trial in found][1] == f"renewed every {MAX_RULE_FRAMES} frames, 1 online templates, search factor 9"


def test_a_bar_passes_in_front_of_the_target_and_leaves_it_free_afterwards() -> None:
    black, white = np.zeros((60, 90, 3), np.uint8), np.full((60, 90, 3), 255, np.uint8)
    box = Box(40, 20, 10, 20)
    scene = swept(Scene([black] * 100, [box] * 100), white, seed=0)
    assert not black.any()
    assert (scene.judged, len(scene.frames)) == (25 + FRAMES_OF_SWEEP, 100)
    hidden = [frame[20:40, 40:50].mean() / 255 for frame in scene.frames]
    assert max(hidden) == 1.0
    assert hidden[25] == 0.0 == max(hidden[:25]) == max(hidden[scene.judged - 1 :])
    bars = [np.flatnonzero(frame[0, :, 0]) for frame in scene.frames[25 : scene.judged]]
    assert {len(bar) for bar in bars} == {len(bars[0])} != {0}
    assert len({bar[0] for bar in bars}) == FRAMES_OF_SWEEP
