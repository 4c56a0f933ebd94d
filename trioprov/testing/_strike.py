"""Strike a scenario at one step of the scheduler: by a cancellation, by an exception, by the crash of a sibling."""

from __future__ import annotations

import os
import random
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast
from unittest import mock

import outcome
import trio

Body = Callable[[], Coroutine[Any, Any, object]]

# A deadline that nobody else has.
_MARK = -12345.678


class Struck(Exception):
    """What is raised in the scenario, or beside it."""


class Steps(trio.abc.Instrument):
    """Counts the scheduler's steps while a scenario runs, and strikes at one of them.

    Args:
        at: at which; the first one is 1.

    Attributes:
        count: how many there were.
        where: the task whose step it was, and where in it; empty until it was reached.
    """

    def __init__(self, at: int) -> None:
        self.count = 0
        self.where = ""
        self.rescheduled: Callable[[trio.lowlevel.Task], None] | None = None
        self._at = at
        self._strike: Callable[[], object] | None = None

    @contextmanager
    def counted(self, strike: Callable[[], object]) -> Generator[None]:
        """Count what happens inside, and call ``strike`` before the step that was asked for."""
        self._strike = strike
        try:
            yield
        finally:
            self._strike = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Whatever a scenario's task does, it does in steps; so do the library's, and the server's in between."""
        if self._strike is not None:
            self.count += 1
            if self.count == self._at:
                self.where = _place(task)
                self._strike()

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """Its wait is over."""
        if self.rescheduled is not None:
            self.rescheduled(task)


async def cancel(body: Body, steps: Steps) -> None:
    """Cancel the scope that the scenario is in."""
    with trio.CancelScope() as scope, steps.counted(scope.cancel):
        await body()


async def crash(body: Body, steps: Steps) -> None:
    """Let a task crash that is in one nursery with the scenario's; it does at its next step."""
    crashing = trio.Event()

    async def sibling() -> None:
        await crashing.wait()
        raise Struck

    async def scenario() -> None:
        with steps.counted(crashing.set):
            await body()
        nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sibling)
            nursery.start_soon(scenario)
    except* Struck:
        pass


async def throw(body: Body, steps: Steps) -> None:
    """Raise an exception out of whatever the scenario's own task waits for: there, or where it does next.

    Not inside a shield, and from a nursery's wait for its children the way Ctrl-C comes: what nobody can interrupt is
    not interrupted.
    """
    with trio.CancelScope() as scope:
        thrower = _Thrower(scope)
        steps.rescheduled = thrower.rescheduled
        try:
            with steps.counted(thrower.strike):
                await thrower.drive(body())
        except* Struck:
            pass


WAYS: Mapping[str, Callable[[Body, Steps], Awaitable[None]]] = {"cancel": cancel, "exception": throw, "crash": crash}


class _Thrower:
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

    def rescheduled(self, task: trio.lowlevel.Task) -> None:
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
        cast("Any", internals), create=True, _r=random.Random(seed), _ALLOW_DETERMINISTIC_SCHEDULING=True
    )


def _place(task: trio.lowlevel.Task) -> str:
    """The task, and the innermost line of it that is not trio's."""
    here = os.path.dirname(trio.__file__)
    place = ""
    for frame, line in task.iter_await_frames():
        file = frame.f_code.co_filename
        if not file.startswith(here):
            place = f" at {'/'.join(file.split(os.sep)[-2:])}:{line}"
    return f"{task.name}{place}"
