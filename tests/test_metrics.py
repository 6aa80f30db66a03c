"""Metrics: the names that dashboards use, what they count, and who is in their labels."""

import time
import urllib.request

import msgspec
import pytest
from fake_front import HELLO, FakeTime, bench, start
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.config import Address
from service.front.telemetry.metrics import Metrics
from service.messages import BatchStats

NAMES = {
    "backbone_latency_seconds", "template_encode_latency_seconds", "head_latency_seconds", "decode_latency_seconds",
    "queue_wait_seconds", "frame_latency_seconds", "batch_size", "frames", "frames_received", "frames_abandoned", "drops", "sessions_active", "streams_active",
    "slots_in_use", "evictions", "memory_misses", "template_updates", "targets", "worker_up", "worker_heartbeat_age_seconds",
    "worker_restarts", "worker_outage_seconds", "build_info", "slots", "batch_capacity", "batch_padding", "rejections", "front_cpu_seconds",
    "unauthenticated_calls", "calls", "front_tasks",
    "resume_tokens_issued", "resume_tokens_withheld", "resume_tokens_refused", "sessions_resumed", "sessions_taken_over",
    "snapshots_written", "snapshots_failed", "store_latency_seconds",
}  # fmt: skip

STATS = BatchStats(
    batch_size=3, padded_size=4, stage_seconds={"stage0": 0.01, "all": 0.04}, head_seconds=0.002, encoded=2,
    encode_seconds=0.02, slots_in_use=5, evictions=1, slots=8, max_batch=8,
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
    metrics.worker(0).on_hello(HELLO)
    names = {family.name for family in text_string_to_metric_families(generate_latest(metrics.registry).decode())}
    assert names == {f"mixformer_{name}" for name in NAMES}


def test_a_step_of_the_worker_is_counted_by_stage_device_and_batch() -> None:
    metrics = Metrics()
    worker = metrics.worker(0)
    worker.on_hello(HELLO)
    worker.on_stats(STATS)
    samples = scrape(metrics)
    assert samples["backbone_latency_seconds_sum{'batch': '4', 'device': 'cpu', 'stage': 'all'}"] == 0.04
    assert samples["backbone_latency_seconds_count{'batch': '4', 'device': 'cpu', 'stage': 'stage0'}"] == 1
    assert samples["head_latency_seconds_sum{'device': 'cpu'}"] == 0.002
    assert samples["template_encode_latency_seconds_sum{'device': 'cpu'}"] == 0.02
    assert (samples["batch_size_sum"], samples["slots_in_use{'worker': '0'}"], samples["evictions_total"]) == (3, 5, 1)
    assert samples["batch_padding_total"] == 1
    assert (samples["batch_capacity{'worker': '0'}"], samples["slots{'worker': '0'}"]) == (8, 8)


def test_a_device_that_ran_out_of_memory_shows_the_room_that_is_left() -> None:
    metrics = Metrics()
    worker = metrics.worker(0)
    worker.on_hello(HELLO)
    worker.on_stats(msgspec.structs.replace(STATS, slots=4, max_batch=2))
    samples = scrape(metrics)
    assert (samples["batch_capacity{'worker': '0'}"], samples["slots{'worker': '0'}"]) == (2, 4)


def test_a_step_without_encodes_does_not_count_as_one() -> None:
    metrics = Metrics()
    metrics.worker(0).on_stats(BatchStats(1, 1, {"all": 0.01}, 0.001, 0, 0.0, 1, 0, 8, 8))
    assert not any(name.startswith("template_encode_latency_seconds_count") for name in scrape(metrics))


def test_each_worker_is_up_until_lost_and_its_heartbeat_grows_old() -> None:
    clock = FakeTime()
    metrics = Metrics(clock=clock)
    first, second = metrics.worker(0), metrics.worker(1)
    first.on_hello(HELLO)
    clock.now += 3
    metrics.refresh(sessions=2, streams=1, tasks=5)
    samples = scrape(metrics)
    assert (samples["worker_up{'worker': '0'}"], samples["worker_up{'worker': '1'}"]) == (1, 0)
    assert samples["worker_heartbeat_age_seconds{'worker': '0'}"] == 3
    assert (samples["sessions_active"], samples["streams_active"]) == (2, 1)
    first.on_pong(7)
    second.on_pong(2)
    first.on_lost()
    metrics.refresh(sessions=2, streams=1, tasks=5)
    samples = scrape(metrics)
    assert (samples["worker_up{'worker': '0'}"], samples["worker_heartbeat_age_seconds{'worker': '0'}"]) == (0, 0)
    assert (samples["slots_in_use{'worker': '0'}"], samples["slots_in_use{'worker': '1'}"]) == (7, 2)
    clock.now += 4
    first.on_hello(msgspec.structs.replace(HELLO, slots=6))
    first.on_missing()
    samples = scrape(metrics)
    assert samples["slots{'worker': '0'}"] == 6
    assert (samples["worker_outage_seconds_count"], samples["worker_outage_seconds_sum"]) == (1, 4)
    assert (samples["worker_up{'worker': '0'}"], samples["memory_misses_total"]) == (1, 1)
    assert (samples["worker_restarts_total{'worker': '0'}"], samples["worker_restarts_total{'worker': '1'}"]) == (1, 0)


def test_of_several_fronts_one_tells_of_the_workers_and_each_of_its_own_misses() -> None:
    metrics = Metrics(tells_of_workers=False)
    worker = metrics.worker(0)
    worker.on_hello(HELLO)
    worker.on_stats(STATS)
    worker.on_pong(3)
    worker.on_missing()
    samples = scrape(metrics)
    assert (samples["batch_size_count"], samples["evictions_total"], samples["memory_misses_total"]) == (0, 0, 1)
    assert not any(name.startswith(("worker_up", "slots_in_use", "build_info", "worker_restarts_total")) for name in samples)


def test_the_processor_time_of_the_front_grows_with_what_it_uses() -> None:
    metrics = Metrics()
    metrics.refresh(0, 0, 0)
    before, began = scrape(metrics)["front_cpu_seconds_total"], time.process_time()
    while time.process_time() < began + 0.02:
        pass
    metrics.refresh(0, 0, 0)
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
    metrics.worker(0)
    port = metrics.serve(Address("127.0.0.1", 0))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        assert b'mixformer_worker_up{worker="0"} 0.0' in answer.read()
    with pytest.raises(OSError):
        metrics.serve(Address("127.0.0.1", port))
