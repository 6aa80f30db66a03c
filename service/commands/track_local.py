"""`mixformer track` in this process: no server, one tracker a target."""

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace

from model.checkpoint import load_model
from model.config import UpdateRule
from model.crop import Image
from model.geometry import Box
from model.mixformer import Network
from model.official import CheckpointError
from model.target import NonFinitePredictionError, TargetReport
from model.tracker import Tracker
from service.commands.command import CommandError
from service.commands.footage import open_footage
from service.commands.results import FrameRecord, name_targets, record_of_error, record_of_reports
from service.commands.track import FILE_LIMITS, TrackOutput
from service.commands.weights import DEFAULT_WEIGHTS
from service.config import SettingsError
from service.decode import Payload, decode
from service.device import choose_device, choose_dtype, choose_network
from service.errors import BadBox, NonFinitePrediction, ServiceError
from service.failures import combined


def run(arguments: argparse.Namespace) -> int:
    """Track the footage from the boxes given. The exit code; raises CommandError."""
    network, rule = _load(arguments)
    footage = open_footage(arguments.source)
    followers = Followers(network, _rule(rule, arguments), name_targets(arguments.boxes))
    with TrackOutput(arguments, footage) as output:
        for number, payload in enumerate(footage.frames):
            begun_at = time.perf_counter()
            record = followers.follow(number, payload)
            output.add(payload, record, time.perf_counter() - begun_at)
    return output.finish()


class Followers:
    """The targets of one video, each with its tracker; all start on the first frame."""

    def __init__(self, network: Network, rule: UpdateRule, boxes: Mapping[str, Box]) -> None:
        self._boxes = boxes
        self._trackers = {target_id: Tracker(network, rule) for target_id in boxes}
        # What each target's tracker said last.
        self._reports: dict[str, TargetReport] = {}

    def follow(self, frame_number: int, payload: Payload) -> FrameRecord:
        """What the next frame shows, in the words of the service (docs/api.md).

        A frame that cannot be used, or on which every target fails, is REJECTED, and the next one is tracked.
        """
        try:
            image = decode(payload, FILE_LIMITS)
            return self._track(frame_number, image) if frame_number else self._start(image)
        except ServiceError as error:
            return record_of_error(frame_number, error)

    def _start(self, image: Image) -> FrameRecord:
        for target_id, tracker in self._trackers.items():
            try:
                self._reports[target_id] = tracker.start(image, self._boxes[target_id])
            except ValueError as error:
                raise BadBox(f"target {target_id!r}: {error}") from error
        return record_of_reports(0, self._reports)

    def _track(self, frame_number: int, image: Image) -> FrameRecord:
        failures: dict[str, ServiceError] = {}
        for target_id, tracker in self._trackers.items():
            try:
                self._reports[target_id] = tracker.track(image)
            except NonFinitePredictionError as error:
                failures[target_id] = NonFinitePrediction(str(error))
            except ValueError as error:
                failures[target_id] = BadBox(str(error))
        if len(failures) == len(self._trackers):
            raise combined(failures)
        for target_id in failures:
            self._reports[target_id] = self._trackers[target_id].miss()
        return record_of_reports(frame_number, self._reports, combined(failures) if failures else None)


def _load(arguments: argparse.Namespace) -> tuple[Network, UpdateRule]:
    precision = arguments.precision or "auto"
    device = choose_device("auto")
    weights, dtype = arguments.weights or DEFAULT_WEIGHTS, choose_dtype(precision, device)
    try:
        loaded = load_model(weights, arguments.variant, device, dtype)
        return choose_network(loaded.model, loaded.ranges, precision), loaded.update_rule
    except (CheckpointError, SettingsError) as error:
        raise CommandError(str(error)) from error


def _rule(rule: UpdateRule, arguments: argparse.Namespace) -> UpdateRule:
    """The rule of the weights, with what the user asked for instead."""
    asked = {"update_interval": arguments.update_interval, "online_size": arguments.online_size}
    try:
        return replace(rule, **{name: value for name, value in asked.items() if value is not None})
    except ValueError as error:
        raise CommandError(str(error), exit_code=2) from error
