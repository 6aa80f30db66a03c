"""Sessions on their way to the store, behind the frames: a frame never waits for it.

Every session with a new result is written within `interval_seconds`, and sooner once it has `interval_frames` of them. What the
store does not take stays here and is tried again, always as it is by then: a dead store costs a session no more than that.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from service.errors import SessionTakenOver, StoreUnavailable
from service.front.resume.snapshot import Snapshots, name_of
from service.front.resume.store import Refusal, SessionStore, StoredSession, Write, Written, key_of
from service.front.telemetry.session_metrics import SessionMetrics
from service.front.tracking.session import Session

# Of one round trip; the bytes are those of crops, and the last session may go over them.
_MAX_WRITES = 16
_MAX_BYTES = 1024 * 1024
_LONGEST_PAUSE_SECONDS = 5.0

_log = logging.getLogger(__name__)

Lose = Callable[[Session, SessionTakenOver], None]


@dataclass
class _Record:
    """What the store is known to hold of a session, and how many of its results it has not."""

    epoch: int | None = None
    stored: frozenset[bytes] = frozenset()
    unwritten: int = 0


@dataclass
class _Writing:
    """A session under way: what the store holds of it if it takes this."""

    session: Session
    record: _Record
    write: Write
    results: int


class Journal:
    """What is to be written, and the task that writes it."""

    def __init__(
        self, store: SessionStore, snapshots: Snapshots, interval_seconds: float, interval_frames: int, metrics: SessionMetrics
    ) -> None:
        self._store = store
        self._snapshots = snapshots
        self._interval_seconds = interval_seconds
        self._interval_frames = interval_frames
        self._metrics = metrics
        self._records: WeakKeyDictionary[Session, _Record] = WeakKeyDictionary()
        self._due: dict[Session, _Record] = {}
        self._is_urgent = asyncio.Event()

    def note(self, session: Session) -> None:
        """The session has another result."""
        record = self._records.setdefault(session, _Record())
        if record.epoch is None and not session.targets:
            return  # nothing to go on from, and nothing to replace
        record.unwritten += 1
        self._due[session] = record
        if record.unwritten >= self._interval_frames:
            self._is_urgent.set()

    def adopt(self, session: Session, claimed: StoredSession) -> None:
        """The session is this server's from now on, and the store holds this of it."""
        session.epoch = max(session.epoch, claimed.epoch)
        self._records[session] = _Record(claimed.epoch, frozenset(map(name_of, claimed.crops)))

    def epoch_of(self, session: Session) -> int | None:
        """The epoch under which this server holds the session in the store; None where nothing was written yet."""
        record = self._records.get(session)
        return None if record is None else record.epoch

    async def run(self, lose: Lose) -> None:
        """Write what is due, for ever. `lose` is told of every session that another server has taken."""
        now = asyncio.get_running_loop().time
        all_due_at, pause = now() + self._interval_seconds, self._interval_seconds
        while True:
            is_urgent = await self._is_urgent_before(all_due_at)
            if not is_urgent:
                all_due_at = now() + self._interval_seconds
            due = [session for session, record in self._due.items() if not is_urgent or self._is_late(record)]
            if await self._write_all(due, lose):
                pause = self._interval_seconds
            else:
                # What is urgent would try without end.
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def flush(self, seconds: float, lose: Lose) -> None:
        """Write all that is due, for `seconds` at most; `run` has ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._due and await self._write_all(list(self._due), lose):
                    pass
        if self._due:
            _log.warning("%d sessions could not be written to the store", len(self._due))

    async def _is_urgent_before(self, deadline: float) -> bool:
        try:
            async with asyncio.timeout_at(deadline):
                await self._is_urgent.wait()
        except TimeoutError:
            return False
        self._is_urgent.clear()
        return True

    def _is_late(self, record: _Record) -> bool:
        return record.unwritten >= self._interval_frames

    async def _write_all(self, sessions: Sequence[Session], lose: Lose) -> bool:
        """Write the sessions, a round trip for some at a time; whether the store took them all."""
        # Those that have ended would be kept for as long as the store is away.
        for ended in [session for session in self._due if not session.is_open]:
            del self._due[ended]
        failed = 0
        for batch in self._batches(sessions):
            try:
                answers = await self._store.write([each.write for each in batch])
            except StoreUnavailable as error:
                _log.warning("%d sessions not written: %s", len(batch), error)
                self._metrics.on_snapshots(written=0, failed=len(batch))
                return False
            for each, answer in zip(batch, answers, strict=True):
                self._settle(each, answer, lose)
            failed += answers.count(Refusal.FAILED)
            written = sum(isinstance(answer, int) for answer in answers)
            self._metrics.on_snapshots(written=written, failed=answers.count(Refusal.FAILED))
        return not failed

    def _batches(self, sessions: Sequence[Session]) -> Iterator[list[_Writing]]:
        """What one round trip takes at a time; each snapshot is taken when its turn has come."""
        batch: list[_Writing] = []
        size = 0
        for session in sessions:
            if session.is_open:
                batch.append(self._begin(session))
                size += sum(crop.nbytes for crop in batch[-1].write.new_crops.values())
            if len(batch) == _MAX_WRITES or size >= _MAX_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _begin(self, session: Session) -> _Writing:
        record = self._records[session]
        key = key_of(session.client, session.session_id)
        snapshot = self._snapshots.take(session)
        write = Write(key, record.epoch, snapshot, record.stored, session.options.idle_timeout_seconds, session.open_seconds)
        return _Writing(session, record, write, record.unwritten)

    def _settle(self, writing: _Writing, answer: Written, lose: Lose) -> None:
        session, record = writing.session, writing.record
        match answer:
            case Refusal.LOST:
                self._due.pop(session, None)
                if not session.is_open:
                    return  # it ended while it was under way, and a new one may have its name
                self._metrics.on_taken_over()
                lose(session, SessionTakenOver(f"session {session.session_id} was taken over by another server"))
            case Refusal.CROPS_MISSING:
                record.stored = frozenset()
            case int():
                record.epoch, record.stored = answer, frozenset(writing.write.snapshot.crops)
                session.epoch = max(session.epoch, answer)
                record.unwritten -= writing.results
                if not record.unwritten:
                    self._due.pop(session, None)
