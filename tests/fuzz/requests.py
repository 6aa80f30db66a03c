"""Calls with every field of every request drawn at random, by the API's own descriptors; and bytes that are no message."""

from random import Random
from typing import Any, NamedTuple, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from fuzz.damage import damaged
from fuzz.images import file
from mixformer.tracking.v1 import tracking_pb2 as pb

_IDS = ("", "a", "a", "b", "x" * 200, "\n", "käse", "\u2028")
_FLOATS = (0.0, 1.0, 20.0, 40.0, 100.0, -5.0, 0.5, 1e-30, 1e30, 3e38, float("nan"), float("inf"), float("-inf"))
_INTEGERS = (0, 1, 2, 5, 10, 64, 1000, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, -1, -(2**31), -(2**63))
_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1), FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1), FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (0, 5),
}  # fmt: skip
UNARY = {
    "Track": pb.TrackRequest, "GetSession": pb.GetSessionRequest, "ListSessions": pb.ListSessionsRequest,
    "DeleteSession": pb.DeleteSessionRequest, "GetServerInfo": pb.GetServerInfoRequest,
}  # fmt: skip


class Request(NamedTuple):
    """One call: a stream of these messages, or one message; and its metadata."""

    method: str
    messages: tuple[bytes, ...]
    metadata: tuple[tuple[str, str], ...]


def request(chance: Random) -> Request:
    """A call of any method."""
    method = "TrackStream" if chance.random() < 0.5 else chance.choice(list(UNARY))
    kinds = [UNARY.get(method, pb.TrackStreamRequest)] * (chance.randint(1, 4) if method == "TrackStream" else 1)
    written = tuple(_bytes(chance, kind()) for kind in kinds)
    names = ("x-session-id", "traceparent", "authorization")
    metadata = [(chance.choice(names), chance.choice(("", "a", "~" * 500, " b "))) for _ in range(chance.choice((0, 0, 1, 2)))]
    return Request(method, written, tuple(metadata))


def _bytes(chance: Random, message: Message) -> bytes:
    _fill(chance, message)
    if isinstance(message, pb.TrackStreamRequest) and chance.random() < 0.5:
        message.config.session_id = "a"
    data = message.SerializeToString()
    return damaged(chance, data) if chance.random() < 0.1 else data


def _fill(chance: Random, message: Message) -> None:
    for field in message.DESCRIPTOR.fields:
        if field.name in ("resume_token", "options") and chance.random() < 0.5:
            continue
        if chance.random() < 0.35:
            continue
        if field.is_repeated:
            for _ in range(chance.choice((0, 1, 1, 2, 300))):
                _fill(chance, getattr(message, field.name).add())
        elif field.message_type is not None:
            getattr(message, field.name).SetInParent()
            _fill(chance, getattr(message, field.name))
        else:
            setattr(message, field.name, _value(chance, cast(FieldDescriptor, field)))


def _value(chance: Random, field: FieldDescriptor) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return file(chance)
        case FieldDescriptor.CPPTYPE_STRING:
            return chance.choice(_IDS)
        case FieldDescriptor.CPPTYPE_BOOL:
            return chance.random() < 0.5
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return chance.choice(_FLOATS)
        case kind:
            low, high = _RANGES[kind]
            return chance.choice([each for each in _INTEGERS if low <= each <= high])
