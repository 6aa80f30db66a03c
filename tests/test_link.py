"""The socket between front and worker: what arrives, and what becomes of a peer that is gone, silent or mad."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import msgspec
import pytest

from service.link import FrontLink, WorkerLink
from service.messages import BatchStarted, Cancel, Failed, Ping, Pong, TrackItem, encode


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        yield ours, theirs


def test_a_large_message_and_a_small_one_arrive_in_order(pair: tuple[socket.socket, socket.socket]) -> None:
    link, front = FrontLink(pair[0], 1), pair[1]
    item = TrackItem(1, "alice", b"key", bytes(100_000), (), 0.0, False)
    front.sendall(encode(item) + encode(Cancel(1)))
    front.shutdown(socket.SHUT_WR)
    assert list(link.messages()) == [item, Cancel(1)]


def test_bytes_that_are_no_message_raise(pair: tuple[socket.socket, socket.socket]) -> None:
    link, front = FrontLink(pair[0], 1), pair[1]
    front.sendall(encode(Pong(1, 0)))
    with pytest.raises(msgspec.DecodeError):
        next(link.messages())


def test_a_front_that_does_not_read_is_hung_up_on(pair: tuple[socket.socket, socket.socket]) -> None:
    link, front = FrontLink(pair[0], 1), pair[1]
    for _ in range(2):  # the first fills the socket and times out, the second finds it ended
        link.send(Failed(1, "x" * 1_000_000))
    received = b""
    while chunk := front.recv(65536):
        received += chunk
    assert 0 < len(received) < 1_000_000
    assert list(link.messages()) == []


def test_sending_to_a_front_that_is_gone_is_no_error(pair: tuple[socket.socket, socket.socket]) -> None:
    link, front = FrontLink(pair[0], 1), pair[1]
    front.close()
    link.send(Pong(1, 0))
    link.close()
    link.send(Pong(2, 0))


async def test_the_last_words_of_a_dead_worker_are_read(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, worker = pair
    ours.setblocking(False)
    link = WorkerLink(ours)
    await link.send(Ping(1))
    worker.sendall(encode(BatchStarted((7,))))
    worker.close()  # with our ping unread, as a killed process does
    with pytest.raises(OSError, match="Broken pipe"):
        await link.send(Ping(2))
    async with contextlib.aclosing(link.messages()) as messages:
        assert [message async for message in messages] == [BatchStarted((7,))]


async def test_a_worker_that_does_not_read_holds_up_only_the_writer(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, worker = pair
    ours.setblocking(False)
    link = WorkerLink(ours)
    writing = asyncio.create_task(link.send(TrackItem(1, "alice", b"key", bytes(5_000_000), (), 0.0, False)))
    worker.sendall(encode(Pong(1, 0)))
    async with contextlib.aclosing(link.messages()) as messages:
        assert await anext(messages) == Pong(1, 0)
    assert not writing.done()
    writing.cancel()


async def test_no_worker_is_an_os_error() -> None:
    with pytest.raises(OSError, match="No such file"):
        await WorkerLink.open("/nowhere/worker.sock")
