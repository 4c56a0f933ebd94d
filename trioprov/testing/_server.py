"""HTTP/1.1 for the emulators: h11 on any trio stream, so that sockets and memory streams can both carry it."""

from __future__ import annotations

import json
import math
import re
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

import h11
import trio

from ._request import RecordedRequest, parse_query

_READ_SIZE = 65536
_KEEP_READING = 1 << 20  # h11's bound on an unfinished head: chat prompts do not travel in headers

_SURROGATE = re.compile("[\ud800-\udfff]")

Headers = Iterable[tuple[str, str]]


class Handler(Protocol):
    """What `serve_stream` needs to know about a service."""

    body_limit: int

    async def handle(self, request: RecordedRequest, respond: Responder) -> None:
        """Answer one request, through ``respond``; it is not cancelled when the client leaves."""
        ...


class ClientGone(Exception):
    """There is nobody left to write to: the client closed the connection, or we did."""


class Responder:
    """One answer: `send` it whole, or `start` it, `write` chunks and `end` it; or `abort` the connection.

    Attributes:
        gone: set once the client has closed the connection, or we have.
        lose: close the connection where the answer would begin (the work is done, nobody hears of it).
        delay: seconds between the work and its answer.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        connection: h11.Connection,
        *,
        head_only: bool = False,
        chunk_bytes: int | None = None,
    ) -> None:
        self.gone: trio.Event = trio.Event()
        self.head_only = head_only
        self.chunk_bytes = chunk_bytes
        self.lose = False
        self.delay: float = 0.0
        self._scopes: list[trio.CancelScope] = []
        self._stream = stream
        self._connection = connection

    def while_connected(self) -> trio.CancelScope:
        """A scope, to be entered by the handler, that is cancelled when the client leaves."""
        scope = trio.CancelScope()
        self._scopes.append(scope)
        if self.gone.is_set():
            scope.cancel()
        return scope

    def client_left(self) -> None:
        """From now on nobody listens."""
        self.gone.set()
        for scope in self._scopes:
            scope.cancel()

    async def send(self, status: int, body: bytes = b"", headers: Headers = ()) -> None:
        """A whole answer with its length. It goes nowhere, silently, if the client has left."""
        with suppress(ClientGone):
            rest = [h11.Data(body)] if body and not self.head_only else []
            await self._head(status, [*headers, ("Content-Length", str(len(body)))], *rest, h11.EndOfMessage())

    async def start(self, status: int, headers: Headers = ()) -> None:
        """The head of a chunked answer.

        Raises:
            ClientGone: nobody listens.
        """
        await self._head(status, [*headers, ("Transfer-Encoding", "chunked")])

    async def write(self, data: bytes) -> None:
        """One chunk of the body; more, if ``chunk_bytes`` asks for smaller ones.

        Raises:
            ClientGone: nobody listens.
        """
        size = self.chunk_bytes or len(data)
        for start in range(0, len(data), max(size, 1)):
            await self._push(h11.Data(data[start : start + size]))

    async def end(self) -> None:
        """The end of a chunked body.

        Raises:
            ClientGone: nobody listens.
        """
        await self._push(h11.EndOfMessage())

    async def abort(self, *, reset: bool = False) -> None:
        """Close the connection as it is, in the middle of whatever was being said; with ``reset``, by an RST."""
        if reset and isinstance(self._stream, trio.SocketStream):
            self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client_left()
        await trio.aclose_forcefully(self._stream)

    async def _head(self, status: int, headers: Headers, *rest: h11.Data | h11.EndOfMessage) -> None:
        if self.delay:
            await trio.sleep(self.delay)
        if self.lose:
            await self.abort()
        await self._push(h11.Response(status_code=status, headers=list(headers)), *rest)

    async def _push(self, *events: h11.Response | h11.Data | h11.EndOfMessage) -> None:
        if self.gone.is_set():
            raise ClientGone
        data = b"".join(self._connection.send(event) or b"" for event in events)
        if data:
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.client_left()
                raise ClientGone from None


def compact_json(value: object) -> str:
    """JSON as ``JSON.stringify`` and serde_json write it: no blanks, and every character above ASCII as itself.

    Half a surrogate pair is no character; ``JSON.stringify`` escapes it.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _SURROGATE.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


async def serve_stream(
    stream: trio.abc.Stream,
    handler: Handler,
    *,
    chunk_bytes: int | None = None,
    keep_alive: float = math.inf,
) -> None:
    """Serve one connection until either side closes it; the stream is closed on every way out.

    A client that leaves while it is being answered is noticed at once (`Responder.gone`).

    Args:
        stream: the connection.
        handler: who answers.
        chunk_bytes: cut bodies into chunks of that many bytes.
        keep_alive: seconds after which an idle connection is closed.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_KEEP_READING)
    try:
        while True:
            try:
                request = await _receive(stream, connection, handler.body_limit, keep_alive)
            except h11.RemoteProtocolError as error:
                if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    refusal = Responder(stream, connection)
                    await refusal.send(error.error_status_hint, b"", [("Connection", "close")])
                return
            if request is None:
                return
            respond = Responder(stream, connection, head_only=request.method == "HEAD", chunk_bytes=chunk_bytes)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_watch, stream, connection, respond)
                await handler.handle(request, respond)
                nursery.cancel_scope.cancel()
            if respond.gone.is_set() or connection.our_state is not h11.DONE:
                return
            if connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return
    finally:
        await trio.aclose_forcefully(stream)


async def _watch(stream: trio.abc.Stream, connection: h11.Connection, respond: Responder) -> None:
    """Wait for the client to leave; what it sends meanwhile (a pipelined request) is kept for later."""
    try:
        while data := await stream.receive_some(_READ_SIZE):
            connection.receive_data(bytes(data))
        connection.receive_data(b"")
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    respond.client_left()


async def _receive(
    stream: trio.abc.Stream, connection: h11.Connection, limit: int, keep_alive: float
) -> RecordedRequest | None:
    """The next request, or `None` at the end of the connection."""
    head: h11.Request | None = None
    body = bytearray()
    too_large = False
    with trio.CancelScope(relative_deadline=keep_alive) as idle:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                if connection.they_are_waiting_for_100_continue:
                    await stream.send_all(connection.send(h11.InformationalResponse(status_code=100, headers=[])))
                connection.receive_data(bytes(await stream.receive_some(_READ_SIZE)))
                idle.deadline = math.inf  # only an idle connection is timed
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                too_large = too_large or len(body) + len(event.data) > limit
                if not too_large:
                    body += event.data
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                return _record(head, bytes(body), too_large)
            else:
                return None
    return None


def _record(head: h11.Request, body: bytes, too_large: bool) -> RecordedRequest:
    path, _, query = head.target.decode("ascii").partition("?")
    if "://" in path:  # as a proxy is asked
        path = "/" + path.partition("://")[2].partition("/")[2]
    headers: dict[str, str] = {}
    for raw_name, raw_value in head.headers:
        name, value = raw_name.decode("ascii").lower(), raw_value.decode("latin-1")
        if name in headers:
            value = headers[name] + ("; " if name == "cookie" else ", ") + value
        headers[name] = value
    return RecordedRequest(
        method=head.method.decode("ascii").upper(),
        path=path,
        query=parse_query(query),
        headers=headers,
        body=body,
        too_large=too_large,
        time=trio.current_time(),
    )
