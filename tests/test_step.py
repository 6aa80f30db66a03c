"""One frame through a session: what commands make of targets, what is refused and how, and what a step leaves behind."""

import asyncio
import gc
import math
import threading

import numpy as np
import pytest
from fake_front import BOX, CONFIG, answer_of, bench, start, until
from pictures import encoded, jpeg_claiming, scene

from mixformer.tracking.v1 import tracking_pb2 as pb
from model.crop import Image
from model.geometry import Box, CropBox
from model.target import Target
from service.config import Limits
from service.decode import decode
from service.errors import (
    DeviceError,
    FrameTooOld,
    SessionNotFound,
)
from service.front.calls.options import granted_options
from service.front.frames import Action, Command
from service.front.tracking.budget import Decoded
from service.front.workers.engine import Answer

PROCESSED, DROPPED, REJECTED = pb.FRAME_OUTCOME_PROCESSED, pb.FRAME_OUTCOME_DROPPED, pb.FRAME_OUTCOME_REJECTED
ELSEWHERE = Box(200.0, 120.0, 40.0, 40.0)


def boxes(result: pb.FrameResult) -> dict[str, Box]:
    return {each.target_id: Box(each.box.x, each.box.y, each.box.width, each.box.height) for each in result.targets}


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


async def test_ensure_starts_a_target_once() -> None:
    given = bench()
    session = given.session()
    ensure = Command("a", Action.ENSURE, BOX)
    assert boxes(await given.track(session, 1, ensure)) == {"a": BOX}
    target = session.targets["a"]
    await given.track(session, 2, ensure)
    assert session.targets["a"] is target


async def test_initialize_starts_an_existing_target_again() -> None:
    given = bench()
    session = given.session()
    await given.track(session, 1, start("a"))
    assert boxes(await given.track(session, 2, start("a", ELSEWHERE))) == {"a": ELSEWHERE}


async def test_relocate_keeps_the_template_and_moves_the_search() -> None:
    given = bench()
    session = given.session()
    await given.track(session, 1, start("a"))
    key = session.targets["a"].memory_key
    moved = await given.track(session, 2, Command("a", Action.RELOCATE, ELSEWHERE))
    assert boxes(moved)["a"] == pytest.approx(tuple(ELSEWHERE), abs=1.5)
    assert session.targets["a"].memory_key == key


async def test_remove_ends_a_target_and_the_frame_that_ends_the_last_is_processed() -> None:
    given = bench()
    session = given.session()
    await given.track(session, 1, start("a"), start("b"))
    assert set(boxes(await given.track(session, 2, Command("a", Action.REMOVE)))) == {"b"}
    last = await given.track(session, 3, Command("b", Action.REMOVE))
    assert (last.outcome, list(last.targets)) == (PROCESSED, [])


async def test_an_empty_id_means_the_only_target_and_nothing_among_several() -> None:
    given = bench()
    session = given.session()
    await given.track(session, 1, start("a"))
    assert set(boxes(await given.track(session, 2, Command("", Action.RELOCATE, ELSEWHERE)))) == {"a"}
    await given.track(session, 3, start("b"))
    unclear = await given.track(session, 4, Command("", Action.RELOCATE, ELSEWHERE))
    assert (unclear.outcome, unclear.error.reason) == (REJECTED, "INVALID_REQUEST")


NAN = Box(math.nan, 0.0, 10.0, 10.0)
INFINITE = Box(0.0, 0.0, math.inf, 10.0)


