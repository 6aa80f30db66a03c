"""One frame through a session: what its result says, what is refused and how, and what becomes of late and old frames."""

import asyncio
import math

import pytest
from fake_front import BOX, DROPPED, ELSEWHERE, PROCESSED, REJECTED, answer_of, bench, boxes, start, until
from pictures import encoded, jpeg_claiming, scene

from mixformer.tracking.v1 import tracking_pb2 as pb
from model.geometry import Box, CropBox
from service.errors import DeviceError, FrameTooOld
from service.front.frames import Action, Command


async def test_a_target_starts_where_the_client_says_and_is_tracked_from_the_next_frame() -> None:
    given = bench()
    session = given.session()
    first = await given.track(session, 1, start("a"))
    assert (first.outcome, boxes(first), given.engine.calls) == (PROCESSED, {"a": BOX}, 0)
    assert (first.targets[0].score, first.targets[0].status) == (1.0, pb.TARGET_STATUS_TRACKED)
    second = await given.track(session, 2)
    assert boxes(second)["a"] == pytest.approx(tuple(BOX), abs=1.5)
    assert second.targets[0].score == pytest.approx(0.9)
    assert (second.timing.batch_size, given.engine.calls) == (1, 1)


async def test_all_targets_of_a_frame_are_asked_for_at_once() -> None:
    given = bench()
    session = given.session()
    await given.track(session, 1, start("a"), start("b", ELSEWHERE))
    given.engine.gate.clear()
    asked = asyncio.create_task(given.track(session, 2))
    await until(lambda: given.engine.waiting == 2)
    given.engine.gate.set()
    assert set(boxes(await asked)) == {"a", "b"}


BAD_FRAMES = {
    "no picture": (b"hello", "BAD_FRAME"),
    "truncated": (encoded(scene())[:500], "BAD_FRAME"),
    "huge header": (jpeg_claiming(50000, 50000), "FRAME_TOO_LARGE"),
    "no bytes": (b"", "BAD_FRAME"),
    "no payload": (None, "BAD_FRAME"),
    "over the limit": (bytes(8 * 2**20 + 1), "FRAME_TOO_LARGE"),
}


@pytest.mark.parametrize("kind", BAD_FRAMES)
async def test_a_bad_frame_applies_no_command_but_remove_and_the_next_is_tracked(kind: str) -> None:
    payload, reason = BAD_FRAMES[kind]
    given = bench()
    session = given.session()
    await given.track(session, 1, start("a"), start("b"))
    refused = await given.track(session, 2, start("c"), Command("b", Action.REMOVE), payload=payload)
    assert (refused.outcome, refused.error.reason, list(refused.targets)) == (REJECTED, reason, [])
    assert set(boxes(await given.track(session, 3))) == {"a"}


async def test_a_first_frame_without_a_target_is_refused() -> None:
    given = bench()
    refused = await given.track(given.session(), 1)
    assert (refused.outcome, refused.error.reason) == (REJECTED, "NO_TARGET")


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (DeviceError("out of memory"), "DEVICE_ERROR"),
        (answer_of(CropBox(math.nan, 0, 0, 0)), "NON_FINITE_PREDICTION"),
        (answer_of(score=math.inf), "NON_FINITE_PREDICTION"),
    ],
)
async def test_a_target_that_fails_alone_keeps_its_box_and_is_named(failure: object, reason: str) -> None:
    given = bench()
    session = given.session()
    await given.track(session, 1, start("a"), start("b", ELSEWHERE))
    given.engine.answers[0] = failure  # type: ignore[assignment]
    result = await given.track(session, 2)
    a, b = result.targets
    assert (result.outcome, result.error.reason) == (PROCESSED, reason)
    assert result.error.message.startswith("target 'a': ")
    assert (boxes(result)["a"], a.status, a.HasField("score")) == (BOX, pb.TARGET_STATUS_UNCERTAIN, False)
    assert b.status == pb.TARGET_STATUS_TRACKED and b.score == pytest.approx(0.9)


async def test_a_target_that_fails_alone_twice_counts_both_frames() -> None:
    given = bench()
    session = given.session()
    await given.track(session, 1, start("a"), start("b", ELSEWHERE))
    given.engine.answers = {0: DeviceError("out of memory"), 2: DeviceError("out of memory"), 4: answer_of(score=0.3)}
    results = [await given.track(session, number) for number in (2, 3, 4, 5)]
    assert [each.targets[0].frames_since_tracked for each in results] == [1, 2, 3, 0]
    assert [each.targets[1].frames_since_tracked for each in results] == [0, 0, 0, 0]


async def test_a_frame_of_which_nothing_can_be_tracked_is_refused_and_undone() -> None:
    given = bench()
    session = given.session()
    await given.track(session, 1, start("a"))
    given.engine.answers[0] = DeviceError("out of memory")
    result = await given.track(session, 2, Command("a", Action.RELOCATE, ELSEWHERE))
    assert (result.outcome, result.error.message) == (REJECTED, "target 'a': out of memory")
    assert session.targets["a"].report.box == BOX


async def test_a_target_outside_a_smaller_frame_fails_alone() -> None:
    given = bench()
    session = given.session()
    await given.track(session, 1, start("far", Box(290, 200, 10, 10)), start("near", Box(20, 20, 20, 20)))
    result = await given.track(session, 2, payload=encoded(scene(64, 64)))
    assert (result.outcome, result.error.reason, "'far'" in result.error.message) == (PROCESSED, "BAD_BOX", True)


