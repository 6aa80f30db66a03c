"""Thresholds read off scores, and how far the status they give can be trusted."""

import math
from pathlib import Path

import numpy as np
import pytest
from shards import write_shards

from model.checkpoint import load_model
from model.config import UpdateRule
from model.geometry import Box
from model.target import TargetStatus
from training.calibrate import (
    CalibrationError,
    Shot,
    Sight,
    fitted,
    judged,
    left_out,
    roc_area,
    statuses,
    vanishing,
    videos_of,
    watch,
    watch_first_template,
)

TRACKED = TargetStatus.TRACKED


def sights(scores: list[float], overlap: float | None) -> list[Sight]:
    return [Sight(score, overlap, TRACKED) for score in scores]


def test_uncertain_parts_good_from_bad_and_the_better_half_may_become_templates() -> None:
    good = sights([0.05, *np.linspace(0.4, 0.99, 99).tolist()], 0.8)
    rule = fitted(UpdateRule(update_interval=7), [good, sights([0.1, 0.2, 0.3], 0.0) + sights([0.2], None)])
    assert 0.3 < rule.uncertain_threshold == rule.found_threshold <= 0.6
    assert rule.candidate_threshold == pytest.approx(0.69, abs=0.02)
    assert (rule.update_interval, rule.renew_when_uncertain) == (7, False)


def test_low_is_what_parts_good_from_bad_or_less_where_too_many_good_frames_would_be_lost() -> None:
    bad = sights([0.45] * 20, None)
    steady, dip = sights([0.9] * 90, 0.8), sights([0.33] * 10, 0.8)  # a dip of six frames too many to be called LOST
    assert fitted(UpdateRule(lost_after=5), [steady + dip, bad]).lost_threshold == 0.33
    assert fitted(UpdateRule(lost_after=10), [steady + dip, bad]).lost_threshold == 0.46
    flicker = sights([0.33, 0.9] * 5, 0.8)
    assert fitted(UpdateRule(lost_after=5), [steady + flicker, bad]).lost_threshold == 0.46


def test_one_good_frame_may_be_called_lost_however_few_there_are() -> None:
    bad = sights([0.45] * 20, None)
    assert fitted(UpdateRule(lost_after=5), [sights([0.9] * 40 + [0.33] * 5, 0.8), bad]).lost_threshold == 0.46
    assert fitted(UpdateRule(lost_after=5), [sights([0.9] * 40 + [0.33] * 6, 0.8), bad]).lost_threshold == 0.33


def test_statuses_of_scores_are_those_that_the_tracker_gives(tiny_weights: Path) -> None:
    network = load_model(tiny_weights).model
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    rule = UpdateRule(lost_threshold=1.0, found_threshold=1.0, lost_after=4)
    seen = watch(network, rule, [Shot(image, Box(40, 40, 30, 30))] * 7)
    assert [sight.status for sight in seen] == list(statuses(rule, [sight.score for sight in seen]))


def test_the_share_called_lost_is_that_of_the_rule_that_comes_out() -> None:
    good = sights([0.9] * 400 + [0.25] * 5 + [0.4] * 60 + [0.9] * 35, 0.9)
    bad = sights([0.01] * 20 + [0.45] * 400, 0.0)
    rule = fitted(UpdateRule(lost_after=5), [good, bad])
    called = [status is TargetStatus.LOST for status in statuses(rule, [sight.score for sight in good])]
    assert rule.found_threshold > 0.4  # where good and bad boxes part best: LOST would last through all of the 0.4
    assert sum(called) <= 0.01 * len(good)


def test_scores_at_the_top_leave_room_for_a_template() -> None:
    assert fitted(UpdateRule(), [sights([0.9999] * 9, 0.9) + sights([0.1], 0.0)]).candidate_threshold == 0.99


@pytest.mark.parametrize(("overlap", "counts"), [(0.9, "5 good boxes and 0 bad"), (0.0, "0 good boxes and 5 bad")])
def test_thresholds_need_good_and_bad_boxes(overlap: float, counts: str) -> None:
    with pytest.raises(CalibrationError, match=counts):
        fitted(UpdateRule(), [sights([0.5] * 5, overlap)])


def test_overlap_between_good_and_bad_says_nothing() -> None:
    good_and_bad = sights([0.9] * 5, 0.9) + sights([0.1] * 5, 0.1)
    assert fitted(UpdateRule(), [good_and_bad]) == fitted(UpdateRule(), [good_and_bad + sights([0.5] * 50, 0.35)])


@pytest.mark.parametrize(
    ("higher", "lower", "area"),
    [([0.9, 0.8], [0.1], 1.0), ([0.5], [0.5], 0.5), ([0.2, 0.6], [0.4], 0.5), ([], [0.1], math.nan)],
)
def test_roc_area_is_the_share_of_pairs_in_order(higher: list[float], lower: list[float], area: float) -> None:
    assert roc_area(higher, lower) == pytest.approx(area, nan_ok=True)


def test_every_scene_ends_where_its_target_is_not(tmp_path: Path) -> None:
    shards = write_shards(tmp_path)
    (held_out,) = videos_of(shards.validation())
    other = [record for record in shards.training() if record.sequence == "swan"]
    first, second = (list(scene) for scene in vanishing(shards, [held_out, other]))
    assert [shot.box is None for shot in first] == [False] * len(held_out) + [True] * len(other)
    assert {shot.image.shape for shot in first} == {first[0].image.shape}
    assert np.array_equal(first[-1].image, second[len(other) - 1].image)


def test_one_video_alone_is_refused(tmp_path: Path) -> None:
    shards = write_shards(tmp_path)
    with pytest.raises(CalibrationError, match="1 videos"):
        list(vanishing(shards, videos_of(shards.validation())))


def test_reliability_counts_from_the_frame_that_lost_the_target(tiny_weights: Path) -> None:
    network = load_model(tiny_weights).model
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    scene = [Shot(image, Box(40, 40, 30, 30))] * 3 + [Shot(image, None)] * 6
    always_lost = UpdateRule(lost_threshold=1.0, found_threshold=1.0, lost_after=4)
    assert len(watch(network, always_lost, scene)) == 8
    assert judged([watch(network, always_lost, scene)]).frames_until_lost == (2,)  # two frames were low before it went
    never_lost = UpdateRule(lost_threshold=0.0)
    assert judged([watch(network, never_lost, scene)]).frames_until_lost == (6,)


def test_a_scene_is_judged_without_what_was_seen_in_it(tiny_weights: Path) -> None:
    network = load_model(tiny_weights).model
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    scene = [Shot(image, Box(40, 40, 30, 30))] * 2 + [Shot(image, None)] * 6
    (sights_of_it,) = watch_first_template(network, UpdateRule(), [scene])
    score = sights_of_it[0].score
    low, high = (
        sights([score - 0.2], 0.0) + sights([score - 0.1] * 9, 0.9),
        sights([score + 0.05], 0.0) + sights([score + 0.1] * 9, 0.9),
    )
    assert left_out(network, UpdateRule(), [scene, scene], [high, low]).frames_until_lost == (6, 4)
