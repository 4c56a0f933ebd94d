"""One reply, streamed to one HTTP client: who waits for whom, and what happens when one of them does not come."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import anyio
from anyio.abc import TaskGroup
from starlette.background import BackgroundTask
from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from ..anyio import Event, Finish, Subscription, TrioprovError  # noqa: ASYNC106 - ours
from ._failures import GONE, Failure, failure
from ._held import Held, Opening, Reader
from ._outlet import Gone, Outlet, watch
from ._wire import HEARTBEAT

log = logging.getLogger("trioprov")

T = TypeVar("T")

# How many events are sent at once, at most.
_BATCH = 64

# What nginx writes down for a client that left before there was a status. Only middleware and logs see it.
_CLIENT_CLOSED_REQUEST = 499


class ReplyResponse(Response):
    """What the formats share."""

    _heartbeat: float = math.inf  # seconds of silence after which the client gets a sign of life

    def __init__(
        self,
        reply: Opening,
        headers: Mapping[str, str] | None,
        background: BackgroundTask | None,
        begin_after: float,
        stall_after: float,
    ) -> None:
        if not hasattr(reply, "__aenter__"):
            raise TypeError(f"a context manager that gives a reply is needed, as open_reply returns it, not {reply!r}")
        self.status_code = 200
        self.background = background
        self.init_headers(headers)
        self.headers.setdefault("cache-control", "no-store")
        self.headers.setdefault("x-accel-buffering", "no")  # nginx would wait for more
        self._opening = reply
        self._begin_after = begin_after
        self._stall_after = stall_after

    @abstractmethod
    def _piece(self, event: Event, held: Held, number: int) -> bytes:
        """What the client gets of an event that is not the last."""

    @abstractmethod
    async def _finish(self, finish: Finish, held: Held, outlet: Outlet) -> None:
        """End the body, which has begun."""

    def _prelude(self, held: Held, number: int) -> bytes:
        """What it gets before the first."""
        return b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream it, as a server calls it; returns when the reply has been left."""
        error: Exception | None = None
        reader = Reader()
        outlet = Outlet(send, reader, self._stall_after)
        with reader.scope:
            async with anyio.create_task_group() as group:
                group.start_soon(watch, receive, outlet)
                try:
                    if scope["method"] == "HEAD":  # Starlette's GET endpoints get these; for that nobody is asked
                        await self._only(200, outlet)
                    else:
                        await self._answer(scope, group, outlet)
                except Gone:
                    reader.dismiss()
                except Exception as exc:
                    if not (reader.scope.cancel_called and isinstance(exc, anyio.ClosedResourceError)):
                        error = exc  # to be raised outside of the group, which would wrap it
                    reader.dismiss()
                outlet.watching.cancel()  # what is still to do is to leave the reply, and nothing hurries that
        if error is None and not outlet.ended and (reader.replaced or not outlet.begun):
            await outlet.farewell(_CLIENT_CLOSED_REQUEST)
        held = outlet.held
        if error is None and held is not None and held.reply is not None and not held.name:
            error = held.error  # of leaving it
        if error is not None:
            raise error
        if self.background is not None:
            await self.background()

    async def _answer(self, scope: Scope, group: TaskGroup, outlet: Outlet) -> None:
        """Open the reply, in this group, and stream it."""
        held = Held(self._opening)
        held.come(outlet.reader)
        group.start_soon(held.run)
        await self._stream(held, outlet)

    async def _stream(self, held: Held, outlet: Outlet, after: int = 0) -> None:
        """Send every event after the given one, as it comes."""
        outlet.held, outlet.after = held, after
        begin_at = anyio.current_time() + self._begin_after
        await self._patiently(held.opened.wait, held, outlet, begin_at)
        if held.reply is None:
            reason = "interrupted" if held.error is None else "error"
            await self._end(Finish(reason, held.error), held, outlet)
            return
        with held.reply.subscribe() as events:
            outlet.reader.events = events
            try:
                for _ in range(after):
                    if isinstance(events.receive_nowait(), Finish):
                        raise anyio.EndOfStream  # who has had this knows it by another name
            except (anyio.WouldBlock, anyio.EndOfStream):  # so far nobody can have read
                await self._refuse(GONE, outlet)
                return
            number = after
            while True:
                body, spoken = b"", False
                for event in [await self._patiently(events.receive, held, outlet, begin_at), *_ready(events)]:
                    number += 1
                    if isinstance(event, Finish):
                        if body and (spoken or event.error is None):
                            await self._write(body, held, outlet)
                        await self._end(event, held, outlet)
                        return
                    body += self._piece(event, held, number)
                    spoken = spoken or isinstance(event, str)
                if body:
                    await self._write(body, held, outlet)

    async def _patiently(self, wait: Callable[[], Awaitable[T]], held: Held, outlet: Outlet, begin_at: float) -> T:
        """Wait, and tell the client now and then that it is not forgotten."""
        while True:
            seconds = self._heartbeat if outlet.begun else max(0.0, begin_at - anyio.current_time())
            with anyio.move_on_after(seconds):
                return await wait()
            await self._write(HEARTBEAT if outlet.begun else b"", held, outlet)

    async def _write(self, body: bytes, held: Held, outlet: Outlet) -> None:
        if not outlet.begun:
            await outlet.begin(self.status_code, self.raw_headers)
            body = self._prelude(held, outlet.after) + body
        if body:
            await outlet.write(body)

    async def _end(self, finish: Finish, held: Held, outlet: Outlet) -> None:
        error = finish.error
        if error is not None and not outlet.begun:
            log_failure(error)
            await self._refuse(failure(error), outlet)
        else:
            await self._write(b"", held, outlet)
            await self._finish(finish, held, outlet)
        if error is not None and not isinstance(error, TrioprovError):
            raise error  # none of what can happen; the server logs it

    async def _only(self, status: int, outlet: Outlet) -> None:
        """Answer with a status and nothing else."""
        await outlet.begin(status, self.raw_headers)
        await outlet.write(b"", more=False)

    async def _refuse(self, why: Failure, outlet: Outlet) -> None:
        """Answer with the status of a failure."""
        response = JSONResponse({"error": why.said}, why.status, why.headers)
        headers = MutableHeaders(raw=list(self.raw_headers))
        headers.update(response.headers)
        await outlet.begin(why.status, headers.raw)
        await outlet.write(bytes(response.body), more=False)


def _ready(events: Subscription[Event]) -> list[Event]:
    """What can be had at once."""
    ready: list[Event] = []
    try:
        while len(ready) < _BATCH - 1:
            ready.append(events.receive_nowait())
    except (anyio.WouldBlock, anyio.EndOfStream):
        pass
    return ready


def log_failure(error: Exception) -> None:
    """Say in the log what the client was told in other words."""
    log.warning("a reply failed, and its HTTP client was told: %s: %s", type(error).__name__, error)
