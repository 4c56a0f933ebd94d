"""Send a request, pump a body: the only room that knows the HTTP library.

Three rules of this room come from measurements of httpx 0.28 on httpcore 1.0 (see the threads):

- Nothing ever queues inside httpcore's pool: a request cancelled there can take its slot with it for good
  (encode/httpcore#1093). The pool is unlimited, and the limit is ours, in front.
- A body is left only from inside ``__anext__``. Leaving the loop in any other way abandons generators to the collector,
  each with a ResourceWarning, under trio.
- What cleans up has its own connections, so that no number of live streams can starve it, and its own limit per
  server, since opening a connection costs httpcore time in proportion to those it has.
"""

from __future__ import annotations

import datetime
import email.utils
import functools
import http.cookiejar
import signal
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from typing import Any
from urllib.parse import urlencode

import httpx
import trio
from httpx import AsyncBaseTransport as AsyncBaseTransport

from ._errors import ConnectionFailed, IncompleteReply, RemoteProtocolError
from .providers import Provider, Request, Response

# An answer that is not a stream: ids, states, error texts. A gateway's error page is larger than any of these.
MAX_BODY = 1024 * 1024

# Connecting is the one wait that no answer is lost by giving up; everything else has budgets and deadlines of ours.
_TIMEOUT = httpx.Timeout(None, connect=30.0)

# Servers close idle connections after 5 s (node's default); one that is reused at that edge fails in 2-10 % of tries.
_KEEPALIVE = 3.0

# How many cleanups may talk to one server at once.
_CLEANUPS = 16


class Exchange:
    """What is known about one request on its way.

    Attributes:
        sent: whether it may have left; until then nothing can have happened on the server.
    """

    def __init__(self) -> None:
        self.sent: bool = False
        self.traced: bool = False

    async def trace(self, event: str, info: dict[str, Any]) -> None:
        """httpcore's trace hook, which is called before and after each step of a connection."""
        self.traced = True
        # What opens a tunnel goes to the proxy; nothing of it reaches the server.
        if event.endswith("send_request_headers.started") and info["request"].method != b"CONNECT":
            self.sent = True