@pytest.mark.parametrize(
    ("command", "reason", "words"),
    [
        (start("new", Box(400, 10, 20, 20)), "BAD_BOX", "outside the frame of 320x240"),
        (start("new", Box(-50, 10, 20, 20)), "BAD_BOX", "outside the frame of 320x240"),
        (start("new", Box(10, 10, 0, 20)), "BAD_BOX", "no area"),
        (start("new", Box(10, 10, -5, 20)), "BAD_BOX", "no area"),
        (start("new", NAN), "BAD_BOX", "not finite"),
        (start("new", INFINITE), "BAD_BOX", "not finite"),
        (Command("new", Action.ENSURE, NAN), "BAD_BOX", "not finite"),
        (Command("a", Action.RELOCATE, Box(900, 900, 5, 5)), "BAD_BOX", "outside the frame of 320x240"),
        (Command("ghost", Action.RELOCATE, BOX), "TARGET_NOT_FOUND", "'ghost'"),
        (Command("ghost", Action.REMOVE), "TARGET_NOT_FOUND", "'ghost'"),
        (Command("a", Action.NONE), "INVALID_REQUEST", "neither"),
        (start("x" * 129), "INVALID_REQUEST", "129 characters"),
    ],
)
async def test_a_command_that_cannot_be_is_refused_and_the_next_frame_is_tracked(
    command: Command, reason: str, words: str
) -> None:
    given = bench()
    session = given.session()
    await given.track(session, 1, start("a"))
    refused = await given.track(session, 2, command)
    assert (refused.outcome, refused.error.reason) == (REJECTED, reason)
    assert words in refused.error.message
    assert set(boxes(await given.track(session, 3))) == {"a"}


async def test_too_many_targets_and_too_many_commands_are_refused_by_their_numbers() -> None:
    given = bench(Limits(max_targets_per_session=2))
    session = given.session()
    over = await given.track(session, 1, start("a"), start("b"), start("c"))
    assert (over.error.reason, over.error.message) == ("TOO_MANY_TARGETS", "3 targets are over max_targets_per_session 2")
    flood = await given.track(session, 2, *[start("a")] * 257)
    assert (flood.error.reason, flood.error.message) == ("INVALID_REQUEST", "more than 256 commands on one frame")
    assert dict(session.targets) == {}


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


async def test_one_wrong_command_of_a_frame_undoes_the_others() -> None:
    given = bench()
    session = given.session()
    await given.track(session, 1, start("a"))
    await given.track(session, 2, Command("a", Action.RELOCATE, ELSEWHERE), start("b"), start("c", NAN))
    assert boxes(await given.track(session, 3)) == {"a": pytest.approx(tuple(BOX), abs=1.5)}


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


async def test_a_fault_of_ours_while_a_frame_is_decoded_is_answered_in_band(monkeypatch: pytest.MonkeyPatch) -> None:
    given = bench()
    session = given.session()
    await given.track(session, 1, start("a"))

    async def broken(*_: object) -> object:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(given.pool, "decode", broken)
        result = await given.track(session, 2)
    assert (result.outcome, result.error.reason) == (REJECTED, "INTERNAL")
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


TALL = encoded(scene(320, 640, seed=1))
LOW = Box(200.0, 480.0, 40.0, 40.0)


async def test_a_frame_is_decoded_down_to_where_its_targets_may_be() -> None:
    given = bench()
    session = given.session()
    await given.track(session, 1, start("a"), payload=TALL)
    ahead = await given.front.tracker.prepare(session, given.frame(2, payload=TALL))
    with_command = await given.front.tracker.prepare(session, given.frame(2, start("b", LOW), payload=TALL))
    assert isinstance(ahead, Decoded) and isinstance(with_command, Decoded)
    assert (ahead.rows < 320, with_command.rows) == (True, 640)


async def test_a_target_that_moved_below_what_is_decoded_is_searched_in_the_whole_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = bench()
    session = given.session()
    await given.track(session, 1, start("a"), payload=TALL)
    ahead = await given.front.tracker.prepare(session, given.frame(2, payload=TALL))
    session.targets["a"].relocate(LOW, 320, 640)
    searched = []

    async def submit(_client: str, _target: object, search: bytes, _expires_at: float | None) -> Answer:
        searched.append(search)
        return answer_of()

    monkeypatch.setattr(given.engine, "submit", submit)
    expected = session.targets["a"].search(decode(TALL, Limits()))
    await given.front.tracker.track(session, given.frame(2, payload=TALL), ahead)
    assert searched == [expected.tobytes()]


async def test_a_candidate_from_below_what_is_decoded_is_cut_from_the_whole_frame() -> None:
    given = bench()
    session = given.session()
    await given.track(session, 1, start("a"), payload=TALL)
    given.engine.answers[0] = answer_of(CropBox(0.5, 0.9, 0.9, 1.0))
    await given.track(session, 2, payload=TALL)
    state = session.targets["a"].state
    whole = decode(TALL, Limits())
    expected = Target.start(CONFIG, session.options.rule, whole, state.report.box).templates[0]
    np.testing.assert_array_equal(state.candidate, expected)


