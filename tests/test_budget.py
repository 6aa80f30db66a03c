"""The budget of decoded bytes: whoever takes gives back, however it ends."""

import asyncio
import gc
import threading

import numpy as np
import pytest
from fake_front import until
from pictures import encoded, scene

from model.geometry import CropWindow
from service.config import Limits
from service.decode import Payload, decode, picture_size
from service.errors import BadFrame, Overloaded
from service.front.tracking.budget import ByteBudget, DecodePool
from service.headers import MAX_JPEG_SEGMENTS, Size

FRAME = encoded(scene())
FRAME_BYTES = scene().size


async def test_who_waits_first_is_served_first_even_if_less_would_fit() -> None:
    budget = ByteBudget(10)
    await budget.take(8)
    served: list[str] = []

    async def take(name: str, amount: int) -> None:
        await budget.take(amount)
        served.append(name)

    tasks = [asyncio.create_task(take(name, amount)) for name, amount in (("large", 6), ("small", 1))]
    await asyncio.sleep(0)
    assert served == []
    budget.give_back(8)
    await asyncio.gather(*tasks)
    assert (served, budget.free) == (["large", "small"], 3)


async def test_nothing_is_taken_past_those_who_wait() -> None:
    budget = ByteBudget(10)
    assert budget.take_now(8)
    assert not budget.take_now(3)
    waits = asyncio.create_task(budget.take(6))
    await asyncio.sleep(0)
    assert not budget.take_now(1)
    budget.give_back(8)
    await waits
    assert (budget.take_now(4), budget.free) == (True, 0)


async def test_who_stops_waiting_neither_takes_nor_blocks() -> None:
    budget = ByteBudget(10)
    await budget.take(8)
    gone = asyncio.create_task(budget.take(6))
    waits = asyncio.create_task(budget.take(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    async with asyncio.timeout(5):
        await waits
    assert budget.free == 0


async def test_who_is_cancelled_while_it_is_served_gives_back() -> None:
    budget = ByteBudget(10)
    await budget.take(10)
    served = asyncio.create_task(budget.take(10))
    await asyncio.sleep(0)
    budget.give_back(10)
    served.cancel()
    await asyncio.gather(served, return_exceptions=True)
    assert budget.free == 10


@pytest.fixture
def pool() -> DecodePool:
    return DecodePool(Limits(decoded_bytes_budget=FRAME_BYTES, max_frame_pixels=FRAME_BYTES // 3), 1, 0.3)


async def test_a_picture_counts_until_nobody_has_it(pool: DecodePool) -> None:
    decoded = await pool.decode(FRAME)
    with pytest.raises(Overloaded, match=f"decoded_bytes_budget {FRAME_BYTES}"):
        await pool.decode(FRAME)
    del decoded
    assert (await pool.decode(FRAME)).image.shape == scene().shape


async def test_a_frame_that_cannot_be_decoded_gives_back_at_once(pool: DecodePool) -> None:
    for _ in range(3):
        with pytest.raises(BadFrame):
            await pool.decode(FRAME[:-2])
    assert (await pool.decode(FRAME)).seconds > 0


LONG_HEADERS = {
    "many segments before the frame": FRAME.replace(b"\xff\xc0", b"\xff\xe2\x00\x02" * MAX_JPEG_SEGMENTS + b"\xff\xc0", 1),
    "many segments before the scan": FRAME.replace(b"\xff\xda", b"\xff\xe2\x00\x02" * MAX_JPEG_SEGMENTS + b"\xff\xda", 1),
    "large segments": FRAME[:2] + (b"\xff\xe2\xff\xff" + bytes(0xFFFD)) * 3 + FRAME[2:],
    "filled up": FRAME[:2] + b"\xff" * 1000 + FRAME[2:],
}


@pytest.mark.parametrize("data", [FRAME, *LONG_HEADERS.values()], ids=["short", *LONG_HEADERS])
async def test_only_a_short_header_is_read_on_the_event_loop(
    data: bytes, pool: DecodePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_in = []

    def reading(payload: Payload, limits: Limits) -> Size:
        read_in.append(threading.current_thread())
        return picture_size(payload, limits)

    monkeypatch.setattr("service.front.tracking.budget.picture_size", reading)
    assert (await pool.decode(data)).image.shape == scene().shape
    assert [thread is threading.main_thread() for thread in read_in] == [data == FRAME]


async def test_a_picture_that_nobody_waits_for_any_more_gives_back(pool: DecodePool) -> None:
    for _ in range(20):
        leaving = asyncio.create_task(pool.decode(FRAME))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
    del leaving
    gc.collect()
    await until(lambda: pool.free_bytes == FRAME_BYTES)


async def test_a_picture_is_completed_in_the_memory_that_it_has(pool: DecodePool) -> None:
    top = await pool.decode(FRAME, 20)
    whole = await pool.complete(FRAME, top)
    assert (top.rows, whole.rows, whole.image is top.image, whole.seconds > top.seconds) == (20, 240, True, True)
    np.testing.assert_array_equal(whole.image, decode(FRAME, Limits()))
    assert pool.free_bytes == 0


async def test_a_picture_holds_the_windows_that_end_above_its_last_row(pool: DecodePool) -> None:
    top = await pool.decode(FRAME, 100)
    assert top.holds([CropWindow(0, 0, 100), CropWindow(500, -50, 150)])
    assert not top.holds([CropWindow(0, 0, 100), CropWindow(0, 1, 100)])
    whole = await pool.complete(FRAME, top)
    assert whole.holds([CropWindow(0, 200, 1000)])
