"""HTTP/1.1 behind httpx's interface, for what is most of the work here: long answers in very many small pieces.

It has no proxies, no HTTP/2, no limits and no timeouts but that for connecting; who wants those has httpx's own. What
it has is that a connection, at any instant, is in use by one request, or idle and as good as new, or closed.
"""

from __future__ import annotations

import collections
import ssl
from collections.abc import Callable, Sequence
from typing import cast

import httpx
import trio

from ._outgoing import Message, Origin, origin_of
from ._parser import BadRequest, Cut, Head, NotHTTP, ResponseParser, request_bytes
from ._wires import Wire, connect

# Extensions (httpx's word) of a request and of an answer: what is told before the first byte leaves, and the body.
TELL = "trioprov.tell"
BODY = "trioprov.body"

# Servers close idle connections after 5 s (node's default); one that is reused at that edge fails in 2-10 % of tries.
KEEPALIVE = 3.0

_NOTHING = memoryview(b"")


class HTTP1Transport(httpx.AsyncBaseTransport):
    """Connections to any number of servers, as many to each as there are requests.

    A request is never sent twice. A request's ``TELL`` extension is called with ``False`` when it is taken up, and
    with ``True`` immediately before its first byte leaves.

    Args:
        context: asked for when there is TLS to speak.
    """

    def __init__(self, context: Callable[[], ssl.SSLContext]) -> None:
        self._context = context
        self._idle: dict[Origin, collections.deque[tuple[float, Wire]]] = {}
        self._busy: set[Wire] = set()
        self._known: dict[Origin, str] = {}
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        tell = request.extensions.get(TELL, _nobody)
        tell(False)
        url = request.url
        message = Message(
            request.method, str(url), origin_of(url), url.raw_path, request.headers.raw, await request.aread()
        )
        limit = request.extensions.get("timeout", {}).get("connect")
        answer = await self.exchange(message, tell, limit)
        head = answer.head
        return httpx.Response(
            head.status,
            headers=list(head.headers),
            stream=answer,
            extensions={"http_version": head.version, "reason_phrase": head.reason, BODY: answer},
        )

    async def exchange(
        self, message: Message, tell: Callable[[bool], object], connect_timeout: float | None = None
    ) -> Answer:
        """The same without httpx's words: one request, and its answer as soon as the head of it is there.

        Args:
            tell: called with ``True`` immediately before the first byte leaves.
            connect_timeout: seconds for connecting.

        Raises:
            httpx.TransportError: as httpx's own transport does.
        """
        try:
            data = request_bytes(message.method.encode("ascii"), message.target, message.headers, message.body)
        except (BadRequest, UnicodeError) as exc:
            raise httpx.LocalProtocolError(str(exc)) from exc
        origin = message.origin
        wire = self._reused(origin) or await self._connected(origin, connect_timeout)
        answer = Answer(self, origin, wire, ResponseParser(message.method))
        self._busy.add(wire)
        try:
            await trio.lowlevel.checkpoint_if_cancelled()  # else it would be, after this, and before a byte has left
            tell(True)
            await answer.begin(data)
        except BaseException:
            answer.leave()
            raise
        return answer

    async def aclose(self) -> None:  # noqa: ASYNC124 - the interface's; there is nothing to wait for
        """Close all connections, those in use too; whoever uses one gets an error."""
        self._closed = True
        for wire in [*self._busy, *(wire for idle in self._idle.values() for _, wire in idle)]:
            wire.close()
        self._busy.clear()
        self._idle.clear()

    def give_back(self, origin: Origin, wire: Wire, *, reusable: bool) -> None:
        """Nobody uses the connection any more."""
        self._busy.discard(wire)
        if reusable and not self._closed:
            self._idle.setdefault(origin, collections.deque()).append((trio.current_time(), wire))
        else:
            wire.close()

    def _reused(self, origin: Origin) -> Wire | None:
        """The connection that became idle last: the likeliest to be alive."""
        self._expire()
        idle = self._idle.get(origin)
        while idle:
            _, wire = idle.pop()
            if wire.is_quiet():
                return wire
            wire.close()
        return None

    def _expire(self) -> None:
        since = trio.current_time() - KEEPALIVE
        for origin, idle in list(self._idle.items()):
            while idle and idle[0][0] < since:
                idle.popleft()[1].close()
            if not idle:
                del self._idle[origin]

    async def _connected(self, origin: Origin, limit: float | None) -> Wire:
        scheme, host, port = origin
        context = self._context() if scheme == "https" else None
        try:
            with trio.fail_after(float("inf") if limit is None else limit):
                wire = await connect(host, port, context, self._known.get(origin))
        except trio.TooSlowError as exc:
            raise httpx.ConnectTimeout(f"no connection within {limit} s") from exc
        except OSError as exc:
            raise httpx.ConnectError(_why(exc, host, port)) from exc
        if wire.peer is not None:
            self._known[origin] = wire.peer
        return wire


