"""One writer, many readers: an append-only log, and a cursor for each reader.

The writer appends and wakes; what a reader costs, it pays itself. So the writer's work does not grow with readers that
keep up, a late reader replays for nothing, and memory is one list however many read it. Knows nothing of what it
carries.

A reader may live in another thread than the writer: it may `subscribe`, `pick`, look, and ask to be called (`alarms`).
It reads what was published before it looked; so the order in which the writer changes things matters. Whatever wakes a
task is for the writer's thread alone.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, Literal, TypeVar

import trio

from ._waiters import Waiters

T = TypeVar("T")

WhenFull = Literal["wait", "drop_oldest", "detach"]

# How many items a reader may take without a checkpoint: few enough that a cancellation is never far, and enough that
# its cost (1.4 µs a checkpoint) does not show.
STRIDE = 64


class Cursor(Generic[T]):
    """Where one reader stands; the part of a subscription that the log knows.

    Attributes:
        position: the next item it takes.
        live_from: the first item that was not there when it subscribed.
        cut_off: where it was detached, if it was; ``ended`` once it knows.
        waiting: how many tasks wait for the next item.
        rested: its position at its last checkpoint.
        ready: up to here it may take without a look at the rest. Whatever could change that sets it back to 0; so it
            is 0 when the buffer is full, and a writer that waits for room hears of the first item that is taken.
    """

    __slots__ = (
        *("closed", "cut_off", "ended", "limit", "live_from", "peak"),
        *("position", "ready", "rested", "waiting", "when_full"),
    )

    def __init__(self, position: int, live_from: int, limit: float, when_full: WhenFull | None) -> None:
        self.position = position
        self.live_from = live_from
        self.limit = limit
        self.when_full = when_full
        self.closed: bool = False
        self.ended = False
        self.cut_off: int | None = None
        self.peak = 0
        self.ready = 0
        self.rested = position
        self.waiting = 0

    def unread(self, end: int) -> int:
        """How many items are in the buffer: not the replayed ones, nor those for which a task waits with open hands.

        Less than 0 if there are more hands than items.
        """
        return end - max(self.position, self.live_from) - self.waiting


class Broadcast(Generic[T]):
    """The log of one reply.

    Args:
        lagged: makes the item that tells a reader how many it missed.
    """

    def __init__(self, lagged: Callable[[int], T]) -> None:
        self.items: list[T] = []
        """All that was published; only for reading."""
        self._lagged = lagged
        self._cursors: list[Cursor[T]] = []
        self._readers = Waiters()
        self._writer = Waiters()
        self.closed: bool = False
        self.alarms: list[Callable[[], None]] = []
        """Each is called once, in the writer's thread, after the next change; it must not raise."""
        self._last_from: float = math.inf

    def __len__(self) -> int:
        return len(self.items)

    # -- The writer's side -------------------------------------------------------------------------------------------

    def room(self) -> float:
        """How many items may be published before a reader that holds the stream back has its buffer full."""
        end = len(self.items)
        room = math.inf
        for cursor in self._cursors:
            if cursor.when_full == "wait":
                room = min(room, cursor.limit - cursor.unread(end))
        return room

    async def wait_room(self) -> None:
        """Wait until `room` is more than 0; a checkpoint only if it waits."""
        while Broadcast[T].room(self) <= 0:  # a subclass has more to wait for, but elsewhere
            await self.wait_for_readers()

    async def wait_for_readers(self) -> None:
        """Wait until a reader makes room, or `wake_writers`."""
        await self._writer.wait()

    def wake_writers(self) -> None:
        """Let whoever waits for room look again."""
        self._writer.wake()

    def publish(self, items: Iterable[T]) -> None:
        """Append, and wake whoever waits. Does not look at `room`: that is the writer's to respect."""
        self.items.extend(items)
        end = len(self.items)
        for cursor in self._cursors:
            unread = cursor.unread(end)
            if unread > cursor.peak:
                cursor.peak = unread
            cursor.ready = 0
            if unread > cursor.limit and cursor.when_full == "detach" and cursor.cut_off is None:
                cursor.cut_off = end - unread + int(cursor.limit)
        self._readers.wake()
        if self.alarms:
            self._sound()

    def close(self, *last: T) -> None:
        """Publish the last item, which nobody misses, and end the log; nobody holds anything back any more."""
        if not self.closed:
            self._last_from = len(self.items)
            self.items.extend(last)
            self.closed = True
            self._cursors.clear()
            self._readers.wake()
            self._writer.wake()
            self._sound()

    def _sound(self) -> None:
        while self.alarms:  # one by one, since a reader in another thread may be adding one
            self.alarms.pop()()

    # -- The readers' side -------------------------------------------------------------------------------------------

    def subscribe(self, *, buffer: float, when_full: WhenFull | None, replay: bool) -> Cursor[T]:
        """A new cursor: at the first item with ``replay``, else at the next (after the end: at the last)."""
        end = len(self.items)
        start = 0 if replay else int(min(end, self._last_from))
        cursor: Cursor[T] = Cursor(start, end, buffer, when_full)
        if when_full is not None and not self.closed:
            self._cursors.append(cursor)
        return cursor

    def leave(self, cursor: Cursor[T]) -> None:
        """The reader is gone: it holds nothing back any more."""
        cursor.ready = 0
        if cursor in self._cursors:
            self._cursors.remove(cursor)
        if cursor.waiting:
            self._readers.wake()
        self._writer.wake()

    def take(self, cursor: Cursor[T], *, waited: bool = False) -> T:
        """The cursor's next item; one that was waited for is never dropped.

        Raises:
            trio.WouldBlock: there is none yet.
            trio.EndOfChannel: there will be none.
        """
        item = self.pick(cursor, waited=waited)
        if cursor.ended:
            self.leave(cursor)
        elif cursor.when_full == "wait" and self._writer:
            self._writer.wake()
        return item

    def pick(self, cursor: Cursor[T], *, waited: bool = False) -> T:
        """The same, from any thread: nobody is told that there is room, or that the cursor has ``ended``."""
        end, position = len(self.items), cursor.position
        if cursor.cut_off is not None and position >= cursor.cut_off:
            if cursor.ended:
                raise trio.EndOfChannel
            cursor.ended = True
            return self._lagged(end - position)
        if cursor.when_full == "drop_oldest" and position >= cursor.live_from and not waited:
            # The last item of a closed log is for everybody, so it is not one of those that fill the buffer.
            surplus = cursor.unread(int(min(end, self._last_from))) - cursor.limit
            if surplus > 0:
                cursor.position += int(surplus)
                return self._lagged(int(surplus))
        if position == end:
            # What was published last stands there before the log says that it is closed.
            if not self.closed:
                raise trio.WouldBlock
            if position == len(self.items):
                raise trio.EndOfChannel
        cursor.position += 1
        return self.items[position]

    async def next(self, cursor: Cursor[T]) -> T:
        """The cursor's next item, waited for; a checkpoint when it waits, and at every 64th item."""
        position = cursor.position
        if position < cursor.ready:
            cursor.position = position + 1
            return self.items[position]
        if position - cursor.rested >= STRIDE:
            await trio.lowlevel.checkpoint()
            cursor.rested = cursor.position
        waited = False
        while not cursor.closed:
            if cursor.position < len(self.items) or self.closed or cursor.cut_off is not None:
                item = self.take(cursor, waited=waited)
                if not waited:
                    self._get_ready(cursor)
                return item
            cursor.waiting += 1
            if self._writer:
                self._writer.wake()
            try:
                await self._readers.wait()
            finally:
                cursor.waiting -= 1
            cursor.rested = cursor.position
            waited = True
        raise trio.ClosedResourceError

    def here(self, cursor: Cursor[T]) -> list[T]:
        """The next items of a cursor without a buffer, as many as it may take without a checkpoint; maybe none."""
        items = self.items[cursor.position : cursor.rested + STRIDE]
        cursor.position += len(items)
        return items

    def more(self, cursor: Cursor[T]) -> Awaitable[None]:
        """When `here` had none; await it at once: a checkpoint, until there are some.

        Raises:
            trio.EndOfChannel: there will be none.
        """
        cursor.rested = cursor.position
        if cursor.position < len(self.items):
            return trio.lowlevel.checkpoint()  # noqa: ASYNC105 - it is awaited by who calls this
        if self.closed:
            raise trio.EndOfChannel
        return self._readers.wait()

    def _get_ready(self, cursor: Cursor[T]) -> None:
        """Note how far the cursor may go without a look at its buffer, which begins where the replay ends."""
        live = cursor.position > cursor.live_from
        cursor.ready = min(self._end(cursor) if live else cursor.live_from, cursor.rested + STRIDE)

    def _end(self, cursor: Cursor[T]) -> int:
        return len(self.items) if cursor.cut_off is None else cursor.cut_off

    def statistics(self, cursor: Cursor[T]) -> trio.MemoryChannelStatistics:
        """How full the cursor's buffer is and was, and who waits."""
        gone = cursor.closed or cursor.ended
        unread = 0 if gone else min(max(0, cursor.unread(self._end(cursor))), cursor.limit)
        return trio.MemoryChannelStatistics(
            current_buffer_used=int(unread),
            max_buffer_size=cursor.limit,
            open_send_channels=int(not self.closed),
            open_receive_channels=int(not gone),
            tasks_waiting_send=len(self._writer),
            tasks_waiting_receive=cursor.waiting,
            peak_buffer_used=int(min(max(cursor.peak, unread), cursor.limit)),
        )
