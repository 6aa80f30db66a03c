"""Metrics: the names that dashboards use, what they count, and who is in their labels."""

import time
import urllib.request

import msgspec
import pytest
from fake_front import HELLO, FakeTime, bench, start
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.config import Address
from service.front.metrics import Metrics
from service.messages import BatchStats

NAMES = {
    "backbone_latency_seconds", "template_encode_latency_seconds", "head_latency_seconds", "decode_latency_seconds",
    "queue_wait_seconds", "frame_latency_seconds", "batch_size", "frames", "drops", "sessions_active", "streams_active",
    "slots_in_use", "evictions", "memory_misses", "template_updates", "targets", "worker_up", "worker_heartbeat_age_seconds",
    "worker_restarts", "worker_outage_seconds", "build_info", "slots", "batch_capacity", "batch_padding", "rejections", "front_cpu_seconds",
    "unauthenticated_calls",
}  # fmt: skip

STATS = BatchStats(
    batch_size=3, padded_size=4, stage_seconds={"stage0": 0.01, "all": 0.04}, head_seconds=0.002, encoded=2,
    encode_seconds=0.02, slots_in_use=5, evictions=1,
)  # fmt: skip


def scrape(metrics: Metrics) -> dict[str, float]:
    """Every sample by name and labels."""
    families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    return {
        sample.name.removeprefix("mixformer_") + str(dict(sorted(sample.labels.items())) or ""): sample.value
        for family in families
        for sample in family.samples
    }


def test_there_are_exactly_the_promised_metrics_all_with_the_prefix() -> None:
    metrics = Metrics()
    metrics.on_hello(HELLO, "1.2.3")
    names = {family.name for family in text_string_to_metric_families(generate_latest(metrics.registry).decode())}
    assert names == {f"mixformer_{name}" for name in NAMES}


def test_a_step_of_the_worker_is_counted_by_stage_device_and_batch() -> None:
    metrics = Metrics()
    metrics.on_hello(HELLO, "1.2.3")
    metrics.on_stats(STATS)
    samples = scrape(metrics)
    assert samples["backbone_latency_seconds_sum{'batch': '4', 'device': 'cpu', 'stage': 'all'}"] == 0.04
    assert samples["backbone_latency_seconds_count{'batch': '4', 'device': 'cpu', 'stage': 'stage0'}"] == 1
    assert samples["head_latency_seconds_sum{'device': 'cpu'}"] == 0.002
    assert samples["template_encode_latency_seconds_sum{'device': 'cpu'}"] == 0.02
    assert (samples["batch_size_sum"], samples["slots_in_use"], samples["evictions_total"]) == (3, 5, 1)
    assert (samples["batch_padding_total"], samples["batch_capacity"], samples["slots"]) == (1, 8, 8)


def test_a_step_without_encodes_does_not_count_as_one() -> None:
    metrics = Metrics()
    metrics.on_stats(BatchStats(1, 1, {"all": 0.01}, 0.001, 0, 0.0, 1, 0))
    assert not any(name.startswith("template_encode_latency_seconds_count") for name in scrape(metrics))


def test_the_worker_is_up_until_lost_and_its_heartbeat_grows_old() -> None:
    clock = FakeTime()
    metrics = Metrics(clock)
    metrics.on_hello(HELLO, "1.2.3")
    clock.now += 3
    samples = scrape(metrics)
    assert (samples["worker_up"], samples["worker_heartbeat_age_seconds"]) == (1, 3)
    metrics.on_pong(7)
    metrics.on_lost()
    samples = scrape(metrics)
    assert (samples["worker_up"], samples["worker_heartbeat_age_seconds"], samples["slots_in_use"]) == (0, 0, 7)
    clock.now += 4
    metrics.on_reconnect(msgspec.structs.replace(HELLO, slots=6))
    metrics.on_missing()
    samples = scrape(metrics)
    assert (samples["worker_up"], samples["worker_restarts_total"], samples["memory_misses_total"]) == (1, 1, 1)
    assert (samples["worker_outage_seconds_count"], samples["worker_outage_seconds_sum"]) == (1, 4)
    assert samples["slots"] == 6


def test_the_processor_time_of_the_front_grows_with_what_it_uses() -> None:
    metrics = Metrics()
    metrics.refresh()
    before, began = scrape(metrics)["front_cpu_seconds_total"], time.process_time()
    while time.process_time() < began + 0.02:
        pass
    metrics.refresh()
    used = scrape(metrics)["front_cpu_seconds_total"]
    assert before + 0.02 <= used <= time.process_time()


async def test_frames_targets_and_updates_are_counted_and_no_session_is_named() -> None:
    given = bench()
    session = given.session("a-session-id")
    await given.track(session, 1, start())
    await given.track(session, 2)
    await given.track(session, 3, payload=b"bad")
    samples = scrape(given.metrics)
    assert samples["frames_total{'outcome': 'processed'}"] == 2
    assert samples["frames_total{'outcome': 'rejected'}"] == 1
    assert samples["frames_total{'outcome': 'dropped'}"] == 0
    assert samples["rejections_total{'reason': 'bad_frame'}"] == 1
    assert samples["targets_total{'status': 'tracked'}"] == 2
    assert (samples["template_updates_total"], samples["frame_latency_seconds_count"]) == (1, 2)
    assert (samples["decode_latency_seconds_count"], samples["queue_wait_seconds_count"]) == (2, 1)
    assert not any("a-session-id" in name for name in samples)


def test_they_are_served_on_a_port_of_their_own_and_a_taken_one_is_an_error() -> None:
    metrics = Metrics()
    port = metrics.serve(Address("127.0.0.1", 0))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        assert b"mixformer_worker_up 0.0" in answer.read()
    with pytest.raises(OSError):
        metrics.serve(Address("127.0.0.1", port))
