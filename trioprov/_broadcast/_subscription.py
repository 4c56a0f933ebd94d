"""A reader's channel, as the user has it."""

from __future__ import annotations

import os
import weakref
from contextlib import suppress
from typing import Self, TypeVar

import trio

from ._log import Broadcast, Cursor

T = TypeVar("T")


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

    @trio.lowlevel.enable_ki_protection
    async def receive(self) -> T:
        """The next event; a checkpoint when it waits, and at least at every 64th event.

        Raises:
            trio.EndOfChannel: the last event was received.
            trio.ClosedResourceError: this subscription was closed.
        """
        return await self._broadcast.next(self._cursor)

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> T:
        cursor = self._cursor
        position = cursor.position
        if position < cursor.ready:  # the beginning of `next`, for a third less than its call
            cursor.position = position + 1
            return self._broadcast.items[position]
        try:
            return await self._broadcast.next(cursor)
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    @trio.lowlevel.enable_ki_protection
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

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Stop receiving: idempotent, and disturbs nobody else."""
        self._cursor.closed = True
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
        return self._broadcast.statistics(self._cursor)


@trio.lowlevel.enable_ki_protection
def _leave(token: trio.lowlevel.TrioToken, pid: int, broadcast: Broadcast[T], cursor: Cursor[T]) -> None:
    # A collection may run in any thread, and in a forked child, where the loop is not ours.
    if os.getpid() == pid and not cursor.closed:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(broadcast.leave, cursor)
