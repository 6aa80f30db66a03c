"""A session's options as they were granted."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated

from msgspec import Meta

from model.config import UpdateRule
from service.config import YEAR_SECONDS

LEAST_SEARCH_FACTOR, MOST_SEARCH_FACTOR = 1.0, 10.0
# What a session from elsewhere may have been granted.
Seconds = Annotated[float, Meta(gt=0, le=YEAR_SECONDS)]
SearchFactor = Annotated[float, Meta(ge=LEAST_SEARCH_FACTOR, le=MOST_SEARCH_FACTOR)]


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
