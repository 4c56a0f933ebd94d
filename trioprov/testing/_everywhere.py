"""Cancel a scenario at every point that it has, and ask the server afterwards what is alive."""

from __future__ import annotations

import gc
import itertools
import logging
import threading
import warnings
from collections.abc import Awaitable, Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar, overload

import trio
import trio.testing

from .._client import Client, open_client
from ._emulator import Emulator, open_emulator
from ._emulator import _service_class as service_class  # pyright: ignore[reportPrivateUsage] - the same room
from ._memory import MemoryNetwork
from ._service import Service
from ._strike import WAYS, Points, same_order

P = TypeVar("P")

How = Literal["cancel", "exception", "crash"]

# Seconds in which everything must have ended after a scenario has; in memory they are virtual.
_PATIENCE = 60.0

# What a run does to the process (the order of trio's tasks, warnings, logging), only one may do at a time.
_alone = threading.Lock()


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
    nothing.

    Args:
        scenario: what to run: ``async def scenario(provider, client)``. It should use what it is given, connect to
            nothing else (there is nothing else, in memory), and leave nothing behind when it is not disturbed.
        provider_class: as for `open_emulator`; or a list of them, and the scenario gets a tuple of providers.
        how: ``cancel``: the scope around scenario and client is cancelled. ``exception``: the scenario's task raises,
            out of what it waits for then. ``crash``: a task in the same nursery does.
        at: only these points, to look at what a report told.
        sockets: over loopback sockets, with the emulator in another thread and in real time, instead. Then, two runs
            need not have the same points, and the server's are not counted.
        kept: the ids of conversations that are to stay. The scenario may add to it while it runs; one that was added
            and is gone is a problem.
        seed: picks the order in which tasks that are ready at the same time are taken.
        script: what the emulators are told, as for `open_emulator`.

    Raises:
        LookupError, TypeError: as from `open_emulator`.
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

        async def run(way: How, point: int) -> _Run:
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
            body = partial(_with_client, scenario, providers if several else providers[0])
            one_run = _Run(body, emulators, served, way, point, kept)
            await trio.to_thread.run_sync(one_run.run, seed)
            return one_run

        undisturbed = await run("cancel", 0)
        if undisturbed.error is not None:
            raise undisturbed.error
        report += undisturbed.report()
        for way in how:
            for point in itertools.count(1) if at is None else at:
                done = await run(way, point)
                if not done.points.where:
                    break
                report += done.report()
    return report


async def _with_client(scenario: Callable[[Any, Client], Awaitable[object]], providers: Any) -> None:
    async with open_client() as client:
        await scenario(providers, client)


