"""One writer, many readers: an append-only log, and a cursor for each reader.

The writer appends and wakes; what a reader costs, it pays itself. So the writer's work does not grow with readers that
keep up, a late reader replays for nothing, and memory is one list however many read it. Knows nothing of what it
carries.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Generic, Literal, Self, TypeVar

import trio

T = TypeVar("T")

WhenFull = Literal["wait", "drop_oldest", "detach"]

# How many items a reader may take without a checkpoint: few enough that a cancellation is never far, and enough that
# its cost (1.4 µs a checkpoint) does not show.
_STRIDE = 64


class Cursor(Generic[T]):
    """Where one reader stands; the part of a subscription that the log knows."""

    __slots__ = ("closed", "cut_off", "limit", "live_from", "peak", "position", "taken", "waiting", "when_full")

    def __init__(self, position: int, live_from: int, limit: float, when_full: WhenFull | None) -> None:
        self.position = position
        self.live_from = live_from
        self.limit = limit
        self.when_full = when_full
        self.closed = False
        self.cut_off: int | None = None
        self.peak = 0
        self.taken = 0
        self.waiting = 0

    def unread(self, end: int) -> int:
        """How many items that arrived after the subscription are unread; replayed ones do not count."""
        return end - max(self.position, self.live_from)


class Broadcast(Generic[T]):
    """The log of one reply.

    Args:
        lagged: makes the item that tells a reader how many it missed.
    """

    def __init__(self, lagged: Callable[[int], T]) -> None:
        self._log: list[T] = []
        self._lagged = lagged
        self._cursors: list[Cursor[T]] = []
        self._readers = trio.lowlevel.ParkingLot()
        self._writer = trio.lowlevel.ParkingLot()
        self.closed = False
        self._last = 0

    def __len__(self) -> int:
        return len(self._log)

    # -- The writer's side -------------------------------------------------------------------------------------------

    def room(self) -> float:
        """How many items may be published before a reader that holds the stream back has its buffer full."""
        end = len(self._log)
        room = math.inf
        for cursor in self._cursors:
            if cursor.when_full == "wait":
                # Whoever waits takes the next item at once, so that a buffer of 0 hands over from hand to hand.
                room = min(room, cursor.limit - cursor.unread(end) + min(cursor.waiting, 1))
        return room

    async def wait_room(self) -> None:
        """Wait until `room` is more than 0; a checkpoint only if it waits."""
        while self.room() <= 0:
            await self._writer.park()

    def publish(self, items: Iterable[T]) -> None:
        """Append, and wake whoever waits. Does not look at `room`: that is the writer's to respect."""
        self._log.extend(items)
        end = len(self._log)
        for cursor in self._cursors:
            unread = cursor.unread(end)
            cursor.peak = max(cursor.peak, unread)
            if unread > cursor.limit and cursor.when_full == "detach" and cursor.cut_off is None:
                cursor.cut_off = max(cursor.position, cursor.live_from) + int(cursor.limit)
        self._readers.unpark_all()

    def close(self, *last: T) -> None:
        """Publish the last item, which nobody misses, and end the log."""
        if not self.closed:
            self.closed = True
            self._last = len(last)
            self._log.extend(last)
            self._readers.unpark_all()
            self._writer.unpark_all()

    @property
    def waiting_writers(self) -> int:
        """How many tasks wait for room."""
        return self._writer.statistics().tasks_waiting

    # -- The readers' side -------------------------------------------------------------------------------------------

    def subscribe(self, *, buffer: float, when_full: WhenFull | None, replay: bool) -> Cursor[T]:
        """A new cursor: at the first item with ``replay``, else at the next (after the end: at the last)."""
        end = len(self._log)
        start = 0 if replay else end - self._last
        cursor: Cursor[T] = Cursor(start, end, buffer, when_full)
        if when_full is not None and not self.closed:
            self._cursors.append(cursor)
        return cursor

    def leave(self, cursor: Cursor[T], *, closed: bool = True) -> None:
        """The reader is gone: it holds nothing back any more."""
        cursor.closed = closed
        if cursor in self._cursors:
            self._cursors.remove(cursor)
        self._readers.unpark_all()
        self._writer.unpark_all()

    def take(self, cursor: Cursor[T]) -> T:
        """The cursor's next item.

        Raises:
            trio.WouldBlock: there is none yet.
            trio.EndOfChannel: there will be none.
        """
        end = len(self._log)
        if cursor.cut_off is not None and cursor.position >= cursor.cut_off:
            missed, cursor.position = end - cursor.position, end
            if missed:
                self.leave(cursor, closed=False)
                return self._lagged(missed)
            raise trio.EndOfChannel
        if cursor.when_full == "drop_oldest" and cursor.position >= cursor.live_from:
            # The last item of a closed log is for everybody, so it is not one of those that fill the buffer.
            surplus = cursor.unread(end - self._last) - cursor.limit
            if surplus > 0:
                cursor.position += int(surplus)
                return self._lagged(int(surplus))
        if cursor.position == end:
            raise trio.EndOfChannel if self.closed else trio.WouldBlock
        item = self._log[cursor.position]
        cursor.position += 1
        if cursor.when_full == "wait" and self._writer:
            self._writer.unpark_all()
        return item

    async def next(self, cursor: Cursor[T]) -> T:
        """The cursor's next item, waited for; a checkpoint when it waits, and at every 64th item."""
        if cursor.closed:
            raise trio.ClosedResourceError
        cursor.taken += 1
        if cursor.taken % _STRIDE == 0:
            await trio.lowlevel.checkpoint()
        while True:
            if cursor.closed:
                raise trio.ClosedResourceError
            try:
                return self.take(cursor)
            except trio.WouldBlock:
                pass
            cursor.waiting += 1
            if self._writer:
                self._writer.unpark_all()
            try:
                await self._readers.park()
            finally:
                cursor.waiting -= 1


