"""One reply, opened and left in one task."""

from __future__ import annotations

import math
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

import anyio

from ..anyio import CleanupFailed, Event, Reply, Subscription  # noqa: ASYNC106 - ours

Opening = AbstractAsyncContextManager[Reply, Any]


class Reader:
    """Somebody who reads a reply, in a task of its own.

    Attributes:
        scope: around that task.
        events: what it reads from, once it does.
        replaced: whether another one has come in its place.
    """

    def __init__(self) -> None:
        self.scope: anyio.CancelScope = anyio.CancelScope()
        self.events: Subscription[Event] | None = None
        self.replaced: bool = False

    def dismiss(self) -> None:
        """It is to read no more; sync, idempotent."""
        self.scope.cancel()
        if self.events is not None:
            self.events.close()  # a task that cannot be cancelled at the moment must not hold the stream back


class Held:
    """Whoever holds the reply open, until it has finished or nobody wants it any more.

    Readers come and go: what happens to their tasks, happens to them alone.

    Args:
        opening: gives the reply.
        name: what it is called in ids.
        linger: seconds for which it is held when nobody reads, and also when it has finished.

    Attributes:
        opened: set when it is known whether there is a reply.
        reply: the reply.
        error: what went wrong with its context manager.
        scope: cancel it to give the reply up.
        reader: who reads now.
    """

    def __init__(self, opening: Opening, *, name: str = "", linger: float = 0.0) -> None:
        self.name: str = name
        self.opened: anyio.Event = anyio.Event()
        self.reply: Reply | None = None
        self.error: Exception | None = None
        self.scope: anyio.CancelScope = anyio.CancelScope()
        self.reader: Reader | None = None
        self._opening = opening
        self._linger = linger

    def come(self, reader: Reader) -> None:
        """Somebody reads; whoever did before is the same client, on a connection that it has given up."""
        if self.reader is not None:
            self.reader.replaced = True
            self.reader.dismiss()
        self.reader = reader
        self.allow(reader)

    def allow(self, reader: Reader, seconds: float = math.inf) -> None:
        """This reader is waited for so long, if it is still the one who reads."""
        if self.reader is reader:
            self.scope.deadline = anyio.current_time() + seconds + self._linger

    async def run(self) -> None:
        """Enter, wait for the end of the reply, leave; and be there for the ``linger``."""
        with self.scope:
            await self._hold()
            if self._linger and self.reply is not None:
                await anyio.sleep_forever()

    async def _hold(self) -> None:
        try:
            async with self._opening as reply:
                if not isinstance(reply, Reply):  # pyright: ignore[reportUnnecessaryIsInstance] - not by everybody
                    raise TypeError(f"{reply!r} is no reply of trioprov.anyio")
                self.reply = reply
                self.opened.set()
                with suppress(Exception):  # whoever reads it is told
                    await reply.wait()
        except CleanupFailed:
            pass  # logged by the session, and no reason to take back an answer
        except Exception as exc:
            self.error = exc
        finally:
            self.opened.set()
