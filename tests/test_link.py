"""The socket between front and worker: what arrives, and what becomes of a peer that is gone, silent or mad."""

import asyncio
import socket
from collections.abc import Iterator

import msgspec
import pytest

from service.link import FrontLink, WorkerLink
from service.messages import BatchStarted, Cancel, Failed, Ping, Pong, ToFront, TrackItem, encode

PATIENCE_SECONDS = 30.0


def _never() -> None:
    raise AssertionError("it was sent at once")


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
    link.send(Ping(1), _never)
    worker.sendall(encode(BatchStarted((7,))))
    worker.close()  # with our ping unread, as a killed process does
    link.send(Ping(2), _never)
    assert not link.is_sending
    heard: list[ToFront] = []
    await link.listen(heard.append)
    assert heard == [BatchStarted((7,))]


async def test_what_comes_with_the_first_words_is_heard_after_them(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, worker = pair
    ours.setblocking(False)
    link = WorkerLink(ours)
    worker.sendall(encode(Pong(1, 0)) + encode(Pong(2, 0)) + encode(Pong(3, 0))[:-1])
    assert await link.first() == Pong(1, 0)
    heard: list[ToFront] = []
    listening = asyncio.create_task(link.listen(heard.append))
    worker.sendall(encode(Pong(3, 0))[-1:])
    worker.close()
    await listening
    assert heard == [Pong(2, 0), Pong(3, 0)]


async def test_a_worker_that_hangs_up_has_no_first_words(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, worker = pair
    ours.setblocking(False)
    worker.close()
    assert await WorkerLink(ours).first() is None


async def test_what_fails_on_hearing_ends_the_listening(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, worker = pair
    ours.setblocking(False)
    worker.sendall(encode(Cancel(1)))  # nothing that a worker says
    with pytest.raises(msgspec.ValidationError):
        await WorkerLink(ours).listen(lambda message: None)


async def test_a_worker_that_does_not_read_holds_up_only_what_goes_to_it(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, worker = pair
    ours.setblocking(False)
    link, is_sent = WorkerLink(ours), asyncio.Event()
    item = TrackItem(1, "alice", b"key", bytes(5_000_000), (), 0.0, False)
    link.send(item, is_sent.set)
    worker.sendall(encode(Pong(1, 0)))
    assert await link.first() == Pong(1, 0)
    assert link.is_sending and not is_sent.is_set()
    reading = asyncio.create_task(asyncio.to_thread(next, FrontLink(worker, 1).messages()))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await is_sent.wait()
        assert await reading == item
    assert not link.is_sending


async def test_no_worker_is_an_os_error() -> None:
    with pytest.raises(OSError, match="No such file"):
        await WorkerLink.open("/nowhere/worker.sock")