class Subscription(trio.abc.ReceiveChannel[T]):
    """One consumer's channel.

    Several tasks may receive from it; each item goes to one of them, as with trio's own channels. One that nobody
    refers to any more closes itself.
    """

    def __init__(self, broadcast: Broadcast[T], cursor: Cursor[T], keep_alive: object = None) -> None:
        self._broadcast = broadcast
        self._cursor = cursor
        self._keep_alive = keep_alive
        leave = weakref.finalize(self, _leave, trio.lowlevel.current_trio_token(), os.getpid(), broadcast, cursor)
        leave.atexit = False

    async def receive(self) -> T:
        """The next event; a checkpoint when it waits, and at least at every 64th event.

        Raises:
            trio.EndOfChannel: the last event was received.
            trio.ClosedResourceError: this subscription was closed.
        """
        return await self._broadcast.next(self._cursor)

    def receive_nowait(self) -> T:
        """The next event, if it is there.

        Raises:
            trio.WouldBlock: it is not.
            trio.EndOfChannel: the last event was received.
            trio.ClosedResourceError: this subscription was closed.
        """
        if self._cursor.closed:
            raise trio.ClosedResourceError
        return self._broadcast.take(self._cursor)

    def close(self) -> None:
        """Stop receiving: idempotent, and disturbs nobody else."""
        self._broadcast.leave(self._cursor)

    async def aclose(self) -> None:
        """`close`, then a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def statistics(self) -> trio.MemoryChannelStatistics:
        """How full the buffer is and was, and who waits; there is always one sender, until the reply has ended."""
        broadcast, cursor = self._broadcast, self._cursor
        unread = 0 if cursor.closed else max(0, cursor.unread(len(broadcast)))
        return trio.MemoryChannelStatistics(
            current_buffer_used=unread,
            max_buffer_size=cursor.limit,
            open_send_channels=int(not broadcast.closed),
            open_receive_channels=int(not cursor.closed),
            tasks_waiting_send=broadcast.waiting_writers,
            tasks_waiting_receive=cursor.waiting,
            peak_buffer_used=max(cursor.peak, unread),
        )


def _leave(token: trio.lowlevel.TrioToken, pid: int, broadcast: Broadcast[T], cursor: Cursor[T]) -> None:
    # A collection may run in any thread, and in a forked child, where the loop is not ours.
    if os.getpid() == pid and not cursor.closed:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(broadcast.leave, cursor)
