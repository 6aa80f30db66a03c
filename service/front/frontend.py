"""The front's process: started by the parent, ends after draining on SIGTERM, or at once when its parent is gone.

Start, in order: ports (a taken one is known before anything is loaded), worker, service. Stop: say so, drain, stop the
server, give the rest back.
"""

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import TypeVar

import cv2
from grpc import aio
from grpc_health.v1.health import SERVICE_NAME as HEALTH_SERVICE
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha.reflection import SERVICE_NAME as REFLECTION_SERVICE
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

from mixformer.tracking.v1 import tracking_pb2
from mixformer.tracking.v1.tracking_pb2_grpc import add_TrackingServiceServicer_to_server
from service import logs
from service.child import begin
from service.config import ServeSettings, SettingsError, parse_address
from service.cpu import usable_cores
from service.front.access.caller import Callers
from service.front.access.tokens import Tokens
from service.front.calls.endless import EndlessCalls
from service.front.calls.health import Health
from service.front.calls.reflection import Reflection
from service.front.calls.servicer import TrackingServicer
from service.front.front import Front, assemble, model_config, room
from service.front.listener import StartError, listen, load_tokens
from service.front.telemetry.metrics import Metrics
from service.front.telemetry.traces import Traces, TracesUnavailable
from service.front.tracking.admission import Admission
from service.front.tracking.budget import DecodePool
from service.front.tracking.session import Clock
from service.front.tracking.sessions import SessionTable
from service.front.tracking.step import FrameTracker
from service.front.workers.fleet import Fleet
from service.front.workers.hello import WorkerChanged
from service.messages import Hello

try:
    import uvloop

    _new_event_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
except ImportError:  # not for this platform
    _new_event_loop = asyncio.new_event_loop

_DISTRIBUTION = "mixformer-service"
SERVICE = tracking_pb2.DESCRIPTOR.services_by_name["TrackingService"].full_name
# Health of the front alone, for liveness probes: SERVING also while a worker restarts or the front drains.
LIVE = "live"
_SWEEP_SECONDS = 1.0
_HEALTH_SECONDS = 0.25
_STOP_SECONDS = 1.0
# For the store, where the streams took all of the grace.
_LAST_WRITE_SECONDS = 1.0
_MAX_DECODE_THREADS = 8

_log = logging.getLogger(__name__)


T = TypeVar("T")


def main() -> int:
    """The process, from the settings on standard input to its exit status."""
    try:
        settings = begin()
        logs.set_up(settings.log_level, settings.log_format)
        # OpenCV's own threads would fight with the decoding threads for the same cores.
        cv2.setNumThreads(1)
        # What it says of a bad picture is in the answer to whoever sent it.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        with asyncio.Runner(loop_factory=_new_event_loop) as runner:
            runner.run(serve(settings, _announce))
    except (SettingsError, StartError, WorkerChanged) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


