"""`mixformer track` in this process: no server, one tracker a target."""

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace

from model.checkpoint import LoadedModel, load_model
from model.config import UpdateRule
from model.crop import Image
from model.geometry import Box
from model.official import CheckpointError
from model.target import NonFinitePredictionError, TargetReport
from model.tracker import Tracker
from service.commands.command import CommandError
from service.commands.footage import open_footage
from service.commands.results import FrameRecord, name_targets, record_of_error, record_of_reports
from service.commands.track import FILE_LIMITS, TrackOutput
from service.commands.weights import DEFAULT_WEIGHTS
from service.decode import Payload, decode
from service.device import choose_device, choose_dtype
from service.errors import BadBox, BadFrame, NonFinitePrediction, ServiceError


def run(arguments: argparse.Namespace) -> int:
    """Track the footage from the boxes given. The exit code; raises CommandError."""
    loaded = _load(arguments)
    footage = open_footage(arguments.source)
    followers = Followers(loaded, _rule(loaded.update_rule, arguments), name_targets(arguments.boxes))
    with TrackOutput(arguments, footage) as output:
        for number, payload in enumerate(footage.frames):
            begun_at = time.perf_counter()
            record = followers.follow(number, payload)
            output.add(payload, record, time.perf_counter() - begun_at)
    return output.finish()


class Followers:
    """The targets of one video, each with its tracker; all start on the first frame."""

    def __init__(self, loaded: LoadedModel, rule: UpdateRule, boxes: Mapping[str, Box]) -> None:
        self._boxes = boxes
        self._trackers = {target_id: Tracker(loaded.model, rule) for target_id in boxes}

    def follow(self, frame_number: int, payload: Payload) -> FrameRecord:
        """What the next frame shows. A frame that cannot be used is REJECTED, and the next one is tracked."""
        try:
            image = decode(payload, FILE_LIMITS)
            reports = {target_id: self._report(target_id, frame_number, image) for target_id in self._trackers}
        except ServiceError as error:
            return record_of_error(frame_number, error)
        return record_of_reports(frame_number, reports)

    def _report(self, target_id: str, frame_number: int, image: Image) -> TargetReport:
        tracker = self._trackers[target_id]
        try:
            return tracker.track(image) if frame_number else tracker.start(image, self._boxes[target_id])
        except NonFinitePredictionError as error:
            raise NonFinitePrediction(f"target {target_id!r}: {error}") from error
        except ValueError as error:
            refusal = BadFrame if frame_number else BadBox
            raise refusal(f"target {target_id!r}: {error}") from error


def _load(arguments: argparse.Namespace) -> LoadedModel:
    device = choose_device("auto")
    dtype = choose_dtype(arguments.precision or "auto", device)
    try:
        return load_model(arguments.weights or DEFAULT_WEIGHTS, arguments.variant, device, dtype)
    except CheckpointError as error:
        raise CommandError(str(error)) from error


def _rule(rule: UpdateRule, arguments: argparse.Namespace) -> UpdateRule:
    """The rule of the weights, with what the user asked for instead."""
    asked = {"update_interval": arguments.update_interval, "online_size": arguments.online_size}
    try:
        return replace(rule, **{name: value for name, value in asked.items() if value is not None})
    except ValueError as error:
        raise CommandError(str(error), exit_code=2) from error
