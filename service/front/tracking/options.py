"""A session's options: what a client may ask for, what it is granted, and what is refused."""

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Annotated

from google.protobuf.duration_pb2 import Duration
from msgspec import Meta

from mixformer.tracking.v1 import tracking_pb2 as pb
from model.config import UpdateRule
from service.config import YEAR_SECONDS
from service.errors import InvalidRequest
from service.front.calls.times import duration, seconds_of

_LEAST_FACTOR, _MOST_FACTOR = 1.0, 10.0
# What a session from elsewhere may have been granted.
Seconds = Annotated[float, Meta(gt=0, le=YEAR_SECONDS)]
SearchFactor = Annotated[float, Meta(ge=_LEAST_FACTOR, le=_MOST_FACTOR)]
# The API's name of an option, and the rule's.
_RULE_FIELDS = {
    "update_interval_frames": "update_interval",
    "online_templates": "online_size",
    "candidate_score_threshold": "candidate_threshold",
    "score_decay": "score_decay",
    "lost_score_threshold": "lost_threshold",
}


class OverloadPolicy(IntEnum):
    """What happens to frames that come faster than they are tracked; numbers equal the API's."""

    BLOCK = 1
    DROP_OLDEST = 2


@dataclass(frozen=True)
class SessionOptions:
    """A session's options as granted: what the client left open is filled in. No `max_frame_age_seconds`: any age will do."""

    rule: UpdateRule
    search_factor: SearchFactor
    idle_timeout_seconds: Seconds
    overload_policy: OverloadPolicy = OverloadPolicy.BLOCK
    max_frame_age_seconds: Seconds | None = None
    strict_order: bool = False
    return_resume_token: bool = False


def options_of(message: pb.SessionOptions, default: SessionOptions, max_idle_seconds: float) -> SessionOptions:
    """The options to grant: `default` where the client left one open. Raises InvalidRequest with the numbers."""
    granted = replace(
        default,
        rule=_rule(message, default.rule),
        overload_policy=_policy(message.overload_policy),
        strict_order=message.strict_order,
        return_resume_token=message.return_resume_token,
    )
    if message.HasField("search_factor"):
        if not _LEAST_FACTOR <= message.search_factor <= _MOST_FACTOR:
            raise InvalidRequest(f"search_factor {message.search_factor:g} is outside {_LEAST_FACTOR:g} to {_MOST_FACTOR:g}")
        granted = replace(granted, search_factor=message.search_factor)
    if message.HasField("idle_timeout"):
        idle = _positive("idle_timeout", message.idle_timeout)
        if idle > max_idle_seconds:
            raise InvalidRequest(f"idle_timeout {idle:g} s is over {max_idle_seconds:g} s")
        granted = replace(granted, idle_timeout_seconds=idle)
    if message.HasField("max_frame_age"):
        age = _positive("max_frame_age", message.max_frame_age)
        if age > YEAR_SECONDS:
            raise InvalidRequest(f"max_frame_age {age:g} s is over {YEAR_SECONDS} s")
        granted = replace(granted, max_frame_age_seconds=age)
    return granted


def options_message(options: SessionOptions) -> pb.SessionOptions:
    """The options as granted, nothing left open."""
    rule, age = options.rule, options.max_frame_age_seconds
    return pb.SessionOptions(
        overload_policy=pb.OverloadPolicy.ValueType(options.overload_policy),
        idle_timeout=duration(options.idle_timeout_seconds),
        update_interval_frames=rule.update_interval,
        online_templates=rule.online_size,
        candidate_score_threshold=rule.candidate_threshold,
        lost_score_threshold=rule.lost_threshold,
        score_decay=rule.score_decay,
        search_factor=options.search_factor,
        max_frame_age=None if age is None else duration(age),
        strict_order=options.strict_order,
        return_resume_token=options.return_resume_token,
    )


def _policy(number: int) -> OverloadPolicy:
    try:
        return OverloadPolicy(number or OverloadPolicy.BLOCK)
    except ValueError as error:
        raise InvalidRequest(f"overload_policy {number} is not known") from error


def _rule(message: pb.SessionOptions, default: UpdateRule) -> UpdateRule:
    rule = default
    for option, name in _RULE_FIELDS.items():
        if message.HasField(option):  # type: ignore[arg-type]
            rule = _changed(rule, option, name, getattr(message, option))
    return rule


def _changed(rule: UpdateRule, option: str, name: str, value: float) -> UpdateRule:
    try:
        return _lost_below(rule, value) if name == "lost_threshold" else replace(rule, **{name: value})  # type: ignore[arg-type]
    except ValueError as error:
        # The rule names its own field first, which clients do not know.
        raise InvalidRequest(f"{option} {str(error).partition(' ')[2]}") from error


def _lost_below(rule: UpdateRule, threshold: float) -> UpdateRule:
    """A target that is lost below `threshold` is neither found nor certain below it."""
    return replace(
        rule,
        lost_threshold=threshold,
        uncertain_threshold=max(rule.uncertain_threshold, threshold),
        found_threshold=max(rule.found_threshold, threshold),
    )


def _positive(name: str, message: Duration) -> float:
    seconds = seconds_of(message)
    if not seconds > 0:
        raise InvalidRequest(f"{name} {seconds:g} s is not above 0")
    return seconds
