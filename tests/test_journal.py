"""Writing behind the frames: how old a stored session may be, and what a store in trouble costs."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from fake_front import Bench, bench, start, until
from redis_server import RedisServer, redis_server
from test_metrics import scrape

from service.config import Limits
from service.errors import SessionNotFound, SessionTakenOver
from service.front.resume.backing import Backing
from service.front.resume.finder import Asked
from service.front.resume.store import key_of
from service.front.tracking.session import Session, SessionState

PATIENCE_SECONDS = 30


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@dataclass
class Kept:
    """A front whose sessions are kept."""

    bench: Bench
    backing: Backing

    async def stored(self, session: Session) -> SessionState | None:
        """What the store holds of the session."""
        seen = await self.backing.store.look(key_of(session.client, session.session_id))
        return None if seen is None or seen.state is None else self.backing.snapshots.read(seen.state, seen.crops)

    async def until_stored(self, session: Session, number: int) -> None:
        """Wait until the store holds the session as it was after this frame, or a later one."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (state := await self.stored(session)) is None or state.last_frame_number < number:
                await asyncio.sleep(0.01)

    async def frames(self, session: Session, first: int, last: int) -> None:
        for number in range(first, last + 1):
            await self.bench.track(session, number, *([] if number else [start()]))

    def figures(self) -> dict[str, float]:
        return scrape(self.bench.metrics)


@asynccontextmanager
async def kept(redis: RedisServer, **settings: object) -> AsyncIterator[Kept]:
    """A front with a store, and the task that writes."""
    here = bench(store=redis.url, **settings)  # type: ignore[arg-type]
    assert here.front.backing is not None
    writing = asyncio.create_task(here.front.backing.journal.run(here.front.table.end_soon))
    try:
        yield Kept(here, here.front.backing)
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await here.front.backing.store.close()


async def test_a_session_is_written_after_so_many_frames_long_before_its_time(redis: RedisServer) -> None:
    async with kept(redis, store_interval_seconds=3600, store_interval_frames=3) as here:
        session = here.bench.session("frames")
        await here.frames(session, 0, 2)
        await here.until_stored(session, 2)
        await here.frames(session, 3, 4)
        state = await here.stored(session)
        assert state is not None and state.last_frame_number == 2
        await here.frames(session, 5, 5)
        await here.until_stored(session, 5)


async def test_a_session_is_written_after_its_time_long_before_so_many_frames(redis: RedisServer) -> None:
    async with kept(redis, store_interval_seconds=0.02, store_interval_frames=1000) as here:
        session = here.bench.session("time")
        await here.frames(session, 0, 0)
        await here.until_stored(session, 0)
        figures = here.figures()
        assert (figures["snapshots_written_total"], figures["snapshots_failed_total"]) == (1, 0)
        assert figures["store_latency_seconds_count"] >= 1


async def test_a_session_without_a_target_is_not_written(redis: RedisServer) -> None:
    async with kept(redis, store_interval_frames=1) as here:
        empty, begun = here.bench.session("empty"), here.bench.session("begun")
        await here.bench.track(empty, 1)
        await here.frames(begun, 0, 0)
        await here.until_stored(begun, 0)
        assert await here.stored(empty) is None


async def test_a_store_that_hangs_or_is_full_delays_no_frame_and_catches_up(redis: RedisServer) -> None:
    async with kept(redis, store_interval_seconds=0.02, store_interval_frames=1, store_timeout_seconds=0.2) as here:
        session = here.bench.session("hangs")
        await here.frames(session, 0, 0)
        await here.until_stored(session, 0)
        for trouble in (redis.hanging, redis.full):
            failed = here.figures()["snapshots_failed_total"]
            last = session.last_frame_number
            with trouble():
                # A hundred frames have their results while one write waits for its time to be over.
                await here.frames(session, last + 1, last + 100)
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while here.figures()["snapshots_failed_total"] == failed:
                        await asyncio.sleep(0.01)
            await here.until_stored(session, last + 100)


async def test_a_store_that_is_down_at_first_gets_everything_once_it_is_there(redis: RedisServer) -> None:
    async with kept(redis, store_interval_seconds=0.02) as here:
        with redis.hanging():
            sessions = [here.bench.session(f"down {number}") for number in range(20)]
            for session in sessions:
                await here.frames(session, 0, 1)
        for session in sessions:
            await here.until_stored(session, 1)


