"""How many fields a message has, told from its bytes: two bytes of one may take fifty once they are parsed."""

from collections.abc import Mapping
from functools import cache
from typing import TypeAlias

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError

from service.errors import InvalidRequest

# With all commands that a frame may carry, and everything that they may say, a message has 1,800.
MAX_FIELDS = 4096
# Less than this is little, also parsed; most frames are less.
_FEW_BYTES = 64 * 1024
_LONGEST_VARINT = 10
_MORE = 0x80  # set in every byte of a number but its last
# Wire types (protobuf's encoding). Groups have no length; what is in them counts as if it stood outside.
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_SIZES = {_FIXED64: 8, _FIXED32: 4}

# The fields of a kind of message that hold messages themselves, by their numbers.
Nested: TypeAlias = Mapping[int, "Nested"]


@cache
def nested_in(kind: Descriptor) -> Nested:
    """What `check_fields` needs to know of a kind of message. It must not hold messages of its own kind."""
    return {field.number: nested_in(field.message_type) for field in kind.fields if field.message_type is not None}


def check_fields(message: bytes, nested: Nested) -> None:
    """Raises InvalidRequest where the message has over MAX_FIELDS fields, DecodeError where its bytes end in the middle of one."""
    if len(message) <= _FEW_BYTES:
        return
    try:
        fields = _count(message, 0, len(message), nested, 0)
    except IndexError:
        raise DecodeError("the message ends too early") from None
    if fields > MAX_FIELDS:
        raise InvalidRequest(f"a message of {len(message)} bytes has over {MAX_FIELDS} fields")


def _count(message: bytes, at: int, end: int, nested: Nested, fields: int) -> int:
    """`fields` and those from `at` to `end`, with all that is in them; no more than one over MAX_FIELDS is looked at."""
    while at < end and fields <= MAX_FIELDS:
        fields += 1
        tag, at = _varint(message, at)
        size = _SIZES.get(tag & 7, 0)
        if tag & 7 == _VARINT:
            _, at = _varint(message, at)
        elif tag & 7 == _LENGTH:
            size, at = _varint(message, at)
            if tag >> 3 in nested:
                fields = _count(message, at, at + size, nested[tag >> 3], fields)
        at += size
    return fields


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends. Raises IndexError, DecodeError."""
    value = 0
    for place in range(_LONGEST_VARINT):
        byte = message[at + place]
        if byte < _MORE:
            return value | byte << 7 * place, at + place + 1
        value |= (byte - _MORE) << 7 * place
    raise DecodeError("a number of the message has no end")
