"""A client's session whose streams break, over servers that give resume tokens, refuse them or know of none."""

import asyncio
import secrets
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from fake_service import FakeService, listening
from pictures import encoded, scene
from processes import served

from mixformer.tracking.v1 import tracking_pb2 as pb
from service.client import ClientError, TrackingClient
from service.client_session import ClientSession

BOX = pb.BoundingBox(x=1, y=2, width=3, height=4)
START = [pb.TargetCommand(target_id="a", initialize=BOX)]
SURE = [pb.TargetCommand(target_id="a", ensure=BOX)]


async def answers(session: ClientSession, numbers: range) -> list[int]:
    """The numbers of the results to these frames, sent one after the other."""
    found = []
    for number in numbers:
        await session.send(number, b"picture", START if number == 0 else [])
        result = await session.receive()
        assert [each.box for each in result.targets] == [BOX]
        found.append(result.frame_number)
    return found


async def together(session: ClientSession, count: int) -> list[int]:
    """The numbers of the results to so many frames, all sent before the first result is taken."""
    for number in range(count):
        await session.send(number, b"picture", START if number == 0 else [])
    return [(await session.receive()).frame_number for _ in range(count)]


async def test_results_come_in_the_order_of_the_frames() -> None:
    with listening(FakeService()) as server:
        async with TrackingClient(server) as client, ClientSession(client, pb.SessionOptions()) as session:
            assert await together(session, 3) == [0, 1, 2]
            assert session.times_resumed == 0


async def test_a_session_opens_with_its_options_and_is_deleted_at_the_end() -> None:
    service = FakeService()
    with listening(service) as server:
        async with TrackingClient(server) as client:
            async with ClientSession(client, pb.SessionOptions(update_interval_frames=7)) as session:
                assert service.options == [pb.SessionOptions(update_interval_frames=7, return_resume_token=True)]
                assert service.deleted == []
            assert service.deleted == [session.session_id]


async def test_a_session_that_has_ended_by_itself_needs_no_deleting() -> None:
    service = FakeService()
    with listening(service) as server:
        async with TrackingClient(server) as client:
            service.delete_fails = grpc.StatusCode.NOT_FOUND
            async with ClientSession(client, pb.SessionOptions()):
                pass
            service.delete_fails = grpc.StatusCode.INTERNAL
            with pytest.raises(ClientError, match="INTERNAL: not deleted"):
                async with ClientSession(client, pb.SessionOptions()):
                    pass


async def test_a_session_that_is_broken_off_is_deleted_too() -> None:
    service, opened = FakeService(), asyncio.Event()

    async def wait(client: TrackingClient) -> None:
        async with ClientSession(client, pb.SessionOptions()) as session:
            opened.set()
            await session.receive()

    with listening(service) as server:
        async with TrackingClient(server) as client:
            waiting = asyncio.create_task(wait(client))
            await opened.wait()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
    assert service.deleted == [config.session_id for config in service.configs]


@pytest.mark.parametrize("sent", [answers, together], ids=["one by one", "all before the first result"])
async def test_a_broken_stream_goes_on_from_its_token_and_every_frame_is_answered_once(sent: object) -> None:
    service = FakeService(fails_at=6, fails_times=1, token_every=4)
    with listening(service) as server:
        async with TrackingClient(server) as client, ClientSession(client, pb.SessionOptions()) as session:
            found = await answers(session, range(9)) if sent is answers else await together(session, 9)
    assert (found, session.times_resumed, session.times_begun_anew) == (list(range(9)), 1, 0)
    first, second = service.configs
    assert (first.session_id, second.session_id) == (session.session_id, session.session_id)
    assert not first.resume_token
    numbers = [frame.frame_number for frame in service.frames]
    again = numbers.index(6) + 1
    # The frame after the token's is answered again, and its answer is not given twice.
    assert numbers[again : again + 2] == [5, 6]
    assert list(service.requests[again].targets) == SURE


async def test_without_a_token_the_session_begins_anew_from_its_last_box() -> None:
    service = FakeService(fails_at=3, fails_times=1)
    with listening(service) as server:
        async with TrackingClient(server) as client, ClientSession(client, pb.SessionOptions()) as session:
            assert await answers(session, range(5)) == [0, 1, 2, 3, 4]
            assert (session.times_resumed, session.times_begun_anew) == (1, 1)
    assert [frame.frame_number for frame in service.frames] == [0, 1, 2, 3, 3, 4]
    assert list(service.requests[4].targets) == SURE
    assert list(service.requests[5].targets) == []


async def ensured_until_processed(service: FakeService, most: int) -> list[bool]:
    """Whether each frame carried `ensure`, from the one on that breaks the stream, until one is processed; at most so many."""
    service.fails_at, service.fails_left = 1, 1
    with listening(service) as server:
        async with TrackingClient(server) as client, ClientSession(client, pb.SessionOptions()) as session:
            assert await answers(session, range(1)) == [0]
            for number in range(1, most + 1):
                await session.send(number, b"picture")
                if (await session.receive()).outcome == pb.FRAME_OUTCOME_PROCESSED:
                    break
    broken = next(at for at, request in enumerate(service.requests) if request.frame.frame_number == 1)
    return [list(request.targets) == SURE for request in service.requests[broken + 1 :]]


