"""Between the API's messages and the values the front works with."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from mixformer.tracking.v1 import tracking_pb2 as pb
from model.config import UpdateRule
from model.geometry import Box
from model.target import TargetReport
from service.decode import Payload, RawImage
from service.errors import InvalidRequest, ServiceError
from service.frames import Action, Command, Frame, FrameResult
from service.session import OverloadPolicy, Session, SessionOptions
from service.targets import MAX_COMMANDS

_SEARCH_FACTORS = (1.0, 10.0)
_NANOSECONDS = 1_000_000_000


def frame_of(frame: pb.Frame, commands: Sequence[pb.TargetCommand], arrived_at: float) -> Frame:
    """A frame and what is to be done on it. Nothing is refused here: a bad frame gets its answer in its turn."""
    captured = _seconds(frame.capture_time) if frame.HasField("capture_time") else None
    return Frame(
        frame.frame_number,
        _payload(frame),
        # One over the limit is enough for the refusal.
        tuple(_command(each) for each in islice(commands, MAX_COMMANDS + 1)),
        captured,
        arrived_at,
    )  # fmt: skip


def options_of(message: pb.SessionOptions, default: SessionOptions, max_idle_seconds: float) -> SessionOptions:
    """The options to grant: `default` where the client left one open. Raises InvalidRequest with the numbers."""
    granted = replace(
        default,
        rule=_rule(message, default.rule),
        overload_policy=_policy(message.overload_policy),
        strict_order=message.strict_order,
    )
    if message.HasField("search_factor"):
        low, high = _SEARCH_FACTORS
        if not low <= message.search_factor <= high:
            raise InvalidRequest(f"search_factor {message.search_factor:g} is outside {low:g} to {high:g}")
        granted = replace(granted, search_factor=message.search_factor)
    if message.HasField("idle_timeout"):
        idle = _positive("idle_timeout", message.idle_timeout)
        if idle > max_idle_seconds:
            raise InvalidRequest(f"idle_timeout {idle:g} s is over {max_idle_seconds:g} s")
        granted = replace(granted, idle_timeout_seconds=idle)
    if message.HasField("max_frame_age"):
        granted = replace(granted, max_frame_age_seconds=_positive("max_frame_age", message.max_frame_age))
    return granted


def options_message(options: SessionOptions) -> pb.SessionOptions:
    """The options as granted, nothing left open."""
    rule, age = options.rule, options.max_frame_age_seconds
    return pb.SessionOptions(
        overload_policy=pb.OverloadPolicy.ValueType(options.overload_policy),
        idle_timeout=_duration(options.idle_timeout_seconds),
        update_interval_frames=rule.update_interval,
        online_templates=rule.online_size,
        candidate_score_threshold=rule.candidate_threshold,
        lost_score_threshold=rule.lost_threshold,
        score_decay=rule.score_decay,
        search_factor=options.search_factor,
        max_frame_age=None if age is None else _duration(age),
        strict_order=options.strict_order,
    )


def session_message(session: Session) -> pb.Session:
    """A session as clients see it."""
    last = session.last_frame_at
    return pb.Session(
        session_id=session.session_id,
        options=options_message(session.options),
        create_time=_timestamp(session.created_at),
        last_frame_time=None if last is None else _timestamp(last),
        expire_time=_timestamp(session.expires_at),
        last_frame_number=session.last_frame_number,
        epoch=session.epoch,
        targets=[_target(name, target.report) for name, target in session.targets.items()],
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
            decode=_duration(timing.decode),
            queue=_duration(timing.queue),
            backbone=_duration(timing.backbone),
            total=_duration(timing.total),
            batch_size=timing.batch_size,
        ),
    )


def draining_message(seconds: float) -> pb.Draining:
    """The server goes away within `seconds`."""
    return pb.Draining(deadline=_duration(seconds))


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


def _policy(number: int) -> OverloadPolicy:
    try:
        return OverloadPolicy(number or OverloadPolicy.BLOCK)
    except ValueError as error:
        raise InvalidRequest(f"overload_policy {number} is not known") from error


def _rule(message: pb.SessionOptions, default: UpdateRule) -> UpdateRule:
    rule = default
    try:
        if message.HasField("update_interval_frames"):
            rule = replace(rule, update_interval=message.update_interval_frames)
        if message.HasField("online_templates"):
            rule = replace(rule, online_size=message.online_templates)
        if message.HasField("candidate_score_threshold"):
            rule = replace(rule, candidate_threshold=message.candidate_score_threshold)
        if message.HasField("score_decay"):
            rule = replace(rule, score_decay=message.score_decay)
        if message.HasField("lost_score_threshold"):
            rule = _lost_below(rule, message.lost_score_threshold)
    except ValueError as error:
        raise InvalidRequest(str(error)) from error
    return rule


def _lost_below(rule: UpdateRule, threshold: float) -> UpdateRule:
    """A target that is lost below `threshold` is neither found nor certain below it."""
    return replace(
        rule,
        lost_threshold=threshold,
        uncertain_threshold=max(rule.uncertain_threshold, threshold),
        found_threshold=max(rule.found_threshold, threshold),
    )


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
    return pb.FrameError(code=error.code.value[0], reason=error.reason, message=str(error))


def _box(message: pb.BoundingBox) -> Box:
    return Box(message.x, message.y, message.width, message.height)


def _seconds(message: Duration | Timestamp) -> float:
    return message.seconds + message.nanos / _NANOSECONDS


def _positive(name: str, message: Duration) -> float:
    seconds = _seconds(message)
    if not seconds > 0:
        raise InvalidRequest(f"{name} {seconds:g} s is not above 0")
    return seconds


def _duration(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=int(math.modf(seconds)[0] * _NANOSECONDS))


def _timestamp(seconds: float) -> Timestamp:
    return Timestamp(seconds=int(seconds), nanos=int(math.modf(seconds)[0] * _NANOSECONDS))
