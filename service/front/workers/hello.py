"""The first words of a worker: what it runs, and whether that is what this front was made for."""

import asyncio
import logging

import msgspec

from service.link import WorkerLink
from service.messages import PROTOCOL_VERSION, Hello

# From one worker to the next: which device it has and how many slots are free there is no business of the front.
_MAY_DIFFER = {"pid", "device", "slots", "max_batch"}

_log = logging.getLogger(__name__)


class WorkerChanged(Exception):
    """A worker runs another network than the first one did: its sizes and thresholds are not those of the open sessions."""


async def greet(link: WorkerLink, timeout_seconds: float) -> Hello:
    """The hello that a link begins with. Raises TimeoutError, ConnectionResetError, or ValueError where it is none of ours."""
    async with asyncio.timeout(timeout_seconds):
        hello = await link.first()
    if hello is None:
        raise ConnectionResetError("the worker hung up before its hello")
    if not isinstance(hello, Hello) or hello.protocol_version != PROTOCOL_VERSION:
        raise ValueError(f"no hello of protocol {PROTOCOL_VERSION} but {hello}")
    _log.info("worker %d runs %s on %s in %s", hello.pid, hello.variant, hello.device, hello.precision)
    return hello


def check_same(hello: Hello, first: Hello) -> None:
    """Raises WorkerChanged where a worker runs something else than the first one did."""
    now, before = (msgspec.structs.asdict(each) for each in (hello, first))
    names = [name for name in before if name not in _MAY_DIFFER and before[name] != now[name]]
    if names:
        changes = ", ".join(f"{name} {before[name]!r} is now {now[name]!r}" for name in names)
        raise WorkerChanged(f"a worker runs something else than the first: {changes}")
