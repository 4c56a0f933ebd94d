"""Strike a scenario at one point: by a cancellation, by an exception, by the crash of a sibling.

A point is a step of the scheduler (some task is about to run), or a moment in which every task waits. Between two
points nothing happens that a task could notice.
"""

from __future__ import annotations

import os
import random
import threading
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, cast
from unittest import mock

import outcome
import trio

Body = Callable[[], Awaitable[object]]

# A deadline that nobody else has.
_MARK = -12345.678


class Struck(Exception):
    """What is raised in the scenario, or beside it."""


class Points(trio.abc.Instrument):
    """Counts the points while a scenario runs, and strikes at one of them.

    Args:
        at: at which; the first one is 1.

    Attributes:
        where: what was about to happen there; empty until it was reached.
    """

    def __init__(self, at: int) -> None:
        self.where = ""
        self._left = at
        self._strike: Callable[[], object] = lambda: None

    @contextmanager
    def counted(self, strike: Callable[[], object]) -> Generator[None]:
        """Count what happens inside, and call ``strike`` at the point that was asked for."""
        self._strike = strike
        trio.lowlevel.add_instrument(self)
        try:
            yield
        finally:
            with suppress(KeyError):
                trio.lowlevel.remove_instrument(self)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Somebody runs next: the scenario, the library, or, in memory, the server."""
        self._left -= 1
        if not self._left:
            self._reached(_place(task))
            self._strike()

    def before_io_wait(self, timeout: float) -> None:
        """Perhaps nobody does."""
        if not trio.lowlevel.current_statistics().tasks_runnable:
            self._left -= 1
            if not self._left:
                self._reached("while everybody waits")
                # This wait has its timeout already, so it has to be woken.
                trio.lowlevel.current_trio_token().run_sync_soon(self._strike)

    def _reached(self, where: str) -> None:
        self.where = where
        trio.lowlevel.remove_instrument(self)


async def cancel(body: Body, points: Points) -> None:
    """Cancel the scope that the scenario is in."""
    with trio.CancelScope() as scope, points.counted(scope.cancel):
        await body()


async def crash(body: Body, points: Points) -> None:
    """Let a task crash that is in one nursery with the scenario's; it does at its next step."""
    crashing = trio.Event()

    async def sibling() -> None:
        await crashing.wait()
        raise Struck

    async def scenario() -> None:
        with points.counted(crashing.set):
            await body()
        nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sibling)
            nursery.start_soon(scenario)
    except* Struck:
        pass


async def throw(body: Body, points: Points) -> None:
    """Raise an exception out of whatever the scenario's own task waits for: there, or where it does next.

    Not inside a shield, and from a nursery's wait for its children the way Ctrl-C comes: what nobody can interrupt is
    not interrupted.
    """
    with trio.CancelScope() as scope:
        thrower = _Thrower(scope)
        trio.lowlevel.add_instrument(thrower)
        try:
            with points.counted(thrower.strike):
                await thrower.drive(_awaited(body))
        except* Struck:
            pass


WAYS: Mapping[str, Callable[[Body, Points], Awaitable[None]]] = {"cancel": cancel, "exception": throw, "crash": crash}


async def _awaited(body: Body) -> None:
    await body()


class _Thrower(trio.abc.Instrument):
    """Drives a coroutine, and can have what it waits for raise.

    Args:
        scope: the innermost one around the coroutine.
    """

    def __init__(self, scope: trio.CancelScope) -> None:
        self._scope = scope
        self._task = trio.lowlevel.current_task()
        self._due = False
        self._abort: Callable[[Callable[[], Any]], trio.lowlevel.Abort] | None = None

    def strike(self) -> None:
        self._due = True
        if self._interrupted():
            trio.lowlevel.reschedule(self._task, outcome.Error(Struck()))

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """Its wait is over."""
        if task is self._task:
            self._abort = None

    @types.coroutine
    def drive(self, coroutine: Coroutine[Any, Any, object]) -> Generator[Any, Any, None]:
        result: object = None
        while True:
            try:
                trap = coroutine.send(result)
            except StopIteration:
                return
            # What trio's `wait_task_rescheduled` yields has the function that interrupts the wait; trio has no public
            # name for that. Without it, nothing would be raised here.
            self._abort = None if self._shielded() else getattr(trap, "abort_func", None)
            if self._due and self._interrupted():
                result = outcome.Error(Struck())
            else:
                result = yield trap
            self._abort = None

    def _shielded(self) -> bool:
        self._scope.deadline = _MARK
        shielded = trio.current_effective_deadline() != _MARK
        self._scope.deadline = float("inf")
        return shielded

    def _interrupted(self) -> bool:
        """Whether the wait has been broken off, and the coroutine can go on by raising."""
        abort, self._abort = self._abort, None
        return abort is not None and abort(self._raise) is trio.lowlevel.Abort.SUCCEEDED

    def _raise(self) -> None:
        self._due = False
        raise Struck


def same_order(seed: int) -> AbstractContextManager[object]:
    """Make trio take the tasks that are ready at the same time in an order that depends on the seed alone.

    Trio chooses it by chance, on purpose; how to make it choose the same again is its own tests' secret, and that of
    pytest-trio. If a later trio has other secrets, the order is by chance, and a sweep is as thorough, but the steps
    of two runs are not the same ones.
    """
    internals = trio._core._run  # type: ignore[attr-defined] # pyright: ignore
    return mock.patch.multiple(
        cast("Any", internals), create=True, _r=_Dice(seed), _ALLOW_DETERMINISTIC_SCHEDULING=True
    )


class _Dice(threading.local):
    """Chance, as a seed gives it, for each thread from the beginning: what trio does in another one changes nothing."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._random, name)


def _place(task: trio.lowlevel.Task) -> str:
    """The task, and the innermost line of it that is not trio's."""
    here = os.path.dirname(trio.__file__)
    place = ""
    for frame, line in task.iter_await_frames():
        file = frame.f_code.co_filename
        if not file.startswith(here):
            place = f" at {'/'.join(file.split(os.sep)[-2:])}:{line}"
    return f"{task.name}{place}"