async def test_one_session_that_the_store_refuses_holds_up_no_other(redis: RedisServer) -> None:
    async with kept(redis, store_interval_seconds=0.02) as here:
        sessions = [here.bench.session(f"beside {number}") for number in range(40)]
        redis.client.set(key_of("me", "beside 0"), "not a session")
        for session in sessions:
            await here.frames(session, 0, 0)
        for session in sessions[1:]:
            await here.until_stored(session, 0)
        assert here.figures()["snapshots_failed_total"] >= 1


async def test_sessions_that_ended_while_the_store_was_away_are_not_kept(redis: RedisServer) -> None:
    async with kept(redis, store_interval_seconds=0.02, store_timeout_seconds=0.02) as here:
        with redis.hanging():
            for number in range(20):
                session = here.bench.session(f"ended {number}")
                await here.frames(session, 0, 0)
                await here.bench.front.finder.delete("me", session.session_id)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while here.backing.journal._due:
                    await asyncio.sleep(0.02)


async def test_the_server_that_lost_a_session_ends_it_at_its_next_write(redis: RedisServer) -> None:
    async with kept(redis, store_interval_frames=1) as mine, kept(redis, store_interval_frames=1) as other:
        session = mine.bench.session("fought for")
        await mine.frames(session, 0, 4)
        await mine.until_stored(session, 4)
        options = other.bench.front.default_options
        found = await other.bench.front.finder.open(Asked("me", "fought for", b"", options, is_stream=False, may_begin=False))
        assert (found.session.last_frame_number, found.session.epoch) == (4, 2)
        await mine.frames(session, 5, 5)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while session.is_open:
                await asyncio.sleep(0.01)
        with pytest.raises(SessionTakenOver, match="fought for was taken over by another server"):
            await mine.frames(session, 6, 6)
        await other.frames(found.session, 5, 9)
        await other.until_stored(found.session, 9)
        assert (mine.figures()["sessions_taken_over_total"], other.figures()["sessions_taken_over_total"]) == (1, 0)
        assert other.figures()["sessions_resumed_total{'source': 'store'}"] == 1


async def test_a_session_that_began_without_the_store_does_not_throw_out_who_took_it_since(redis: RedisServer) -> None:
    async with (
        kept(redis, store_interval_frames=1, store_timeout_seconds=0.2) as mine,
        kept(redis, store_interval_frames=1, store_timeout_seconds=5.0) as other,
    ):
        asked = Asked("me", "begun alone", b"", mine.bench.front.default_options, is_stream=True, may_begin=True)
        with redis.hanging():
            session = (await mine.bench.front.finder.open(asked)).session
        living = (await other.bench.front.finder.open(asked)).session
        await other.frames(living, 0, 9)
        await other.until_stored(living, 9)
        mine.bench.time.now += 60.0  # since it began
        await mine.frames(session, 0, 0)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while session.is_open:
                await asyncio.sleep(0.01)
        await other.frames(living, 10, 19)
        await other.until_stored(living, 19)
        assert living.is_open


async def test_two_calls_at_once_for_a_stored_session_claim_it_once(redis: RedisServer) -> None:
    async with kept(redis, store_interval_frames=1) as mine, kept(redis) as other:
        session = mine.bench.session("asked for")
        await mine.frames(session, 0, 1)
        await mine.until_stored(session, 1)
        finder, options = other.bench.front.finder, other.bench.front.default_options
        found = await asyncio.gather(
            *(finder.open(Asked("me", "asked for", b"", options, is_stream=True, may_begin=True)) for _ in range(5))
        )
        assert len({each.session for each in found}) == 1
        assert [each.is_new for each in found].count(True) == 1
        assert found[0].session.epoch == 2


