"""A frame's commands: what they make of the session's targets, and what is refused and how."""

import math

import pytest
from fake_front import BOX, ELSEWHERE, PROCESSED, REJECTED, bench, boxes, start

from mixformer.tracking.v1 import tracking_pb2 as pb
from model.geometry import Box
from service.config import Limits
from service.front.calls.options import granted_options
from service.front.frames import Action, Command


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


async def test_an_empty_id_on_a_refused_frame_means_what_it_would_have_meant() -> None:
    given = bench()
    session = given.session()
    await given.track(session, 1, start("a"))
    unclear = await given.track(session, 2, start("b"), Command("", Action.REMOVE))
    assert (unclear.error.reason, list(session.targets)) == ("INVALID_REQUEST", ["a"])
    await given.track(session, 3, start("b"), Command("b", Action.REMOVE), Command("", Action.REMOVE), payload=b"bad")
    assert list(session.targets) == []


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
    await given.track(session, 0, start("a"))
    over = await given.track(session, 1, start("b"), start("c"))
    assert (over.error.reason, over.error.message) == ("TOO_MANY_TARGETS", "3 targets are over max_targets_per_session 2")
    flood = await given.track(session, 2, *[start("a")] * 257)
    assert (flood.error.reason, flood.error.message) == ("INVALID_REQUEST", "more than 256 commands on one frame")
    assert list(session.targets) == ["a"]


async def test_a_frame_may_not_start_more_targets_than_a_session_may_have() -> None:
    given = bench(Limits(max_targets_per_session=2))
    session = given.session()
    again = [start("a"), Command("a", Action.REMOVE)]
    assert (await given.track(session, 1, *again, start("a"))).outcome == PROCESSED
    over = await given.track(session, 2, *again, *again, start("b"))
    assert (over.error.reason, over.error.message) == (
        "TOO_MANY_TARGETS",
        "3 starts on one frame are over max_targets_per_session 2",
    )


async def test_one_wrong_command_of_a_frame_undoes_the_others() -> None:
    given = bench()
    session = given.session()
    await given.track(session, 1, start("a"))
    await given.track(session, 2, Command("a", Action.RELOCATE, ELSEWHERE), start("b"), start("c", NAN))
    assert boxes(await given.track(session, 3)) == {"a": pytest.approx(tuple(BOX), abs=1.5)}


async def test_other_options_keep_the_targets() -> None:
    given = bench()
    session = given.session()
    await given.track(session, 1, start("a"))
    key = session.targets["a"].memory_key
    given.front.tracker.set_options(session, granted_options(pb.SessionOptions(update_interval_frames=1), given.front))
    assert session.targets["a"].memory_key == key
    assert (await given.track(session, 2)).targets[0].template_updated
