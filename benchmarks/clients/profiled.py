"""trioprov under profilers: where an ask, a live token, its readers, a crowd, memory, the bridge and the import are.

A profiler makes what it looks at slower, and short calls more than long ones: read the shares, not the seconds.
"""

from __future__ import annotations

import asyncio
import cProfile
import functools
import gc
import subprocess
import sys
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import _measure
import _on_trio as loop  # noqa: F401 - for the measurement  # pyright: ignore[reportUnusedImport]
import trio
import with_trioprov
import with_trioprov_anyio
from _measure import Report, main

import trioprov

_HERE = Path(__file__).parent
_OURS = Path(trioprov.__file__).parent

Amounts = dict[str, float]

_NOT_OURS = "the measurement"

# Said between the imports.
_BEYOND = "and beyond"

# What waits for the kernel is not work.
_WAITING = ("'poll'", "'select'", "'control'")


def place(file: str) -> str:
    """Whose a file is: a room of ours, somebody's package, a module of the standard library."""
    path = Path(file)
    if path.is_relative_to(_OURS):
        rooms = path.relative_to(_OURS).parts
        return f"trioprov/{rooms[0]}" + ("/" if len(rooms) > 1 else "")
    if path.is_relative_to(_HERE):
        return _NOT_OURS
    if "site-packages" in path.parts:
        return path.parts[path.parts.index("site-packages") + 1].removesuffix(".py")
    if file.startswith("<") and not file.startswith("<frozen"):
        return "generated (dataclasses, attrs, named tuples)"
    return "standard library"


async def first_token(client: Any, url: str, times: str) -> Report:
    """Asks in an open conversation, to the first token and back."""
    await _measure.first_token(with_trioprov, url, times)
    return await _profiled(lambda: _measure.first_token(with_trioprov, url, times), int(times))


async def live(client: Any, url: str, count: str, period: str) -> Report:
    """One stream whose tokens come one by one."""

    async def read() -> None:
        async with (
            with_trioprov.open_client(url) as http,
            with_trioprov.open_conversation(http, "tgi", f"{count}-{period}") as session,
        ):
            await with_trioprov.read(session)

    await read()
    return await _profiled(read, int(count))


async def readers(client: Any, url: str, count: str, period: str, number: str) -> Report:
    """A reply whose tokens come one by one, and so many loops over it; for each token and loop."""
    read = functools.partial(with_trioprov.readers, client, url, count, period, number)
    await read()
    return await _profiled(read, int(count) * int(number))


async def _profiled(work: Callable[[], Awaitable[object]], times: int) -> Report:
    profile = cProfile.Profile()
    profile.enable()
    await work()
    profile.disable()
    calls: Amounts = defaultdict(float)
    spent: Amounts = defaultdict(float)
    for entry in profile.getstats():
        if isinstance(entry.code, str):
            continue  # a function in C belongs to who calls it
        where = place(entry.code.co_filename)
        for one in (entry, *(entry.calls or ())):
            if one is entry or (isinstance(one.code, str) and not any(waiting in one.code for waiting in _WAITING)):
                calls[where] += one.callcount / times
                spent[where] += one.inlinetime
    del calls[_NOT_OURS], spent[_NOT_OURS]
    return {"calls": calls, "spent": spent}


async def crowd(client: Any, url: str, streams: str, count: str, period: str) -> Report:
    """What the garbage collector does meanwhile, by generation: how often, and seconds in all and at most."""
    often, total, longest = [0, 0, 0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]
    began = 0.0

    def watch(phase: str, info: dict[str, int]) -> None:
        nonlocal began
        if phase == "start":
            began = time.perf_counter()
            return
        generation, took = info["generation"], time.perf_counter() - began
        often[generation] += 1
        total[generation] += took
        longest[generation] = max(longest[generation], took)

    gc.callbacks.append(watch)
    report = await _measure.crowd(with_trioprov, url, streams, count, period)
    gc.callbacks.remove(watch)
    cpu = report["opening"] + report["cpu"]
    return {"often": often, "total": total, "longest": longest, "cpu": cpu, "lag": report["lags"]["99"]}


async def memory(client: Any, url: str, streams: str) -> Report:
    """Bytes and objects of a stream that has brought its first token, by who made them."""
    number, begun = int(streams), 0
    gathered = trio.Event()

    async def one() -> None:
        nonlocal begun
        async with (
            with_trioprov.open_conversation(http, "tgi", "2-60000000") as session,
            with_trioprov.ask(session) as reply,
        ):
            async for _ in reply:
                begun += 1
                if begun == number:
                    gathered.set()

    async with with_trioprov.open_client(url) as http:
        async with with_trioprov.open_conversation(http, "tgi", "1-0") as session:
            await with_trioprov.read(session)
        gc.collect()
        tracked = len(gc.get_objects())
        tracemalloc.start()
        async with trio.open_nursery() as nursery:
            for _ in range(number):
                nursery.start_soon(one)
            await gathered.wait()
            gc.collect()
            there = tracemalloc.take_snapshot().statistics("filename")
            tracked = len(gc.get_objects()) - tracked
            tracemalloc.stop()
            nursery.cancel_scope.cancel()
    size: Amounts = defaultdict(float)
    objects: Amounts = defaultdict(float)
    for statistic in there:
        where = place(statistic.traceback[0].filename)
        size[where] += statistic.size / number
        objects[where] += statistic.count / number
    return {"size": size, "objects": objects, "tracked": tracked / number}


async def bridge(client: Any, url: str, count: str, period: str) -> Report:
    """Seconds of CPU for a token that comes alone to an asyncio application, by thread."""

    async def read() -> Report:
        async with (
            with_trioprov_anyio.open_client(url) as http,
            with_trioprov_anyio.open_conversation(http, "tgi", f"{count}-{period}") as session,
        ):
            loop, whole = -time.thread_time(), -time.process_time()
            await with_trioprov_anyio.read(session)
            loop, whole = loop + time.thread_time(), whole + time.process_time()
            return {"loop": loop / int(count), "trio": (whole - loop) / int(count)}  # all other threads wait

    return await trio.to_thread.run_sync(lambda: asyncio.run(read()))


async def importing(client: Any, url: str) -> Report:
    """Seconds of what trioprov brings in beyond trio and httpx, by package, as ``-X importtime`` tells."""
    program = f"import sys, trio, httpx; print({_BEYOND!r}, file=sys.stderr); import trioprov"
    told = subprocess.run(  # noqa: ASYNC221 - nobody waits meanwhile
        [sys.executable, "-X", "importtime", "-c", program], capture_output=True, text=True, check=True
    )
    spent: Amounts = defaultdict(float)
    modules: Amounts = defaultdict(float)
    for line in told.stderr.partition(_BEYOND)[2].strip().splitlines():
        own, _, name = line.removeprefix("import time:").split("|")
        package = name.strip().partition(".")[0]
        where = "standard library" if package in sys.stdlib_module_names else package
        spent[where] += int(own) / 1e6
        modules[where] += 1
    return {"calls": modules, "spent": spent}


if __name__ == "__main__":
    main(sys.modules[__name__])
