"""A front that a test plays, at the other end of a link to a worker."""

import socket
from pathlib import Path

import tiny

from service.link import FrontLink
from service.messages import (
    Hello,
    Message,
    ToFront,
    ToWorker,
    TrackItem,
    decode_to_front,
    encode,
    split,
)
from service.worker.worker import Worker

PATIENCE_SECONDS = 30.0


class Front:
    """The other end of a link to a worker, read and written by the test."""

    def __init__(self, path_or_socket: Path | socket.socket) -> None:
        if isinstance(path_or_socket, socket.socket):
            self.socket = path_or_socket
        else:
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.socket.connect(str(path_or_socket))
        self.socket.settimeout(PATIENCE_SECONDS)
        self._received = bytearray()
        self._messages: list[ToFront] = []

    def say(self, *messages: ToWorker) -> None:
        for message in messages:
            self.socket.sendall(encode(message))

    def hear(self) -> ToFront:
        while not self._messages:
            chunk = self.socket.recv(65536)
            assert chunk, "the worker hung up"
            self._received += chunk
            self._messages += map(decode_to_front, split(self._received))
        return self._messages.pop(0)

    def hear_all(self, *kinds: type[Message]) -> list[ToFront]:
        """As many messages as kinds, which must be of these kinds in this order."""
        messages = [self.hear() for _ in kinds]
        assert [type(message) for message in messages] == list(kinds)
        return messages


class Attached(Front):
    """A front attached to a worker without a thread: what it says is received at once."""

    def __init__(self, worker: Worker, number: int = 1) -> None:
        ours, theirs = socket.socketpair()
        super().__init__(ours)
        self._worker = worker
        self.link = FrontLink(theirs, number)
        worker.join(self.link)
        (hello,) = self.hear_all(Hello)
        assert isinstance(hello, Hello)
        self.hello = hello

    def say(self, *messages: ToWorker) -> None:
        for message in messages:
            self._worker.receive(self.link, message)

    def leave(self) -> None:
        self._worker.leave(self.link)
        self.socket.close()


def item(item_id: int, memory: int, *, brings: bool = True, client: str = "alice") -> TrackItem:
    templates = tiny.template_crops(memory) if brings else ()
    return TrackItem(item_id, client, bytes([memory]), tiny.search_crop(item_id), templates, 99.5, False)
