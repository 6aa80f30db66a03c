"""Sessions in Redis or Valkey, so that they outlive their server. The only room that imports the client.

One hash a session, named by a digest of its client and id: `epoch`, `state` and its crops by name. Every step is one script, so
that it happens whole or not at all. `epoch` rises each time a server takes the session; who writes with another number has lost
it to somebody else. Who has no number, because the store did not answer when the session began, has lost it where another server
(`claimed_by`) took it later (`claimed_at`, milliseconds of the store's clock).
"""

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple, TypeVar

import msgspec

try:
    from redis import RedisError
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    is_installed = True
except ImportError:  # an extra: only whoever names a store needs it
    is_installed = False

from model.crop import Image
from service.errors import StoreUnavailable
from service.front.resume.snapshot import VERSION, Snapshot

_PREFIX = f"mixformer:{VERSION}:"
_MAX_CONNECTIONS = 16
_SERVER_BYTES = 8

# KEYS: the session. ARGV: whether there must be a state, milliseconds it lives on at least, the server.
_CLAIM = """
if ARGV[1] == '1' and redis.call('HEXISTS', KEYS[1], 'state') == 0 then return {} end
local now = redis.call('TIME')
redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HSET', KEYS[1], 'claimed_by', ARGV[3], 'claimed_at', now[1] * 1000 + math.floor(now[2] / 1000))
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return redis.call('HGETALL', KEYS[1])
"""

# ARGV: epoch held (empty: none yet), state, milliseconds to live, the server, milliseconds since the session was opened there,
# number of crops the state names, their names, and for those that are new name and content in turns. Gives the epoch, -1 where
# another server has the session, 0 where a crop is missing.
_WRITE = """
local held = redis.call('HGET', KEYS[1], 'epoch')
if ARGV[1] ~= '' and held and held ~= ARGV[1] then return -1 end
if ARGV[1] == '' and redis.call('HGET', KEYS[1], 'claimed_by') ~= ARGV[4] then
  local now = redis.call('TIME')
  local opened_at = now[1] * 1000 + math.floor(now[2] / 1000) - tonumber(ARGV[5])
  if tonumber(redis.call('HGET', KEYS[1], 'claimed_at') or 0) > opened_at then return -1 end
end
local count, wanted = tonumber(ARGV[6]), {epoch = true, state = true, claimed_by = true, claimed_at = true}
for index = 7, 6 + count do wanted[ARGV[index]] = true end
local given = {}
for index = 7 + count, #ARGV, 2 do given[ARGV[index]] = true end
for index = 7, 6 + count do
  local name = ARGV[index]
  if not given[name] and redis.call('HEXISTS', KEYS[1], name) == 0 then return 0 end
end
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
  if not wanted[name] then redis.call('HDEL', KEYS[1], name) end
end
if ARGV[1] == '' then redis.call('HINCRBY', KEYS[1], 'epoch', 1) else redis.call('HSET', KEYS[1], 'epoch', ARGV[1]) end
redis.call('HSET', KEYS[1], 'state', ARGV[2])
for index = 7 + count, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[index], ARGV[index + 1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return tonumber(redis.call('HGET', KEYS[1], 'epoch'))
"""

# The epoch stays for as long as a server that does not know may still write.
_DELETE = """
local existed = redis.call('HEXISTS', KEYS[1], 'state')
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'epoch', epoch)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return existed
"""

T = TypeVar("T")

_log = logging.getLogger(__name__)


class StoredSession(NamedTuple):
    """What the store holds. `state` is None where nothing was written yet."""

    epoch: int
    state: bytes | None
    crops: tuple[bytes, ...]
    seconds_left: float = 0.0


class Write(NamedTuple):
    """One session to be written. `epoch` is None until this server has it; `stored` are the crops that need not be sent again.

    `open_seconds` is how long ago it began here, or was last opened by a stream.
    """

    key: bytes
    epoch: int | None
    snapshot: Snapshot
    stored: frozenset[bytes]
    live_seconds: float
    open_seconds: float

    @property
    def new_crops(self) -> dict[bytes, Image]:
        """The crops that have to be sent."""
        return {name: crop for name, crop in self.snapshot.crops.items() if name not in self.stored}


class Refusal(Enum):
    """Why a session was not written: another server has it, a crop has to be sent again, or the store cannot take it."""

    LOST = auto()
    CROPS_MISSING = auto()
    FAILED = auto()


Written = int | Refusal
_REFUSALS = {-1: Refusal.LOST, 0: Refusal.CROPS_MISSING}