class _Run:
    """One run of a scenario.

    Args:
        body: the scenario.
        emulators: whom to ask.
        served: those of them that this run has to serve.
        how: what is delivered.
        at: at which point; 0: never.
        kept: ids that are to stay.
    """

    def __init__(
        self,
        body: Callable[[], Any],
        emulators: Sequence[Emulator[Any]],
        served: Sequence[Service],
        how: How,
        at: int,
        kept: Collection[str | None],
    ) -> None:
        self.points = Points(at)
        self.error: Exception | None = None
        self._body = body
        self._emulators = emulators
        self._served = served
        self._how: How = how
        self._at = at
        self._kept = kept
        self._orphans: list[str] = []
        self._problems: list[str] = []

    def report(self) -> EverywhereReport:
        def leftovers(found: Iterable[str]) -> tuple[Leftover, ...]:
            return tuple(Leftover(self._how, self._at, self.points.where or "undisturbed", what) for what in found)

        return EverywhereReport(1 if self._at else 0, leftovers(self._orphans), leftovers(self._problems))

    def run(self, seed: int) -> None:
        """Run, in a thread that has no trio."""
        clock = trio.testing.MockClock(autojump_threshold=0) if self._served else None
        with _alone, same_order(seed), self._overheard():
            trio.run(self._main, clock=clock)

    async def _main(self) -> None:
        network = MemoryNetwork()
        if self._served:
            trio.socket.set_custom_socket_factory(network)
        async with trio.open_nursery() as servers:
            for port, service in enumerate(self._served, 1):
                network.servers[port] = await servers.start(_serve, service)
            others = set(_tasks(servers))
            alive = {id for emulator in self._emulators for id in emulator.conversations}
            kept = set(self._kept)
            try:
                await WAYS[self._how](self._body, self.points)
            except Exception as error:
                self.error = error
                self._problems.append(f"it raised {error!r}")
            await self._ask(alive, set(self._kept) - kept, lambda: set(_tasks(servers)) - others)
            servers.cancel_scope.cancel()

    async def _ask(self, before: set[str], kept: set[str | None], tasks: Callable[[], set[trio.lowlevel.Task]]) -> None:
        """What is left: of the conversations, but those from ``before``, and of the tasks."""

        def alive() -> dict[str, str]:
            found = {id: emulator.name for emulator in self._emulators for id in emulator.conversations}
            return {id: name for id, name in found.items() if id not in before}

        at_once = alive()
        gc.collect(1)  # a handle that was dropped closes now
        await trio.testing.wait_all_tasks_blocked()
        await _patience(lambda: not tasks())
        self._problems += [f"a task goes on: {task.name}" for task in tasks()]
        in_the_end = alive()
        for id, name in at_once.items() | in_the_end.items():
            if id in in_the_end and id not in self._kept:
                self._orphans.append(f"conversation {id} on {name}")
            elif id not in in_the_end:
                self._problems.append(f"conversation {id} on {name} was deleted after the client had been left")
        self._problems += [f"conversation {id} was kept, and is gone" for id in kept - in_the_end.keys()]
        for emulator in self._emulators:
            if emulator.worker_crashes:
                self._problems.append(f"{emulator.name}: a worker was broken")
            await _patience(lambda emulator=emulator: not emulator.connections and not emulator.generating)
            if emulator.generating:
                self._problems.append(f"{emulator.name} goes on generating")
            if emulator.connections:
                self._problems.append(f"{emulator.connections} connections to {emulator.name} are open")
            self._problems += [f"the emulator of {emulator.name} failed: {error!r}" for error in emulator.errors]

    @contextmanager
    def _overheard(self) -> Generator[None]:
        """Hear warnings and what is logged as an error; what is left to the collector warns here, not by chance."""
        handler = _Listener(self._problems)
        logger = logging.getLogger("trioprov")
        logger.addHandler(handler)
        collects = gc.isenabled()
        gc.disable()
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                yield
                gc.collect(1)
        finally:
            logger.removeHandler(handler)
            if collects:
                gc.enable()
        self._problems += [f"{one.category.__name__}: {one.message}" for one in caught]


async def _patience(done: Callable[[], bool]) -> None:
    """Wait until it is so, but not for ever."""
    pause = 0.01
    with trio.move_on_after(_PATIENCE):
        while not done():
            await trio.sleep(pause)
            pause = min(pause * 2, 1)


class _Listener(logging.Handler):
    def __init__(self, heard: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self._heard.append(f"logged: {record.getMessage()}" + (f" {record.exc_info[1]!r}" if record.exc_info else ""))


async def _serve(
    service: Service, *, task_status: trio.TaskStatus[Callable[[trio.SocketStream], None]] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve connections in memory, until cancelled."""

    async def serving(nursery: trio.Nursery) -> None:
        task_status.started(partial(nursery.start_soon, service.serve_stream))
        await trio.sleep_forever()

    await service.serve(serving)


def _tasks(servers: trio.Nursery) -> Iterator[trio.lowlevel.Task]:
    """All tasks there are, without the servers'."""
    root = trio.lowlevel.current_root_task()
    waiting = [] if root is None else [root]
    while waiting:
        task = waiting.pop()
        yield task
        for nursery in task.child_nurseries:
            if nursery is not servers:
                waiting += nursery.child_tasks
