"""What is said of a frame on which some targets failed; the same in the service and in `mixformer track`."""

from collections.abc import Mapping

from service.errors import ServiceError


def combined(failures: Mapping[str, ServiceError]) -> ServiceError:
    """One error for several targets, of the kind of the first."""
    kind = type(next(iter(failures.values())))
    return kind("; ".join(f"target {name!r}: {error}" for name, error in failures.items()))
