"""A session as values: what comes back is what went in, and nothing else comes in."""

import msgspec
import numpy as np
import pytest
from fake_front import CONFIG, bench, start
from hypothesis import given, settings
from hypothesis import strategies as st

from mixformer.tracking.v1 import tracking_pb2 as pb
from model.config import VARIANTS
from model.geometry import Box
from service.front.resume.snapshot import Snapshot, SnapshotError, Snapshots
from service.front.tracking.session import Session

SNAPSHOTS = Snapshots(CONFIG, max_targets=16)


def pictures(snapshot: Snapshot) -> list[bytes]:
    """The crops as they travel."""
    return [crop.tobytes() for crop in snapshot.crops.values()]


async def tracked(frames: int = 5) -> Session:
    """A session of two targets whose templates were renewed on the way."""
    here = bench()
    session = here.session("cam", pb.SessionOptions(update_interval_frames=2, return_resume_token=True, search_factor=3.5))
    await here.track(session, 0, start("a"), start("b", Box(50, 50, 30, 20)))
    for number in range(1, frames):
        await here.track(session, number)
    return session


async def test_a_session_comes_back_as_it_was() -> None:
    session = await tracked()
    snapshot = SNAPSHOTS.take(session)
    state = SNAPSHOTS.read(snapshot.state, pictures(snapshot))
    assert (state.session_id, state.client, state.last_frame_number) == ("cam", "me", 4)
    assert state.options == session.options
    assert set(state.targets) == {"a", "b"}
    for name, target in session.targets.items():
        found = state.targets[name]
        assert found.report == target.state.report
        assert (found.best_score, found.frames, found.next_replaced) == (
            target.state.best_score, target.state.frames, target.state.next_replaced,
        )  # fmt: skip
        for mine, other in zip([*found.online, found.template], [*target.state.online, target.state.template], strict=True):
            assert np.array_equal(mine, other)


async def test_what_a_doubtful_target_is_searched_for_in_comes_along_and_older_snapshots_lack_it() -> None:
    snapshot = SNAPSHOTS.take(await tracked(1))
    state = msgspec.msgpack.decode(snapshot.state)
    targets = state["session"]["targets"]
    targets["a"]["sought"] = [1.0, 2.0, 30.0, 40.0]
    del targets["b"]["sought"], state["session"]["options"]["rule"]["hold_size"]
    found = SNAPSHOTS.read(msgspec.msgpack.encode(state), pictures(snapshot))
    assert (found.targets["a"].sought, found.targets["b"].sought) == (Box(1, 2, 30, 40), None)
    assert not found.options.rule.hold_size


async def test_equal_crops_are_held_once_and_unchanged_ones_keep_their_names() -> None:
    session = await tracked(1)
    first = SNAPSHOTS.take(session)
    assert len(first.crops) == 2  # template, online template and candidate of each are one picture
    assert set(SNAPSHOTS.take(session).crops) == set(first.crops)


@pytest.mark.parametrize("other", ["mixvit_base", "mixvit_large", "mixcvt_small"])
async def test_another_network_is_named(other: str) -> None:
    snapshot = SNAPSHOTS.take(await tracked(1))
    with pytest.raises(SnapshotError, match=f"mixvit_tiny.*here runs {other}"):
        Snapshots(VARIANTS[other], 16).read(snapshot.state, pictures(snapshot))


async def test_more_targets_than_are_allowed_here_are_refused() -> None:
    snapshot = SNAPSHOTS.take(await tracked(1))
    with pytest.raises(SnapshotError, match="2 targets are over max_targets_per_session 1"):
        Snapshots(CONFIG, 1).read(snapshot.state, pictures(snapshot))


async def test_a_missing_or_changed_picture_is_refused() -> None:
    snapshot = SNAPSHOTS.take(await tracked(1))
    first, second = pictures(snapshot)
    for crops in ([first], [first, second[:-1] + bytes([second[-1] ^ 1])], []):
        with pytest.raises(SnapshotError, match="not a session"):
            SNAPSHOTS.read(snapshot.state, crops)


WRONG = [
    ("report", [[0.0, 0.0, 0.0, 5.0], 0.5, 1, 0, False]),
    ("report", [[0.0, 0.0, float("nan"), 5.0], 0.5, 1, 0, False]),
    ("report", [[0.0, 0.0, 1e9, 1e9], 0.5, 1, 0, False]),
    ("report", [[0.0, 0.0, 5.0, 5.0], float("inf"), 1, 0, False]),
    ("report", [[0.0, 0.0, 5.0, 5.0], 0.5, 9, 0, False]),
    ("sought", [0.0, 0.0, 1e9, 1e9]),
    ("sought", [0.0, 0.0, float("nan"), 5.0]),
    ("online", []),
    ("next_replaced", 1),
    ("next_replaced", -1),
    ("frames", -1),
    ("report", [[0.0, 0.0, 5.0, 5.0], 0.5, 1, 2**31, False]),
    ("best_score", float("nan")),
    ("template", b"unknown"),
    ("template", 5),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
async def test_numbers_that_tracking_cannot_lead_to_are_refused(name: str, value: object) -> None:
    snapshot = SNAPSHOTS.take(await tracked(1))
    state = msgspec.msgpack.decode(snapshot.state)
    state["session"]["targets"]["a"][name] = value
    with pytest.raises(SnapshotError):
        SNAPSHOTS.read(msgspec.msgpack.encode(state), pictures(snapshot))


@pytest.mark.parametrize("name", ["update_interval", "lost_after"])
async def test_a_rule_that_no_message_can_hold_is_refused(name: str) -> None:
    snapshot = SNAPSHOTS.take(await tracked(1))
    state = msgspec.msgpack.decode(snapshot.state)
    state["session"]["options"]["rule"][name] = 2**32
    with pytest.raises(SnapshotError, match=f"{name} 4294967296 is outside 1 to 4294967295"):
        SNAPSHOTS.read(msgspec.msgpack.encode(state), pictures(snapshot))


@given(state=st.binary(max_size=300), crops=st.lists(st.binary(max_size=50), max_size=3))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_are_refused_and_nothing_worse(state: bytes, crops: list[bytes]) -> None:
    with pytest.raises(SnapshotError):
        SNAPSHOTS.read(state, crops)


async def test_a_snapshot_with_any_part_turned_around_is_read_or_refused() -> None:
    snapshot = SNAPSHOTS.take(await tracked(1))
    crops = pictures(snapshot)
    for at in range(len(snapshot.state)):
        changed = snapshot.state[:at] + bytes([snapshot.state[at] ^ 0xFF]) + snapshot.state[at + 1 :]
        try:
            SNAPSHOTS.read(changed, crops)
        except SnapshotError as error:
            assert str(error)
