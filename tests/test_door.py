"""The door of a server that goes away."""

import asyncio

import pytest

from service.errors import Draining
from service.front.calls.door import Door


async def test_a_closed_door_lets_nobody_in_and_waits_for_those_inside() -> None:
    door = Door()
    leave = asyncio.Event()

    async def call() -> None:
        with door.enter():
            await leave.wait()

    inside = asyncio.create_task(call())
    await asyncio.sleep(0)
    door.close()
    with pytest.raises(Draining):
        await call()
    assert not await door.wait_until_empty(0.01)
    leave.set()
    assert await door.wait_until_empty(5)
    await inside
