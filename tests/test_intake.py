"""Every frame that has come is counted once more: by its outcome, or as abandoned."""

import asyncio

import grpc
from fake_calls import ENSURE, START, Service, reason, result, send, serving
from fake_front import GOOD, bench, until
from test_metrics import scrape

from mixformer.tracking.v1 import tracking_pb2 as pb


def counts(service: Service) -> tuple[float, float, float]:
    """Frames received, answered and abandoned."""
    samples = scrape(service.bench.metrics)
    answered = sum(value for name, value in samples.items() if name.startswith("frames_total"))
    return samples["frames_received_total"], answered, samples["frames_abandoned_total"]


async def test_frames_with_results_are_not_abandoned_whatever_the_result() -> None:
    async with serving(bench()) as service:
        call = await service.open()
        await send(call, 1, START)
        await send(call, 2, encoded=b"no picture")
        assert [(await result(call)).frame_number for _ in range(2)] == [1, 2]
        await call.done_writing()
        await until(lambda: len(service.servicer.streams) == 0)
        await service.track("single", 1, ENSURE)
        assert counts(service) == (3, 3, 0)


async def test_frames_in_hand_of_a_client_that_leaves_are_abandoned_also_those_that_wait() -> None:
    async with serving(bench()) as service:
        call = await service.open()
        await send(call, 0, START)
        await result(call)
        service.engine.gate.clear()
        for number in range(1, 4):
            await send(call, number)
        await until(lambda: counts(service)[0] == 4)
        call.cancel()
        await until(lambda: len(service.servicer.streams) == 0)
        assert counts(service) == (4, 1, 3)


async def test_a_result_that_was_made_is_not_abandoned_though_its_client_has_left() -> None:
    async with serving(bench()) as service:
        call = await service.open()
        await send(call, 0, START)
        await until(lambda: counts(service)[1] == 1)
        call.cancel()
        await until(lambda: len(service.servicer.streams) == 0)
        assert counts(service) == (1, 1, 0)


async def test_a_stream_that_ends_with_an_error_abandons_what_waits() -> None:
    async with serving(bench()) as service:
        call = await service.open(session_id="one")
        await send(call, 0, START)
        await result(call)
        service.engine.gate.clear()
        await send(call, 1)
        await until(lambda: service.engine.waiting == 1)
        await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id="one"))
        assert await reason(call) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
        await until(lambda: len(service.servicer.streams) == 0)
        assert counts(service) == (2, 1, 1)


async def test_a_single_frame_that_is_refused_with_its_call_or_whose_client_leaves_is_abandoned() -> None:
    async with serving(bench()) as service:
        request = pb.TrackRequest(session_id="s", frame=pb.Frame(encoded=GOOD))
        assert await reason(service.stub.Track(request)) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
        assert counts(service) == (1, 0, 1)
        await service.track("s", 0, START)
        service.engine.gate.clear()
        leaving = asyncio.ensure_future(service.track("s", 1))
        await until(lambda: service.engine.waiting == 1)
        leaving.cancel()
        await until(lambda: counts(service) == (3, 1, 2))
