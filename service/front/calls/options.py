"""A session's options in the API's messages: what a client may ask for, what it is granted, and what is refused."""

from dataclasses import replace

from google.protobuf.duration_pb2 import Duration

from mixformer.tracking.v1 import tracking_pb2 as pb
from model.config import UpdateRule
from service.config import YEAR_SECONDS
from service.errors import InvalidRequest
from service.front.front import Front
from service.front.tracking.options import LEAST_SEARCH_FACTOR, MOST_SEARCH_FACTOR, OverloadPolicy, SessionOptions
from service.front.wire.times import duration, seconds_of

# The API's name of an option, and the rule's.
_RULE_FIELDS = {
    "update_interval_frames": "update_interval",
    "online_templates": "online_size",
    "candidate_score_threshold": "candidate_threshold",
    "score_decay": "score_decay",
    "lost_score_threshold": "lost_threshold",
}


def granted_options(message: pb.SessionOptions, front: Front) -> SessionOptions:
    """What a client that asks for this gets: the front's own options where it left one open. Raises InvalidRequest with the numbers."""
    granted = replace(
        front.default_options,
        rule=_rule(message, front.default_options.rule),
        overload_policy=_policy(message.overload_policy),
        strict_order=message.strict_order,
        return_resume_token=message.return_resume_token and front.resume_tokens.are_given,
    )
    if message.HasField("search_factor"):
        granted = replace(granted, search_factor=_search_factor(message.search_factor))
    if message.HasField("idle_timeout"):
        idle = _seconds("idle_timeout", message.idle_timeout, front.settings.max_idle_timeout_seconds)
        granted = replace(granted, idle_timeout_seconds=idle)
    if message.HasField("max_frame_age"):
        granted = replace(granted, max_frame_age_seconds=_seconds("max_frame_age", message.max_frame_age, YEAR_SECONDS))
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


def _search_factor(factor: float) -> float:
    if not LEAST_SEARCH_FACTOR <= factor <= MOST_SEARCH_FACTOR:
        raise InvalidRequest(f"search_factor {factor:g} is outside {LEAST_SEARCH_FACTOR:g} to {MOST_SEARCH_FACTOR:g}")
    return factor


def _seconds(name: str, message: Duration, most: float) -> float:
    seconds = seconds_of(message)
    if not seconds > 0:
        raise InvalidRequest(f"{name} {seconds:g} s is not above 0")
    if seconds > most:
        raise InvalidRequest(f"{name} {seconds:.10g} s is over {most:.10g} s")
    return seconds
