"""aiohttp by hand, on asyncio or uvloop: the loop that earlier clients of these services have."""

# A peer, which only the benchmark's own environment has.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import _on_asyncio as loop
from _measure import Report, for_each_number, main, measured
from _protocol import FLOWS, LINES, Ask
from aiohttp import ClientSession, ClientTimeout, TCPConnector


class Conversation(NamedTuple):
    """What is to be asked, and how a line of the answer is read."""

    http: ClientSession
    question: Ask
    token: Callable[[str], str | None]


def _request(http: ClientSession, ask: Ask):
    headers = {"Content-Type": ask.kind} if ask.kind else None
    return http.request(ask.method, ask.path, data=ask.body.encode(), headers=headers)


@asynccontextmanager
async def open_client(url: str) -> AsyncGenerator[ClientSession]:
    """Connections without a limit."""
    tls = ssl.create_default_context(cafile=os.environ["BENCHMARK_CA"]) if url.startswith("https") else True
    connector, timeout = TCPConnector(limit=0, ssl=tls), ClientTimeout(total=None, sock_read=60)
    async with ClientSession(url, headers={"Referer": f"{url}/"}, connector=connector, timeout=timeout) as http:
        yield http


@asynccontextmanager
async def open_conversation(http: ClientSession, shape: str, model: str) -> AsyncGenerator[Conversation]:
    """Deleted in a `finally`, which one cancellation does not reach twice."""
    flow = FLOWS[shape](model)
    answer = None
    try:
        while True:
            async with _request(http, flow.send(answer)) as response:
                response.raise_for_status()
                answer = await response.read()
    except StopIteration as stop:
        question, delete = stop.value
    try:
        yield Conversation(http, question, LINES[shape])
    finally:
        async with _request(http, delete) as response:
            response.raise_for_status()


@asynccontextmanager
async def ask(conversation: Conversation) -> AsyncGenerator[AsyncIterator[str]]:
    """Token by token, for who wants to look at each."""
    async with _request(conversation.http, conversation.question) as response:
        response.raise_for_status()
        yield (token async for line in response.content if (token := conversation.token(line.decode())) is not None)


async def read(conversation: Conversation) -> list[str]:
    """A token is a line, and a line is JSON."""
    tokens: list[str] = []
    read_line = conversation.token
    async with _request(conversation.http, conversation.question) as response:
        response.raise_for_status()
        async for line in response.content:
            token = read_line(line.decode("utf-8"))
            if token is not None:
                tokens.append(token)
    return tokens


async def _distribute(conversation: Conversation, number: int) -> int:
    came = 0

    async def reader(queue: asyncio.Queue[str | None]) -> None:
        nonlocal came
        while await queue.get() is not None:
            came += 1

    queues: list[asyncio.Queue[str | None]] = [asyncio.Queue() for _ in range(number)]
    async with asyncio.TaskGroup() as group:
        for queue in queues:
            group.create_task(reader(queue))
        async with ask(conversation) as answer:
            async for token in answer:
                for queue in queues:
                    queue.put_nowait(token)
        for queue in queues:
            queue.put_nowait(None)
    return came


async def readers(client: object, url: str, count: str, period: str, *numbers: str) -> Report:
    """An `asyncio.Queue` for each reader."""

    async def read(number: int, model: str) -> int:
        async with open_client(url) as http, open_conversation(http, "tgi", model) as conversation:
            return await _distribute(conversation, number)

    return await for_each_number([int(number) for number in numbers], int(count), read, period)


async def lanes(client: object, url: str, lanes: str, readers: str, count: str, period: str) -> Report:
    """So many conversations at once, each with so many readers."""

    async def session(model: str) -> list[str]:
        came: list[int] = []

        async def one() -> None:
            async with open_conversation(http, "tgi", model) as conversation:
                came.append(await _distribute(conversation, int(readers)))

        async with open_client(url) as http:
            await loop.together([one] * int(lanes))
        return [""] * sum(came)

    return await measured(session, count, period)


if __name__ == "__main__":
    main(sys.modules[__name__])
