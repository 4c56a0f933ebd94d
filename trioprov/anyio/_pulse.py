"""Lets trio have the interpreter, where the loop never rests.

A thread that waits for the interpreter asks for it when it has waited for 5 ms (`sys.setswitchinterval`). But each time
that the interpreter is free, if only for the moment in which a loop looks for events, the wait begins anew, and that
moment is shorter than it takes to wake up. So beside a loop that always has a millisecond's work, a thread may get
nothing done for seconds; and trio gives the interpreter away at every system call, so that it needs it often.

So while somebody waits for trio, there is a pulse in the loop. Where it finds the loop busy, it becomes fast, and at
each beat the loop waits: for a moment, in which trio can begin; and if it has, until it has done what there is to do.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import trio

# Seconds between two beats, while the loop is found to rest, and while it is not.
_SLOW = 0.01
_FAST = 0.002

# How long one turn of the loop takes if it has other things to do, in seconds; and how often it must be found to have
# none, to be believed.
_BUSY = 0.0003
_CALM = 25

# The moment, and the longest that the loop gives way at a time, in seconds.
_MOMENT = 0.00005
_LEEWAY = 0.005


class Pulse(trio.abc.Instrument):
    """One for each thread.

    Args:
        loop: the loop.
        wanted: whether anybody waits for trio.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, wanted: Callable[[], bool]) -> None:
        self._loop = loop
        self._wanted = wanted
        self._beating = False
        self._gives_way = False
        self._calm = 0
        self._rests = threading.Event()
        self._rests.set()

    # -- In the loop -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Somebody begins to wait."""
        if not self._beating:
            self._beating = True
            self._calm = _CALM
            self._loop.call_later(_SLOW, self._beat)

    def _beat(self) -> None:
        if self._wanted():
            self._loop.call_soon(self._look, time.monotonic())
        else:
            self._beating = self._gives_way = False

    def _look(self, since: float) -> None:
        self._calm = 0 if time.monotonic() - since > _BUSY else self._calm + 1
        self._gives_way = self._calm < _CALM
        if self._gives_way:
            time.sleep(_MOMENT)
            self._rests.wait(_LEEWAY)
        self._loop.call_later(_FAST if self._gives_way else _SLOW, self._beat)

    # -- In trio -----------------------------------------------------------------------------------------------------

    def after_io_wait(self, timeout: float) -> None:
        """Trio has something to do."""
        if self._gives_way:
            self._rests.clear()

    def before_io_wait(self, timeout: float) -> None:
        """Trio has done it."""
        if timeout > 0 and not self._rests.is_set():
            self._rests.set()
