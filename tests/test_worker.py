"""The worker: its step on a real (tiny) network, and its life as a process."""

import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import tiny

from service.child import EXIT_BAD_SETTINGS
from service.config import ServeSettings
from service.link import FrontLink
from service.messages import (
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
    ToFront,
    ToWorker,
    TrackItem,
    decode_to_front,
    encode,
    split,
)
from service.pulse import Pulse
from service.worker.runner import Runner
from service.worker.worker import Worker

PATIENCE_SECONDS = 30.0


@pytest.fixture(scope="module")
def runner(tiny_weights: Path) -> Runner:
    return Runner(tiny.settings(tiny_weights, slots=3, max_batch=3))


@pytest.fixture
def worker(runner: Runner) -> Worker:
    return Worker(runner, max_encodes=2, pulse=Pulse(PATIENCE_SECONDS), clock=lambda: 100.0)


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
        self.hear_all(Hello)

    def say(self, *messages: ToWorker) -> None:
        for message in messages:
            self._worker.receive(self.link, message)

    def leave(self) -> None:
        self._worker.leave(self.link)
        self.socket.close()


@pytest.fixture
def front(worker: Worker) -> Iterator[Attached]:
    attached = Attached(worker)
    yield attached
    attached.socket.close()


def item(item_id: int, memory: int, *, brings: bool = True, client: str = "alice") -> TrackItem:
    templates = tiny.template_crops(memory) if brings else ()
    return TrackItem(item_id, client, bytes([memory]), tiny.search_crop(item_id), templates, 99.5, False)


def test_a_step_says_what_is_at_risk_then_the_answers_then_what_it_took(worker: Worker, front: Attached) -> None:
    front.say(item(1, 1), item(2, 2))
    worker.step()
    started, first, second, stats = front.hear_all(BatchStarted, Predicted, Predicted, BatchStats)
    assert started == BatchStarted((1, 2))
    assert isinstance(first, Predicted) and isinstance(second, Predicted) and isinstance(stats, BatchStats)
    assert (first.item_id, second.item_id, first.batch_size, first.queue_seconds) == (1, 2, 2, 0.5)
    assert (stats.batch_size, stats.encoded, stats.slots_in_use, stats.evictions) == (2, 2, 2, 0)


def test_a_memory_that_is_held_needs_no_templates(worker: Worker, front: Attached) -> None:
    front.say(item(1, 1))
    worker.step()
    front.hear_all(BatchStarted, Predicted, BatchStats)
    front.say(item(2, 1, brings=False))
    worker.step()
    *_, stats = front.hear_all(BatchStarted, Predicted, BatchStats)
    assert isinstance(stats, BatchStats)
    assert stats.encoded == 0


def test_a_memory_that_is_unknown_is_missing_at_once(worker: Worker, front: Attached) -> None:
    front.say(item(1, 1, brings=False))
    worker.step()
    assert front.hear() == MemoryMissing(1)


def test_an_evicted_memory_is_missing_and_can_be_brought_again(worker: Worker, front: Attached) -> None:
    for number in (1, 2, 3, 4):
        front.say(item(number, number))
        worker.step()
        *_, stats = front.hear_all(BatchStarted, Predicted, BatchStats)
    assert isinstance(stats, BatchStats)
    assert (stats.slots_in_use, stats.evictions) == (3, 1)
    front.say(item(5, 1, brings=False))
    worker.step()
    assert front.hear() == MemoryMissing(5)
    front.say(item(5, 1))
    worker.step()
    front.hear_all(BatchStarted, Predicted, BatchStats)


def test_slots_in_use_return_to_zero_when_all_is_released(worker: Worker, front: Attached) -> None:
    front.say(item(1, 1), item(2, 2))
    worker.step()
    assert worker.slots_in_use == 2
    front.say(Release(b"\x01"), Release(b"\x02"))
    assert worker.slots_in_use == 0


def test_slots_in_use_return_to_zero_when_the_front_is_gone(worker: Worker, front: Attached) -> None:
    other = Attached(worker, number=2)
    front.say(item(1, 1))
    other.say(item(1, 1), item(2, 2))
    worker.step()
    assert worker.slots_in_use == 2
    other.leave()
    assert worker.slots_in_use == 1
    front.leave()
    assert worker.slots_in_use == 0


def test_items_of_a_front_that_is_gone_are_not_run(worker: Worker, front: Attached) -> None:
    other = Attached(worker, number=2)
    other.say(item(1, 1))
    other.leave()
    front.say(item(2, 2))
    worker.step()
    started, _, stats = front.hear_all(BatchStarted, Predicted, BatchStats)
    assert started == BatchStarted((2,))
    assert isinstance(stats, BatchStats)
    assert stats.batch_size == 1


def test_each_front_hears_of_its_own_items_and_of_every_step(worker: Worker, front: Attached) -> None:
    other = Attached(worker, number=2)
    front.say(item(1, 1, client="alice"))
    other.say(item(1, 2, client="bob"))
    worker.step()
    for each in (front, other):
        started, _, stats = each.hear_all(BatchStarted, Predicted, BatchStats)
        assert started == BatchStarted((1,))
        assert isinstance(stats, BatchStats)
        assert stats.batch_size == 2
    other.leave()


