"""`make watch-test`: a real Prometheus scrapes the real service, and every rule, alert and panel is tried on what it sees.

Loads the service, asks everything that the recording rules and the dashboards ask, then breaks it until the alerts fire that can
within minutes: a store that is gone, a device that does not answer, a worker that stays dead, one that dies again and again, a
service that is gone.
Needs `prometheus` (Debian's package has it).
"""

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import yaml
from asking import CheckFailed, Prometheus, require
from cluster import Redis, redis, token_keys
from serving import Serving, free_ports, serving

from mixformer.tracking.v1 import tracking_pb2 as pb
from service.client import ClientError, TrackingClient
from service.client_session import ClientSession

OUTPUT = Path("build/watch-test")
FOLDER = Path("deploy/prometheus")
DASHBOARDS = sorted(Path("deploy/grafana/dashboards").glob("*.json"))
# Few slots, so that they run short: eight sessions want eight memories, and more with every renewed template.
FLAGS = ("--device", "cpu", "--threads", "1", "--slots", "6", "--max-worker-restarts", "100", "--log-level", "warning")
LOADTEST = (sys.executable, "-m", "service", "loadtest", "--json")
STREAMS = 8
ALERT_SECONDS = 120.0
DEATHS = 3
# Figures that only a network of several stages has.
NEEDS_STAGES = 'stage!="all"'


class Watched(NamedTuple):
    """What is tried: a service with its store, and who watches it."""

    service: Serving
    prometheus: Prometheus
    store: Redis


def run() -> int:
    """All steps, one line each. The exit code."""
    if shutil.which("prometheus") is None:
        print("FAILED: there is no program `prometheus` here; Debian's package of that name has it")
        return 1
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        store = stack.enter_context(redis())
        service = stack.enter_context(
            serving(OUTPUT / "server.log", *FLAGS, "--store", store.url, "--token-keys", str(token_keys(OUTPUT)))
        )
        watched = Watched(service, stack.enter_context(scraping(service.metrics)), store)
        try:
            for step in (load, ask_rules, ask_dashboards, lose_store, stall, stay_dead, die_again_and_again, go):
                began_at = time.monotonic()
                print(f"{step.__name__}: {step(watched)} ({time.monotonic() - began_at:.1f} s)", flush=True)
        except (CheckFailed, subprocess.CalledProcessError) as error:
            print(f"FAILED: {error}")
            return 1
    return 0


