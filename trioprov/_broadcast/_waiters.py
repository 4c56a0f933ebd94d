"""Tasks that wait for one event, which comes again and again."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial

import trio
from trio.lowlevel import Abort, RaiseCancelT, Task


class Waiters:
    """A `trio.lowlevel.ParkingLot` without its order, and without its price: all are woken at once.

    Waiting makes half as many objects, all of which the garbage collector looks at again and again while a thousand
    streams wait for their tokens.
    """

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks: dict[Task, None] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    @trio.lowlevel.enable_ki_protection
    def wait(self) -> Awaitable[None]:
        """Await it at once: a checkpoint, until the next `wake`."""
        task = trio.lowlevel.current_task()
        self._tasks[task] = None
        return trio.lowlevel.wait_task_rescheduled(partial(self._leave, task))  # noqa: ASYNC105 - as it says

    @trio.lowlevel.enable_ki_protection
    def wake(self) -> None:
        """Let all go on; not a checkpoint."""
        for task in self._tasks:
            trio.lowlevel.reschedule(task)
        self._tasks.clear()

    def _leave(self, task: Task, _: RaiseCancelT) -> Abort:
        del self._tasks[task]
        return Abort.SUCCEEDED