def test_a_cancelled_item_is_not_run(worker: Worker, front: Attached) -> None:
    front.say(item(1, 1), item(2, 2), Cancel(1))
    worker.step()
    assert front.hear() == BatchStarted((2,))


def test_an_item_that_waited_too_long_is_told_so_and_not_run(worker: Worker, front: Attached) -> None:
    late, good = item(1, 1), item(2, 2)
    front.say(msgspec.structs.replace(late, expires_at=99.9), msgspec.structs.replace(good, expires_at=100.1))
    worker.step()
    assert front.hear_all(Expired, BatchStarted) == [Expired(1), BatchStarted((2,))]


def test_crops_of_a_wrong_size_fail_before_they_reach_the_device(worker: Worker, front: Attached) -> None:
    front.say(TrackItem(1, "alice", b"\x01", b"tiny", (), 99.5, False))
    assert front.hear() == Failed(1, "search crop of 4 bytes, mixvit_tiny needs 196608")
    assert worker.slots_in_use == 0


def test_a_memory_that_could_not_be_made_is_not_held(
    worker: Worker, runner: Runner, front: Attached, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("no memory today")

    front.say(item(1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(runner._network, "encode", broken)
        worker.step()
    _, failed, _ = front.hear_all(BatchStarted, Failed, BatchStats)
    assert failed == Failed(1, "RuntimeError: no memory today")
    assert worker.slots_in_use == 0


def test_a_ping_is_answered_with_the_slots_in_use(worker: Worker, front: Attached) -> None:
    front.say(item(1, 1), Ping(7))
    worker.step()
    *_, pong = front.hear_all(BatchStarted, Predicted, BatchStats, Pong)
    assert pong == Pong(7, 1)


def test_a_full_queue_is_not_read_into(worker: Worker, front: Attached, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.worker.worker._MAX_WAITING", 1)
    front.say(item(1, 1))
    reader = threading.Thread(target=front.say, args=(item(2, 2),))
    reader.start()
    reader.join(0.2)
    assert reader.is_alive(), "the second item must wait outside"
    worker.step()
    reader.join(PATIENCE_SECONDS)
    assert not reader.is_alive()
    assert front.hear() == BatchStarted((1,))


def test_a_front_that_talks_nonsense_is_hung_up_on_and_the_others_stay(worker: Worker, front: Attached) -> None:
    ours, theirs = socket.socketpair()
    ours.sendall(b"\xff\xff\xff\xff")
    worker.serve(FrontLink(theirs, 2))
    mad = Front(ours)
    mad.hear_all(Hello)
    assert ours.recv(1) == b""
    front.say(item(1, 1))
    worker.step()
    front.hear_all(BatchStarted, Predicted, BatchStats)


@contextmanager
def process(settings: ServeSettings) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process, as the parent starts it."""
    command = [sys.executable, "-m", "service.worker.runner"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        worker.stdin.write(settings.to_json() + b"\n")
        worker.stdin.flush()
        try:
            yield worker
        finally:
            worker.kill()


def wait_until_it_listens(worker: subprocess.Popen[bytes], path: Path) -> Front:
    """A front connected to the process, once it has loaded."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and worker.poll() is None:
        try:
            front = Front(path)
        except (FileNotFoundError, ConnectionRefusedError):
            time.sleep(0.05)
            continue
        front.hear_all(Hello)
        return front
    raise AssertionError(f"no worker on {path}, its status is {worker.poll()}")


def test_a_worker_process_serves_ignores_ctrl_c_and_ends_on_sigterm(tiny_weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "worker.sock"
    path.write_text("left behind by a worker that died")
    with process(tiny.settings(tiny_weights, worker_socket=str(path))) as worker:
        front = wait_until_it_listens(worker, path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        worker.send_signal(signal.SIGINT)
        front.say(item(1, 1))
        front.hear_all(BatchStarted, Predicted, BatchStats)
        worker.terminate()
        assert worker.wait(PATIENCE_SECONDS) == 0


def test_a_worker_process_ends_when_its_parent_is_gone(tiny_weights: Path, tmp_path: Path) -> None:
    with process(tiny.settings(tiny_weights, worker_socket=str(tmp_path / "worker.sock"))) as worker:
        wait_until_it_listens(worker, tmp_path / "worker.sock")
        assert worker.stdin is not None
        worker.stdin.close()
        assert worker.wait(PATIENCE_SECONDS) == 0


def test_a_worker_that_cannot_load_its_weights_says_which_and_why(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.safetensors"
    wrong.write_bytes(b"these are no weights")
    with process(tiny.settings(wrong, worker_socket=str(tmp_path / "worker.sock"))) as worker:
        assert worker.stderr is not None
        words = worker.stderr.read().decode()
        assert worker.wait(PATIENCE_SECONDS) == EXIT_BAD_SETTINGS
    assert f"worker cannot start: {wrong}" in words
    assert "Traceback" not in words