@contextmanager
def scraping(target: str) -> Iterator[Prometheus]:
    """A Prometheus with the configuration and rules as they are, but for the address, and a look every second."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str((FOLDER / "rules" / "*.yml").resolve())]
    (job,) = (each for each in config["scrape_configs"] if each["job_name"] == "mixformer")
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": [target]}]
    config["scrape_configs"] = [job]
    path, (port,) = OUTPUT / "prometheus.yml", free_ports(1)
    path.write_text(yaml.safe_dump(config))
    with tempfile.TemporaryDirectory() as data, (OUTPUT / "prometheus.log").open("wb") as log:
        where = [f"--config.file={path}", f"--storage.tsdb.path={data}", f"--web.listen-address=127.0.0.1:{port}"]
        with subprocess.Popen(["prometheus", *where], stdout=log, stderr=log) as process:
            try:
                yield Prometheus(f"http://127.0.0.1:{port}")
            finally:
                process.terminate()


def load(watched: Watched) -> str:
    """Frames of every outcome: more than the device can do, so that some are dropped, for longer than a rate looks back."""
    watched.prometheus.wait_until('up{job="mixformer"}', lambda value: value == 1)
    command = [*LOADTEST, "--server", watched.service.server, "--policy", "drop-oldest"]
    command += ["--streams", str(STREAMS), "--rate", "15", "--duration", "20", "--size", "640x480"]
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout)
    require(report["dropped"] > 0 and not report["unanswered"], f"the load test says {report}")
    asyncio.run(send_what_is_refused(watched.service.server))
    return f"{report['processed']} frames processed, {report['dropped']} dropped"


async def send_what_is_refused(server: str) -> None:
    """A frame that is no picture, and a resume token that is none."""
    async with TrackingClient(server) as client:
        async with ClientSession(client, pb.SessionOptions()) as session:
            await session.send(0, b"no picture")
            outcome = (await session.receive()).outcome
            require(outcome == pb.FRAME_OUTCOME_REJECTED, f"bytes that are no picture have the outcome {outcome}")
        with suppress(ClientError):
            await client.open_stream(pb.StreamConfig(resume_token=b"no token"))
            raise CheckFailed("bytes that are no resume token are taken for one")


def ask_rules(watched: Watched) -> str:
    """Every recording rule has given a figure, and no rule has failed."""
    rules = watched.prometheus.rules()
    recorded = [rule["name"] for rule in rules if rule["type"] == "recording"]
    for name in recorded:
        watched.prometheus.wait_until(f"count({name})", lambda value: value is not None)
    broken = [rule["name"] for rule in watched.prometheus.rules() if rule["health"] != "ok"]
    require(not broken, f"rules that fail: {broken}")
    return f"{len(recorded)} recorded figures, {len(rules) - len(recorded)} alerts evaluated"


def ask_dashboards(watched: Watched) -> str:
    """Every query of a panel finds what it asks for."""
    asked = [
        target["expr"].replace("$instance", ".*").replace("$__rate_interval", "1m")
        for path in DASHBOARDS
        for panel in json.loads(path.read_text())["panels"]
        for target in panel.get("targets", [])
    ]
    for query in asked:
        if NEEDS_STAGES not in query:
            # A rate needs two scrapes.
            watched.prometheus.wait_until(f"count({query})", bool)
    missing = {
        name for query in asked for name in re.findall(r"[a-z_:]*mixformer_[a-z0-9_:]+", query)
    } - watched.prometheus.names()
    require(not missing, f"not in the scrape: {missing}")
    return f"{len(asked)} queries of {len(DASHBOARDS)} dashboards have data"


def lose_store(watched: Watched) -> str:
    """The store dies under load."""
    watched.store.process.kill()
    command = [*LOADTEST, "--server", watched.service.server, "--streams", "2", "--rate", "0.5"]
    command += ["--duration", "75", "--size", "320x240"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as sending:
        said = fired(watched.prometheus, "MixformerStoreFails")
        report = json.loads(sending.communicate()[0])
    require(report["processed"] == report["due"], f"without its store the load test says {report}")
    return f"{said}, {report['processed']} of {report['due']} frames processed"


def stall(watched: Watched) -> str:
    """A worker that is there and does not answer; its parent, which would end it after some seconds, is held as well."""
    with held(watched.service.parent.pid), held(watched.service.worker().pid):
        return fired(watched.prometheus, "MixformerWorkerStalled")


def stay_dead(watched: Watched) -> str:
    """A worker that dies while its parent cannot start another one."""
    with held(watched.service.parent.pid):
        watched.service.worker().kill()
        return fired(watched.prometheus, "MixformerWorkerDown")


def die_again_and_again(watched: Watched) -> str:
    """A worker that is killed as soon as the figures say that it is back."""
    for _ in range(DEATHS):
        watched.prometheus.wait_until("min(mixformer_worker_up)", lambda value: value == 1)
        restarts = watched.prometheus.ask("sum(mixformer_worker_restarts_total)") or 0.0
        watched.service.worker().kill()
        watched.prometheus.wait_until(f"sum(mixformer_worker_restarts_total) > {restarts}", bool)
    return fired(watched.prometheus, "MixformerWorkerRestartLoop")


def go(watched: Watched) -> str:
    """The whole service ends."""
    watched.service.parent.send_signal(signal.SIGTERM)
    return fired(watched.prometheus, "MixformerDown")


@contextmanager
def held(pid: int) -> Iterator[None]:
    """A process that stands still meanwhile."""
    process = psutil.Process(pid)
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def fired(prometheus: Prometheus, alert: str) -> str:
    """The alert's name, once it fires."""
    prometheus.wait_until(f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})', bool, ALERT_SECONDS)
    return f"{alert} fires"


if __name__ == "__main__":
    sys.exit(run())
