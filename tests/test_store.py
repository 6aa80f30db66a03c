"""The store, over a real Redis: who has a session, and what is written again."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
import tiny
from redis_server import RedisServer, redis_server

from service.errors import StoreUnavailable
from service.front.resume.snapshot import Snapshot, name_of
from service.front.resume.store import Refusal, SessionStore, Write, key_of

KEY = key_of("me", "cam")
LIVE_SECONDS = 60.0


def snapshot(state: bytes, *seeds: int) -> Snapshot:
    """A state and some pictures."""
    return Snapshot(state, {name_of(crop.data): crop for crop in (tiny.crop(seed, 8) for seed in seeds)})


def write(
    state: bytes, *seeds: int, epoch: int | None = None, stored: tuple[int, ...] = (), open_seconds: float = 0.0
) -> Write:
    """A write by who has `epoch` and sent the pictures `stored` before."""
    return Write(KEY, epoch, snapshot(state, *seeds), frozenset(snapshot(b"", *stored).crops), LIVE_SECONDS, open_seconds)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest_asyncio.fixture
async def store(redis: RedisServer) -> AsyncIterator[SessionStore]:
    redis.client.flushall()
    connected = SessionStore(redis.url, None, timeout_seconds=5.0)
    yield connected
    await connected.close()


async def test_a_session_is_written_claimed_and_lives_on(store: SessionStore, redis: RedisServer) -> None:
    assert await store.write([write(b"one", 1, 2)]) == [1]
    claimed = await store.claim(KEY, 5.0, must_exist=True)
    assert claimed is not None
    assert (claimed.epoch, claimed.state) == (2, b"one")
    assert set(claimed.crops) == {tiny.crop(seed, 8).tobytes() for seed in (1, 2)}
    assert 5.0 < redis.client.pttl(KEY) / 1000 <= LIVE_SECONDS


async def test_who_lost_a_session_learns_it_at_the_next_write(store: SessionStore) -> None:
    assert await store.write([write(b"one", 1)]) == [1]
    await store.claim(KEY, 5.0, must_exist=True)
    assert await store.write([write(b"late", 1, epoch=1, stored=(1,))]) == [Refusal.LOST]
    assert await store.write([write(b"two", 1, epoch=2, stored=(1,))]) == [2]
    seen = await store.look(KEY)
    assert seen is not None and seen.state == b"two"


async def test_who_began_without_the_store_loses_to_a_server_that_claimed_since_and_not_to_an_earlier_or_its_own_claim(
    store: SessionStore, redis: RedisServer
) -> None:
    other = SessionStore(redis.url, None, timeout_seconds=5.0)
    await other.claim(KEY, 5.0, must_exist=False)
    await other.write([write(b"theirs", 1, epoch=1)])
    await asyncio.sleep(0.01)  # the store counts milliseconds
    assert await store.write([write(b"begun before", 2, open_seconds=60.0)]) == [Refusal.LOST]
    seen = await store.look(KEY)
    assert seen is not None and (seen.state, len(seen.crops)) == (b"theirs", 1)
    assert await store.write([write(b"begun after", 2)]) == [2]
    await store.claim(KEY, 5.0, must_exist=False)  # as if the answer had never come
    assert await store.write([write(b"ours", 2, open_seconds=60.0)]) == [4]
    await other.close()


async def test_pictures_are_sent_once_and_those_of_the_past_are_dropped(store: SessionStore, redis: RedisServer) -> None:
    await store.write([write(b"one", 1, 2)])
    later = write(b"two", 2, 3, epoch=1, stored=(1, 2))
    assert [crop.tobytes() for crop in later.new_crops.values()] == [tiny.crop(3, 8).tobytes()]
    assert await store.write([later]) == [1]
    seen = await store.look(KEY)
    assert seen is not None and set(seen.crops) == {tiny.crop(seed, 8).tobytes() for seed in (2, 3)}


async def test_a_store_that_lost_everything_asks_for_the_pictures_again(store: SessionStore, redis: RedisServer) -> None:
    await store.write([write(b"one", 1)])
    redis.client.flushall()
    assert await store.write([write(b"two", 1, epoch=1, stored=(1,))]) == [Refusal.CROPS_MISSING]
    assert await store.write([write(b"two", 1, epoch=1)]) == [1]


async def test_looking_takes_nothing(store: SessionStore) -> None:
    await store.write([write(b"one", 1)])
    seen = await store.look(KEY)
    assert seen is not None and seen.epoch == 1 and 0 < seen.seconds_left <= LIVE_SECONDS
    assert await store.write([write(b"two", 1, epoch=1, stored=(1,))]) == [1]
    assert await store.look(key_of("me", "other")) is None


async def test_a_claim_of_nothing_leaves_nothing_where_something_was_to_be(store: SessionStore, redis: RedisServer) -> None:
    assert await store.claim(KEY, 5.0, must_exist=True) is None
    assert redis.client.keys() == []
    begun = await store.claim(KEY, 5.0, must_exist=False)
    assert begun is not None and (begun.epoch, begun.state) == (1, None)
    assert 0 < redis.client.pttl(KEY) <= 5000


async def test_a_deleted_session_is_lost_for_who_still_had_it(store: SessionStore) -> None:
    await store.write([write(b"one", 1)])
    assert await store.delete(KEY, LIVE_SECONDS) is True
    assert await store.write([write(b"two", 1, epoch=1)]) == [Refusal.LOST]
    assert await store.look(KEY) is None
    assert await store.delete(KEY, LIVE_SECONDS) is False


async def test_one_refusal_does_not_take_the_others_along(store: SessionStore, redis: RedisServer) -> None:
    other = write(b"one", 1)._replace(key=key_of("me", "other"))
    redis.client.set(KEY, "not a hash")
    assert await store.write([write(b"one", 1), other]) == [Refusal.FAILED, 1]


async def test_a_store_that_hangs_is_given_up_in_time(redis: RedisServer) -> None:
    impatient = SessionStore(redis.url, None, timeout_seconds=0.1)
    with redis.hanging():
        for step in (impatient.claim(KEY, 5.0, must_exist=False), impatient.look(KEY), impatient.write([write(b"one", 1)])):
            with pytest.raises(StoreUnavailable):
                await step
    await impatient.close()


async def test_a_store_that_is_not_there_and_one_that_is_full_are_unavailable(store: SessionStore, redis: RedisServer) -> None:
    with redis.full():
        assert await store.write([write(b"one", 1)]) == [Refusal.FAILED]
    nowhere = SessionStore("redis://127.0.0.1:1", None, timeout_seconds=1.0)
    with pytest.raises(StoreUnavailable):
        await nowhere.look(KEY)
    await nowhere.close()


def test_keys_are_of_one_length_and_differ_by_client_and_id() -> None:
    keys = {key_of(client, name) for client in ("a", "ab", "") for name in ("bc", "c", "x" * 128)}
    assert len(keys) == 9
    assert {len(key) for key in keys} == {len(KEY)}