class SessionStore:
    """The store. Each step takes `timeout_seconds` at most, and raises StoreUnavailable where it fails."""

    def __init__(
        self, url: str, password: str | None, timeout_seconds: float, observe: Callable[[float], None] = lambda seconds: None
    ) -> None:
        """`observe` is told the seconds of each answered round trip. Nothing is connected yet. Raises ValueError for a wrong `url`."""
        self._timeout = timeout_seconds
        # A claim whose answer was lost must not keep its own server from writing.
        self._server = secrets.token_bytes(_SERVER_BYTES)
        self._observe = observe
        pool = BlockingConnectionPool.from_url(
            url, password=password, max_connections=_MAX_CONNECTIONS, timeout=timeout_seconds, socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds, retry=Retry(NoBackoff(), 0), client_name="mixformer",
        )  # fmt: skip
        self._redis: Redis = Redis(connection_pool=pool)

    async def claim(self, key: bytes, live_seconds: float, *, must_exist: bool) -> StoredSession | None:
        """Have the session from now on, as it was left; None where it must exist and does not."""
        arguments = (int(must_exist), _milliseconds(live_seconds), self._server)
        return _stored(await self._answer(self._redis.eval(_CLAIM, 1, key, *arguments)))

    async def look(self, key: bytes) -> StoredSession | None:
        """The session as it was left last, without taking it; None where there is none."""
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.hgetall(key)
        pipeline.pttl(key)
        fields, milliseconds = await self._answer(pipeline.execute())
        found = _stored([each for item in fields.items() for each in item])
        return None if found is None or found.state is None else found._replace(seconds_left=milliseconds / 1000)

    async def epoch(self, key: bytes) -> int | None:
        """The epoch of whoever has the session; None where nobody has."""
        found = await self._answer(self._redis.hget(key, "epoch"))
        return None if found is None else int(found)

    async def write(self, writes: Sequence[Write]) -> list[Written]:
        """Write sessions in one round trip. For each its epoch, or why it was not written.

        Raises StoreUnavailable where nothing is known of any.
        """
        pipeline = self._redis.pipeline(transaction=False)
        for write in writes:
            pipeline.eval(_WRITE, 1, write.key, *_arguments(write, self._server))
        answers = await self._answer(pipeline.execute(raise_on_error=False))
        refused = [answer for answer in answers if isinstance(answer, Exception)]
        if refused:
            _log.warning("the store refuses %d of %d sessions: %s", len(refused), len(answers), refused[0])
        return [_written(answer) for answer in answers]

    async def delete(self, key: bytes, live_seconds: float) -> bool:
        """End the session for every server; whether there was one."""
        return bool(await self._answer(self._redis.eval(_DELETE, 1, key, _milliseconds(live_seconds))))

    async def close(self) -> None:
        """Give the connections back."""
        await self._redis.aclose()

    async def _answer(self, step: Awaitable[T]) -> T:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout):
                answer = await step
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable(f"the store does not answer: {type(error).__name__}") from error
        self._observe(time.perf_counter() - started)
        return answer


def key_of(client: str, session_id: str) -> bytes:
    """The name of a session's hash: of one length, and with nothing of the client's choosing in it."""
    named = hashlib.blake2b(msgspec.msgpack.encode((client, session_id)), digest_size=20)
    return f"{_PREFIX}{named.hexdigest()}".encode()


def _arguments(write: Write, server: bytes) -> list[Any]:
    crops = write.snapshot.crops
    new = [part for name, crop in write.new_crops.items() for part in (name, crop.tobytes())]
    held = b"" if write.epoch is None else write.epoch
    live, opened = _milliseconds(write.live_seconds), _milliseconds(write.open_seconds)
    return [held, write.snapshot.state, live, server, opened, len(crops), *crops, *new]


def _stored(fields: Sequence[bytes]) -> StoredSession | None:
    named = dict(zip(fields[::2], fields[1::2], strict=True))
    if not named:
        return None
    try:
        epoch, state = int(named.pop(b"epoch")), named.pop(b"state", None)
    except (KeyError, ValueError):
        raise StoreUnavailable("the store holds something else under the session's name") from None
    crops = (content for name, content in named.items() if name not in (b"claimed_by", b"claimed_at"))
    return StoredSession(epoch, state, tuple(crops))


def _written(answer: Any) -> Written:
    if isinstance(answer, Exception):
        return Refusal.FAILED
    return _REFUSALS.get(answer, int(answer))


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))
