"""One run of a scenario, struck at one point: everything is set up, and asked afterwards what is left."""

from __future__ import annotations

import gc
import logging
import threading
import warnings
from collections.abc import Awaitable, Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import trio
import trio.testing

from .._client import Client, open_client
from ._emulator import Emulator
from ._memory import MemoryNetwork
from ._service import Service
from ._strike import WAYS, Points, same_order

# Seconds in which everything must have ended after a scenario has; in memory they are virtual.
_PATIENCE = 60.0

# What a run does to the process (the order of trio's tasks, warnings, logging), only one may do at a time.
_alone = threading.Lock()


class Once:
    """One run of a scenario.

    Args:
        scenario: given its providers already.
        emulators: whom to ask.
        served: those of them that this run has to serve.
        how: what is delivered.
        at: at which point; 0: never.
        kept: ids that are to stay.

    Attributes:
        points: counts them.
        error: the first exception that came out, other than what was delivered.
        orphans: conversations that were left on a server.
        problems: what else was left or went wrong.
    """

    def __init__(
        self,
        scenario: Callable[[Client], Awaitable[object]],
        emulators: Sequence[Emulator[Any]],
        served: Sequence[Service],
        how: str,
        at: int,
        kept: Collection[str | None],
    ) -> None:
        self.points = Points(at)
        self.error: Exception | None = None
        self._scenario = scenario
        self._emulators = emulators
        self._served = served
        self._how = how
        self._kept = kept
        self._before: set[str] = set()
        self.orphans: list[str] = []
        self.problems: list[str] = []

    def run(self, seed: int) -> None:
        """Run, in a thread that has no trio."""
        clock = trio.testing.MockClock(autojump_threshold=0) if self._served else None
        with _alone, same_order(seed), self._overheard():
            try:
                trio.run(self._main, clock=clock)
            except Exception as error:
                self._raised(error)

    async def _main(self) -> None:
        network = MemoryNetwork()
        if self._served:
            trio.socket.set_custom_socket_factory(network)
        async with trio.open_nursery() as servers:
            for port, service in enumerate(self._served, 1):
                network.servers[port] = await servers.start(_serve, service)
            others = set(_tasks(servers))
            self._before = set(self._alive())
            kept = set(self._kept)
            try:
                await self._strike(lambda: set(_tasks(servers)) - others)
            except Exception as error:
                self._raised(error)
            await self._ask(set(self._kept) - kept, lambda: set(_tasks(servers)) - others)
            servers.cancel_scope.cancel()

    async def _strike(self, tasks: Callable[[], set[trio.lowlevel.Task]]) -> None:
        """Run the scenario, with a client that is struck too, or with one that nothing happens to."""
        if self._how != "cancel":
            await WAYS[self._how](self._with_client, self.points)
            return
        async with open_client() as client:
            try:
                await WAYS[self._how](partial(self._scenario, client), self.points)
            except Exception as error:
                self._raised(error)
            gc.collect(1)  # a handle that was dropped closes now
            await trio.testing.wait_all_tasks_blocked()
            await _patience(lambda: not tasks())
            self.problems += [f"a task goes on until the client is left: {task.name}" for task in tasks()]

    async def _with_client(self) -> None:
        async with open_client() as client:
            await self._scenario(client)

    def _raised(self, error: Exception) -> None:
        self.error = self.error or error
        self.problems.append(f"it raised {error!r}")

    def _alive(self) -> dict[str, str]:
        """Which conversations there are now, and where, but for those from before."""
        found = {id: emulator.name for emulator in self._emulators for id in emulator.conversations}
        return {id: name for id, name in found.items() if id not in self._before}

    async def _ask(self, kept: set[str | None], tasks: Callable[[], set[trio.lowlevel.Task]]) -> None:
        """What is left."""
        at_once = self._alive()
        gc.collect(1)
        await trio.testing.wait_all_tasks_blocked()
        await _patience(lambda: not tasks())
        self.problems += [f"a task goes on: {task.name}" for task in tasks()]
        in_the_end = self._alive()
        for id, name in (at_once | in_the_end).items():
            if id in in_the_end and id not in self._kept:
                self.orphans.append(f"conversation {id} on {name}")
            elif id not in in_the_end:
                self.problems.append(f"conversation {id} on {name} was deleted after the client had been left")
        self.problems += [f"conversation {id} was kept, and is gone" for id in kept - in_the_end.keys()]
        for emulator in self._emulators:
            if emulator.worker_crashes:
                self.problems.append(f"{emulator.name}: a worker was broken")
            await _patience(lambda emulator=emulator: not emulator.connections and not emulator.generating)
            if emulator.generating:
                self.problems.append(f"{emulator.name} goes on generating")
            if emulator.connections:
                self.problems.append(f"{emulator.connections} connections to {emulator.name} are open")
            self.problems += [f"the emulator of {emulator.name} failed: {error!r}" for error in emulator.errors]

    @contextmanager
    def _overheard(self) -> Generator[None]:
        """Hear warnings and what is logged as an error; what is left to the collector warns here, not by chance."""
        handler = _Listener(self.problems)
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
        self.problems += [f"{one.category.__name__}: {one.message}" for one in caught]


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
