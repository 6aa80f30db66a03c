"""The state of one target: its update rule, its status, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest

from model.config import VARIANTS, UpdateRule
from model.crop import Image
from model.geometry import Box, CropBox, crop_window
from model.target import NonFinitePredictionError, Target, TargetStatus

CONFIG = VARIANTS["mixvit_tiny"]
BOX = Box(100, 80, 40, 30)
STAY = CropBox(0.5, 0.5, 40 / 156, 30 / 156)  # the search window of a 40x30 box has a side of 156


def frame(seed: int) -> Image:
    return np.random.default_rng(seed).integers(0, 255, (240, 320, 3), dtype=np.uint8)


def started(rule: UpdateRule | None = None) -> Target:
    return Target.start(CONFIG, rule or UpdateRule(update_interval=3, online_size=2), frame(0), BOX)


def test_first_report_is_the_clients_word() -> None:
    report = started().report
    assert report.box == BOX
    assert (report.score, report.status, report.frames_since_tracked) == (1.0, TargetStatus.TRACKED, 0)


def test_first_online_template_is_the_template() -> None:
    template, online = started().templates
    assert np.array_equal(template, online)


def test_centred_prediction_leaves_the_box_where_it_was() -> None:
    assert started().advance(frame(1), STAY, 0.9).box == pytest.approx(BOX, abs=1e-3)


def test_best_frame_of_the_interval_becomes_an_online_template() -> None:
    target = started()
    views = [target.advance(frame(i), STAY, score).box for i, score in ((1, 0.6), (2, 0.9), (3, 0.7))]
    best = Target.start(CONFIG, UpdateRule(), frame(2), views[1]).templates[0]
    assert len(target.templates) == 3
    assert np.array_equal(target.templates[2], best)
    assert target.report.template_updated


def test_full_ring_replaces_its_oldest_first() -> None:
    target = started(UpdateRule(update_interval=1, online_size=2))
    for i in range(1, 4):  # appends once, then replaces entry 0, then entry 1
        target.advance(frame(i), STAY, 0.9)
    newest = [Target.start(CONFIG, UpdateRule(), frame(i), target.report.box).templates[0] for i in (2, 3)]
    assert all(np.array_equal(a, b) for a, b in zip(target.templates[1:], newest, strict=True))


def test_the_newest_online_templates_stay_where_fewer_are_asked_for() -> None:
    target = started(UpdateRule(update_interval=1, online_size=3))
    for number in range(1, 5):  # fills the ring, then replaces entries 0 and 1: the newest is entry 1
        target.advance(frame(number), STAY, 0.9)
    newest = target.templates[2]
    fewer = Target(CONFIG, UpdateRule(update_interval=1, online_size=2), target.state)
    fewer.advance(frame(5), STAY, 0.9)
    added = Target.start(CONFIG, UpdateRule(), frame(5), fewer.report.box).templates[0]
    assert {crop.tobytes() for crop in fewer.templates[1:]} == {newest.tobytes(), added.tobytes()}


def test_interval_without_a_good_frame_falls_back_to_the_template() -> None:
    target = started(UpdateRule(update_interval=1, online_size=1))
    target.advance(frame(1), STAY, 0.9)
    report = target.advance(frame(2), STAY, 0.1)
    assert report.template_updated
    assert np.array_equal(target.templates[0], target.templates[1])


def test_uncertain_target_keeps_its_templates_where_the_rule_says_so() -> None:
    target = started(UpdateRule(update_interval=2, online_size=1, renew_when_uncertain=False))
    key = target.memory_key
    target.advance(frame(1), STAY, 0.9)
    assert not target.advance(frame(2), STAY, 0.3).template_updated
    assert target.memory_key == key


def test_doubtful_target_is_searched_for_in_a_window_of_the_last_sure_size_where_the_rule_says_so() -> None:
    shrunk = CropBox(0.6, 0.5, STAY.width / 2, STAY.height / 2)
    target, original = started(UpdateRule(hold_size=True)), started()
    sure = target.search_window
    for each in (target, original):
        for _ in range(2):
            each.advance(frame(1), shrunk, 0.1)
    assert (target.report.status, target.search_window.side) == (TargetStatus.UNCERTAIN, sure.side)
    assert original.search_window.side < sure.side / 3
    side = target.search_window.side
    assert target.search_window.left + side / 2 == pytest.approx(target.report.box.x + target.report.box.width / 2, abs=1)
    moved = target.report.box
    report = target.advance(frame(1), STAY, 0.9)
    assert report.status is TargetStatus.TRACKED
    assert report.box.x + report.box.width / 2 == pytest.approx(moved.x + moved.width / 2, abs=1)
    assert target.search_window == crop_window(report.box, CONFIG.search_factor)


def test_relocated_target_is_searched_for_around_the_clients_box() -> None:
    target = started(UpdateRule(hold_size=True))
    target.advance(frame(1), STAY, 0.1)
    there = Box(10.0, 20.0, 12.0, 12.0)
    target.relocate(there, 320, 240)
    assert target.search_window == crop_window(there, CONFIG.search_factor)


def test_score_decay_lets_a_later_weaker_view_win() -> None:
    target = started(UpdateRule(update_interval=10, online_size=1, score_decay=0.5))
    target.advance(frame(1), STAY, 0.9)
    target.advance(frame(2), STAY, 0.6)
    assert target.state.best_score == 0.6


def test_variant_without_scores_takes_the_current_box_every_interval() -> None:
    target = Target.start(VARIANTS["mixcvt_base_offline"], UpdateRule(update_interval=2), frame(0), BOX)
    assert target.report.score is None
    updates = [target.advance(frame(i), STAY, None).template_updated for i in range(1, 5)]
    assert updates == [False, True, False, True]
    assert len(target.templates) == 2


def test_key_follows_the_templates_and_the_variant() -> None:
    one, same = started(), started()
    other = Target.start(replace(CONFIG, name="another"), UpdateRule(), frame(0), BOX)
    assert one.memory_key == same.memory_key
    assert one.memory_key != other.memory_key
    for number in range(1, 4):
        assert one.memory_key == same.memory_key
        one.advance(frame(number), STAY, 0.9)
    assert one.report.template_updated
    assert one.memory_key != same.memory_key
    assert len(one.memory_key) == len(same.memory_key) == 16


def statuses(scores: list[float]) -> list[TargetStatus]:
    rule = UpdateRule(uncertain_threshold=0.5, lost_threshold=0.2, found_threshold=0.6, lost_after=3)
    target = started(rule)
    return [target.advance(frame(1), STAY, score).status for score in scores]


def test_one_bad_frame_is_uncertain_and_three_are_lost() -> None:
    uncertain, lost = TargetStatus.UNCERTAIN, TargetStatus.LOST
    assert statuses([0.9, 0.1, 0.1, 0.1]) == [TargetStatus.TRACKED, uncertain, uncertain, lost]


def test_lost_target_is_tracked_again_only_above_the_found_threshold() -> None:
    assert statuses([0.1] * 3 + [0.55, 0.61, 0.55])[3:] == [TargetStatus.LOST, TargetStatus.TRACKED, TargetStatus.TRACKED]


def test_frames_since_tracked_counts_until_it_is_tracked() -> None:
    target = started()
    counts = [target.advance(frame(1), STAY, score).frames_since_tracked for score in (0.4, 0.4, 0.9)]
    assert counts == [1, 2, 0]


def test_frames_without_an_answer_count_as_frames_since_it_was_tracked() -> None:
    target = started()
    reports = [target.miss(), target.miss(), target.advance(frame(1), STAY, 0.4)]
    assert [each.frames_since_tracked for each in reports] == [1, 2, 3]
    assert (reports[1].box, reports[1].score, reports[1].status) == (BOX, None, TargetStatus.UNCERTAIN)
    assert target.advance(frame(1), STAY, 0.9).frames_since_tracked == 0


def test_frame_without_an_answer_leaves_a_lost_target_lost_and_one_without_scores_unspecified() -> None:
    lost = started(UpdateRule(lost_threshold=0.2, lost_after=1))
    lost.advance(frame(1), STAY, 0.1)
    assert lost.miss().status is TargetStatus.LOST
    scoreless = Target.start(VARIANTS["mixcvt_base_offline"], UpdateRule(), frame(0), BOX)
    assert scoreless.miss().status is TargetStatus.UNSPECIFIED


@pytest.mark.parametrize(("box", "score"), [(CropBox(float("nan"), 0.5, 0.1, 0.1), 0.9), (STAY, float("inf"))])
def test_prediction_that_is_no_number_changes_nothing(box: CropBox, score: float) -> None:
    target = started(UpdateRule(update_interval=1))
    before = (target.report, target.memory_key, target.state.frames)
    with pytest.raises(NonFinitePredictionError, match="not finite"):
        target.advance(frame(1), box, score)
    assert (target.report, target.memory_key, target.state.frames) == before


def test_relocation_moves_the_window_and_keeps_the_templates() -> None:
    target = started()
    key = target.memory_key
    target.relocate(Box(200, 150, 40, 30), 320, 240)
    assert target.report.box == Box(200, 150, 40, 30)
    assert target.memory_key == key


@pytest.mark.parametrize(
    "box", [Box(400, 10, 20, 20), Box(10, -50, 20, 20), Box(10, 10, 0, 20), Box(10, 10, float("nan"), 20), Box(0, 0, 3e5, 3e5)]
)
def test_box_that_cannot_be_used_is_refused_with_its_numbers(box: Box) -> None:
    with pytest.raises(ValueError, match="box"):
        Target.start(CONFIG, UpdateRule(), frame(0), box)
    with pytest.raises(ValueError, match="box"):
        started().relocate(box, 320, 240)


def test_frame_that_no_longer_holds_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="misses the frame of 20x10"):
        Target.start(CONFIG, UpdateRule(), frame(0), Box(300, 200, 10, 10)).search(frame(0)[:10, :20])


@pytest.mark.parametrize(
    ("name", "value"), [("update_interval", 0), ("online_size", 6), ("candidate_threshold", 1.5), ("lost_after", 0)]
)
def test_rule_out_of_range_is_refused_with_its_value(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} {value}"):
        UpdateRule(**{name: value})  # type: ignore[arg-type]
