"""The connections of one client, and who may use them.

They are ours (`_http1`) where nobody else is to connect: no proxy, no transport of the user's. For httpx's own, two
rules come from measurements of httpx 0.28 on httpcore 1.0 (see the threads):

- Nothing ever queues inside httpcore's pool: a request cancelled there can take its slot with it for good
  (encode/httpcore#1093). The limit is ours, in front.
- A body is left only from inside ``__anext__`` (see `_bodies`).

What cleans up is not counted by that limit, and so cannot be starved by any number of live streams. It has a limit of
its own, per server: a server whose streams were all cancelled at once is not also sent as many deletes at once.
"""

from __future__ import annotations

import signal
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import httpx
import trio

from ..providers import Provider, Request, Response
from ._bodies import THEIRS, Arrived, in_our_words, pump, whole
from ._http1 import TELL, HTTP1Transport
from ._outgoing import Message, built
from ._pools import CONNECT_TIMEOUT, Carrier, Loan, Pools

T = TypeVar("T")

# How many cleanups may talk to one server at once.
_CLEANUPS = 16

_UNLIMITED: AbstractAsyncContextManager[None] = nullcontext()


class Exchange:
    """What is known about one request on its way.

    Attributes:
        sent: whether it may have left; until then nothing can have happened on the server.
        told: whether ``sent`` comes from who sends it.
    """

    def __init__(self) -> None:
        self.sent: bool = False
        self.told: bool = False
        self._handshaking: Any = None

    def tell(self, sent: bool) -> None:
        """Our own transport's hook: it has the request; it is about to send it."""
        self.told = True
        self.sent = sent

    async def trace(self, event: str, info: dict[str, Any]) -> None:
        """httpcore's trace hook, which is called before and after each step of a connection."""
        if not self.told:
            self.told, self.sent = True, False  # who calls it tells all, and this is the beginning
        if event.endswith("connect_tcp.complete"):
            self._handshaking = info["return_value"]
        elif event.endswith(("start_tls.complete", "send_request_headers.started")):
            self._handshaking = None
        # What opens a tunnel goes to the proxy; nothing of it reaches the server.
        if event.endswith("send_request_headers.started") and info["request"].method != b"CONNECT":
            await trio.lowlevel.checkpoint_if_cancelled()  # else it would be, after this, and before a byte has left
            self.sent = True

    async def drop_handshake(self) -> None:
        """Close a connection whose TLS handshake was cancelled, which httpcore leaves to the collector."""
        stream, self._handshaking = self._handshaking, None
        if stream is not None:
            with trio.CancelScope(shield=True, relative_deadline=1.0):
                await stream.aclose()


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
        self._foreign = transport is not None
        self._pools = Pools(transport, verify, trust_env)

    async def send(self, provider: Provider, request: Request, exchange: Exchange | None = None) -> Response:
        """One request and its whole answer, on a connection that streams use too.

        Raises:
            ConnectionFailed: there was no connection, or it broke.
            RemoteProtocolError: what came was not HTTP, or more than 1 MiB.
        """
        async with self._limiter or _UNLIMITED:
            return await self._send(self._pools.borrow(provider), provider, request, exchange or Exchange())

    async def send_cleanup(self, provider: Provider, request: Request) -> Response:
        """The same, without waiting for `max_connections`; call it inside `cleanup_slot`."""
        return await self._send(self._pools.borrow(provider, cleanup=True), provider, request, Exchange())

    async def _send(self, loan: Loan, provider: Provider, request: Request, exchange: Exchange) -> Response:
        try:
            with loan as carrier:
                return await whole(await self._start(carrier, provider, request, exchange), request.method)
        except THEIRS as exc:
            raise in_our_words(exc) from exc

    def cleanup_slot(self, provider: Provider) -> AbstractAsyncContextManager[None]:
        """Be one of the few who clean up on the provider's server at once; a checkpoint only if there are too many."""
        if provider.base_url not in self._cleanups:
            self._cleanups[provider.base_url] = trio.CapacityLimiter(_CLEANUPS)
        return _Slot(self._cleanups[provider.base_url])

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
        async with self._limiter or _UNLIMITED:
            in_body = False
            try:
                with self._pools.borrow(provider) as carrier:
                    arrived = await self._start(carrier, provider, request, exchange)
                    if not arrived.is_success:
                        return await whole(arrived, request.method)
                    in_body = True
                    pumping = pump(arrived, receive)
                    # Where httpx is between, it is an eighth of what a stream holds, and not needed any more.
                    del arrived
                    await pumping
            except THEIRS as exc:
                raise in_our_words(exc, in_body=in_body) from exc
            return None

    async def aclose(self) -> None:
        """Close every connection; those of a transport that was given to us too, as httpx does."""
        await self._pools.aclose()

    async def _start(self, carrier: Carrier, provider: Provider, request: Request, exchange: Exchange) -> Arrived:
        try:
            message = built(provider, request)
            if isinstance(carrier, HTTP1Transport):
                answer = await _insisted(partial(carrier.exchange, message, exchange.tell, CONNECT_TIMEOUT))
            else:
                answer = await self._through_httpx(carrier, message, exchange)
        except UnicodeError as exc:  # what the system's resolver says of a name that no host can have
            raise httpx.ConnectError(str(exc)) from exc
        exchange.sent = True
        return Arrived(answer)

    async def _through_httpx(self, client: httpx.AsyncClient, message: Message, exchange: Exchange) -> httpx.Response:
        request = message.for_httpx()
        request.extensions |= {TELL: exchange.tell, "trace": exchange.trace}
        # A transport of somebody else's need not call a hook; until it does, or fails to connect, it may have sent.
        exchange.sent = self._foreign
        try:
            return await _insisted(partial(client.send, request, stream=True))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, httpx.UnsupportedProtocol):
            exchange.sent = False
            raise
        except httpx.HTTPError:
            exchange.sent = exchange.sent or not exchange.told
            raise
        finally:
            await exchange.drop_handshake()  # noqa: ASYNC102 - it shields itself


class _Slot(AbstractAsyncContextManager[None]):
    """A place under a limit; taking one that is free is no checkpoint, and so no turn of the event loop."""

    def __init__(self, limiter: trio.CapacityLimiter) -> None:
        self._limiter = limiter

    async def __aenter__(self) -> None:
        try:
            self._limiter.acquire_nowait()
        except trio.WouldBlock:
            await self._limiter.acquire()

    async def __aexit__(self, *exc_info: object) -> None:
        self._limiter.release()


async def _insisted(send: Callable[[], Awaitable[T]]) -> T:
    """What ``send`` returns; a Ctrl-C that lands in its connecting is passed on to the main task, whose it is.

    Whoever calls this is protected from it, but trio connects in child tasks, which protection does not reach.
    """
    while True:
        try:
            return await send()
        except BaseExceptionGroup as group:
            interrupts, rest = group.split(KeyboardInterrupt)
            if interrupts is None:
                raise
        signal.raise_signal(signal.SIGINT)
        if rest is not None:  # it was cancelled, too
            raise rest
