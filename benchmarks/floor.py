"""`python -m benchmarks.floor`: the least that a front on grpc.aio can be. It reads the frames of a stream, has each decoded in a
thread and answers with the same box: no session, no crop, no worker, no metrics. Its results tell the CPU time of decoding.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import uvloop
from grpc import aio

from mixformer.tracking.v1 import tracking_pb2 as pb
from service.child import begin
from service.config import Limits
from service.cpu import usable_cores
from service.decode import decode
from service.front.wire.status import Context
from service.front.wire.times import duration

BOX = pb.BoundingBox(x=1, y=2, width=3, height=4)
SERVICE = pb.DESCRIPTOR.services_by_name["TrackingService"].full_name

_threads = ThreadPoolExecutor(usable_cores())


async def track(requests: AsyncIterator[pb.TrackStreamRequest], context: Context) -> None:
    """A result for every frame, one after the other."""
    await anext(requests)
    await context.write(pb.TrackStreamResponse(session=pb.Session(session_id="floor")))
    async for request in requests:
        seconds = await asyncio.get_running_loop().run_in_executor(_threads, _decode, request.frame.encoded)
        await context.write(pb.TrackStreamResponse(result=_result(request.frame.frame_number, seconds)))


async def delete(request: pb.DeleteSessionRequest, context: Context) -> pb.DeleteSessionResponse:
    """There is none, but clients ask for it at their end."""
    return pb.DeleteSessionResponse()


def _result(frame_number: int, decode_seconds: float) -> pb.FrameResult:
    return pb.FrameResult(
        frame_number=frame_number,
        outcome=pb.FRAME_OUTCOME_PROCESSED,
        targets=[pb.TargetResult(box=BOX, score=0.9, status=pb.TARGET_STATUS_TRACKED)],
        timing=pb.Timing(
            decode=duration(decode_seconds), queue=duration(0), backbone=duration(0), total=duration(0), batch_size=1
        ),
    )


def _decode(payload: bytes) -> float:
    started = time.thread_time()
    decode(payload, Limits())
    return time.thread_time() - started


async def _serve() -> None:
    server = aio.server()
    port = server.add_insecure_port(begin().listen)
    stream = grpc.stream_stream_rpc_method_handler(
        track, pb.TrackStreamRequest.FromString, pb.TrackStreamResponse.SerializeToString
    )
    call = grpc.unary_unary_rpc_method_handler(
        delete, pb.DeleteSessionRequest.FromString, pb.DeleteSessionResponse.SerializeToString
    )
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {"TrackStream": stream, "DeleteSession": call}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    await server.start()
    sys.stdout.write(f"READY 127.0.0.1:{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve())
