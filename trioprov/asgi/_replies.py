"""Replies that outlive a connection, for clients that come back."""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

from ._held import Held, Opening, Reader

log = logging.getLogger("trioprov")


class Replies:
    """The replies of one application that can be resumed. Made by `open_replies`.

    They are in this process: with several workers, a client must come back to the one it left.
    """

    def __init__(self, group: TaskGroup, linger: float, max_lingering: int) -> None:
        self._group = group
        self._linger = linger
        self._max_lingering = max_lingering
        self._held: dict[str, Held] = {}
        self._lingering: dict[str, Held] = {}  # the oldest first

    def __len__(self) -> int:
        """How many replies are held, with and without a reader."""
        return len(self._held)

    def stop(self, event_id: str) -> bool:
        """Stop a reply: its reader gets the end, and its conversation is deleted. Sync, idempotent.

        A client that leaves has not said this: it may have been cut off. For one that means it, have an endpoint that
        calls this.

        Args:
            event_id: the id of any of its events (``event.lastEventId`` in a browser).

        Returns:
            Whether there is such a reply.
        """
        held = self.find(event_id.partition(":")[0])
        if held is None:
            return False
        if held.reply is None:
            held.scope.cancel()
        else:
            held.reply.stop()
        return True

    # -- For responses -----------------------------------------------------------------------------------------------

    def hold(self, opening: Opening) -> Held:
        """Open a reply, in a task of its own.

        Raises:
            anyio.ClosedResourceError: the block of `open_replies` was left.
        """
        if self._group.cancel_scope.cancel_called:
            raise anyio.ClosedResourceError("these replies are closed: the block of open_replies was left")
        # Whoever knows the name can read the reply, so it is one that nobody guesses.
        held = Held(opening, name=secrets.token_urlsafe(16), linger=self._linger)
        self._group.start_soon(self._keep, held, name="trioprov reply")
        self._held[held.name] = held
        return held

    def find(self, name: str) -> Held | None:
        """The reply of that name, if it is still there."""
        held = self._held.get(name)
        return None if held is None or held.scope.cancel_called else held

    def come(self, held: Held, reader: Reader) -> None:
        """Somebody reads it."""
        self._lingering.pop(held.name, None)
        held.come(reader)

    def leave(self, held: Held, reader: Reader, *, resumable: bool) -> None:
        """And reads no more; ``resumable``: it knows enough to come back."""
        if held.reader is not reader:
            return
        if not resumable:
            held.scope.cancel()
        held.allow(reader, 0)
        held.reader = None
        if held.name in self._held:
            self._lingering[held.name] = held
            while len(self._lingering) > self._max_lingering:
                self._lingering.pop(next(iter(self._lingering))).scope.cancel()

    async def _keep(self, held: Held) -> None:
        try:
            await held.run()
            if held.error is not None and held.reply is not None:  # else its first reader is told
                log.error("a reply was not left in order", exc_info=held.error)
        finally:
            del self._held[held.name]
            self._lingering.pop(held.name, None)


@asynccontextmanager
async def open_replies(*, linger: float = 30.0, max_lingering: int = 100) -> AsyncGenerator[Replies, None]:
    """Let clients that were cut off come back: ``async with open_replies() as replies``, in the lifespan.

    A reply that is held here goes on when its client leaves, and nobody holds it back meanwhile. It is kept for
    ``linger`` seconds: in memory, at most the client's ``max_reply_bytes`` each. Then it is given up, and the
    conversation deleted; that of a finished reply is deleted at once.

    Open it inside of `trioprov.anyio.open_client`. It is a task group: enter and leave it in one task. Leaving gives
    all replies up and waits until their conversations are settled, as `trioprov.anyio.open_reply` says. A response that
    comes after that raises `anyio.ClosedResourceError`.

    Args:
        linger: seconds for which a reply waits for its client.
        max_lingering: how many replies may wait for theirs; beyond that the one that has waited longest is given up.

    Raises:
        ValueError: a ``linger`` that is not more than 0, or a ``max_lingering`` below 1.
    """
    if not 0 < linger < math.inf:
        raise ValueError(f"linger must be more than 0 and finite, not {linger!r}")
    if max_lingering < 1:
        raise ValueError(f"max_lingering must be at least 1, not {max_lingering!r}")
    async with anyio.create_task_group() as group:
        yield Replies(group, linger, max_lingering)
        group.cancel_scope.cancel()
