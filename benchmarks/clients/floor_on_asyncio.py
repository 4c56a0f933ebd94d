"""The floor, handed over: its socket in a thread of trio's, and what each read brings given to a task of asyncio's.

Nothing here is fit for use either. It is what a token costs that changes threads, when nothing else is done for it.
"""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

import asyncio
import collections
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import _on_asyncio as loop  # noqa: F401 - for the measurement
import floor
import trio
from _measure import main

open_client = floor.open_client


@asynccontextmanager
async def open_conversation(url: str, shape: str, model: str) -> AsyncGenerator[tuple[str, str, str]]:
    """It is created in the thread, which begins with the question."""
    yield url, shape, model


@asynccontextmanager
async def ask(conversation: tuple[str, str, str]) -> AsyncGenerator[AsyncGenerator[str]]:
    """Token by token."""
    yield _tokens(*conversation)


async def _tokens(url: str, shape: str, model: str) -> AsyncGenerator[str]:
    here = asyncio.get_running_loop()
    blocks: collections.deque[list[str] | None] = collections.deque()
    waiter = here.create_future()

    def tell() -> None:
        if not waiter.done():
            waiter.set_result(None)

    async def pump() -> None:
        async with floor.open_conversation(url, shape, model) as conversation:
            async for block in conversation.blocks():
                blocks.append(block)
                here.call_soon_threadsafe(tell)
        blocks.append(None)
        here.call_soon_threadsafe(tell)

    thread = threading.Thread(target=trio.run, args=(pump,))
    thread.start()
    while True:
        await waiter
        waiter = here.create_future()
        while blocks:
            block = blocks.popleft()
            if block is None:
                thread.join()
                return
            for token in block:
                yield token


if __name__ == "__main__":
    main(sys.modules[__name__])
