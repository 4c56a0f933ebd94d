"""trioprov, by its public door."""

from __future__ import annotations

import os
import ssl
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NamedTuple

import _on_trio as loop  # noqa: F401 - for the measurement  # pyright: ignore[reportUnusedImport]
import trio
from _measure import Report, for_each_number, main, measured

import trioprov
from trioprov import AllenAI, H2o, OpenAssistant, Reply
from trioprov.providers import Provider

_PROMPT = "Why is the sky blue?"


class Client(NamedTuple):
    """Connections, and to where."""

    client: trioprov.Client
    url: str


def provider(shape: str, model: str, url: str) -> Provider:
    """As its user writes it."""
    if shape == "oasst":
        return OpenAssistant(model, base_url=url, cookies={"session": "x"})
    return AllenAI(model, base_url=url) if shape == "olmo" else H2o(model, base_url=url)


@asynccontextmanager
async def open_client(url: str) -> AsyncGenerator[Client]:
    """With the server's certificate, where it has one."""
    tls = ssl.create_default_context(cafile=os.environ["BENCHMARK_CA"]) if url.startswith("https") else True
    async with trioprov.open_client(verify=tls) as client:
        yield Client(client, url)


def open_conversation(client: Client, shape: str, model: str) -> AbstractAsyncContextManager[trioprov.Session]:
    """A session."""
    return trioprov.open_session(provider(shape, model, client.url), client=client.client)


def ask(session: trioprov.Session) -> AbstractAsyncContextManager[Reply]:
    """A reply."""
    return session.ask(_PROMPT)


async def read(session: trioprov.Session) -> list[str]:
    """A loop, as the others have."""
    tokens: list[str] = []
    async with session.ask(_PROMPT) as reply:
        async for token in reply:
            tokens.append(token)  # noqa: PERF401
    return tokens


async def _distribute(reply: Reply, number: int) -> int:
    came = 0

    async def reader() -> None:
        nonlocal came
        async for _ in reply:
            came += 1

    async with trio.open_nursery() as nursery:
        for _ in range(number):
            nursery.start_soon(reader)
        await reply.wait()
    return came


async def readers(client: object, url: str, count: str, period: str, *numbers: str) -> Report:
    """So many loops over one reply."""

    async def read(number: int, model: str) -> int:
        async with open_client(url) as http, open_conversation(http, "tgi", model) as session, ask(session) as reply:
            return await _distribute(reply, number)

    return await for_each_number([int(number) for number in numbers], int(count), read, period)


async def lanes(client: object, url: str, lanes: str, readers: str, count: str, period: str) -> Report:
    """A fan-out, and so many loops over each lane's reply."""

    async def session(model: str) -> list[str]:
        came: list[int] = []

        async def one(reply: Reply) -> None:
            came.append(await _distribute(reply, int(readers)))

        async with (
            trioprov.fan_out(_PROMPT, [H2o(model, base_url=url)] * int(lanes)) as fan,
            trio.open_nursery() as nursery,
        ):
            for lane in fan.lanes:
                nursery.start_soon(one, lane.reply)
        return [""] * sum(came)

    return await measured(session, count, period)


async def opening(client: object, url: str, times: str) -> Report:
    """Seconds of CPU for opening and leaving a session that says nothing to anybody; and whether TLS was set up."""
    contexts = 0

    class Counted(ssl.SSLContext):
        def __new__(cls, *args: int) -> Counted:
            nonlocal contexts
            contexts += 1
            return super().__new__(cls, *args)

    ssl.SSLContext = Counted  # pyright: ignore[reportAttributeAccessIssue]
    spent: list[float] = []
    async with trioprov.open_client() as shared:
        for _ in range(int(times)):
            before = time.process_time()
            async with trioprov.open_session(AllenAI(base_url=url), client=shared):
                spent.append(time.process_time() - before)
    before = time.process_time()
    async with trioprov.open_session(AllenAI(base_url=url)):
        alone = time.process_time() - before
    return {"session": sorted(spent)[len(spent) // 2], "alone": alone, "contexts": contexts}


if __name__ == "__main__":
    main(sys.modules[__name__])