async def test_a_fault_of_ours_is_answered_in_band_without_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    given = bench()
    session = given.session()
    await given.track(session, 1, start("a"))

    async def broken(*_: object) -> object:
        raise KeyError("secret")

    with monkeypatch.context() as patch:
        patch.setattr(given.engine, "submit", broken)
        result = await given.track(session, 2)
    assert (result.outcome, result.error.reason, "secret" in result.error.message) == (REJECTED, "INTERNAL", False)
    assert (await given.track(session, 3)).outcome == PROCESSED


async def test_strict_order_refuses_a_number_that_does_not_rise() -> None:
    given = bench()
    session = given.session(options=pb.SessionOptions(strict_order=True))
    await given.track(session, 5, start())
    late = await given.track(session, 5)
    assert (late.outcome, late.error.reason) == (REJECTED, "FRAME_OUT_OF_ORDER")
    assert (await given.track(session, 6)).outcome == PROCESSED


async def test_a_frame_that_came_too_late_opens_no_way_for_others() -> None:
    given = bench()
    session = given.session(options=pb.SessionOptions(strict_order=True))
    await given.track(session, 5, start())
    for number in (3, 4, 5):
        assert (await given.track(session, number)).error.reason == "FRAME_OUT_OF_ORDER"
    assert session.last_frame_number == 5


@pytest.mark.parametrize("refused", [2**64 - 1, 6])
async def test_a_refused_frame_may_come_again_under_its_number_in_strict_order(refused: int) -> None:
    given = bench()
    session = given.session(options=pb.SessionOptions(strict_order=True))
    await given.track(session, 5, start())
    assert (await given.track(session, refused, payload=b"bad")).error.reason == "BAD_FRAME"
    assert session.last_frame_number == 5
    assert (await given.track(session, 6)).outcome == PROCESSED


async def test_a_first_frame_that_was_refused_may_come_again_in_strict_order() -> None:
    given = bench()
    session = given.session(options=pb.SessionOptions(strict_order=True))
    assert (await given.track(session, 0, start(), payload=b"bad")).error.reason == "BAD_FRAME"
    assert (await given.track(session, 0, start())).outcome == PROCESSED


async def test_a_dropped_frame_counts_in_strict_order() -> None:
    given = bench()
    options = pb.SessionOptions(strict_order=True)
    options.max_frame_age.FromMilliseconds(500)
    session = given.session(options=options)
    await given.track(session, 5, start())
    assert (await given.track(session, 6, capture_time=given.time() - 9)).outcome == DROPPED
    assert (await given.track(session, 6)).error.reason == "FRAME_OUT_OF_ORDER"


async def test_numbers_need_not_rise_without_strict_order() -> None:
    given = bench()
    session = given.session()
    await given.track(session, 5, start())
    assert (await given.track(session, 4)).outcome == PROCESSED


async def test_a_frame_that_grows_too_old_before_its_turn_at_the_device_is_dropped() -> None:
    given = bench()
    options = pb.SessionOptions()
    options.max_frame_age.FromMilliseconds(500)
    session = given.session(options=options)
    await given.track(session, 1, start())
    given.engine.answers[0] = FrameTooOld("too late")
    old = await given.track(session, 2, capture_time=given.time() - 0.2)
    assert given.engine.expiries == [pytest.approx(given.time() + 0.3)]
    assert (old.outcome, old.error.reason) == (DROPPED, "FRAME_TOO_OLD")
    assert (await given.track(session, 3)).outcome == PROCESSED
    assert given.engine.expiries[1:] == [None]


async def test_an_old_frame_is_dropped_before_the_device_unless_it_carries_commands() -> None:
    given = bench()
    options = pb.SessionOptions()
    options.max_frame_age.FromMilliseconds(500)
    session = given.session(options=options)
    assert (await given.track(session, 1, start(), capture_time=given.time() - 9)).outcome == PROCESSED
    old = await given.track(session, 2, capture_time=given.time() - 0.6)
    assert (old.outcome, old.error.reason, given.engine.calls) == (DROPPED, "FRAME_TOO_OLD", 0)
    assert "is 0.100 s over max_frame_age, which is 0.5 s" in old.error.message
    assert (await given.track(session, 3, capture_time=given.time() - 0.4)).outcome == PROCESSED
    assert (await given.track(session, 4)).outcome == PROCESSED


async def test_update_interval_counts_processed_frames() -> None:
    given = bench()
    session = given.session(options=pb.SessionOptions(update_interval_frames=3))
    await given.track(session, 1, start())
    updated = []
    for number in range(2, 10):
        result = await given.track(session, number, payload=b"bad" if number % 2 else encoded(scene()))
        updated += [each.template_updated for each in result.targets]
    assert updated == [False, False, True, False]


async def test_a_step_that_is_cancelled_leaves_the_session_as_it_was() -> None:
    given = bench()
    session = given.session()
    await given.track(session, 1, start("a"))
    given.engine.gate.clear()
    step = asyncio.create_task(given.track(session, 2, start("b"), Command("a", Action.RELOCATE, ELSEWHERE)))
    await until(lambda: given.engine.waiting == 1)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    assert (set(session.targets), session.targets["a"].report.box, given.engine.cancelled) == ({"a"}, BOX, 1)
    given.engine.gate.set()
    assert (await given.track(session, 3)).outcome == PROCESSED
