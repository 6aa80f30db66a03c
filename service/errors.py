"""Everything that can go wrong and be told to a client, as one tree; `front/wire/status.py` ends calls with its `code`.

`reason` is the ErrorInfo reason (google.rpc.ErrorInfo), stable for programs; the message carries ids and numbers, for people.
"""

from typing import ClassVar, Self

import grpc


class ServiceError(Exception):
    """Base: an error a client is told about. `retry_seconds`: when it is worth to try again, where that is known."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, retry_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds

    def told(self) -> Self:
        """The same error to keep or to send: without its traceback, which keeps the pictures of all frames it went through."""
        return type(self)(str(self), self.retry_seconds)


class InvalidRequest(ServiceError):
    """The message itself makes no sense: a bad option, a malformed id, a stream without a config."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_REQUEST"


class Unauthenticated(ServiceError):
    """The call carries no token that the server knows, or its token is good no more."""

    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class BadFrame(ServiceError):
    """The frame holds no picture we can read: not an image, truncated, a raw size that does not match."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "BAD_FRAME"


class FrameTooLarge(ServiceError):
    """The frame is over `max_frame_bytes` or `max_frame_pixels`."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "FRAME_TOO_LARGE"


class FrameOutOfOrder(ServiceError):
    """The frame's number does not rise, and the session asked for strict order."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "FRAME_OUT_OF_ORDER"


class FrameSuperseded(ServiceError):
    """A newer frame arrived before this one's turn, and the session asked for DROP_OLDEST."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "FRAME_SUPERSEDED"


class FrameTooOld(ServiceError):
    """The frame was captured longer ago than the session's `max_frame_age`."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "FRAME_TOO_OLD"


class BadBox(ServiceError):
    """The box is empty, not finite or outside the frame."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "BAD_BOX"


class NoTarget(ServiceError):
    """The session has no target yet, so there is nothing to track on this frame."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "NO_TARGET"


class TargetNotFound(ServiceError):
    """A command names a target that the session does not have."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "TARGET_NOT_FOUND"


class TooManyTargets(ServiceError):
    """The session is at `max_targets_per_session`."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "TOO_MANY_TARGETS"


class SessionNotFound(ServiceError):
    """No session of this client has this id: it never was, or has expired."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "SESSION_NOT_FOUND"


class SessionBusy(ServiceError):
    """A stream holds the session, so a single frame cannot be tracked in it."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "SESSION_BUSY"


class SessionTakenOver(ServiceError):
    """Another stream, here or on another server, was opened on this session; this one is over."""

    code = grpc.StatusCode.ABORTED
    reason = "SESSION_TAKEN_OVER"


class ResumeTokenInvalid(ServiceError):
    """The bytes are no token of ours, were changed, are sealed with a key we do not have, or are of another session."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "RESUME_TOKEN_INVALID"


class ResumeTokenTooLarge(ServiceError):
    """The token is over `max_resume_token_bytes`."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "RESUME_TOKEN_TOO_LARGE"


class ResumeTokenVersion(ServiceError):
    """The token's layout is of another release."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "RESUME_TOKEN_VERSION"


class ResumeTokenMismatch(ServiceError):
    """The token is good, but of another network, or of more targets than this server follows."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "RESUME_TOKEN_MISMATCH"


class ResumeTokenForeign(ServiceError):
    """The token was given to another client."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = "RESUME_TOKEN_FOREIGN"


class ResumeTokensOff(ServiceError):
    """This server has no keys for tokens."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "RESUME_TOKENS_OFF"


class StoreUnavailable(ServiceError):
    """The session may be in the store, which does not answer."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "STORE_UNAVAILABLE"


class TooManySessions(ServiceError):
    """The server is at `max_sessions`, or the client at `max_client_sessions`."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "TOO_MANY_SESSIONS"


class TooManyStreams(ServiceError):
    """The server is at `max_streams`, or the client at its share of them."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "TOO_MANY_STREAMS"


class Overloaded(ServiceError):
    """There is no room: on the device for another target, in memory for decoded frames, in the session's queue of single frames."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "OVERLOADED"


class FrameShed(Overloaded):
    """The device is behind, and the session asked for DROP_OLDEST."""


class RateLimited(ServiceError):
    """The client is over `max_client_frames_per_second` or `max_client_bytes_per_second`."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "RATE_LIMITED"


class Draining(ServiceError):
    """The server is going away and takes no new work."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "DRAINING"


class WorkerUnavailable(ServiceError):
    """No worker answered in time."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "WORKER_UNAVAILABLE"


class NonFinitePrediction(ServiceError):
    """The network's answer for this frame is not a number; the target stays where it was."""

    reason = "NON_FINITE_PREDICTION"


class PoisonedFrame(ServiceError):
    """The worker died twice with this frame in hand; it is not tried again."""

    reason = "POISONED_FRAME"


class DeviceError(ServiceError):
    """The device refused this frame."""

    reason = "DEVICE_ERROR"
