"""A tracking service without a network behind it: every target stays where the client put it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from mixformer.tracking.v1 import tracking_pb2 as pb

SERVICE = "mixformer.tracking.v1.TrackingService"


class FakeService:
    """Answers every frame; `outcomes` says which ones otherwise than PROCESSED. Remembers what it was sent.

    Breaks the stream at the frame `fails_at`, `fails_times` times. With `token_every` it gives a resume token after every such
    frame, and begins where a token says; without, every stream begins anew.
    """

    def __init__(
        self, max_frame_bytes: int = 8 * 2**20, fails_at: int | None = None, fails_times: int = 1000, token_every: int = 0
    ) -> None:
        self.max_frame_bytes = max_frame_bytes
        self.fails_at = fails_at
        self.fails_left = fails_times
        self.failure = grpc.StatusCode.UNAVAILABLE
        self.token_every = token_every
        self.refuses_tokens = False
        # So many frames with `ensure` are refused as OVERLOADED, to be tried again after `retry`.
        self.refusals_left = 0
        self.retry = Duration()
        self.configs: list[pb.StreamConfig] = []
        self.requests: list[pb.TrackStreamRequest] = []
        self.outcomes: dict[int, pb.FrameOutcome.ValueType] = {}
        self.options: list[pb.SessionOptions] = []
        self.frames: list[pb.Frame] = []
        self.deleted: list[str] = []
        self.delete_fails: grpc.StatusCode | None = None

    def track_stream(
        self, requests: Iterator[pb.TrackStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.TrackStreamResponse]:
        """The session, then a result a frame."""
        config = next(requests).config
        self.configs.append(config)
        self.options.append(config.options)
        if config.resume_token and self.refuses_tokens:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "unknown key")
        session = pb.Session.FromString(config.resume_token)
        session.session_id = config.session_id
        yield pb.TrackStreamResponse(session=session)
        boxes = {each.target_id: each.box for each in session.targets}
        for request in requests:
            self.requests.append(request)
            if self.refusals_left and any(each.HasField("ensure") for each in request.targets):
                self.refusals_left -= 1
                yield pb.TrackStreamResponse(result=_rejected(request.frame.frame_number, "OVERLOADED", self.retry))
                continue
            for command in request.targets:
                if command.HasField("initialize") or command.target_id not in boxes:
                    boxes[command.target_id] = command.initialize if command.HasField("initialize") else command.ensure
            self.frames.append(request.frame)
            if request.frame.frame_number == self.fails_at and self.fails_left:
                self.fails_left -= 1
                context.abort(self.failure, "draining")
            result = self._result(request.frame, boxes)
            if not boxes:
                result = _rejected(request.frame.frame_number, "NO_TARGET")
            yield pb.TrackStreamResponse(result=result)
            if self.token_every and result.frame_number % self.token_every == 0:
                yield pb.TrackStreamResponse(resume_token=_token(result))

    def _result(self, frame: pb.Frame, boxes: dict[str, pb.BoundingBox]) -> pb.FrameResult:
        outcome = self.outcomes.get(frame.frame_number, pb.FRAME_OUTCOME_PROCESSED)
        result = pb.FrameResult(frame_number=frame.frame_number, outcome=outcome)
        if outcome == pb.FRAME_OUTCOME_REJECTED:
            result.error.reason, result.error.message = "BAD_FRAME", "not a picture"
        if outcome == pb.FRAME_OUTCOME_PROCESSED:
            status = pb.TARGET_STATUS_TRACKED
            result.targets.extend(
                pb.TargetResult(target_id=name, box=box, score=0.5, status=status) for name, box in boxes.items()
            )
        return result

    def get_server_info(self, request: pb.GetServerInfoRequest, context: grpc.ServicerContext) -> pb.GetServerInfoResponse:
        """The one limit that clients mind."""
        return pb.GetServerInfoResponse(max_frame_bytes=self.max_frame_bytes)

    def delete_session(self, request: pb.DeleteSessionRequest, context: grpc.ServicerContext) -> pb.DeleteSessionResponse:
        """Remembers the session's id."""
        self.deleted.append(request.session_id)
        if self.delete_fails is not None:
            context.abort(self.delete_fails, "not deleted")
        return pb.DeleteSessionResponse()


def _rejected(number: int, reason: str, retry: Duration | None = None) -> pb.FrameResult:
    error = pb.FrameError(reason=reason, retry_delay=retry)
    return pb.FrameResult(frame_number=number, outcome=pb.FRAME_OUTCOME_REJECTED, error=error)


def _token(result: pb.FrameResult) -> pb.ResumeToken:
    state = pb.Session(last_frame_number=result.frame_number, targets=result.targets)
    state.last_frame_time.GetCurrentTime()
    return pb.ResumeToken(token=state.SerializeToString(), last_frame_number=result.frame_number)


@contextmanager
def listening(service: FakeService, address: str = "127.0.0.1:0") -> Iterator[str]:
    """The service, on a free port unless told; gives HOST:PORT."""
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, _handlers(service)),))
    port = server.add_insecure_port(address)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(grace=None).wait()


def _handlers(service: FakeService) -> dict[str, "grpc.RpcMethodHandler[Any, Any]"]:
    return {
        "TrackStream": grpc.stream_stream_rpc_method_handler(
            service.track_stream, pb.TrackStreamRequest.FromString, pb.TrackStreamResponse.SerializeToString
        ),
        "GetServerInfo": grpc.unary_unary_rpc_method_handler(
            service.get_server_info, pb.GetServerInfoRequest.FromString, pb.GetServerInfoResponse.SerializeToString
        ),
        "DeleteSession": grpc.unary_unary_rpc_method_handler(
            service.delete_session, pb.DeleteSessionRequest.FromString, pb.DeleteSessionResponse.SerializeToString
        ),
    }
