"""Health by gRPC's protocol (https://github.com/grpc/grpc/blob/master/doc/health-checking.md).

grpc_health's own servicer writes to those who watch under the lock that a change waits for: one client that does not read would
hold up every change after it, and the end of the front with them.
"""

import asyncio
from typing import NoReturn

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer

from service.front.calls.endless import EndlessCalls
from service.front.wire.status import Context


class Health(HealthServicer):
    """The status of each name, told to who asks and to who watches. Belongs to one event loop."""

    def __init__(self, calls: EndlessCalls) -> None:
        self._calls = calls
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Event()

    def set(self, name: str, status: int) -> None:
        """What is told of a name from now on, one of HealthCheckResponse.ServingStatus. Waits for nobody."""
        if self._statuses.get(name) != status:
            self._statuses[name] = status
            self._changed.set()
            self._changed = asyncio.Event()  # of the next change

    async def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:
        """The status of a name; NOT_FOUND where it has none."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return HealthCheckResponse(status=status)

    async def Watch(self, request: HealthCheckRequest, context: Context) -> None:
        """The status of a name, and each other one that it gets; a client that reads slowly is told the newest. Ends with its client.

        TOO_MANY_STREAMS where no more such calls may be open.
        """
        async with self._calls.enter(context):
            await self._tell(request.service, context)

    async def _tell(self, name: str, context: Context) -> NoReturn:
        told = None
        while True:
            changed = self._changed
            status = self._statuses.get(name, HealthCheckResponse.SERVICE_UNKNOWN)
            if status != told:
                await context.write(HealthCheckResponse(status=status))
                told = status
            await changed.wait()
