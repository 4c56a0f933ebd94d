"""The ways of leaving a client, and what the server is told to do meanwhile."""

from __future__ import annotations

import gc
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from trioprov import H2o
from trioprov.testing import Emulator, Fault

from . import Place, Reading

_CREATE = 0.06  # seconds that the server takes to answer a create

Server = Emulator[H2o]


class Crash(Exception):
    """Something of the user's goes wrong."""


async def exhausted(reading: Reading, place: Place, server: Server) -> None:
    """Every token is read."""
    async with reading(place) as tokens:
        async for _ in tokens:
            pass


async def broken_off(reading: Reading, place: Place, server: Server) -> None:
    """The user has read enough."""
    async with reading(place) as tokens:
        async for _ in tokens:
            break


async def crashed(reading: Reading, place: Place, server: Server) -> None:
    """The user's code raises."""
    with suppress(Crash):
        async with reading(place) as tokens:
            async for _ in tokens:
                raise Crash


async def cancelled(reading: Reading, place: Place, server: Server, *, after: float) -> None:
    """So many seconds after the first token; the client is waiting for the server then, or for its consumer."""
    with trio.CancelScope() as scope:
        async with reading(place) as tokens:
            async for _ in tokens:
                scope.deadline = min(scope.deadline, trio.current_time() + after)
                await trio.sleep(0.002)


async def cancelled_in_create(reading: Reading, place: Place, server: Server, *, after: float) -> None:
    """So many seconds after the create request has reached the server."""
    before = creates(server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exhausted, reading, place, server)
        while creates(server) == before:  # noqa: ASYNC110 - another thread's
            await trio.sleep(0.001)
        await trio.sleep(after)
        nursery.cancel_scope.cancel()


async def collected(reading: Reading, place: Place, server: Server) -> None:
    """Nobody refers to it any more, which only the garbage collector can know."""
    cycle = await _entered(reading, place)
    cycle.append(cycle)
    del cycle
    gc.collect()


async def outlived(reading: Reading, place: Place, server: Server) -> None:
    """Somebody refers to it, and does nothing with it, until the event loop has ended."""
    place.held += await _entered(reading, place)


async def _entered(reading: Reading, place: Place) -> list[object]:
    entered = reading(place)
    tokens = await entered.__aenter__()
    async for _ in tokens:
        break
    return [entered, tokens]


Leaving = Callable[[Reading, Place, Server], Awaitable[None]]


@dataclass(frozen=True)
class Way:
    """A column.

    Attributes:
        label: what the table calls it.
        leavings: how it is done; the column is the worst of them. None: the process is killed.
        script: what the server is told.
    """

    label: str
    leavings: Sequence[Leaving]
    script: Mapping[str, Any]


_ENDLESS = {"forever": True, "token_delay": 0.005}
_SLOW_CREATE = {"faults": [Fault(on="create", delay_response=_CREATE, times=math.inf)]}
KILLED = "SIGKILL"

WAYS = (
    Way("exhausted", [exhausted], {"token_delay": 0.001}),
    Way("break", [broken_off], _ENDLESS),
    Way("exception", [crashed], _ENDLESS),
    Way("cancel", [partial(cancelled, after=0.007 * instant) for instant in range(10)], _ENDLESS),
    Way(
        "cancel in create",
        [partial(cancelled_in_create, after=_CREATE * instant / 20) for instant in range(20)],
        {**_ENDLESS, **_SLOW_CREATE},
    ),
    Way("abandoned", [collected, outlived], _ENDLESS),
    Way(KILLED, [], _ENDLESS),
)


def creates(server: Server) -> int:
    """How many create requests have reached the server."""
    return sum(request.step == "create" for request in server.requests)
