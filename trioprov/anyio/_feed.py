"""A subscriber on the loop, reading the log that trio writes.

Nothing is copied. The reader looks at the log's own list, and moves its own cursor, which nobody else does; trio hears
of it only when the writer may be waiting, and the loop hears of the log only when somebody here is. So what crosses is
wake-ups, one for all the streams that have something.

Rule 1: whoever waits first says so, and then looks once more; whoever publishes first publishes, and then looks who
waits. So one of the two sees the other.
Rule 2: whoever makes room first makes it, and then looks whether the buffer was full before. The writer looks, and
waits, in one step of trio, and what wakes it is queued behind that step.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import Generic, TypeVar

import trio
from anyio.lowlevel import checkpoint

from .._broadcast import STRIDE, Broadcast, Cursor
from ._crossing import Mailbox
from ._thread import TrioThread

T = TypeVar("T")

# How long the writer may not hear of room in a buffer that was full, in seconds: so long it may become more, and then
# one wake-up does for all of it.
_MOMENT = 0.002


class Feed(Generic[T]):
    """One cursor, moved by the loop."""

    def __init__(self, mailbox: Mailbox, thread: TrioThread, log: Broadcast[T], cursor: Cursor[T]) -> None:
        self._mailbox = mailbox
        self._thread = thread
        self._log = log
        self._cursor = cursor
        self._waiters: list[asyncio.Future[None]] = []
        self._armed = False
        self._was_full = False
        if cursor.when_full is not None:
            weakref.finalize(self, _leave, thread, log, cursor).atexit = False

    async def receive(self) -> T:
        """The next item; a checkpoint when it waits, and at least at every 64th."""
        cursor, log = self._cursor, self._log
        self._thread.check()
        if cursor.position - cursor.rested >= STRIDE:
            cursor.rested = cursor.position
            await checkpoint()
        position = cursor.position
        if cursor.when_full is None and position < len(log.items):
            cursor.position = position + 1
            return log.items[position]
        waited = False
        while not cursor.closed:
            if cursor.position < len(log.items) or log.closed or cursor.ended:
                return self._take(waited=waited)
            if self._mailbox.over:
                break
            await self._wait()
            cursor.rested = cursor.position
            waited = True
        raise trio.ClosedResourceError

    def receive_nowait(self) -> T:
        """The next item, if it is there."""
        self._thread.check()
        if self._cursor.closed:
            raise trio.ClosedResourceError
        return self._take()

    def close(self) -> None:
        """Stop receiving: idempotent, and disturbs nobody else."""
        if not self._cursor.closed:
            self._cursor.closed = True
            self._thread.soon(self._log.leave, self._cursor)
            self._wake()

    def statistics(self) -> trio.MemoryChannelStatistics:
        """How full the buffer is and was, and who waits."""
        return self._log.statistics(self._cursor)

    def _take(self, *, waited: bool = False) -> T:
        cursor = self._cursor
        item = self._log.pick(cursor, waited=waited)
        if cursor.ended:
            self._thread.soon(self._log.leave, cursor)
        self._make_room()
        return item

    def _make_room(self) -> None:
        """Let the writer look again, when half of a buffer that was full is free, or a moment has passed."""
        cursor, log = self._cursor, self._log
        if cursor.when_full == "wait" and not log.closed:
            unread = cursor.unread(len(log.items))
            # It stood at one more before what was done just now.
            begins = not self._was_full and unread + 1 >= cursor.limit
            self._was_full = self._was_full or begins
            if unread <= cursor.limit // 2 or not self._mailbox.is_here():
                self._tell_writer()
            elif begins:
                self._mailbox.loop.call_later(_MOMENT, self._tell_writer)

    def _tell_writer(self) -> None:
        if self._was_full:
            self._was_full = False
            self._thread.soon(self._log.wake_writers)

    async def _wait(self) -> None:
        self._mailbox.check()
        cursor, log, waiter = self._cursor, self._log, self._mailbox.loop.create_future()
        self._waiters.append(waiter)
        self._mailbox.expect(self._wake)
        cursor.waiting += 1
        try:
            self._make_room()
            if not self._armed:
                self._armed = True
                log.alarms.append(self._ring)
            if cursor.position == len(log.items) and not (log.closed or self._mailbox.over):
                await waiter
        finally:
            cursor.waiting -= 1
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            if not self._waiters:
                self._mailbox.forget(self._wake)

    def _ring(self) -> None:
        """In trio: something was published."""
        self._armed = False
        self._mailbox.post(self._wake)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def _leave(thread: TrioThread, log: Broadcast[T], cursor: Cursor[T]) -> None:
    if not cursor.closed:
        thread.soon(log.leave, cursor)
