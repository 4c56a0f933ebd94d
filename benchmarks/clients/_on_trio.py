"""What a measurement needs of trio."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

Event = trio.Event


def run(function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """An event loop."""
    return trio.run(function, *args)


async def sleep(seconds: float) -> None:
    """Asleep."""
    await trio.sleep(seconds)


async def together(functions: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """All at once."""
    async with trio.open_nursery() as nursery:
        for function in functions:
            nursery.start_soon(function)


async def cancelled(
    functions: Sequence[Callable[[], Awaitable[None]]], ready: Callable[[], bool]
) -> tuple[float, float]:
    """All at once until they are ready, then none; when they were told, by the clock and in CPU seconds."""
    async with trio.open_nursery() as nursery:
        for function in functions:
            nursery.start_soon(function)
        while not ready():  # noqa: ASYNC110 - others count
            await trio.sleep(0.01)
        told = time.monotonic(), time.process_time()
        nursery.cancel_scope.cancel()
    return told
