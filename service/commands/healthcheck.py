"""`mixformer healthcheck`: whether a server is ready, as an exit code."""

import argparse

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from service.access import IN_THE_CLEAR, Access
from service.commands.access import access_of
from service.commands.command import CommandError


def run(arguments: argparse.Namespace) -> int:
    """Print the server's state. The exit code: 0 only where it is SERVING. Raises CommandError where it does not answer."""
    status = check(arguments.server, arguments.service, arguments.timeout, access_of(arguments))
    print(status)
    return 0 if status == "SERVING" else 1


def check(server: str, service: str, timeout_seconds: float, access: Access = IN_THE_CLEAR) -> str:
    """What the server at HOST:PORT says of one of its services (empty: of itself). Raises CommandError where it does not answer."""
    with access.blocking_channel(server) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            check_call = HealthStub(channel).Check  # type: ignore[attr-defined]  # the published stubs leave the methods out
            response = check_call(request, timeout=timeout_seconds, metadata=access.metadata)
        except grpc.RpcError as error:
            raise CommandError(f"{server}: {error.code().name}: {error.details()}") from error
    return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
