"""Requests and answers as bytes: built, pumped, and their errors told in our words."""

from __future__ import annotations

import datetime
import email.utils
import functools
import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import contextmanager
from urllib.parse import urlencode

import httpx
import trio

from .._errors import ConnectionFailed, IncompleteReply, RemoteProtocolError
from ..providers import Provider, Request, Response
from ._http1 import BODY, Answer

# An answer that is not a stream: ids, states, error texts. A gateway's error page is larger than any of these.
MAX_BODY = 1024 * 1024


# As httpx writes it, which makes a new encoder for each request.
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode

# Reading an address is a third of what making a request costs, and a conversation has few of them.
_address = functools.lru_cache(maxsize=256)(httpx.URL)


def built(provider: Provider, request: Request) -> httpx.Request:
    """The request as httpx has it. Not made by a client, which has defaults to merge with it, and ours have none."""
    headers = {"accept-encoding": "identity", "connection": "keep-alive", **request.headers}
    content = None
    if request.form is not None:
        content = urlencode(request.form).encode("ascii")
        headers["content-type"] = "application/x-www-form-urlencoded"
    elif request.json is not None:
        content = _json(request.json).encode()
        headers.setdefault("content-type", "application/json")
    message = httpx.Request(
        request.method,
        _address(f"{provider.base_url}{request.path}"),
        headers=headers,
        params=request.query,
        content=content,
        files=None if request.multipart is None else [(name, (None, value)) for name, value in request.multipart],
    )
    message.stream = _Body(message.read())
    return message


class _Body(httpx.AsyncByteStream):
    """A request's body, in one piece. httpx's own is an async generator, which a cancelled request leaves behind."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Once(self._content)


class _Once(AsyncIterator[bytes]):
    def __init__(self, content: bytes) -> None:
        self._rest = [content] if content else []

    async def __anext__(self) -> bytes:
        if self._rest:
            return self._rest.pop()
        raise StopAsyncIteration


async def whole(response: httpx.Response) -> Response:
    body = bytearray()

    async def receive(data: bytes) -> bool:  # noqa: ASYNC124 - others wait for their readers here
        body.extend(data)
        return len(body) <= MAX_BODY

    with translated():
        await pump(response, receive)
    if len(body) > MAX_BODY:
        raise RemoteProtocolError(f"the answer to a {response.request.method} is larger than {MAX_BODY} bytes")
    headers = response.headers  # the names are in lower case
    return Response(
        status=response.status_code,
        headers=headers.multi_items(),
        body=bytes(body),
        retry_after=_retry_after(headers["retry-after"].strip()) if "retry-after" in headers else None,
    )


async def pump(response: httpx.Response, receive: Callable[[bytes], Awaitable[bool]]) -> None:
    """Feed the body to ``receive``, until it ends or ``receive`` returns false."""
    answer = response.extensions.get(BODY)
    if not isinstance(answer, Answer):
        await _pump_any(response, receive)
        return
    try:
        decoded = _decoder(response.headers.get("content-encoding", ""))
        del response
        while data := await answer.receive():
            if not await receive(decoded(data)):
                return
    finally:
        answer.leave()


async def _pump_any(response: httpx.Response, receive: Callable[[bytes], Awaitable[bool]]) -> None:
    """The same for a body of httpx's generators: it is left only by a cancellation that arrives in ``__anext__``."""
    failure: BaseException | None = None
    leaving = False
    try:
        if response.is_stream_consumed:  # a transport of somebody else's had it whole, and decoded
            await receive(response.content)
            return
        decoded = _decoder(response.headers.get("content-encoding", ""))
        with trio.CancelScope() as scope:
            async for data in response.aiter_raw():
                if leaving:
                    continue  # what had been received already; the next wait is where we leave
                try:
                    leaving = not await receive(decoded(data))
                except BaseException as exc:  # noqa: ASYNC103 - raised again below, once the body has been left
                    failure, leaving = exc, True
                if leaving:
                    scope.cancel()
    finally:
        with trio.CancelScope(shield=True, relative_deadline=1.0):
            await response.aclose()
    if failure is not None:
        raise failure


def _decoder(encoding: str) -> Callable[[bytes], bytes]:
    """What undoes a content encoding; we ask for none, but some gateways compress whatever passes.

    Not httpx's own: when that fails, it leaves the body by another way than `pump`.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return lambda data: data
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise RemoteProtocolError("the body has an encoding that was not asked for")
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)  # finds out itself whether it is gzip or zlib

    def decoded(data: bytes) -> bytes:
        try:
            return inflate.decompress(data)
        except zlib.error as exc:
            raise RemoteProtocolError(f"the body could not be decompressed: {exc}") from exc

    return decoded


@contextmanager
def translated(*, in_body: bool = False) -> Generator[None]:
    """The HTTP library's errors in our words, each kept as the cause."""
    try:
        yield
    except httpx.RemoteProtocolError as exc:
        # httpx has one class for "not HTTP" and for a connection that was closed too early.
        if in_body and "peer closed connection" in str(exc):
            raise IncompleteReply("the connection was closed in the middle of the reply") from exc
        if "disconnected" in str(exc) or "peer closed connection" in str(exc):
            raise ConnectionFailed(f"the server closed the connection: {exc}") from exc
        raise RemoteProtocolError(f"the server did not speak HTTP: {exc}") from exc
    except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, UnicodeError) as exc:  # the last: no such host name
        what = str(exc) or type(exc).__name__
        raise ConnectionFailed(f"the connection failed: {what}") from exc


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
