"""What an endpoint returns."""

from __future__ import annotations

from collections.abc import Mapping

from anyio.abc import TaskGroup
from starlette.background import BackgroundTask
from starlette.datastructures import Headers
from starlette.types import Scope

from ..anyio import Event, Finish  # noqa: ASYNC106 - ours
from ._failures import GONE
from ._held import Held, Opening
from ._outlet import Outlet
from ._replies import Replies
from ._streaming import ReplyResponse, log_failure
from ._wire import END, block, prelude


class TextResponse(ReplyResponse):
    """The text of a reply as it comes: ``return TextResponse(trioprov.anyio.open_reply(…))``.

    The reply is entered and left in one task. When the client leaves, it is left too, which deletes its conversation.
    A client that does not read holds the reply back, down to the service's socket.

    A failure before the first token is an HTTP status: 429, 503, 504, 400 or 502, or 500 for one of the application's
    own, with ``Retry-After`` if the service said when, and a JSON body with the error's name and a sentence of ours,
    never with the service's own. A later one is raised, so that the server cuts the connection and says so in its log:
    a text that ended in order would look complete.

    Args:
        reply: an async context manager whose value is a `trioprov.anyio.Reply`; it is entered here.
        headers: of the answer, besides ``Content-Type``, ``Cache-Control: no-store`` and ``X-Accel-Buffering: no``.
        background: called when all is over, as for every response of Starlette's.
        begin_after: seconds after which the answer begins although nothing has come; then it is too late for a status.
        stall_after: seconds that the client may read nothing, before it counts as gone.

    Raises:
        TypeError: ``reply`` is no async context manager.
    """

    media_type = "text/plain"

    def __init__(
        self,
        reply: Opening,
        *,
        headers: Mapping[str, str] | None = None,
        background: BackgroundTask | None = None,
        begin_after: float = 5.0,
        stall_after: float = 60.0,
    ) -> None:
        super().__init__(reply, headers, background, begin_after, stall_after)
        self.headers.setdefault("x-content-type-options", "nosniff")  # browsers wait for more, to guess what it is

    def _piece(self, event: Event, held: Held, number: int) -> bytes:
        return event.encode(errors="replace") if isinstance(event, str) else b""

    async def _finish(self, finish: Finish, held: Held, outlet: Outlet) -> None:
        if finish.error is not None:
            if held.reply is not None:
                await held.reply.wait()  # raises a copy of our own
            raise finish.error
        await outlet.write(b"", more=False)


class SSEResponse(ReplyResponse):
    """A reply as server-sent events: ``return SSEResponse(trioprov.anyio.open_reply(…))``.

    Events are ``token`` (its data is a JSON string), ``queued``, ``notice`` and, exactly once and last, ``finish``:
    ``{"reason": …, "usage": …, "error": …}``. A failure that comes too late for a status is the ``error`` of that:
    ``{"type": …, "message": …, "retry_after": …}``. In all else it is as `TextResponse`.

    A browser comes back whenever a stream ends. One that has had the ``finish`` gets a 204, and comes no more. One that
    was cut off goes on after the last event that it has, if ``replies`` still hold the reply; else it gets a 410, and
    is not given another answer behind half of this one.

    Args:
        reply: an async context manager whose value is a `trioprov.anyio.Reply`; it is entered here, or in a task of
            ``replies``; not at all for a client that comes back.
        replies: who holds the reply when the client is cut off; without it, a client that has left is done with.
        headers: of the answer, besides ``Content-Type``, ``Cache-Control: no-store`` and ``X-Accel-Buffering: no``.
        background: called when all is over, as for every response of Starlette's.
        begin_after: seconds after which the answer begins although nothing has come; then it is too late for a status.
        stall_after: seconds that the client may read nothing, before it counts as gone.
        heartbeat: seconds of silence after which a comment is sent.

    Raises:
        TypeError: ``reply`` is no async context manager.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        reply: Opening,
        *,
        replies: Replies | None = None,
        headers: Mapping[str, str] | None = None,
        background: BackgroundTask | None = None,
        begin_after: float = 5.0,
        stall_after: float = 60.0,
        heartbeat: float = 15.0,
    ) -> None:
        super().__init__(reply, headers, background, begin_after, stall_after)
        self._heartbeat = heartbeat
        self._replies = replies

    async def _answer(self, scope: Scope, group: TaskGroup, outlet: Outlet) -> None:
        replies = self._replies
        last = Headers(scope=scope).get("last-event-id", "")
        name, _, number = last.partition(":")
        if number == END:
            await self._only(204, outlet)
        elif last or replies is not None:
            held = None
            if replies is not None and not last:
                held, number = replies.hold(self._opening), "0"
            elif replies is not None and number.isdecimal() and len(number) < 10:
                held = replies.find(name)
            if replies is None or held is None:
                await self._refuse(GONE, outlet)
                return
            replies.come(held, outlet.reader)
            try:
                await self._stream(held, outlet, int(number))
            finally:
                # Who has heard nothing knows no id.
                replies.leave(held, outlet.reader, resumable=bool(last) or (outlet.begun and not outlet.refused))
        else:
            await super()._answer(scope, group, outlet)

    def _piece(self, event: Event, held: Held, number: int) -> bytes:
        return block(event, held.name, number)

    def _prelude(self, held: Held, number: int) -> bytes:
        return prelude(held.name, number, resumable=bool(held.name))

    async def _finish(self, finish: Finish, held: Held, outlet: Outlet) -> None:
        if finish.error is not None:
            log_failure(finish.error)
        await outlet.write(block(finish, held.name, 0), more=False)
