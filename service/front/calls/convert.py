"""Between the API's messages and the values the front works with."""

from collections.abc import Sequence
from itertools import islice

from mixformer.tracking.v1 import tracking_pb2 as pb
from model.geometry import Box
from model.target import TargetReport
from service.decode import Payload, RawImage
from service.errors import ServiceError
from service.front.calls.options import options_message
from service.front.frames import Action, Command, Frame, FrameResult
from service.front.tracking.session import SessionState
from service.front.tracking.targets import MAX_COMMANDS
from service.front.wire.times import duration, seconds_of, timestamp


def frame_of(frame: pb.Frame, commands: Sequence[pb.TargetCommand], arrived_at: float, traceparent: str) -> Frame:
    """A frame and what is to be done on it. Nothing is refused here: a bad frame gets its answer in its turn."""
    captured = seconds_of(frame.capture_time) if frame.HasField("capture_time") else None
    return Frame(
        frame.frame_number,
        _payload(frame),
        # One over the limit is enough for the refusal.
        tuple(_command(each) for each in islice(commands, MAX_COMMANDS + 1)),
        captured,
        arrived_at,
        traceparent,
    )  # fmt: skip


def session_message(state: SessionState, expires_at: float) -> pb.Session:
    """A session as clients see it; `expires_at` is unix seconds."""
    last = state.last_frame_at
    return pb.Session(
        session_id=state.session_id,
        options=options_message(state.options),
        create_time=timestamp(state.created_at),
        last_frame_time=None if last is None else timestamp(last),
        expire_time=timestamp(expires_at),
        last_frame_number=state.last_frame_number,
        epoch=state.epoch,
        targets=[_target(name, target.report) for name, target in state.targets.items()],
    )


def result_message(result: FrameResult) -> pb.FrameResult:
    """The answer to one frame."""
    timing = result.timing
    return pb.FrameResult(
        frame_number=result.frame_number,
        outcome=pb.FrameOutcome.ValueType(result.outcome),
        targets=[_target(name, report) for name, report in result.targets.items()],
        error=None if result.error is None else _error(result.error),
        timing=pb.Timing(
            decode=duration(timing.decode),
            queue=duration(timing.queue),
            backbone=duration(timing.backbone),
            total=duration(timing.total),
            batch_size=timing.batch_size,
        ),
    )


def draining_message(seconds: float) -> pb.Draining:
    """The server goes away within `seconds`."""
    return pb.Draining(deadline=duration(seconds))


def _payload(frame: pb.Frame) -> Payload | None:
    match frame.WhichOneof("payload"):
        case "encoded":
            return frame.encoded
        case "raw":
            return RawImage(frame.raw.data, frame.raw.width, frame.raw.height, frame.raw.pixel_format)
        case _:
            return None


def _command(message: pb.TargetCommand) -> Command:
    match message.WhichOneof("action"):
        case "initialize":
            return Command(message.target_id, Action.INITIALIZE, _box(message.initialize))
        case "ensure":
            return Command(message.target_id, Action.ENSURE, _box(message.ensure))
        case "relocate":
            return Command(message.target_id, Action.RELOCATE, _box(message.relocate))
        case "remove" if message.remove:
            return Command(message.target_id, Action.REMOVE)
        case _:
            return Command(message.target_id, Action.NONE)


def _target(target_id: str, report: TargetReport) -> pb.TargetResult:
    box = report.box
    return pb.TargetResult(
        target_id=target_id,
        box=pb.BoundingBox(x=box.x, y=box.y, width=box.width, height=box.height),
        score=report.score,
        status=pb.TargetStatus.ValueType(report.status),
        frames_since_tracked=report.frames_since_tracked,
        template_updated=report.template_updated,
    )


def _error(error: ServiceError) -> pb.FrameError:
    retry = None if error.retry_seconds is None else duration(error.retry_seconds)
    return pb.FrameError(code=error.code.value[0], reason=error.reason, message=str(error), retry_delay=retry)


def _box(message: pb.BoundingBox) -> Box:
    return Box(message.x, message.y, message.width, message.height)
