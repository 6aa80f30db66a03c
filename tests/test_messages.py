"""The wire between front and worker: every message survives it, in pieces too, and nonsense is refused."""

import msgspec
import pytest

from service.messages import (
    MAX_MESSAGE_BYTES,
    BatchStarted,
    BatchStats,
    Cancel,
    Expired,
    Failed,
    Hello,
    MemoryMissing,
    Message,
    Ping,
    Pong,
    Predicted,
    Release,
    TrackItem,
    decode_to_front,
    decode_to_worker,
    encode,
    split,
)

TO_WORKER: tuple[Message, ...] = (
    TrackItem(7, "alice", b"k" * 16, b"\x00\xff" * 50, (b"template", b"online"), 12.5, True, 13.5),
    Release(b"k" * 16),
    Cancel(7),
    Ping(3),
)
TO_FRONT: tuple[Message, ...] = (
    Hello(1, 42, "mixvit_tiny", "ab" * 32, "cpu", "float32", 8, 4, 128, 256, 2.0, 4.5, True, {"update_interval": 200}),
    BatchStarted((1, 2)),
    Predicted(1, (0.5, 0.5, 0.25, 0.125), None, 0.01, 0.02, 2),
    MemoryMissing(2),
    Expired(4),
    Failed(3, "crop of 7 bytes"),
    BatchStats(2, 4, {"all": 0.02}, 0.001, 1, 0.004, 3, 0, 8, 4),
    Pong(3, 2),
)


@pytest.mark.parametrize("message", TO_WORKER, ids=lambda message: type(message).__name__)
def test_messages_to_the_worker_survive_the_wire(message: Message) -> None:
    (body,) = split(encode(message))
    assert decode_to_worker(body) == message


@pytest.mark.parametrize("message", TO_FRONT, ids=lambda message: type(message).__name__)
def test_messages_to_the_front_survive_the_wire(message: Message) -> None:
    (body,) = split(encode(message))
    assert decode_to_front(body) == message


def test_a_prediction_that_is_not_a_number_is_passed_on() -> None:
    (body,) = split(encode(Predicted(1, (float("nan"), 0.5, 0.1, 0.1), float("inf"), 0.0, 0.0, 1)))
    predicted = decode_to_front(body)
    assert isinstance(predicted, Predicted)
    assert predicted.box[0] != predicted.box[0]
    assert predicted.score == float("inf")


def test_messages_that_arrive_byte_by_byte_come_out_whole_and_in_order() -> None:
    wire = b"".join(encode(message) for message in TO_WORKER)
    received = bytearray()
    messages: list[Message] = []
    for byte in wire:
        received.append(byte)
        messages += map(decode_to_worker, split(received))
    assert tuple(messages) == TO_WORKER
    assert not received


def test_a_length_over_the_limit_is_refused_before_its_bytes_arrive() -> None:
    header = bytearray((MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"))
    with pytest.raises(ValueError, match=str(MAX_MESSAGE_BYTES)):
        list(split(header))


def test_a_message_over_the_limit_is_not_sent() -> None:
    with pytest.raises(ValueError, match=str(MAX_MESSAGE_BYTES)):
        encode(TrackItem(1, "alice", b"k" * 16, bytes(MAX_MESSAGE_BYTES), (), 0.0, False))


def test_a_message_of_the_other_direction_is_no_message() -> None:
    (body,) = split(encode(Pong(1, 0)))
    with pytest.raises(msgspec.DecodeError):
        decode_to_worker(body)
