"""Events from a thread to the event loop: in order, few at a time, without waiting for a pause at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from headwater.serving.answers.outbox import Outbox

NEVER = 1e6


def every(event: int) -> bool:
    return True


async def taken(box: Outbox[int], *then: Callable[[], None]) -> list[list[int]]:
    """All batches; behind the first, the second, … a thread does what is next."""
    batches = []
    async with asyncio.timeout(30):
        async for batch in box.batches():
            batches.append(batch)
            if len(batches) <= len(then):
                await asyncio.to_thread(then[len(batches) - 1])
    return batches


def test_the_first_event_comes_at_once_and_the_end_ends_a_pause() -> None:
    async def go() -> list[list[int]]:
        box = Outbox[int](lambda: NEVER, every)

        def rest() -> None:
            for number in range(1, 500):
                box.put(number)
            box.close()

        await asyncio.to_thread(box.put, 0)
        return await taken(box, rest)

    assert asyncio.run(go()) == [[0], list(range(1, 500))]


def test_events_wait_for_the_end_of_a_pause_and_are_then_taken_together() -> None:
    async def go() -> None:
        box, seen = Outbox[int](lambda: NEVER, every), list[list[int]]()

        async def read() -> None:
            async for batch in box.batches():
                seen.append(batch)

        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            tasks.create_task(read())
            await asyncio.to_thread(box.put, 0)
            while not seen:
                await asyncio.sleep(0)
            await asyncio.to_thread(box.put, 1)
            for _ in range(100):
                await asyncio.sleep(0)
            assert seen == [[0]]
            await asyncio.to_thread(box.put, 2)
            box.close()
        assert seen == [[0], [1, 2]]

    asyncio.run(go())


def test_pauses_begin_behind_the_first_event_that_asks_for_them() -> None:
    async def go() -> list[list[int]]:
        box = Outbox[int](lambda: NEVER, lambda event: event == 1)

        def rest() -> None:
            box.put(2)
            box.put(3)
            box.close()

        await asyncio.to_thread(box.put, 0)
        return await taken(box, lambda: box.put(1), rest)

    assert asyncio.run(go()) == [[0], [1], [2, 3]]


def test_a_pause_ends_by_itself() -> None:
    async def go() -> list[list[int]]:
        box = Outbox[int](lambda: 0.001, every)
        await asyncio.to_thread(box.put, 0)
        return await taken(box, lambda: box.put(1), box.close)

    assert asyncio.run(go()) == [[0], [1]]


def test_an_error_is_raised_behind_the_last_event_and_an_empty_box_just_ends() -> None:
    async def failing() -> None:
        box, seen = Outbox[int](lambda: NEVER, every), list[list[int]]()

        def fail() -> None:
            box.put(1)
            box.close(RuntimeError("the model failed"))

        await asyncio.to_thread(fail)
        with pytest.raises(RuntimeError, match="the model failed"):
            async for batch in box.batches():
                seen.append(batch)
        assert seen == [[1]]

    async def empty() -> list[list[int]]:
        box = Outbox[int](lambda: NEVER, every)
        await asyncio.to_thread(box.close)
        return await taken(box)

    asyncio.run(failing())
    assert asyncio.run(empty()) == []
