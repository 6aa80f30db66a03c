"""What comes over the socket between front and worker."""

from functools import cache
from random import Random

from test_messages import TO_FRONT, TO_WORKER

from fuzz.damage import damaged
from fuzz.subject import SERVED, Subject, reason_of
from fuzz.values import nested
from service.messages import decode_to_front, decode_to_worker, encode, split


@cache
def _wire() -> tuple[bytes, ...]:
    return tuple(bytes(encode(message)) for message in (*TO_WORKER, *TO_FRONT))


def messages(chance: Random) -> bytes:
    """A few messages in a row, damaged, or something else of a length that is believed."""
    if chance.random() < 0.02:
        body = nested(chance)
        return len(body).to_bytes(4, "big") + body
    return damaged(chance, b"".join(chance.choices(_wire(), k=chance.randint(1, 4))))


def judge(received: bytes) -> str:
    """Messages of ours, or the one error by which both ends of the link give it up."""
    try:
        for body in split(bytearray(received)):
            try:
                decode_to_worker(body)
            except ValueError:
                decode_to_front(body)
    except ValueError as error:
        return reason_of(error)
    return SERVED


MESSAGES = Subject("link messages", messages, judge)
