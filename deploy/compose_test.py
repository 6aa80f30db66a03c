"""`make compose-test`, `make gpu-test`: the image built, run by compose and used from outside, as an operator would.

Builds and starts the tracker with Prometheus (and Grafana, where an image registry is in reach), tracks the demo's shot, kills the
worker under load, asks Prometheus what it saw, and takes everything down. Needs Docker with compose v2.
"""

import argparse
import sys

from asking import require
from composing import FILES, PROMETHEUS, Compose, build, load, report, run, stop, track, up

SERVER = "127.0.0.1:50051"
KILL_WORKER = """
import os, pathlib, signal
for each in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    if b"service.worker.runner" in each.read_bytes().split(bytes(1)):
        os.kill(int(each.parent.name), signal.SIGKILL)
"""


def start(compose: Compose) -> str:
    """Everything up; the tracker complains of nothing but that it lets everybody in, which compose told it to."""
    up(compose)
    complaints = [line for line in compose.complaints("tracker") if "insecure" not in line]
    # What libraries say on a GPU is not known yet: it is shown, and held against nobody.
    require(compose.device != "cpu" or not complaints, f"the tracker says {complaints}")
    return "; ".join((f"healthy on {compose.device}, scraped", *complaints))


def track_shot(compose: Compose) -> str:
    """The demo's shot from outside."""
    return track(SERVER)


def survive_worker(compose: Compose) -> str:
    """The worker killed under load: every frame has its result, and Prometheus tells of the restart."""
    with load(SERVER, "--streams", "2", "--rate", "2", "--duration", "20", "--size", "640x480") as loading:
        PROMETHEUS.wait_until("sum(mixformer_streams_active)", lambda value: value == 2)
        compose.inside("tracker", "python", "-c", KILL_WORKER)
        found = report(loading)
    PROMETHEUS.wait_until("sum(mixformer_worker_restarts_total)", lambda value: value == 1)
    return f"{found['processed']} of {found['due']} frames processed, 1 restart seen"


def look_at_rules(compose: Compose) -> str:
    """Every recording rule has given a figure of the frames above."""
    rules = PROMETHEUS.rules()
    recorded = [rule["name"] for rule in rules if rule["type"] == "recording"]
    for name in recorded:
        PROMETHEUS.wait_until(f"count({name})", lambda value: value is not None)
    return f"{len(recorded)} recorded figures, {len(rules) - len(recorded)} alerts loaded"


def look_at_container(compose: Compose) -> str:
    """Not root, no capability, and nothing to write to."""
    user, read_only = (compose.inspect("tracker", each) for each in ("{{.Config.User}}", "{{.HostConfig.ReadonlyRootfs}}"))
    require((user, read_only) == ("10001:10001", "true"), f"user {user}, read-only root {read_only}")
    capabilities = compose.inside("tracker", "grep", "CapBnd", "/proc/1/status").split()[1]
    require(int(capabilities, 16) == 0, f"capabilities {capabilities}")
    return f"user {user}, read-only root file system, no capability"


def replace_container(compose: Compose) -> str:
    """A new container takes the compiled networks of the one before, where the device has any."""
    find = ("find", "/cache", "-type", "f", "-printf", "%p %s %T@\\n")
    before = sorted(compose.inside("tracker", *find).splitlines())
    compose("--progress", "quiet", "up", "--detach", "--wait", "--force-recreate", "--no-deps", "tracker")
    after = sorted(compose.inside("tracker", *find).splitlines())
    require(after == before and bool(after) == (compose.device == "cpu"), f"{before} have become {after}")
    return f"{len(after)} files of compiled networks kept"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("device", choices=FILES)
    parser.add_argument(
        "overrides", nargs="*", metavar="COMPOSE_FILE", help="files laid over, deploy/compose.mirror.yml for one"
    )
    given = parser.parse_args()
    steps = (build, start, track_shot, survive_worker, look_at_rules, look_at_container, replace_container, stop)
    sys.exit(run(Compose(given.device, given.overrides), steps))
