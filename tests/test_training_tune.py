"""Settings tried on the videos of the training data."""

from pathlib import Path

from shards import write_shards

from model.checkpoint import load_model
from model.config import MAX_RULE_FRAMES
from service.commands.weights import DEFAULT_WEIGHTS
from training.calibrate import videos_of
from training.tune import Trial, tune


def test_every_trial_is_run_with_its_own_settings(tmp_path: Path) -> None:
    shards = write_shards(tmp_path)
    videos = videos_of(shards.validation())
    same, wider, again = (Trial(MAX_RULE_FRAMES, 1, factor) for factor in (None, 9.0, 4.5))
    found = dict(tune(load_model(DEFAULT_WEIGHTS), shards, videos, (same, wider, again)))
    assert all(0.0 <= auc <= 1.0 for auc in found.values())
    assert found[wider] != found[same] == found[again]  # 4.5 is the variant's own
    assert [str(trial) for trial in found][1] == f"renewed every {MAX_RULE_FRAMES} frames, 1 online templates, search factor 9"
