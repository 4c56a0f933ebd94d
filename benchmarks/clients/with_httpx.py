"""httpx by hand, on trio: what one writes who has httpx and no library for chat services."""

from __future__ import annotations

import math
import os
import ssl
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import _on_trio as loop
import httpx
import trio
from _measure import Report, main, measured
from _protocol import FLOWS, LINES, Ask


class Conversation(NamedTuple):
    """What is to be asked, and how a line of the answer is read."""

    http: httpx.AsyncClient
    question: httpx.Request
    token: Callable[[str], str | None]


def _request(http: httpx.AsyncClient, ask: Ask) -> httpx.Request:
    headers = {"Content-Type": ask.kind} if ask.kind else None
    return http.build_request(ask.method, ask.path, content=ask.body.encode(), headers=headers)


@asynccontextmanager
async def open_client(url: str) -> AsyncGenerator[httpx.AsyncClient]:
    """Connections without a limit."""
    tls = ssl.create_default_context(cafile=os.environ["BENCHMARK_CA"]) if url.startswith("https") else True
    limits = httpx.Limits(max_connections=None)
    headers = {"Referer": f"{url}/"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60, limits=limits, verify=tls) as http:
        yield http


@asynccontextmanager
async def open_conversation(http: httpx.AsyncClient, shape: str, model: str) -> AsyncGenerator[Conversation]:
    """Deleted in a shielded `finally`."""
    flow = FLOWS[shape](model)
    answer = None
    try:
        while True:
            request = flow.send(answer) if answer is not None else next(flow)
            answer = (await http.send(_request(http, request))).raise_for_status().content
    except StopIteration as stop:
        question, delete = stop.value
    try:
        yield Conversation(http, _request(http, question), LINES[shape])
    finally:
        with trio.CancelScope(shield=True, relative_deadline=60):
            (await http.send(_request(http, delete))).raise_for_status()


@asynccontextmanager
async def ask(conversation: Conversation) -> AsyncGenerator[AsyncIterator[str]]:
    """Token by token, for who wants to look at each."""
    response = await conversation.http.send(conversation.question, stream=True)
    try:
        response.raise_for_status()
        yield (token async for line in response.aiter_lines() if (token := conversation.token(line)) is not None)
    finally:
        with trio.CancelScope(shield=True):
            await response.aclose()


async def read(conversation: Conversation) -> list[str]:
    """A token is a line, and a line is JSON."""
    tokens: list[str] = []
    read_line = conversation.token
    response = await conversation.http.send(conversation.question, stream=True)
    response.raise_for_status()
    async for line in response.aiter_lines():
        token = read_line(line)
        if token is not None:
            tokens.append(token)
    await response.aclose()
    return tokens


async def lanes(client: object, url: str, lanes: str, readers: str, count: str, period: str) -> Report:
    """So many conversations at once, each with a memory channel for each of so many readers."""

    async def session(model: str) -> list[str]:
        came = 0

        async def reader(channel: trio.MemoryReceiveChannel[str]) -> None:
            nonlocal came
            async for _ in channel:
                came += 1

        async def one() -> None:
            async with open_conversation(http, "tgi", model) as conversation, trio.open_nursery() as nursery:
                channels: list[trio.MemorySendChannel[str]] = []
                for _ in range(int(readers)):
                    send, receive = trio.open_memory_channel[str](math.inf)
                    channels.append(send)
                    nursery.start_soon(reader, receive)
                async with ask(conversation) as answer:
                    async for token in answer:
                        for send in channels:
                            await send.send(token)
                for send in channels:
                    send.close()

        async with open_client(url) as http:
            await loop.together([one] * int(lanes))
        return [""] * came

    return await measured(session, count, period)


if __name__ == "__main__":
    main(sys.modules[__name__])
