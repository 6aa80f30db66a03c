"""gRPC's reflection (https://github.com/grpc/grpc/blob/master/doc/server-reflection.md), its calls counted."""

from collections.abc import AsyncIterator, Sequence

from grpc_reflection.v1alpha.reflection import aio
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from service.front.calls.endless import EndlessCalls
from service.front.wire.status import Context, answered


class Reflection(aio.ReflectionServicer):
    """Tells of the services with these names."""

    def __init__(self, names: Sequence[str], calls: EndlessCalls) -> None:
        super().__init__(names)
        self._calls = calls

    # Writes to its context: a generator is not closed when its client leaves.
    async def ServerReflectionInfo(self, requests: AsyncIterator[ServerReflectionRequest], context: Context) -> None:  # type: ignore[override]
        """An answer a request, until the client ends. TOO_MANY_STREAMS where no more calls may be open."""
        async with self._calls.enter(context):
            await answered(context, self._answer_all(requests, context), _leave_uncounted)

    async def _answer_all(self, requests: AsyncIterator[ServerReflectionRequest], context: Context) -> None:
        async for answer in super().ServerReflectionInfo(requests, context):  # type: ignore[attr-defined]  # the stubs know no generator
            await context.write(answer)


def _leave_uncounted(_: str) -> None:
    """Calls are counted that track."""
