"""An answer on its way in: its head, its body pumped, and its errors told in our words."""

from __future__ import annotations

import datetime
import email.utils
import zlib
from collections.abc import Awaitable, Callable

import httpx
import trio

from .._errors import ConnectionFailed, IncompleteReply, RemoteProtocolError, TrioprovError
from ..providers import Response
from ._http1 import BODY, Answer

# An answer that is not a stream: ids, states, error texts. A gateway's error page is larger than any of these.
MAX_BODY = 1024 * 1024

# The most that is made of a compressed body at once: as much as is read at once of one that is not.
_PIECE = 65536

# What the HTTP library raises.
THEIRS = (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL)


class Arrived:
    """An answer whose head is here, by whichever way it came.

    Attributes:
        status: the HTTP status.
        body: where the rest of it comes from: ours, also where httpx alone stands between, or httpx's own.
    """

    __slots__ = ("_head", "body", "status")

    def __init__(self, answer: Answer | httpx.Response) -> None:
        if isinstance(answer, Answer):
            self.status: int = answer.head.status
            self.body: Answer | httpx.Response = answer
            self._head = answer.head.headers
        else:
            body = answer.extensions.get(BODY)
            # Whoever stands between may have read it already, or put something around it.
            untouched = not answer.is_stream_consumed and getattr(answer.stream, "_stream", None) is body
            self.status = answer.status_code
            self.body = body if untouched and isinstance(body, Answer) else answer
            self._head = answer.headers.raw

    @property
    def is_success(self) -> bool:
        """Whether it is a 2xx."""
        return 200 <= self.status < 300

    def headers(self) -> list[tuple[str, str]]:
        """Pairs of lower-case name and value."""
        return [(_text(name).lower(), _text(value).strip()) for name, value in self._head]

    def header(self, name: bytes) -> str:
        """All values of a header, joined by commas; its name is given in lower case."""
        return ", ".join([_text(value).strip() for key, value in self._head if key.lower() == name])


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeError:
        return raw.decode("latin-1")


async def whole(arrived: Arrived, method: str) -> Response:
    """The answer to a request of that method, read to its end; of an error, as much as can be read of it.

    Raises:
        RemoteProtocolError: it has none within 1 MiB.
    """
    body = bytearray()

    async def receive(data: bytes) -> bool:  # noqa: ASYNC124 - others wait for their readers here
        body.extend(data)
        return len(body) <= MAX_BODY

    try:
        await pump(arrived, receive)
        if len(body) > MAX_BODY:
            raise RemoteProtocolError(f"the answer to a {method} is larger than {MAX_BODY} bytes")
    except (*THEIRS, RemoteProtocolError):
        if arrived.is_success:
            raise
        # What the server would not do says the status, and the body only why.
        del body[MAX_BODY:]
    wait = arrived.header(b"retry-after")
    return Response(
        status=arrived.status,
        headers=arrived.headers(),
        body=bytes(body),
        retry_after=_retry_after(wait) if wait else None,
    )


async def pump(arrived: Arrived, receive: Callable[[bytes], Awaitable[bool]]) -> None:
    """Feed the body to ``receive``, until it ends or ``receive`` returns false."""
    answer = arrived.body
    encoding = arrived.header(b"content-encoding")
    if isinstance(answer, httpx.Response):
        await _pump_any(answer, encoding, receive)
        return
    try:
        receive = _decoded(encoding, receive)
        del arrived
        while data := await answer.receive():
            if not await receive(data):
                return
    finally:
        answer.leave()


async def _pump_any(response: httpx.Response, encoding: str, receive: Callable[[bytes], Awaitable[bool]]) -> None:
    """The same for a body of httpx's generators: it is left only by a cancellation that arrives in ``__anext__``."""
    failure: BaseException | None = None
    leaving = False
    try:
        if response.is_stream_consumed:  # a transport of somebody else's had it whole, and decoded
            await receive(response.content)
            return
        receive = _decoded(encoding, receive)
        with trio.CancelScope() as scope:
            async for data in response.aiter_raw():
                if leaving:
                    continue  # what had been received already; the next wait is where we leave
                try:
                    leaving = not await receive(data)
                except BaseException as exc:  # noqa: ASYNC103 - raised again below, once the body has been left
                    failure, leaving = exc, True
                if leaving:
                    scope.cancel()
    finally:
        with trio.CancelScope(shield=True, relative_deadline=1.0):
            await response.aclose()
    if failure is not None:
        raise failure


def _decoded(encoding: str, receive: Callable[[bytes], Awaitable[bool]]) -> Callable[[bytes], Awaitable[bool]]:
    """Undo a content encoding before ``receive``; we ask for none, but some gateways compress whatever passes.

    Not by httpx's own decoders: when those fail, the body is left by another way than `pump`; and what they make of
    one read may be a thousand times as much, in one piece.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return receive
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise RemoteProtocolError("the body has an encoding that was not asked for")
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)  # finds out itself whether it is gzip or zlib

    async def receive_packed(data: bytes) -> bool:
        while True:
            try:
                piece = inflate.decompress(data, _PIECE)
            except zlib.error as exc:
                raise RemoteProtocolError(f"the body could not be decompressed: {exc}") from exc
            if not await receive(piece):
                return False
            if len(piece) < _PIECE:
                return True
            data = inflate.unconsumed_tail
            await trio.lowlevel.checkpoint()  # what takes so long can be cancelled, and others have their turn

    return receive_packed


def in_our_words(exc: Exception, *, in_body: bool = False) -> TrioprovError:
    """What one of `THEIRS` means; raise it from that."""
    said = str(exc) or type(exc).__name__
    if not isinstance(exc, httpx.RemoteProtocolError):
        return ConnectionFailed(f"the connection failed: {said}")
    # httpx has one class for "not HTTP" and for a connection that was closed too early.
    if in_body and "peer closed connection" in said:
        return IncompleteReply("the connection was closed in the middle of the reply")
    if "disconnected" in said or "peer closed connection" in said:
        return ConnectionFailed(f"the server closed the connection: {said}")
    return RemoteProtocolError(f"the server did not speak HTTP: {said}")


def _retry_after(value: str) -> float | None:
    """RFC 9110, 10.2.3: a number of seconds, or a date."""
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    try:
        at = email.utils.parsedate_to_datetime(value)
        if at.tzinfo is None:
            at = at.replace(tzinfo=datetime.UTC)
        return max(0.0, (at - datetime.datetime.now(datetime.UTC)).total_seconds())
    except (ValueError, OverflowError):  # not a date, or one that no calendar has
        return None
