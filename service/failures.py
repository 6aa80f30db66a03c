"""What is said of a frame on which only some targets have an answer; the same in the service and in `mixformer track`."""

from collections.abc import Mapping

from model.target import TargetReport, TargetStatus
from service.errors import ServiceError


def without_answer(last: TargetReport) -> TargetReport:
    """What can be said of a target that got no answer: where it was."""
    status = TargetStatus.LOST if last.status is TargetStatus.LOST else TargetStatus.UNCERTAIN
    since = last.frames_since_tracked + 1
    return TargetReport(last.box, None, status, since, template_updated=False)


def combined(failures: Mapping[str, ServiceError]) -> ServiceError:
    """One error for several targets, of the kind of the first."""
    kind = type(next(iter(failures.values())))
    return kind("; ".join(f"target {name!r}: {error}" for name, error in failures.items()))
