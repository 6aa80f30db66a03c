"""What passes between front and worker over their unix socket: named, typed, versioned.

On the wire a message is its length (4 bytes, big endian) and a msgpack array tagged with the message's name. Both
ends run the same release: a worker whose `Hello` names another PROTOCOL_VERSION is refused by the front.
Times are `time.monotonic()` seconds, which front and worker on one host share.
"""

from collections.abc import Iterator
from typing import TypeVar

import msgspec

PROTOCOL_VERSION = 3
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
# Items of one front that wait at a worker, 200 MB of search crops of 256 pixels: a front sends no more, so that a worker never
# stops reading.
MAX_WAITING_ITEMS = 1024


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of all messages, for the tag and the compact layout."""


class Hello(Message, frozen=True):
    """Worker to front, first on every connection: what this worker runs now. `update_rule` holds the fields of UpdateRule."""

    protocol_version: int
    pid: int
    variant: str
    weights_sha256: str
    device: str
    precision: str
    slots: int
    max_batch: int
    template_size: int
    search_size: int
    template_factor: float
    search_factor: float
    has_score_head: bool
    update_rule: dict[str, float | int | bool]


class TrackItem(Message, frozen=True):
    """Front to worker: find one target in one search crop (uint8 RGB, search_size squared).

    `memory_key` names the template memory; `templates` holds the crops it is made of (the template, then the online
    templates, uint8 RGB, template_size squared each) whenever the front cannot know that the worker has it, and is empty
    otherwise. `client` is who waits, for fairness. `alone` asks for a batch of its own (suspected of a crash). After
    `expires_at` nobody wants the answer any more.
    """

    item_id: int
    client: str
    memory_key: bytes
    search: bytes
    templates: tuple[bytes, ...]
    arrived_at: float
    alone: bool
    expires_at: float | None = None


class Release(Message, frozen=True):
    """Front to worker: no target of this front uses this memory any more. (Each front counts its own targets.)"""

    memory_key: bytes


class Cancel(Message, frozen=True):
    """Front to worker: nobody waits for this item any more; drop it if it has not been run."""

    item_id: int


class Ping(Message, frozen=True):
    """Front to worker: make one round trip to the device and answer with Pong."""

    ping_id: int


class BatchStarted(Message, frozen=True):
    """Worker to front, before the device is asked: these items of this front are at risk if the process dies now."""

    item_ids: tuple[int, ...]


class Predicted(Message, frozen=True):
    """Worker to front: the box in shares of the crop (centre x, centre y, width, height), and the score after sigmoid."""

    item_id: int
    box: tuple[float, float, float, float]
    score: float | None
    queue_seconds: float
    backbone_seconds: float
    batch_size: int


class MemoryMissing(Message, frozen=True):
    """Worker to front: the item's memory is not held; send it again with its templates."""

    item_id: int


class Expired(Message, frozen=True):
    """Worker to front: the item's time was over before its turn came; it has not been run."""

    item_id: int


class Failed(Message, frozen=True):
    """Worker to front: this item has no prediction, and will have none if it is sent again."""

    item_id: int
    message: str


class BatchStats(Message, frozen=True):
    """Worker to front, after each step: what the device did in it.

    `stage_seconds` maps a backbone stage's name (and `all`) to seconds, `padded_size` counts the batch with its padding;
    both are sums where the step took several passes. `evictions` are those of this step. `slots_in_use`, `slots` and
    `max_batch` stand after it: a device that ran out of memory has fewer than its `Hello` said.
    """

    batch_size: int
    padded_size: int
    stage_seconds: dict[str, float]
    head_seconds: float
    encoded: int
    encode_seconds: float
    slots_in_use: int
    evictions: int
    slots: int
    max_batch: int


class Pong(Message, frozen=True):
    """Worker to front: the device answered ping `ping_id`."""

    ping_id: int
    slots_in_use: int


ToWorker = TrackItem | Release | Cancel | Ping
ToFront = Hello | BatchStarted | Predicted | MemoryMissing | Expired | Failed | BatchStats | Pong

T = TypeVar("T")

_LENGTH_BYTES = 4
_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_to_front: msgspec.msgpack.Decoder[ToFront] = msgspec.msgpack.Decoder(ToFront)


def encode(message: Message) -> bytearray:
    """The message as it goes over the wire, length first. Raises ValueError where it is over MAX_MESSAGE_BYTES."""
    wire = bytearray(_LENGTH_BYTES)
    _encoder.encode_into(message, wire, _LENGTH_BYTES)
    length = len(wire) - _LENGTH_BYTES
    _check(length)
    wire[:_LENGTH_BYTES] = length.to_bytes(_LENGTH_BYTES, "big")
    return wire


def split(received: bytearray) -> Iterator[bytes]:
    """The whole messages at the start of `received`, without their lengths; they are taken out of it.

    Raises ValueError where a length is over MAX_MESSAGE_BYTES: the other side speaks something else.
    """
    while len(received) >= _LENGTH_BYTES:
        end = _LENGTH_BYTES + _check(int.from_bytes(received[:_LENGTH_BYTES], "big"))
        if len(received) < end:
            return
        body = bytes(memoryview(received)[_LENGTH_BYTES:end])
        del received[:end]
        yield body


def decode_to_worker(body: bytes) -> ToWorker:
    """A message for the worker, from its bytes without the length. Raises ValueError where it is not one."""
    return _decoded(_to_worker, body)


def decode_to_front(body: bytes) -> ToFront:
    """A message for the front, from its bytes without the length. Raises ValueError where it is not one."""
    return _decoded(_to_front, body)


def _decoded(decoder: "msgspec.msgpack.Decoder[T]", body: bytes) -> T:
    try:
        return decoder.decode(body)
    except RecursionError:
        raise ValueError(f"message of {len(body)} bytes is nested too deeply") from None


def _check(length: int) -> int:
    if length > MAX_MESSAGE_BYTES:
        raise ValueError(f"message of {length} bytes is over {MAX_MESSAGE_BYTES}")
    return length