async def test_a_server_does_not_go_on_from_an_old_copy_when_a_session_comes_back(redis: RedisServer) -> None:
    async with kept(redis, store_interval_frames=1) as mine, kept(redis, store_interval_frames=1) as other:
        session = mine.bench.session("comes back")
        await mine.frames(session, 0, 3)
        await mine.until_stored(session, 3)
        asked = Asked("me", "comes back", b"", other.bench.front.default_options, is_stream=True, may_begin=True)
        away = (await other.bench.front.finder.open(asked)).session
        await other.frames(away, 4, 6)
        await other.until_stored(away, 6)
        back = await mine.bench.front.finder.open(asked)
        assert (back.is_new, back.session.last_frame_number, back.session.epoch) == (True, 6, 3)
        await mine.frames(back.session, 7, 7)
        await mine.until_stored(back.session, 7)


async def test_a_session_of_another_client_is_not_found(redis: RedisServer) -> None:
    async with kept(redis, store_interval_frames=1) as here:
        session = here.bench.session("mine")
        await here.frames(session, 0, 0)
        await here.until_stored(session, 0)
        async with kept(redis) as other:
            found = await other.bench.front.finder.open(
                Asked("somebody", "mine", b"", other.bench.front.default_options, is_stream=True, may_begin=True)
            )
            assert not found.session.targets


async def test_a_session_that_a_lone_frame_cannot_go_on_from_stays_with_its_server(redis: RedisServer) -> None:
    async with (
        kept(redis, store_interval_frames=1, store_timeout_seconds=5.0) as mine,
        kept(redis, store_timeout_seconds=5.0, limits=Limits(max_targets_per_session=1)) as other,
    ):
        session = mine.bench.session("too many")
        await mine.bench.track(session, 1, start("a"), start("b"))
        await mine.until_stored(session, 1)
        asked = Asked("me", "too many", b"", other.bench.front.default_options, is_stream=False, may_begin=False)
        with pytest.raises(SessionNotFound):
            await other.bench.front.finder.open(asked)
        assert await mine.backing.store.epoch(key_of("me", "too many")) == 1


async def test_a_session_that_ends_while_the_store_is_asked_begins_anew(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with kept(redis, store_interval_frames=1) as here:
        session = here.bench.session("expires")
        await here.frames(session, 0, 0)
        await here.until_stored(session, 0)
        async with asyncio.timeout(PATIENCE_SECONDS):  # the store has it before its answer is here
            while here.backing.journal.epoch_of(session) is None:
                await asyncio.sleep(0.01)
        ask = here.backing.store.epoch

        async def ask_slowly(key: bytes) -> int | None:
            await here.bench.front.table.end(session, SessionNotFound("idle"))
            return await ask(key)

        monkeypatch.setattr(here.backing.store, "epoch", ask_slowly)
        asked = Asked("me", "expires", b"", here.bench.front.default_options, is_stream=True, may_begin=True)
        found = await here.bench.front.finder.open(asked)
        assert (found.is_new, found.session.is_open, set(found.session.targets)) == (True, True, {""})


async def test_a_session_that_is_being_deleted_is_not_gone_on_from(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with kept(redis, store_interval_frames=1) as here:
        session = here.bench.session("deleted")
        await here.frames(session, 0, 0)
        await here.until_stored(session, 0)
        finder, delete, answers = here.bench.front.finder, here.backing.store.delete, asyncio.Event()

        async def delete_late(key: bytes, live_seconds: float) -> bool:
            await answers.wait()
            return await delete(key, live_seconds)

        monkeypatch.setattr(here.backing.store, "delete", delete_late)
        deleting = asyncio.create_task(finder.delete("me", "deleted"))
        await until(lambda: not session.is_open)
        asked = Asked("me", "deleted", b"", here.bench.front.default_options, is_stream=True, may_begin=True)
        opening = asyncio.create_task(finder.open(asked))
        await asyncio.wait([opening], timeout=0.2)
        answers.set()
        await deleting
        assert dict((await opening).session.targets) == {}


async def test_what_is_due_is_written_at_the_end(redis: RedisServer) -> None:
    async with kept(redis, store_interval_seconds=3600, store_interval_frames=1000) as here:
        session = here.bench.session("last")
        await here.frames(session, 0, 7)
        assert await here.stored(session) is None
        await here.backing.journal.flush(PATIENCE_SECONDS, here.bench.front.table.end_soon)
        state = await here.stored(session)
        assert state is not None and state.last_frame_number == 7
