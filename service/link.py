"""Both ends of the unix socket between a front and a worker: blocking in the worker's threads, asyncio in the front."""

import asyncio
import contextlib
import logging
import socket
import struct
import threading
from collections.abc import AsyncGenerator, Iterator

from service.messages import Message, ToFront, ToWorker, decode_to_front, decode_to_worker, encode, split

_CHUNK_BYTES = 256 * 1024
_SEND_TIMEOUT_SECONDS = 1

_log = logging.getLogger(__name__)


class FrontLink:
    """The worker's end: one connected front. `number` is unique within the worker."""

    def __init__(self, connected: socket.socket, number: int) -> None:
        self.number = number
        self._socket = connected
        self._sending = threading.Lock()
        # Only sends time out: a front may be silent for as long as it likes, but it must not hold up the device.
        timeout = struct.pack("ll", _SEND_TIMEOUT_SECONDS, 0)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)

    def messages(self) -> Iterator[ToWorker]:
        """What the front sends, until it closes. Raises OSError when the link breaks, ValueError on bytes that are no message."""
        received = bytearray()
        while chunk := self._socket.recv(_CHUNK_BYTES):
            received += chunk
            yield from map(decode_to_worker, split(received))

    def send(self, message: Message) -> None:
        """Send, or end the link: a front that does not read, or is gone, finds out by itself."""
        try:
            with self._sending:
                self._socket.sendall(encode(message))
        except OSError as error:
            _log.warning("front %d does not take its answers, ending the link: %r", self.number, error)
            with contextlib.suppress(OSError):  # ended already
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the socket back, once `messages` has ended."""
        with self._sending:
            self._socket.close()


class WorkerLink:
    """The front's end: the connection to one worker.

    On a plain socket, not an asyncio transport: a transport drops what it has received as soon as a write fails, and the
    last thing a dying worker says (`BatchStarted`) tells which items may have killed it.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    @classmethod
    async def open(cls, path: str) -> "WorkerLink":
        """Connect to a worker's socket. Raises OSError where none listens."""
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connecting.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(connecting, path)
        except BaseException:
            connecting.close()
            raise
        return cls(connecting)

    async def messages(self) -> AsyncGenerator[ToFront]:
        """What the worker sends, until it closes or dies. Raises ValueError on bytes that are no message."""
        loop = asyncio.get_running_loop()
        received = bytearray()
        while chunk := await self._receive(loop):
            received += chunk
            for body in split(received):
                yield decode_to_front(body)

    async def _receive(self, loop: asyncio.AbstractEventLoop) -> bytes:
        try:
            return await loop.sock_recv(self._socket, _CHUNK_BYTES)
        except ConnectionError:
            # A worker that died with our items unread: for us the same end as a closed link.
            return b""

    async def send(self, message: Message) -> None:
        """Send one message whole. Raises OSError when the link is broken; `messages` ends then, after what came before."""
        await asyncio.get_running_loop().sock_sendall(self._socket, encode(message))

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()
