"""Resume tokens: a session in its client's hands, sealed, to go on with at another server."""

import msgspec

from mixformer.tracking.v1 import tracking_pb2 as pb
from service.errors import (
    ResumeTokenForeign,
    ResumeTokenInvalid,
    ResumeTokenMismatch,
    ResumeTokensOff,
    ResumeTokenTooLarge,
    ServiceError,
)
from service.front.frames import FrameResult
from service.front.resume.snapshot import SnapshotError, Snapshots
from service.front.resume.token_keys import Keys
from service.front.telemetry.session_metrics import SessionMetrics
from service.front.tracking.session import Clock, Session, SessionState
from service.watched import Watched


class _Content(msgspec.Struct, frozen=True, array_like=True):
    state: bytes
    crops: list[bytes]


class ResumeTokens:
    """Gives tokens and takes them back. Without keys it does neither."""

    def __init__(
        self,
        keys: Watched[Keys] | None,
        snapshots: Snapshots,
        max_bytes: int,
        interval_seconds: float,
        metrics: SessionMetrics,
        clock: Clock,
    ) -> None:
        """A token over `max_bytes` is neither given nor taken; `interval_seconds` is the pause between two without a new template."""
        self._keys = keys
        self._snapshots = snapshots
        self._max_bytes = max_bytes
        self._interval = interval_seconds
        self._metrics = metrics
        self._clock = clock

    @property
    def are_given(self) -> bool:
        """Whether there are keys."""
        return self._keys is not None

    def after(self, session: Session, result: FrameResult) -> pb.ResumeToken | None:
        """The token that follows a result, where the client asked for tokens and one is due."""
        if not session.options.return_resume_token:
            return None
        is_renewed = any(report.template_updated for report in result.targets.values())
        if not is_renewed and self._clock.monotonic() - session.token_at < self._interval:
            return None
        return self.of(session)

    def of(self, session: Session) -> pb.ResumeToken | None:
        """A token of the session after its last result; None without keys, or where it would be too large."""
        if self._keys is None:
            return None
        session.token_at = self._clock.monotonic()
        state, crops = self._snapshots.take(session)
        token = self._keys.value.seal(msgspec.msgpack.encode(_Content(state, [crop.tobytes() for crop in crops.values()])))
        self._metrics.on_token(is_given=len(token) <= self._max_bytes)
        if len(token) > self._max_bytes:
            return None
        return pb.ResumeToken(token=token, last_frame_number=session.last_frame_number)

    def open(self, token: bytes, client: str, session_id: str) -> SessionState:
        """The session of a token that `client` sent, under this id or none. Raises ServiceError; each refusal is counted."""
        try:
            return self._open(token, client, session_id)
        except ServiceError as error:
            self._metrics.on_refused(error.reason)
            raise

    def _open(self, token: bytes, client: str, session_id: str) -> SessionState:
        if self._keys is None:
            raise ResumeTokensOff("this server has no keys for resume tokens (token_keys)")
        if len(token) > self._max_bytes:
            raise ResumeTokenTooLarge(f"a resume token of {len(token)} bytes is over max_resume_token_bytes {self._max_bytes}")
        try:
            content = msgspec.msgpack.decode(self._keys.value.open(token), type=_Content)
            state = self._snapshots.read(content.state, content.crops)
        except (msgspec.DecodeError, RecursionError, SnapshotError) as error:
            raise ResumeTokenMismatch(f"the resume token cannot be gone on from: {error}") from error
        if state.client != client:
            raise ResumeTokenForeign("the resume token was given to another client")
        if session_id not in ("", state.session_id):
            raise ResumeTokenInvalid(f"the resume token is of session {state.session_id}, not of {session_id!r}")
        return state
