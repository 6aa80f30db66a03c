"""Both ends of the unix socket between a front and a worker: blocking in the worker's threads, asyncio in the front."""

import asyncio
import contextlib
import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterator

from service.messages import Message, ToFront, ToWorker, decode_to_front, decode_to_worker, encode, split

_CHUNK_BYTES = 256 * 1024
# The answers of a batch of a hundred.
_ANSWER_BYTES = 16 * 1024
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

    def send(self, *messages: Message) -> None:
        """Send, or end the link: a front that does not read, or is gone, finds out by itself. It wakes once for all of them."""
        try:
            with self._sending:
                self._socket.sendall(b"".join(map(encode, messages)))
        except OSError as error:
            _log.warning("front %d does not take its answers, ending the link: %r", self.number, error)
            with contextlib.suppress(OSError):  # ended already
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the socket back, once `messages` has ended."""
        with self._sending:
            self._socket.close()


class WorkerLink:
    """The front's end: the connection to one worker. Belongs to the running event loop.

    On a plain socket, not an asyncio transport: a transport drops what it has received as soon as a write fails, and the
    last thing a dying worker says (`BatchStarted`) tells which items may have killed it. Watched by callbacks, not awaited:
    waking tasks for what passes costs the front 0.05 ms a frame.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._unsent = memoryview(b"")
        self._ended: asyncio.Future[None] = self._loop.create_future()

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

    async def first(self) -> ToFront | None:
        """The first thing that the worker says; None where it hangs up before. Raises ValueError on bytes that are no message."""
        with contextlib.suppress(ConnectionError):
            while chunk := await self._loop.sock_recv(self._socket, _ANSWER_BYTES):
                self._received += chunk
                for body in split(self._received):
                    return decode_to_front(body)
        return None

    async def listen(self, receive: Callable[[ToFront], None]) -> None:
        """Hand over what the worker says next until it closes or dies. Raises ValueError on bytes that are no message, what
        `receive` raises, and what the link was ended with.
        """
        self._hand_over(receive)  # what came with the first one
        self._loop.add_reader(self._socket.fileno(), self._read, receive)
        try:
            await self._ended
        finally:
            self._loop.remove_reader(self._socket.fileno())

    def end(self, error: Exception) -> None:
        """Have `listen` raise the error."""
        if not self._ended.done():
            self._ended.set_exception(error)

    def _read(self, receive: Callable[[ToFront], None]) -> None:
        try:
            chunk = self._socket.recv(_ANSWER_BYTES)
        except BlockingIOError:
            return
        except OSError:
            # A worker that died with our items unread: for us the same end as a closed link.
            chunk = b""
        self._received += chunk
        self._hand_over(receive)
        if not chunk and not self._ended.done():
            self._ended.set_result(None)

    def _hand_over(self, receive: Callable[[ToFront], None]) -> None:
        try:
            for body in split(self._received):
                receive(decode_to_front(body))
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends the link, and who listens hears of it
            self.end(error)

    @property
    def is_sending(self) -> bool:
        """Whether the socket had no room for all of the last message yet."""
        return bool(self._unsent)

    def send(self, message: Message, on_sent: Callable[[], None]) -> None:
        """Send one message, not while `is_sending`. What finds no room goes out by itself, and then `on_sent` is called.

        Over a broken link nothing goes out: `listen` ends then, after what came before. Raises ValueError where it is too large.
        """
        self._unsent = memoryview(encode(message))
        self._push()
        if self._unsent:
            self._loop.add_writer(self._socket.fileno(), self._push_rest, on_sent)

    def _push_rest(self, on_sent: Callable[[], None]) -> None:
        self._push()
        if not self._unsent:
            self._loop.remove_writer(self._socket.fileno())
            on_sent()

    def _push(self) -> None:
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self._unsent = memoryview(b"")

    def close(self) -> None:
        """Give the socket back."""
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
