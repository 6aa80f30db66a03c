"""One line of `mixformer track --output`: what became of a frame. The same whether the service or this process tracked it."""

from collections.abc import Iterable, Mapping

import msgspec

from mixformer.tracking.v1 import tracking_pb2 as pb
from model.geometry import Box
from model.target import TargetReport, TargetStatus
from service.errors import ServiceError


class BoxRecord(msgspec.Struct, frozen=True):
    """Top-left corner and size, in pixels of the frame."""

    x: float
    y: float
    width: float
    height: float


class TargetRecord(msgspec.Struct, frozen=True):
    """One target on one frame. `score` is null where the network has no score head."""

    target_id: str
    box: BoxRecord
    score: float | None
    status: str


class ErrorRecord(msgspec.Struct, frozen=True):
    """Why a frame was not used, or not for every target."""

    reason: str
    message: str


class FrameRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One frame. `outcome` is PROCESSED, DROPPED or REJECTED; `error` is there only for a frame that was not used for every target."""

    frame_number: int
    outcome: str
    targets: list[TargetRecord]
    error: ErrorRecord | None = None


def record_of_result(result: pb.FrameResult) -> FrameRecord:
    """The service's answer as a record."""
    outcome = pb.FrameOutcome.Name(result.outcome).removeprefix("FRAME_OUTCOME_")
    error = ErrorRecord(result.error.reason, result.error.message) if result.HasField("error") else None
    return FrameRecord(result.frame_number, outcome, [_target_of_result(each) for each in result.targets], error)


def _target_of_result(target: pb.TargetResult) -> TargetRecord:
    box = Box(target.box.x, target.box.y, target.box.width, target.box.height)
    score = target.score if target.HasField("score") else None
    return _target(target.target_id, box, score, TargetStatus(target.status))


def record_of_reports(
    frame_number: int, reports: Mapping[str, TargetReport], failed: ServiceError | None = None
) -> FrameRecord:
    """What the trackers of this process say of a frame, by target id. `failed` names those that have no answer."""
    targets = [_target(name, report.box, report.score, report.status) for name, report in reports.items()]
    return FrameRecord(frame_number, "PROCESSED", targets, None if failed is None else _error(failed))


def record_of_error(frame_number: int, error: ServiceError) -> FrameRecord:
    """A frame that this process could not use."""
    return FrameRecord(frame_number, "REJECTED", [], _error(error))


def _error(error: ServiceError) -> ErrorRecord:
    return ErrorRecord(error.reason, str(error))


def _target(target_id: str, box: Box, score: float | None, status: TargetStatus) -> TargetRecord:
    # Four decimals are all that the API's single precision holds at a thousand pixels.
    corner = BoxRecord(*(round(float(value), 4) for value in box))
    return TargetRecord(target_id, corner, None if score is None else round(score, 4), status.name)


def name_targets(boxes: Iterable[Box]) -> dict[str, Box]:
    """Ids for the boxes given: the only one has the empty id, several are "1", "2" and so on."""
    given = list(boxes)
    return {"": given[0]} if len(given) == 1 else {str(number): box for number, box in enumerate(given, start=1)}