async def test_a_large_window_is_cut_in_a_thread_and_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    given = bench()
    session = given.session()
    large = encoded(scene(1280, 1280))
    await given.track(session, 1, start("a", Box(300, 300, 400, 400)), payload=large)
    threads, cut = [], Target.search

    def search(target: Target, image: Image) -> Image:
        threads.append(threading.current_thread())
        return cut(target, image)

    monkeypatch.setattr(Target, "search", search)
    result = await given.track(session, 2, payload=large)
    assert boxes(result)["a"] == pytest.approx((300, 300, 400, 400), abs=1.5)
    assert [each is threading.main_thread() for each in threads] == [False]


async def test_update_interval_counts_processed_frames() -> None:
    given = bench()
    session = given.session(options=pb.SessionOptions(update_interval_frames=3))
    await given.track(session, 1, start())
    updated = []
    for number in range(2, 10):
        result = await given.track(session, number, payload=b"bad" if number % 2 else encoded(scene()))
        updated += [each.template_updated for each in result.targets]
    assert updated == [False, False, True, False]


async def test_memories_are_released_when_renewed_removed_or_at_the_end_and_only_then() -> None:
    given = bench()
    session = given.session(options=pb.SessionOptions(update_interval_frames=2))
    await given.track(session, 1, start("a"), start("b", ELSEWHERE))
    await given.track(session, 2)
    first = {name: target.memory_key for name, target in session.targets.items()}
    assert given.engine.released == []
    await given.track(session, 3)
    assert sorted(given.engine.released) == sorted(first.values())
    await given.track(session, 4, Command("a", Action.REMOVE))
    await given.front.table.end(session, SessionNotFound("deleted"))
    assert sorted(given.engine.released) == sorted(set(given.engine.used))


async def test_a_memory_that_was_never_used_is_not_released() -> None:
    given = bench()
    session = given.session()
    await given.track(session, 1, start("a"))
    await given.front.table.end(session, SessionNotFound("deleted"))
    assert given.engine.released == []


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


async def test_other_options_keep_the_targets() -> None:
    given = bench()
    session = given.session()
    await given.track(session, 1, start("a"))
    key = session.targets["a"].memory_key
    given.front.tracker.set_options(session, granted_options(pb.SessionOptions(update_interval_frames=1), given.front))
    assert session.targets["a"].memory_key == key
    assert (await given.track(session, 2)).targets[0].template_updated


@pytest.mark.parametrize("commands", [(), (Command("nobody", Action.RELOCATE, BOX),), (start(box=Box(9e3, 9e3, 5.0, 5.0)),)])
async def test_a_refused_frame_keeps_no_picture(commands: tuple[Command, ...]) -> None:
    given = bench()
    session = given.session()
    free = given.pool.free_bytes
    gc.disable()  # a cycle would be found some day; the budget needs the bytes now
    try:
        result = await given.track(session, 1, *commands)
        assert result.outcome == REJECTED
        await until(lambda: given.pool.free_bytes == free)
    finally:
        gc.enable()


async def test_a_target_that_was_not_asked_for_is_not_released() -> None:
    given = bench()
    session = given.session()
    await given.track(session, 1, start("a"))
    await given.track(session, 2)
    nowhere = Command("a", Action.RELOCATE, Box(0.0, 0.0, 1e7, 1e7))
    assert (await given.track(session, 3, nowhere)).outcome == REJECTED
    assert given.engine.released == []


async def test_a_frame_that_waits_for_room_keeps_its_session() -> None:
    given = bench(Limits(decoded_bytes_budget=scene().nbytes, max_frame_pixels=scene().nbytes // 3))
    session = given.session()
    held = await given.pool.decode(given.frame(0).payload or b"")
    waiting = asyncio.create_task(given.front.tracker.prepare(session, given.frame(1)))
    await asyncio.sleep(0)
    given.time.now += 2 * session.options.idle_timeout_seconds
    assert session.idle_seconds_left > 0
    del held
    assert isinstance(await waiting, Decoded)
    given.time.now += 2 * session.options.idle_timeout_seconds
    assert session.idle_seconds_left <= 0
