"""The questions, as they are put to a client: what it does, when the clocks are looked at, and a line of JSON.

A client is a module with an event loop (``loop``: ``_on_trio`` or ``_on_asyncio``) and

- ``open_client(url)``: a block with connections;
- ``open_conversation(client, shape, model)``: a block with a conversation, which is deleted at its end;
- ``ask(conversation)``: a block with an async iterable of tokens;
- ``read(conversation) -> list[str]``: the same answer, read by the shortest loop.

A question that only some clients can be asked is a function of theirs, by its name.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import zlib
from array import array
from collections.abc import Awaitable, Callable, Sequence
from statistics import median
from typing import Any

# Sessions of one token, to be subtracted from the long one. The first of them loads what is loaded late.
SHORT = 4

# Seconds within which the questions of a crowd come.
ARRIVAL = 2.0

Report = dict[str, Any]


def main(client: Any) -> None:
    """``QUESTION URL ARGUMENT…``"""
    _, question, url, *arguments = sys.argv
    asked = getattr(client, question, None) or _QUESTIONS[question]
    print(json.dumps(client.loop.run(asked, client, url, *arguments)))


async def tokens(client: Any, url: str, shape: str, count: str, period: str) -> Report:
    """CPU seconds of sessions of one token, and of one of ``count`` tokens."""

    async def session(model: str) -> list[str]:
        async with client.open_client(url) as http, client.open_conversation(http, shape, model) as conversation:
            return await client.read(conversation)

    return await measured(session, count, period)


async def measured(session: Callable[[str], Awaitable[list[str]]], count: str, period: str) -> Report:
    """The same, of any session that is told which model to ask."""
    short: list[float] = []
    for _ in range(SHORT):
        before = time.process_time()
        await session(f"1-{period}")
        short.append(time.process_time() - before)
    before = time.process_time()
    came = await session(f"{count}-{period}")
    long = time.process_time() - before
    text = zlib.crc32("".join(came).encode())
    return {"session": median(short[1:]), "long": long, "count": len(came), "text": text}


async def first_token(client: Any, url: str, times: str) -> Report:
    """Seconds from asking to the first token, in a conversation that is open."""
    waits: list[float] = []
    async with client.open_client(url) as http, client.open_conversation(http, "tgi", "1-0") as conversation:
        for _ in range(int(times)):
            before = time.monotonic()
            async with client.ask(conversation) as answer:
                async for _token in answer:
                    waits.append(time.monotonic() - before)  # noqa: PERF401 - at each
            await client.loop.sleep(0.001)
    return {"wait": median(waits[len(waits) // 10 :])}


async def crowd(client: Any, url: str, streams: str, count: str, period: str, busy: str = "0") -> Report:
    """So many streams at once, whose tokens say when they were sent.

    First all conversations are opened; then, within `ARRIVAL`, they are asked, one after another; at the end all are
    left at once. ``opening`` is the CPU time of the first, ``wall`` and ``cpu`` are those of the streams alone,
    ``ideal`` is what the wall time would be if nothing took any. ``lags`` is how long after they were sent tokens came,
    by percentile, and ``memory`` is what the process grew by until the last stream had ended, in kB. With ``busy``
    something else keeps the event loop busy all the time, in steps of so many seconds.
    """
    lags = array("d")  # of objects, it would be a tenth of what a stream holds
    opened = done = 0
    number = int(streams)
    asking, leaving = client.loop.Event(), client.loop.Event()
    marks: list[tuple[float, float]] = []
    memory = 0

    def look() -> None:
        marks.append((time.monotonic(), time.process_time()))

    async def one() -> None:
        nonlocal opened, done, memory
        async with client.open_conversation(http, "tgi", f"{count}-{period}-stamped") as conversation:
            place, opened = opened, opened + 1
            if opened == number:
                look()
                asking.set()
            await asking.wait()
            await client.loop.sleep(ARRIVAL * place / number)
            async with client.ask(conversation) as answer:
                async for token in answer:
                    lags.append(time.monotonic() - float(token))
            done += 1
            if done == number:
                look()
                memory = _peak_memory() - memory
                leaving.set()
            await leaving.wait()

    async def hog() -> None:
        while done < number:
            until = time.monotonic() + float(busy)
            while time.monotonic() < until:
                pass
            await client.loop.sleep(0)

    async with client.open_client(url) as http:
        async with (
            client.open_conversation(http, "tgi", "1-0-stamped") as conversation,
            client.ask(conversation) as answer,
        ):
            async for _token in answer:
                pass
        memory = _peak_memory()
        look()
        await client.loop.together([one] * number + ([hog] if float(busy) else []))
    (_, before), (began, opening), (ended, cpu) = marks
    sorted_lags = sorted(lags)
    return {
        "opening": opening - before,
        "wall": ended - began,
        "ideal": ARRIVAL * (number - 1) / number + int(count) * int(period) / 1e6,
        "cpu": cpu - opening,
        "memory": memory,
        "count": len(lags),
        "lags": {name: sorted_lags[int(len(lags) * part)] for name, part in (("50", 0.5), ("99", 0.99))},
    }


async def cancelling(client: Any, url: str, sessions: str) -> Report:
    """Cancel so many streams at once; wall and CPU seconds until the last conversation has been deleted."""
    number, started = int(sessions), 0

    async def one() -> None:
        nonlocal started
        async with (
            client.open_conversation(http, "tgi", "100-60000000") as conversation,
            client.ask(conversation) as answer,
        ):
            async for _token in answer:
                started += 1

    async with client.open_client(url) as http:
        wall, cpu = await client.loop.cancelled([one] * number, lambda: started == number)
    return {"wall": time.monotonic() - wall, "cpu": time.process_time() - cpu}


def _peak_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


async def for_each_number(
    numbers: Sequence[int], count: int, read: Callable[[int, str], Awaitable[int]], period: str
) -> Report:
    """CPU seconds for a stream with each number of readers, all of whom must get all of it."""
    spent: dict[str, float] = {}
    await read(1, "10-0")
    for number in numbers:
        before = time.process_time()
        came = await read(number, f"{count}-{period}")
        spent[str(number)] = time.process_time() - before
        if came != number * count:
            raise RuntimeError(f"{number} readers got {came} tokens")
    return {"spent": spent}


_QUESTIONS = {function.__name__: function for function in (tokens, first_token, crowd, cancelling)}
