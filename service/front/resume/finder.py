"""Which session a call means: one of this server's, one from the store, the one of its token, or a new one."""

import asyncio
import logging
from typing import NamedTuple
from weakref import WeakValueDictionary

from service.errors import SessionNotFound, SessionTakenOver, StoreUnavailable
from service.front.resume.backing import Backing
from service.front.resume.resume_tokens import ResumeTokens
from service.front.resume.snapshot import SnapshotError
from service.front.resume.store import StoredSession, key_of
from service.front.telemetry.session_metrics import SessionMetrics
from service.front.tracking.options import SessionOptions
from service.front.tracking.session import Session, SessionState
from service.front.tracking.sessions import SessionTable, not_found
from service.front.tracking.step import FrameTracker

_log = logging.getLogger(__name__)


class Asked(NamedTuple):
    """What a call says of its session. `is_stream`: it may wait for the store, which a frame must not. `may_begin`: a new one will do."""

    client: str
    session_id: str
    resume_token: bytes
    options: SessionOptions
    is_stream: bool
    may_begin: bool


class Found(NamedTuple):
    """The session that is meant, and whether it is new here. `resume` is what it is to go on from once it is the caller's."""

    session: Session
    is_new: bool
    resume: SessionState | None = None


class Seen(NamedTuple):
    """A session as it is, and the seconds that it lives on without a frame."""

    state: SessionState
    seconds_left: float


class Finder:
    """Finds sessions. Whatever comes from outside becomes a session of the table at once, before anybody else can ask for it."""

    def __init__(
        self,
        table: SessionTable,
        tracker: FrameTracker,
        tokens: ResumeTokens,
        backing: Backing | None,
        longest_live_seconds: float,
        metrics: SessionMetrics,
    ) -> None:
        """`longest_live_seconds`: for how long another server may hold a session without a frame."""
        self._table = table
        self._tracker = tracker
        self._tokens = tokens
        self._backing = backing
        self._longest_live_seconds = longest_live_seconds
        self._metrics = metrics
        self._asking: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def open(self, asked: Asked) -> Found:
        """The session to work on. A token decides what it goes on from; else this server's own, then the store's.

        Raises SessionNotFound where only an existing one will do, StoreUnavailable where that cannot be known, what `ResumeTokens.open`
        raises, InvalidRequest and TooManySessions.
        """
        token = self._tokens.open(asked.resume_token, asked.client, asked.session_id) if asked.resume_token else None
        session_id = token.session_id if token else asked.session_id
        async with self._alone(asked.client, session_id):
            session = self._table.get(asked.client, session_id)
            if session is not None and asked.is_stream and await self._is_elsewhere(session):
                await self._table.end(session, SessionTakenOver(f"session {session_id} went on at another server"))
            # It may also have ended while the store was asked.
            session = self._table.get(asked.client, session_id)
            if session is not None:
                return Found(session, is_new=False, resume=token)
            return await self._begin(asked, session_id, token)

    async def look(self, client: str, session_id: str) -> Seen:
        """The session as it is, whoever works on it. Raises SessionNotFound, StoreUnavailable."""
        session = self._table.get(client, session_id)
        if session is not None:
            return Seen(session.state, session.idle_seconds_left)
        stored = await self._backing.store.look(key_of(client, session_id)) if self._backing else None
        state = self._read(stored, client)
        if stored is None or state is None:
            raise not_found(session_id)
        return Seen(state, stored.seconds_left)

    async def delete(self, client: str, session_id: str) -> None:
        """End the session, here and in the store. Raises SessionNotFound, StoreUnavailable.

        Where the session was here and the store cannot be told, what that has ends with its idle timeout.
        """
        async with self._alone(client, session_id):
            session = self._table.get(client, session_id)
            if session is not None:
                await self._table.end(session, SessionNotFound(f"session {session_id} was deleted"))
            try:
                was_stored = await self._delete_stored(client, session_id)
            except StoreUnavailable as error:
                if session is None:
                    raise error.told() from None
                _log.warning("session %s is deleted, but not in the store: %s", session_id, error)
                return
            if session is None and not was_stored:
                raise not_found(session_id)

    def _alone(self, client: str, session_id: str) -> asyncio.Lock:
        """To be held by whoever finds or deletes this session: two would take it from each other."""
        return self._asking.setdefault((client, session_id), asyncio.Lock())

    async def _delete_stored(self, client: str, session_id: str) -> bool:
        if self._backing is None:
            return False
        return await self._backing.store.delete(key_of(client, session_id), self._longest_live_seconds)

    async def _is_elsewhere(self, session: Session) -> bool:
        """Whether another server has had the session since: this one, without frames to write, would not know."""
        held = self._backing.journal.epoch_of(session) if self._backing else None
        if self._backing is None or held is None:
            return False
        try:
            return await self._backing.store.epoch(key_of(session.client, session.session_id)) not in (held, None)
        except StoreUnavailable:
            return False

    async def _begin(self, asked: Asked, session_id: str, token: SessionState | None) -> Found:
        self._table.admit(asked.client)
        claimed = await self._claim(asked, session_id, must_exist=not asked.may_begin and token is None)
        state = token or self._read(claimed, asked.client)
        if state is None and not asked.may_begin:
            raise not_found(session_id)
        session = self._table.create(asked.client, session_id, asked.options)
        if state is not None:
            self._tracker.resume(session, state)
            self._metrics.on_resumed("token" if token else "store")
        if claimed is not None and self._backing is not None:
            self._backing.journal.adopt(session, claimed)
        return Found(session, is_new=True)

    async def _claim(self, asked: Asked, session_id: str, *, must_exist: bool) -> StoredSession | None:
        """What the store holds of a session that a client names, from now on this server's. Where a new one will do, no store will."""
        if self._backing is None or not session_id:
            return None
        key, live_seconds = key_of(asked.client, session_id), asked.options.idle_timeout_seconds
        try:
            # What cannot be gone on from here stays with the server that has it.
            if must_exist and self._read(await self._backing.store.look(key), asked.client) is None:
                return None
            return await self._backing.store.claim(key, live_seconds, must_exist=must_exist)
        except StoreUnavailable as error:
            if must_exist:
                raise error.told() from None
            _log.warning("session %s begins without the store: %s", session_id, error)
            return None

    def _read(self, stored: StoredSession | None, client: str) -> SessionState | None:
        if stored is None or stored.state is None or self._backing is None:
            return None
        try:
            state = self._backing.snapshots.read(stored.state, stored.crops)
        except SnapshotError as error:
            _log.warning("a stored session cannot be gone on from: %s", error)
            return None
        # A session without targets is as good as none.
        return state if state.client == client and state.targets else None
