"""How fast one client may send frames."""

import pytest
from fake_front import FakeTime, bench, start

from mixformer.tracking.v1 import tracking_pb2 as pb
from service.config import Limits
from service.errors import RateLimited
from service.front.access.rates import Rates


def allowed(rates: Rates, client: str, size: int = 1) -> bool:
    try:
        rates.take(client, size)
    except RateLimited:
        return False
    return True


def test_a_burst_of_one_second_then_the_limit() -> None:
    time = FakeTime()
    rates = Rates(Limits(max_client_frames_per_second=4), time)
    assert [allowed(rates, "cam") for _ in range(6)] == [True] * 5 + [False]
    time.now += 0.25
    assert [allowed(rates, "cam") for _ in range(2)] == [True, False]
    time.now += 100
    assert sum(allowed(rates, "cam") for _ in range(10)) == 5


def test_who_waits_as_long_as_told_is_served() -> None:
    time = FakeTime()
    rates = Rates(Limits(max_client_frames_per_second=8, max_client_bytes_per_second=1000), time)
    rates.take("cam", 5000)
    with pytest.raises(RateLimited, match=r"cam is over max_client_bytes_per_second 1000: try again in 4\.000 s") as caught:
        rates.take("cam", 1)
    assert caught.value.retry_seconds is not None
    time.now += caught.value.retry_seconds
    rates.take("cam", 1)


def test_clients_do_not_use_up_each_others_share() -> None:
    rates = Rates(Limits(max_client_frames_per_second=1), FakeTime())
    assert [allowed(rates, "a") for _ in range(3)] == [True, True, False]
    assert allowed(rates, "b")


def test_nothing_is_kept_of_clients_that_have_stopped() -> None:
    time = FakeTime()
    rates = Rates(Limits(max_client_frames_per_second=1, max_client_bytes_per_second=1), time)
    for number in range(100):
        rates.take(f"client {number}", 1)
    time.now += 10
    rates.take("last", 1)
    assert [len(each.whole_at) for each in rates._allowances.values()] == [1, 1]


async def test_a_frame_over_the_limit_is_rejected_with_a_hint_and_is_not_decoded() -> None:
    given = bench(Limits(max_client_frames_per_second=1))
    session = given.session()
    for number in range(2):
        assert (await given.track(session, number, start())).outcome == pb.FRAME_OUTCOME_PROCESSED
    refused = await given.track(session, 2)
    assert (refused.outcome, refused.error.reason) == (pb.FRAME_OUTCOME_REJECTED, "RATE_LIMITED")
    assert refused.error.code == 8 and refused.error.retry_delay.ToTimedelta().total_seconds() == pytest.approx(1)
    assert given.metrics.registry.get_sample_value("mixformer_decode_latency_seconds_count") == 2
    given.time.now += 1
    assert (await given.track(session, 3)).outcome == pb.FRAME_OUTCOME_PROCESSED