class Transport:
    """All connections of one client.

    Args:
        max_connections: how many streams and requests may be under way at once; `None`: any number.
        transport: an httpx transport to use for everything instead of our own pools.
        verify: verify certificates, with the default context or this one.
        trust_env: whether proxies and certificates named in the environment are used.
    """

    def __init__(
        self,
        *,
        max_connections: int | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        verify: bool | ssl.SSLContext = True,
        trust_env: bool = True,
    ) -> None:
        self._limiter = None if max_connections is None else trio.CapacityLimiter(max_connections)
        self._cleanups: dict[str, trio.CapacityLimiter] = {}
        self._transport = transport
        self._verify = verify
        self._trust_env = trust_env
        self._clients: dict[tuple[str | None, bool, bool], httpx.AsyncClient] = {}

    async def send(self, provider: Provider, request: Request, exchange: Exchange | None = None) -> Response:
        """One request and its whole answer, on a connection that streams use too.

        Raises:
            ConnectionFailed: there was no connection, or it broke.
            RemoteProtocolError: what came was not HTTP, or more than 1 MiB.
        """
        async with self._limiter or _unlimited():
            return await self._send(self._client(provider), provider, request, exchange or Exchange())

    async def send_cleanup(self, provider: Provider, request: Request) -> Response:
        """The same, on the connections kept for cleaning up; call it inside `cleanup_slot`."""
        return await self._send(self._client(provider, cleanup=True), provider, request, Exchange())

    def cleanup_slot(self, provider: Provider) -> AbstractAsyncContextManager[object]:
        """Hold one of the cleanup connections to the provider's server."""
        return self._cleanups.setdefault(provider.base_url, trio.CapacityLimiter(_CLEANUPS))

    async def stream(
        self,
        provider: Provider,
        request: Request,
        exchange: Exchange,
        receive: Callable[[bytes], Awaitable[bool]],
    ) -> Response | None:
        """Give the answer's body to ``receive``, piece by piece, until it ends or ``receive`` returns false.

        Returns:
            `None`; or the answer, whole, when its status is not a 2xx.

        Raises:
            ConnectionFailed: there was no connection, or it broke.
            IncompleteReply: the body was cut.
            RemoteProtocolError: what came was not HTTP.
        """
        async with self._limiter or _unlimited():
            response = await self._start(self._client(provider), provider, request, exchange)
            if response.is_success:
                with _translated(in_body=True):
                    await _read(response, receive)
                return None
            return await _whole(response)

    async def aclose(self) -> None:
        """Close every connection; those of a transport that was given to us too, as httpx does."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.aclose()

    async def _send(
        self, client: httpx.AsyncClient, provider: Provider, request: Request, exchange: Exchange
    ) -> Response:
        return await _whole(await self._start(client, provider, request, exchange))

    async def _start(
        self, client: httpx.AsyncClient, provider: Provider, request: Request, exchange: Exchange
    ) -> httpx.Response:
        with _translated():
            message = _built(client, provider, request)
            message.extensions["trace"] = exchange.trace
            # A transport of somebody else's need not call the hook; until it fails to connect, it may have sent.
            exchange.sent = self._transport is not None
            try:
                response = await _sent(client, message)
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, httpx.UnsupportedProtocol):
                exchange.sent = False
                raise
            except httpx.HTTPError:
                exchange.sent = exchange.sent or not exchange.traced
                raise
            exchange.sent = True
            return response

    def _client(self, provider: Provider, *, cleanup: bool = False) -> httpx.AsyncClient:
        if provider.proxy is not None and self._transport is not None:
            raise ValueError("the provider has a proxy, but the client's own transport decides how to connect")
        secure = provider.base_url.startswith("https:")
        key = provider.proxy, secure, cleanup
        client = self._clients.get(key)
        if client is None:
            client = self._clients[key] = httpx.AsyncClient(
                transport=self._transport,
                verify=self._context(secure),
                trust_env=self._trust_env,
                proxy=provider.proxy,
                limits=httpx.Limits(max_connections=None, keepalive_expiry=_KEEPALIVE),
                timeout=_TIMEOUT,
                cookies=_NO_COOKIES,
                follow_redirects=False,
            )
            for name in ("user-agent", "accept"):
                client.headers.pop(name, None)
        return client

    def _context(self, secure: bool) -> ssl.SSLContext:
        if isinstance(self._verify, ssl.SSLContext):
            return self._verify
        return _context(self._verify, self._trust_env) if secure else _no_context()


@functools.cache
def _context(verify: bool, trust_env: bool) -> ssl.SSLContext:
    # Reading the certificates costs 14 ms and 0.7 MB, so one context serves every client of the process.
    return httpx.create_ssl_context(verify=verify, trust_env=trust_env)


@functools.cache
def _no_context() -> ssl.SSLContext:
    # For clients that only speak plain http: it trusts nobody, so it is cheap, and safe should it ever be used.
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _unlimited() -> AbstractAsyncContextManager[object]:
    return nullcontext()


# Takes no cookie from anybody: cookies belong to conversations, and a client serves many.
_NO_COOKIES = http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))


def _built(client: httpx.AsyncClient, provider: Provider, request: Request) -> httpx.Request:
    headers = {"accept-encoding": "identity", **request.headers}
    content = None
    if request.form is not None:
        # By hand, since httpx sends no content type for a form without fields.
        content = urlencode(request.form).encode("ascii")
        headers["content-type"] = "application/x-www-form-urlencoded"
    message = client.build_request(
        request.method,
        f"{provider.base_url}{request.path}",
        headers=headers,
        params=request.query,
        json=request.json,
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


async def _whole(response: httpx.Response) -> Response:
    body = bytearray()

    async def receive(data: bytes) -> bool:  # noqa: ASYNC124 - others wait for their readers here
        body.extend(data)
        return len(body) <= MAX_BODY

    with _translated():
        await _read(response, receive)
    if len(body) > MAX_BODY:
        raise RemoteProtocolError(f"the answer to a {response.request.method} is larger than {MAX_BODY} bytes")
    headers = [(name.lower(), value) for name, value in response.headers.multi_items()]
    return Response(
        status=response.status_code, headers=headers, body=bytes(body), retry_after=_retry_after(response.headers)
    )


async def _sent(client: httpx.AsyncClient, message: httpx.Request) -> httpx.Response:
    """The answer's head; a Ctrl-C that lands in the connecting is passed on to the main task, whose it is.

    Whoever calls this is protected from it, but trio connects in child tasks, which protection does not reach.
    """
    while True:
        try:
            return await client.send(message, stream=True)
        except BaseExceptionGroup as group:
            if group.split(KeyboardInterrupt)[1] is not None:
                raise
        signal.raise_signal(signal.SIGINT)


async def _read(response: httpx.Response, receive: Callable[[bytes], Awaitable[bool]]) -> None:
    """Feed the body to ``receive``; leave it early only by a cancellation that arrives inside ``__anext__``."""
    failure: BaseException | None = None
    leaving = False
    try:
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

    Not httpx's own: when that fails, it leaves the body by another way than `_read`.
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
def _translated(*, in_body: bool = False) -> Generator[None]:
    """The HTTP library's errors in our words, each kept as the cause."""
    try:
        yield
    except httpx.RemoteProtocolError as exc:
        # httpcore has one class for "not HTTP" and for a connection that was closed too early.
        if in_body and "peer closed connection" in str(exc):
            raise IncompleteReply("the connection was closed in the middle of the reply") from exc
        if "disconnected" in str(exc) or "peer closed connection" in str(exc):
            raise ConnectionFailed(f"the server closed the connection: {exc}") from exc
        raise RemoteProtocolError(f"the server did not speak HTTP: {exc}") from exc
    except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as exc:
        what = str(exc) or type(exc).__name__
        raise ConnectionFailed(f"the connection failed: {what}") from exc


def _retry_after(headers: httpx.Headers) -> float | None:
    """RFC 9110, 10.2.3: a number of seconds, or a date."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    try:
        at = email.utils.parsedate_to_datetime(value)
        if at.tzinfo is None:
            at = at.replace(tzinfo=datetime.UTC)
        return max(0.0, (at - datetime.datetime.now(datetime.UTC)).total_seconds())
    except (ValueError, OverflowError):  # not a date, or one that no calendar has
        return None