async def serve(settings: ServeSettings, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. `announce` is told HOST:PORT once health says SERVING. Raises StartError, WorkerChanged."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    clock = Clock()
    # What all fronts hear of the workers is told by one of them.
    metrics = Metrics(version(_DISTRIBUTION), clock.monotonic, tells_of_workers=settings.number == 0)
    if settings.fronts == 1:  # of several, the parent exports the sum
        _export(metrics, settings)
    tokens = load_tokens(settings)
    server, address = listen(settings, tokens, metrics.on_unauthenticated)
    paths = [settings.socket_of(worker) for worker in range(len(settings.worker_devices))]
    observers = [metrics.worker(number) for number in range(len(paths))]
    fleet = Fleet(paths, settings.worker_timeout_seconds, observers, clock.monotonic)
    try:
        hello = await _unless_stopped(fleet.connect(), stopping)
        if hello is not None:
            front = _assemble(settings, fleet, hello, tokens, metrics, clock)
            await _run(front, server, fleet, stopping, lambda: announce(address))
    finally:
        await fleet.close()


def _assemble(settings: ServeSettings, fleet: Fleet, hello: Hello, tokens: Tokens, metrics: Metrics, clock: Clock) -> Front:
    try:
        model = model_config(hello)
    except ValueError as error:
        raise StartError(f"worker runs what this front does not know: {error}") from error
    pool = DecodePool(settings.limits, min(usable_cores(), _MAX_DECODE_THREADS), settings.worker_timeout_seconds)
    release = version(_DISTRIBUTION)
    admission = Admission(room(settings, hello), clock.monotonic)
    tracker = FrameTracker(fleet, admission, pool, model, settings.limits, metrics, clock, _traces(settings, release))
    return assemble(settings, release, hello, tracker, fleet.release, metrics, clock, Callers(tokens))


async def _run(front: Front, server: aio.Server, fleet: Fleet, stopping: asyncio.Event, announce: Callable[[], None]) -> None:
    servicer = TrackingServicer(front)
    calls = EndlessCalls(front.settings.limits.max_streams)
    health = Health(calls)
    add_TrackingServiceServicer_to_server(servicer, server)
    add_HealthServicer_to_server(health, server)
    reflection = Reflection((SERVICE, HEALTH_SERVICE, REFLECTION_SERVICE), calls)
    add_ServerReflectionServicer_to_server(reflection, server)  # type: ignore[no-untyped-call]  # the published stubs leave its types out
    _tell(health, is_ready=False)
    health.set(LIVE, HealthCheckResponse.SERVING)
    await server.start()
    try:
        async with asyncio.TaskGroup() as keepers:
            each = [_sweep(front.table), _watch(fleet, health, announce), _measure(front, servicer)]
            if front.backing is not None:
                each.append(front.backing.journal.run(front.table.end_soon))
            tasks = [keepers.create_task(work) for work in each]
            await _unless_stopped(fleet.keep(), stopping)
            for task in tasks:
                task.cancel()
    except ExceptionGroup as group:  # `except*` of early Python 3.11 would wrap again what is raised
        raise group.exceptions[0] from None
    finally:
        _tell(health, is_ready=False)
        ends_at = front.clock.monotonic() + front.settings.grace_seconds
        await servicer.drain(front.settings.grace_seconds)
        if front.backing is not None:
            seconds = max(ends_at - front.clock.monotonic(), _LAST_WRITE_SECONDS)
            await front.backing.journal.flush(seconds, front.table.end_soon)
        await server.stop(_STOP_SECONDS)
        await front.table.wait_closed()
        front.tracker.close()
        if front.backing is not None:
            await front.backing.store.close()


async def _unless_stopped(work: Awaitable[T], stopping: asyncio.Event) -> T | None:
    """What the work gives; None where the front is to stop before."""
    working = asyncio.ensure_future(work)
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait((working, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not working.done():
        working.cancel()
        return None
    return working.result()


def _traces(settings: ServeSettings, release: str) -> Traces | None:
    if not settings.traces:
        return None
    try:
        return Traces(settings.traces, release)
    except TracesUnavailable as error:
        raise StartError(f"traces={settings.traces}: {error}") from error


def _export(metrics: Metrics, settings: ServeSettings) -> None:
    try:
        port = metrics.serve(parse_address(settings.metrics))
    except OSError as error:
        raise StartError(f"metrics={settings.metrics}: the port cannot be opened: {error}") from error
    _log.info("metrics on port %d", port)


async def _sweep(table: SessionTable) -> None:
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        table.expire()


async def _measure(front: Front, servicer: TrackingServicer) -> None:
    while True:
        front.metrics.refresh(len(front.table), len(servicer.streams), len(asyncio.all_tasks()))
        await asyncio.sleep(_HEALTH_SECONDS)


async def _watch(fleet: Fleet, health: Health, announce: Callable[[], None]) -> None:
    """Keep health up to date; announce the service once it is ready for the first time."""
    while not fleet.is_ready():
        await asyncio.sleep(_HEALTH_SECONDS)
    _tell(health, is_ready=True)
    announce()
    while True:
        await asyncio.sleep(_HEALTH_SECONDS)
        _tell(health, is_ready=fleet.is_ready())


def _tell(health: Health, *, is_ready: bool) -> None:
    status = HealthCheckResponse.SERVING if is_ready else HealthCheckResponse.NOT_SERVING
    for name in ("", SERVICE):
        health.set(name, status)


def _announce(address: str) -> None:
    sys.stdout.write(f"READY {address}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
