"""What a measurement needs of asyncio; on uvloop, if ``BENCHMARK_LOOP`` says so."""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

Event = asyncio.Event


def run(function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """An event loop."""
    if os.environ.get("BENCHMARK_LOOP") == "uvloop":
        import uvloop

        return uvloop.run(_awaited(function, *args))
    return asyncio.run(_awaited(function, *args))


async def _awaited(function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    return await function(*args)


async def sleep(seconds: float) -> None:
    """Asleep."""
    await asyncio.sleep(seconds)


async def together(functions: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """All at once."""
    async with asyncio.TaskGroup() as group:
        for function in functions:
            group.create_task(_awaited(function))


async def cancelled(
    functions: Sequence[Callable[[], Awaitable[None]]], ready: Callable[[], bool]
) -> tuple[float, float]:
    """All at once until they are ready, then none; when they were told, by the clock and in CPU seconds."""
    tasks = [asyncio.create_task(_awaited(function)) for function in functions]
    while not ready():  # noqa: ASYNC110 - others count
        await asyncio.sleep(0.01)
    told = time.monotonic(), time.process_time()
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(outcome, asyncio.CancelledError):
            raise outcome or RuntimeError("it was not cancelled")
    return told
