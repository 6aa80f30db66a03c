"""`make scale-test`: compose's profile `scale` (two trackers behind Envoy, their sessions in Redis), and one tracker killed under load.

The cameras stream the demo's shot through Envoy to both; those of the dead tracker go on at the other one, from the store. Needs
Docker with compose v2. Arguments: compose files laid over.
"""

import sys

from asking import require
from composing import PROMETHEUS, Compose, build, load, report, run, shot, stop, up

SERVER = "127.0.0.1:50050"
SETTINGS = {"COMPOSE_PROFILES": "scale", "STORE": "redis://redis:6379/0", "MAX_STREAM_SECONDS": "600"}
# What both trackers together hold on a busy laptop, and one alone.
CAMERAS, RATE, SECONDS = 8, 0.25, 80
WITH_STREAMS = "count(mixformer_streams_active > 0)"
PROCESSED = 'sum(mixformer_frames_total{outcome="processed"})'
FROM_STORE = 'sum(mixformer_sessions_resumed_total{source="store"})'


def start(compose: Compose) -> str:
    """Both trackers, Envoy, Redis and Prometheus."""
    up(compose, trackers=2)
    running = compose("ps", "--services", "--status", "running").split()
    require({"envoy", "redis", "tracker", "tracker-2"} <= {*running}, f"only {running} are running")
    return f"{', '.join(sorted(running))} are running"


def kill_tracker(compose: Compose) -> str:
    """Both trackers have streams; one is killed whole; every frame of every camera has its result."""
    cameras = ("--streams", str(CAMERAS), "--rate", str(RATE), "--duration", str(SECONDS))
    source, *target = shot()
    with load(SERVER, "--source", source, *target, *cameras) as loading:
        PROMETHEUS.wait_until(WITH_STREAMS, lambda value: value == 2)
        # By its third frame, seconds after its first, every session is in the store.
        PROMETHEUS.wait_until(PROCESSED, lambda value: value is not None and value >= 3 * CAMERAS)
        streams = sorted(int(value) for value in PROMETHEUS.series("mixformer_streams_active"))
        compose("--progress", "quiet", "kill", "tracker-2")
        found = report(loading)
    PROMETHEUS.wait_until(FROM_STORE, lambda value: bool(value))
    require(found["streams_resumed"] > 0 and not found["sessions_begun_anew"], f"the load test says {found}")
    return (
        f"{streams[0]} + {streams[1]} streams, then one tracker: {found['processed']} of {found['due']} frames processed, "
        f"{found['streams_resumed']} streams resumed, no session begun anew"
    )


if __name__ == "__main__":
    sys.exit(run(Compose("cpu", sys.argv[1:], SETTINGS), (build, start, kill_tracker, stop)))
