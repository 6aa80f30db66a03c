"""The options a session is granted, and what is said of those that are not."""

import math

import pytest
from fake_front import bench
from google.protobuf.duration_pb2 import Duration

from mixformer.tracking.v1 import tracking_pb2 as pb
from service.errors import InvalidRequest
from service.front.calls.options import granted_options


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (pb.SessionOptions(update_interval_frames=0), "update_interval_frames 0 is outside 1 to 4294967295"),
        (pb.SessionOptions(online_templates=99), "online_templates 99 is outside 1 to 5"),
        (pb.SessionOptions(candidate_score_threshold=2), "candidate_score_threshold 2 is outside 0 to 1"),
        (pb.SessionOptions(score_decay=-1), "score_decay -1 is outside 0 to 1"),
        (pb.SessionOptions(lost_score_threshold=3), "lost_score_threshold 3 is outside 0 to 1"),
        (pb.SessionOptions(search_factor=11), "search_factor 11 is outside 1 to 10"),
        (pb.SessionOptions(lost_score_threshold=math.nan), "lost_score_threshold nan is outside 0 to 1"),
        (pb.SessionOptions(search_factor=math.nan), "search_factor nan is outside 1 to 10"),
        (pb.SessionOptions(overload_policy=9), "overload_policy 9 is not known"),  # type: ignore[arg-type]
        (pb.SessionOptions(idle_timeout=Duration(seconds=3601)), "idle_timeout 3601 s is over 3600 s"),
        (pb.SessionOptions(idle_timeout=Duration(seconds=-1)), "idle_timeout -1 s is not above 0"),
        (pb.SessionOptions(max_frame_age=Duration(seconds=0)), "max_frame_age 0 s is not above 0"),
        (pb.SessionOptions(max_frame_age=Duration(seconds=31_536_001)), "max_frame_age 31536001 s is over 31536000 s"),
    ],
)
def test_a_wrong_option_is_refused_by_the_name_the_client_gave_it(asked: pb.SessionOptions, words: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{words}$"):
        granted_options(asked, bench().front)


def test_a_target_that_is_lost_below_a_score_is_not_found_below_it() -> None:
    rule = granted_options(pb.SessionOptions(lost_score_threshold=0.75), bench().front).rule
    assert (rule.lost_threshold, rule.uncertain_threshold, rule.found_threshold) == (0.75, 0.75, 0.75)