class Answer(httpx.AsyncByteStream):
    """One request and its answer on a connection, which is given back as soon as the answer's last byte is here."""

    def __init__(self, transport: HTTP1Transport, origin: Origin, wire: Wire, parser: ResponseParser) -> None:
        self._transport = transport
        self._origin = origin
        self._wire = wire
        self._parser = parser
        self._block = b""
        self._unsent = _NOTHING
        self._sent = False
        self._left = False

    @property
    def head(self) -> Head:
        """What it begins with; once it has begun."""
        assert self._parser.head is not None
        return self._parser.head

    async def begin(self, data: bytes) -> None:
        """Send the request, and read until the answer's head is there."""
        self._unsent = memoryview(data)
        parser = self._parser
        try:
            while self._unsent and parser.head is None:
                await self._send()
            while parser.head is None:
                await self._wire.readable()
                self._block = self._taken()
        except (Cut, NotHTTP, OSError, trio.ClosedResourceError) as exc:
            raise _as_httpx(exc) from exc
        if parser.head.status >= 400:  # RFC 9112, 9.5: who is refused says no more
            self._unsent = _NOTHING
        if parser.complete:
            self.leave()

    async def _send(self) -> None:
        """Send some of what is left of the request; or take what came of an answer that did not wait for all of it."""
        try:
            sent = await self._wire.send(self._unsent)
        except OSError:  # it may have answered before it closed; if not, reading tells
            self._unsent = _NOTHING
            return
        if sent:
            self._unsent = self._unsent[sent:] or _NOTHING
            self._sent = not self._unsent
        else:
            await self._wire.readable()
            self._block = self._taken()

    async def receive(self) -> bytes:
        """The next piece of the body, all that one read brought; nothing at the end. Cancelled, it has lost nothing.

        Raises:
            httpx.TransportError: the connection broke, or what came is not HTTP.
        """
        block, self._block = self._block, b""
        parser, wire = self._parser, self._wire
        if block or parser.complete:
            return block
        if self._left:
            raise httpx.StreamClosed
        try:
            while not block and not parser.complete:
                if parser.failure is not None:
                    raise parser.failure
                if self._unsent:  # who answers before it has heard all may still want to hear the rest
                    await self._send()
                    block, self._block = self._block, b""
                    continue
                await wire.readable()
                block = self._taken()
        except (Cut, NotHTTP, OSError, trio.ClosedResourceError) as exc:
            self.leave()
            raise _as_httpx(exc) from exc
        if parser.complete:
            self.leave()
        return block

    def _taken(self) -> bytes:
        """What there is of the body in what has come."""
        data = self._wire.take()
        if data:
            return self._parser.receive_data(data)
        return b"" if data is None else self._parser.receive_eof(clean=self._wire.clean)

    def leave(self) -> None:
        """Want no more of it: the connection is closed, unless nothing more was to come."""
        if not self._left:
            self._left = True
            self._transport.give_back(self._origin, self._wire, reusable=self._sent and self._parser.reusable)

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> bytes:
        block = await self.receive()
        if not block:
            raise StopAsyncIteration
        return block

    async def aclose(self) -> None:  # noqa: ASYNC124 - the interface's; there is nothing to wait for
        self.leave()


def _nobody(sent: bool) -> None:
    """Whom it is told, when nobody asked to be."""


def _why(exc: OSError, host: str, port: int) -> str:
    """What to tell a user: where to, and what the system or TLS said, which trio keeps as the cause."""
    cause: object = exc.__cause__
    tries: Sequence[BaseException] = [exc]
    if isinstance(cause, BaseExceptionGroup):
        tries = cast("BaseExceptionGroup[BaseException]", cause).exceptions
    said = {str(getattr(one, "strerror", None) or one) or type(one).__name__ for one in tries}
    return f"{host}, port {port}: {'; '.join(sorted(said))}"


def _as_httpx(exc: Exception) -> httpx.TransportError:
    if isinstance(exc, (Cut, NotHTTP)):
        return httpx.RemoteProtocolError(str(exc))
    return httpx.ReadError(str(exc) or type(exc).__name__)
