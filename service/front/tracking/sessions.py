"""All sessions of this front: made, found, listed and ended here."""

import asyncio
import itertools
import logging
import secrets
from collections.abc import Callable, Iterable
from typing import NamedTuple

from service.config import Limits
from service.errors import InvalidRequest, ServiceError, SessionNotFound, TooManySessions
from service.front.tracking.options import SessionOptions
from service.front.tracking.session import Clock, Session

MAX_PAGE = 1000
_DEFAULT_PAGE = 100
_ID_BYTES = 16
_TOKEN_DIGITS = 18

_log = logging.getLogger(__name__)


class Page(NamedTuple):
    """A part of a client's sessions, oldest first. `next_token` is empty on the last page."""

    sessions: tuple[Session, ...]
    next_token: str


class SessionTable:
    """Sessions by client and id: a client finds only its own, and two clients may choose the same id."""

    def __init__(self, limits: Limits, release: Callable[[bytes], None], clock: Clock, note: Callable[[Session], None]) -> None:
        """`release` is told every memory key that is done with, `note` every session with a new result."""
        self._limits = limits
        self._release = release
        self._clock = clock
        self._note = note
        self._serials = itertools.count(1)
        # By client and id, in order of creation; each with its serial number.
        self._sessions: dict[tuple[str, str], tuple[int, Session]] = {}
        # Ended sessions that still wait for a frame in hand; none of them is in the table any more.
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, client: str, session_id: str) -> Session | None:
        """The client's session of this id, if it has one."""
        found = self._sessions.get((client, session_id))
        return None if found is None else found[1]

    def admit(self, client: str) -> None:
        """Raises TooManySessions where there is no room for another."""
        most, share = self._limits.max_sessions, self._limits.max_client_sessions
        if len(self._sessions) >= most:
            raise TooManySessions(f"{len(self._sessions)} sessions are open, max_sessions is {most}", _first_end(self._all()))
        mine = [session for session in self._all() if session.client == client] if share else []
        if share and len(mine) >= share:
            raise TooManySessions(
                f"client {client} has {len(mine)} sessions open, max_client_sessions is {share}", _first_end(mine)
            )

    def create(self, client: str, session_id: str, options: SessionOptions) -> Session:
        """A new session; an empty id has the server choose one that nobody can guess. Raises what `admit` does."""
        self.admit(client)
        granted = session_id or secrets.token_urlsafe(_ID_BYTES)
        session = Session(granted, client, options, self._release, self._clock, self._note)
        self._sessions[client, granted] = (next(self._serials), session)
        _log.info("session %s begins", granted)
        return session

    def _all(self) -> list[Session]:
        return [session for _, session in self._sessions.values()]

    def page(self, client: str, size: int, token: str) -> Page:
        """The next `size` sessions of the client (0: a hundred). Raises InvalidRequest for a token that no page gave."""
        if size < 0:
            raise InvalidRequest(f"page_size {size} is negative")
        if token and not (token.isascii() and token.isdigit() and len(token) <= _TOKEN_DIGITS):
            raise InvalidRequest("page_token is not one of ours")
        size = min(size or _DEFAULT_PAGE, MAX_PAGE)
        after = int(token or 0)
        mine = [each for (owner, _), each in self._sessions.items() if owner == client and each[0] > after]
        shown = mine[:size]
        return Page(tuple(session for _, session in shown), str(shown[-1][0]) if len(mine) > size else "")

    async def end(self, session: Session, error: ServiceError) -> None:
        """End one session, and tell its stream why. It ends also where its caller is cancelled meanwhile."""
        if self._take_out(session, error):
            await asyncio.shield(self._close(session, error))

    async def end_unused(self, session: Session) -> None:
        """End a session that whoever began it leaves without a target, unless somebody else has joined it meanwhile."""
        if not session.targets and not session.is_wanted:
            await self.end(
                session, SessionNotFound(f"session {session.session_id} ended with the call that began it: no target")
            )

    def expire(self) -> None:
        """End the sessions that had no frame for longer than their idle timeout; `wait_closed` waits for those in hand."""
        late = [session for _, session in self._sessions.values() if session.idle_seconds_left <= 0]
        for session in late:
            self.end_soon(session, _expired(session))

    def end_soon(self, session: Session, error: ServiceError) -> None:
        """End one session without waiting for it; `wait_closed` does."""
        if self._take_out(session, error):
            self._close(session, error)

    async def wait_closed(self) -> None:
        """Wait until the sessions that were ended without waiting have given back what they hold."""
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _close(self, session: Session, error: ServiceError) -> asyncio.Task[None]:
        closing = asyncio.create_task(session.close(error))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        return closing

    def _take_out(self, session: Session, error: ServiceError) -> bool:
        """Whether the session was in the table until now."""
        was_in = self.get(session.client, session.session_id) is session
        if was_in:
            del self._sessions[session.client, session.session_id]
            _log.info("session %s ends: %s", session.session_id, error)
        return was_in


def _first_end(sessions: Iterable[Session]) -> float:
    """Seconds until the first of them ends by itself, if none of them gets another frame."""
    return max(0.0, min(session.idle_seconds_left for session in sessions))


def _expired(session: Session) -> SessionNotFound:
    seconds = session.options.idle_timeout_seconds
    return SessionNotFound(f"session {session.session_id} had no frame for {seconds:g} s and has ended")


def not_found(session_id: str) -> SessionNotFound:
    """What is said of a session that does not exist."""
    return SessionNotFound(f"no session {session_id!r}: there never was one, or it has ended")


def unkept(session: Session) -> None:
    """What becomes of a session's results where there is no store: nothing."""
