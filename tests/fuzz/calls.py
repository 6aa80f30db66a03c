"""Hostile calls of a service that serves, and what must become of each."""

from collections import Counter
from random import Random

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from fuzz.requests import Request, request
from mixformer.tracking.v1 import tracking_pb2 as pb

METHODS = "/mixformer.tracking.v1.TrackingService/"
OURS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED}


def calls(address: str, seeds: range) -> Counter[str]:
    """One call for each seed, one after another: how many of them became what. Blocks."""
    with grpc.insecure_channel(address) as channel:
        return Counter(outcome(channel, request(Random(seed))) for seed in seeds)


def outcome(channel: grpc.Channel, given: Request) -> str:
    """What became of a call: "OK", or the reason of its refusal. Every frame's own refusal is looked at too."""
    try:
        if given.method != "TrackStream":
            unary = channel.unary_unary(METHODS + given.method, request_serializer=bytes, response_deserializer=bytes)
            answer = unary(given.messages[0], metadata=given.metadata, timeout=60)
            if given.method == "Track":
                check_result(pb.TrackResponse.FromString(answer).result)
            return "OK"
        stream = channel.stream_stream(
            METHODS + given.method, request_serializer=bytes, response_deserializer=pb.TrackStreamResponse.FromString
        )
        # grpc.aio's own streams would call a refusal that comes while they write INTERNAL.
        for event in stream(iter(given.messages), metadata=given.metadata, timeout=60):
            if event.HasField("result"):
                check_result(event.result)
    except grpc.RpcError as error:
        assert isinstance(error, grpc.Call)
        assert error.code() not in OURS, error
        assert "Traceback" not in (error.details() or "")
        return reason(error)
    return "OK"


def reason(error: grpc.Call) -> str:
    """The reason that every refusal carries."""
    status = rpc_status.from_call(error)
    assert status is not None, error
    detail = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(detail)
    return str(detail.reason)


def check_result(answer: pb.FrameResult) -> None:
    """No frame is refused for a fault of ours."""
    assert answer.error.code not in (2, 13), answer.error
    assert "Traceback" not in answer.error.message and len(answer.error.message) < 1000