async def test_where_there_is_no_room_for_the_targets_they_are_asked_for_again_as_soon_as_was_said() -> None:
    service = FakeService()
    service.refusals_left = 2
    service.retry.FromMilliseconds(1)
    sent = await ensured_until_processed(service, most=100_000)
    assert (sent.count(True), sent[0], sent[-1]) == (3, True, True)


async def test_where_there_is_no_room_for_the_targets_they_are_not_asked_for_sooner_than_was_said() -> None:
    service = FakeService()
    service.refusals_left = 1
    service.retry.FromSeconds(3600)
    assert await ensured_until_processed(service, most=5) == [True, False, False, False, False]


@pytest.mark.parametrize(("limit", "most"), [("MAX_KEPT", 3), ("MAX_KEPT_BYTES", 3 * len(b"picture"))], ids=["frames", "bytes"])
async def test_answered_frames_are_kept_up_to_a_limit(monkeypatch: pytest.MonkeyPatch, limit: str, most: int) -> None:
    """What was forgotten is a gap in what the next server sees; what was kept goes to it."""
    monkeypatch.setattr(f"service.client_session.{limit}", most)
    service = FakeService(fails_at=8, fails_times=1, token_every=100)
    with listening(service) as server:
        async with TrackingClient(server) as client, ClientSession(client, pb.SessionOptions()) as session:
            assert await answers(session, range(10)) == list(range(10))
    numbers = [frame.frame_number for frame in service.frames]
    assert numbers == [*range(9), 5, 6, 7, 8, 9]


async def test_a_token_that_is_refused_is_not_sent_again() -> None:
    service = FakeService(fails_at=3, fails_times=1, token_every=1)
    service.refuses_tokens = True
    with listening(service) as server:
        async with TrackingClient(server) as client, ClientSession(client, pb.SessionOptions()) as session:
            assert await answers(session, range(5)) == [0, 1, 2, 3, 4]
    assert [bool(config.resume_token) for config in service.configs] == [False, True, False]


async def test_a_server_that_is_killed_is_waited_for() -> None:
    first, second = FakeService(token_every=2), FakeService()
    async with AsyncExitStack() as stack:
        with listening(first) as server:
            client = await stack.enter_async_context(TrackingClient(server))
            session = ClientSession(client, pb.SessionOptions())
            await session.__aenter__()
            assert await answers(session, range(4)) == [0, 1, 2, 3]
        with listening(second, server):
            assert await answers(session, range(4, 6)) == [4, 5]
    assert [frame.frame_number for frame in second.frames] == [3, 4, 5]
    assert second.configs[0].resume_token


async def test_a_frame_that_breaks_every_stream_ends_the_session_when_patience_does() -> None:
    service = FakeService(fails_at=1, token_every=1)
    with listening(service) as server, pytest.raises(ClientError, match=f"{server}: UNAVAILABLE: draining"):
        async with TrackingClient(server) as client, ClientSession(client, pb.SessionOptions(), 0.5) as session:
            await answers(session, range(2))
    assert len(service.configs) > 1


async def test_a_session_that_another_stream_may_have_is_not_deleted_when_two_tasks_hear_of_its_end() -> None:
    service = FakeService(fails_at=1)

    async def send(session: ClientSession) -> None:
        for number in range(2):
            await session.send(number, b"picture", START)

    async def receive(session: ClientSession) -> None:
        while True:
            await session.receive()

    with listening(service) as server, pytest.raises(ExceptionGroup):
        async with (
            TrackingClient(server) as client,
            ClientSession(client, pb.SessionOptions(), 0) as session,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(send(session))
            tasks.create_task(receive(session))
    assert service.deleted == []


async def test_without_patience_the_first_break_is_the_end_and_no_token_is_asked_for() -> None:
    service = FakeService(fails_at=1)
    with listening(service) as server, pytest.raises(ClientError, match=f"{server}: UNAVAILABLE: draining"):
        async with TrackingClient(server) as client, ClientSession(client, pb.SessionOptions(), 0) as session:
            await answers(session, range(2))
    assert service.options == [pb.SessionOptions()]


async def test_a_server_that_is_not_there_at_first_is_an_error_at_once() -> None:
    with listening(FakeService()) as server:
        pass
    async with TrackingClient(server) as client:
        with pytest.raises(ClientError, match=f"{server}: UNAVAILABLE"):
            async with ClientSession(client, pb.SessionOptions()):
                pass


async def test_a_stream_that_is_old_is_drained_and_its_session_goes_on(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"first {secrets.token_hex(32)}\n")
    flags = ("--device", "simulated", "--token-keys", str(keys), "--max-stream-seconds", "0.5")
    picture, start = encoded(scene()), [pb.TargetCommand(initialize=pb.BoundingBox(x=100, y=80, width=40, height=40))]
    with served(tmp_path, *flags) as running:
        async with TrackingClient(running.address) as client, ClientSession(client, pb.SessionOptions()) as session:
            number = 0
            async with asyncio.timeout(60):
                while session.times_resumed < 2:
                    await session.send(number, picture, start if number == 0 else [])
                    result = await session.receive()
                    assert (result.frame_number, result.outcome) == (number, pb.FRAME_OUTCOME_PROCESSED)
                    number += 1
            assert session.times_begun_anew == 0
