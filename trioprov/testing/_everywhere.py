"""Cancel a scenario at every point that it has, and ask the server afterwards what is alive."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar, overload

import trio

from .._client import Client
from ._emulator import Emulator, open_emulator
from ._emulator import _service_class as service_class  # pyright: ignore[reportPrivateUsage] - the same room
from ._once import Once
from ._service import Service

P = TypeVar("P")

# Real seconds that one run may take; it takes milliseconds, or for ever.
_LONGEST = 60.0

How = Literal["cancel", "exception", "crash"]


@dataclass(frozen=True)
class Leftover:
    """Something that a run left behind, or did wrong.

    Attributes:
        how: what was delivered.
        point: at which point; 0: nothing was, it is so anyway.
        where: what was about to happen there: a task's step, and where in it; or nothing.
        what: the conversation, the task, the warning or the error.
    """

    how: How
    point: int
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.how} at point {self.point} ({self.where}): {self.what}"


@dataclass(frozen=True)
class EverywhereReport:
    """What came of all the runs; reports can be added up.

    Attributes:
        points: how many were tried: each one, in each of the ways.
        orphans: conversations that were left on a server.
        problems: whatever else was left or went wrong: generations that go on, connections, tasks, warnings, errors.
    """

    points: int = 0
    orphans: tuple[Leftover, ...] = ()
    problems: tuple[Leftover, ...] = ()

    def check(self) -> None:
        """Fail if anything was left anywhere.

        Raises:
            AssertionError: it tells where.
        """
        found = [str(leftover) for leftover in (*self.orphans, *self.problems)]
        if found:
            rest = [f"… and {len(found) - 20} more"] if len(found) > 20 else []
            raise AssertionError("\n  ".join([str(self), *found[:20], *rest]))

    def __add__(self, other: EverywhereReport) -> EverywhereReport:
        return EverywhereReport(
            self.points + other.points, self.orphans + other.orphans, self.problems + other.problems
        )

    def __str__(self) -> str:
        return f"{self.points} points, {len(self.orphans)} orphans, {len(self.problems)} other problems"


@overload
async def cancel_everywhere(
    scenario: Callable[[P, Client], Awaitable[object]],
    provider_class: Callable[..., P],
    *,
    how: Iterable[How] = ...,
    at: Iterable[int] | None = None,
    sockets: bool = False,
    kept: Collection[str | None] = (),
    seed: int = 0,
    **script: Any,
) -> EverywhereReport: ...


@overload
async def cancel_everywhere(
    scenario: Callable[[tuple[P, ...], Client], Awaitable[object]],
    provider_class: Sequence[Callable[..., P]],
    *,
    how: Iterable[How] = ...,
    at: Iterable[int] | None = None,
    sockets: bool = False,
    kept: Collection[str | None] = (),
    seed: int = 0,
    **script: Any,
) -> EverywhereReport: ...


async def cancel_everywhere(
    scenario: Callable[[Any, Client], Awaitable[object]],
    provider_class: Callable[..., Any] | Sequence[Callable[..., Any]],
    *,
    how: Iterable[How] = ("cancel", "exception", "crash"),
    at: Iterable[int] | None = None,
    sockets: bool = False,
    kept: Collection[str | None] = (),
    seed: int = 0,
    **script: Any,
) -> EverywhereReport:
    """Run a scenario again and again, struck at each of its points in turn, and see what it leaves behind.

    A point is a step of the scheduler, or a moment in which every task waits. All of them count, from opening the
    client to having left it: the scenario's, the library's, and those of the server between them. Every run has a
    trio, an emulator and a client of its own, in a worker thread. Scenario and emulator speak over sockets in memory,
    the time is virtual, and the order of tasks is fixed, so that a point is the same one in every run, and delays cost
    nothing. Do not call it under an autojump clock of your own.

    Args:
        scenario: what to run: ``async def scenario(provider, client)``. It should use what it is given, connect to
            nothing else (there is nothing else, in memory), and wait for no thread (virtual time does not).
        provider_class: as for `open_emulator`; or a list of them, and the scenario gets a tuple of providers.
        how: ``cancel``: the scope around the scenario is cancelled; the client stays open until nothing goes on any
            more. ``exception``: the scenario's task raises, out of what it waits for then or next, through the client.
            ``crash``: a task crashes that is in one nursery with that of scenario and client.
        at: only these points, to look at what a report told.
        sockets: over loopback sockets, with the emulator in another thread and in real time, instead. Then, two runs
            need not have the same points, and the server's are not counted.
        kept: the ids of conversations that are to stay. The scenario may add to it while it runs; one that was added
            and is gone is a problem.
        seed: picks the order in which tasks that are ready at the same time are taken.
        script: what the emulators are told, as for `open_emulator`.

    Raises:
        LookupError, TypeError: as from `open_emulator`.
        RuntimeError: a run did not end within a minute of real time.
        Exception: whatever the scenario raises when it is not disturbed.
    """
    several = not callable(provider_class)
    classes = list(provider_class) if several else [provider_class]
    services = [service_class(one) for one in classes]
    scripts = [service.script_class(**script) for service in services]
    report = EverywhereReport()
    async with AsyncExitStack() as stack:
        running: list[Emulator[Any]] | None = None
        if sockets:
            running = [await stack.enter_async_context(open_emulator(one, **script)) for one in classes]

        async def run(way: How, point: int) -> Once:
            emulators = running
            served: list[Service] = []
            if emulators is None:
                served = [service(script) for service, script in zip(services, scripts, strict=True)]
                urls = [f"http://127.0.0.1:{port}" for port in range(1, len(served) + 1)]
                emulators = [
                    Emulator(service, url, one(**service.provider_fields(url)))
                    for service, url, one in zip(served, urls, classes, strict=True)
                ]
            providers = tuple(emulator.provider for emulator in emulators)
            given = partial(scenario, providers if several else providers[0])
            one_run = Once(given, emulators, served, way, point, kept)
            await trio.lowlevel.checkpoint()
            with trio.move_on_after(_LONGEST, shield=True) as hung:
                await trio.to_thread.run_sync(one_run.run, seed, abandon_on_cancel=True)
            if hung.cancelled_caught:
                raise RuntimeError(f"the scenario does not end: {way} at point {point} ({one_run.points.where})")
            return one_run

        undisturbed = await run("cancel", 0)
        if undisturbed.error is not None:
            raise undisturbed.error
        report += _report(undisturbed, "cancel", 0)
        for way in how:
            for point in itertools.count(1) if at is None else at:
                done = await run(way, point)
                if not done.points.where:
                    break
                report += _report(done, way, point)
    return report


def _report(done: Once, how: How, point: int) -> EverywhereReport:
    def leftovers(found: Iterable[str]) -> tuple[Leftover, ...]:
        return tuple(Leftover(how, point, done.points.where or "undisturbed", what) for what in found)

    return EverywhereReport(1 if point else 0, leftovers(done.orphans), leftovers(done.problems))
