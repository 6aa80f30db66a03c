"""Health: what is told to who asks and to who watches; nobody who watches can hold it up, or take the room of others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import pytest
import pytest_asyncio
from grpc import aio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub, add_HealthServicer_to_server
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub, add_ServerReflectionServicer_to_server

from service.config import Limits, ServeSettings
from service.front.access.tokens import Tokens
from service.front.calls.endless import EndlessCalls
from service.front.calls.health import Health
from service.front.calls.reflection import Reflection
from service.front.listener import listen
from service.front.wire.status import Context

MOST = 3
SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


class NeverReads:
    """The context of a client that takes nothing: its flow-control window is empty."""

    def __init__(self) -> None:
        self.written: list[Any] = []

    async def write(self, message: Any) -> None:
        self.written.append(message)
        await asyncio.Event().wait()


@pytest.fixture
def health() -> Health:
    served = Health(EndlessCalls(MOST))
    served.set("", SERVING)
    return served


@asynccontextmanager
async def serving(health: Health, calls: EndlessCalls) -> AsyncIterator[aio.Channel]:
    """A port as the front opens it, with health and reflection; gives a client of it."""
    settings = ServeSettings(listen="127.0.0.1:0", limits=Limits(max_streams=MOST, max_sessions=1))
    server, address = listen(settings, Tokens(settings), lambda: None)
    add_HealthServicer_to_server(health, server)
    add_ServerReflectionServicer_to_server(Reflection((), calls), server)  # type: ignore[no-untyped-call]
    await server.start()
    async with aio.insecure_channel(address) as channel:
        yield channel
    await server.stop(0)


@pytest_asyncio.fixture
async def stub(health: Health) -> AsyncIterator[Any]:
    async with serving(health, EndlessCalls(MOST)) as channel:
        yield HealthStub(channel)


async def is_let_in(states: Any) -> bool:
    try:
        await states.read()
    except aio.AioRpcError:
        return False
    return True


async def test_a_watcher_that_never_reads_holds_up_no_change(health: Health) -> None:
    context = NeverReads()
    watching = asyncio.create_task(health.Watch(HealthCheckRequest(), cast(Context, context)))
    await asyncio.sleep(0)
    assert len(context.written) == 1
    health.set("", NOT_SERVING)
    answer = await health.Check(HealthCheckRequest(), cast(Context, context))
    assert answer.status == NOT_SERVING
    watching.cancel()


async def test_a_watcher_is_told_every_change_and_nothing_twice(health: Health, stub: Any) -> None:
    states = stub.Watch(HealthCheckRequest())
    assert (await states.read()).status == SERVING
    health.set("", SERVING)
    health.set("other", SERVING)
    health.set("", NOT_SERVING)
    assert (await states.read()).status == NOT_SERVING
    health.set("", SERVING)
    assert (await states.read()).status == SERVING


async def test_a_name_that_has_no_status_yet_is_watched_until_it_has(health: Health, stub: Any) -> None:
    request = HealthCheckRequest(service="camera")
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.Check(request)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    states = stub.Watch(request)
    assert (await states.read()).status == HealthCheckResponse.SERVICE_UNKNOWN
    health.set("camera", SERVING)
    assert (await states.read()).status == SERVING


async def test_calls_without_end_leave_room_for_probes() -> None:
    calls = EndlessCalls(MOST)
    health = Health(calls)
    health.set("", SERVING)
    async with serving(health, calls) as channel:
        stub: Any = HealthStub(channel)
        reflection: Any = ServerReflectionStub(channel)  # type: ignore[arg-type]  # the published stubs know one kind
        asked = reflection.ServerReflectionInfo()
        await asked.write(ServerReflectionRequest(list_services=""))
        assert (await asked.read()).HasField("list_services_response")
        watching = [stub.Watch(HealthCheckRequest()) for _ in range(MOST - 1)]
        assert [(await states.read()).status for states in watching] == [SERVING] * (MOST - 1)
        for _ in range(2 * MOST):
            refused = stub.Watch(HealthCheckRequest())
            assert await refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await refused.details() == "3 calls of Health/Watch and reflection are open, max_streams is 3"
        assert (await stub.Check(HealthCheckRequest())).status == SERVING
        # Who goes makes room.
        asked.cancel()
        async with asyncio.timeout(5):
            while not await is_let_in(stub.Watch(HealthCheckRequest())):
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("message", [b"\xff" * 5, b"\x7a\x00" * 300_000], ids=["no message", "too many fields"])
async def test_bytes_that_are_no_message_are_refused_by_every_method(
    health: Health, message: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    given: dict[str, Any] = {"request_serializer": bytes, "response_deserializer": bytes}
    async with serving(health, EndlessCalls(MOST)) as channel:
        asked = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", **given)()
        await asked.write(message)
        for call in (
            channel.unary_unary("/grpc.health.v1.Health/Check", **given)(message),
            channel.unary_stream("/grpc.health.v1.Health/Watch", **given)(message),
            asked,
        ):
            async with asyncio.timeout(5):
                assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caplog.messages == []
