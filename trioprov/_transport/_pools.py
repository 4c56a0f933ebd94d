"""Who carries a request: our own transport; where there is a proxy, clients with pools of httpx's that few use at once.

httpcore looks at every connection of a pool for every request: with a thousand streams in one pool, that costs more
than all else together (encode/httpcore#1035). So a pool of its takes a few users, and the next ones get another; and
what cleans up gets those that no stream uses.
"""

from __future__ import annotations

import functools
import os
import ssl
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TypeAlias
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx

from .._errors import ConnectionFailed
from ..providers import Provider
from ._http1 import KEEPALIVE, HTTP1Transport
from ._interception import is_intercepted, is_replaced

# Seconds. Connecting is the one wait that no answer is lost by giving up; all else has budgets and deadlines of ours.
CONNECT_TIMEOUT = 30.0

# How many requests and streams one pool of httpx's carries at once.
_USERS = 32

# Where the environment names who is trusted, for httpx.
_AUTHORITIES = ("SSL_CERT_FILE", "SSL_CERT_DIR")

# What a request is given to: our transport itself, or an httpx client.
Carrier: TypeAlias = HTTP1Transport | httpx.AsyncClient
Loan: TypeAlias = AbstractContextManager[HTTP1Transport] | AbstractContextManager[httpx.AsyncClient]


def _is_spared(host: str, name: str) -> bool:
    if name in ("", "localhost") or name[-1].isdigit():  # nothing is below an address
        return name == host
    return name in ("*", host) or host.endswith("." + name.removeprefix("."))


class _NoCookies(httpx.Cookies):
    """Takes no cookie from anybody: cookies belong to conversations, and a client serves many."""

    def extract_cookies(self, response: httpx.Response) -> None:
        """Not even look for them, which costs more than to send the request."""


class _Client(httpx.AsyncClient):
    """An httpx client without cookies."""

    @property
    def cookies(self) -> httpx.Cookies:  # pyright: ignore[reportIncompatibleMethodOverride] - nobody sets them
        return _NO_COOKIES


_NO_COOKIES = _NoCookies()


class _Pool(AbstractContextManager[httpx.AsyncClient]):
    """A pool of httpx's; entered by each of its users."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.users = 0

    def __enter__(self) -> httpx.AsyncClient:
        self.users += 1
        return self.client

    def __exit__(self, *exc_info: object) -> None:
        self.users -= 1


class Pools:
    """All pools of one client, by proxy, scheme and purpose."""

    def __init__(
        self, transport: httpx.AsyncBaseTransport | None, verify: bool | ssl.SSLContext, trust_env: bool
    ) -> None:
        # As httpx does, we take whatever does what a transport does; a class of them does not.
        able = transport is None or callable(getattr(transport, "handle_async_request", None))
        if not able or isinstance(transport, type):
            raise TypeError(f"transport must be an httpx.AsyncBaseTransport, not {type(transport).__name__}")
        self._transport = transport
        self._verify = verify
        self._trust_env = trust_env
        self._pools: dict[tuple[str | None, bool, bool], list[_Pool]] = {}
        self._own: HTTP1Transport | None = None
        self._intercepted: httpx.AsyncClient | None = None

    def borrow(self, provider: Provider, *, cleanup: bool = False) -> Loan:
        """Use one of the carriers for a provider: for cleaning up, one that no stream can keep from connecting.

        Enter it at once: until then, it is not counted.

        Raises:
            ConnectionFailed: there is no way to speak to such a proxy, or nobody is known who could be trusted.
            ValueError: the provider has a proxy, and the client a transport of its own.
        """
        if provider.proxy is not None and self._transport is not None:
            raise ValueError("the provider has a proxy, but the client's own transport decides how to connect")
        if self._is_ours(provider):
            # It never queues, so that one serves all, streams and cleanups.
            if self._own is None:
                self._own = HTTP1Transport(partial(self._context, True))
            if not is_intercepted():
                return nullcontext(self._own)
            if self._intercepted is None:
                self._intercepted = self._client(self._own)
            return nullcontext(self._intercepted)
        secure = provider.base_url.startswith("https:")
        pools = self._pools.setdefault((provider.proxy, secure, cleanup), [])
        # A transport of somebody else's is one pool, whatever it is inside.
        pool = next((pool for pool in pools if pool.users < _USERS or self._transport is not None), None)
        if pool is None:
            try:
                pool = _Pool(self._client(self._transport, provider.proxy, secure))
            except ImportError as exc:
                raise ConnectionFailed("a SOCKS proxy needs: pip install 'trioprov[socks]'") from exc
            except ValueError as exc:  # it hides the password
                raise ConnectionFailed(f"there is no way to speak to the proxy: {exc}") from exc
            except httpx.InvalidURL as exc:
                exc.args = ()  # it may quote a part of one
                raise ConnectionFailed("the proxy, or one or NO_PROXY in the environment, is no URL") from exc
            pools.append(pool)
        return pool

    def _is_ours(self, provider: Provider) -> bool:
        """Whether our own transport is to connect."""
        if self._transport is not None or provider.proxy is not None:
            return False
        return not is_replaced() and not self.may_be_proxied(provider.base_url)

    async def aclose(self) -> None:
        """Close every pool."""
        pools, self._pools = self._pools, {}
        for pool in [pool for some in pools.values() for pool in some]:
            await pool.client.aclose()
        own, self._own, self._intercepted = self._own, None, None
        if own is not None:
            await own.aclose()

    @functools.cached_property
    def _proxies(self) -> dict[str, str]:
        # It looks at every variable there is; a session that says nothing need not.
        return getproxies() if self._trust_env else {}

    def may_be_proxied(self, url: str) -> bool:
        """Whether the environment may want a proxy for it, as httpx reads it; if in doubt, httpx is to decide."""
        parts = urlsplit(url)
        if not (self._proxies.get(parts.scheme) or self._proxies.get("all")):
            return False
        host = parts.hostname or ""
        spared = [name.strip().lower() for name in self._proxies.get("no", "").split(",")]
        return not any(_is_spared(host, name) for name in spared)

    def _client(
        self, transport: httpx.AsyncBaseTransport | None, proxy: str | None = None, secure: bool = False
    ) -> httpx.AsyncClient:
        return _Client(
            transport=transport,
            verify=self._context(secure) if transport is None else False,
            trust_env=self._trust_env,
            proxy=self._proxy(proxy),
            limits=httpx.Limits(max_connections=None, keepalive_expiry=KEEPALIVE),
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT),
            follow_redirects=False,
        )

    def _proxy(self, url: str | None) -> str | httpx.Proxy | None:
        """A proxy that is spoken to by TLS is verified as any server is."""
        if url is None or not url.startswith("https:"):
            return url
        return httpx.Proxy(url, ssl_context=self._context(True))

    def _context(self, secure: bool) -> ssl.SSLContext:
        if isinstance(self._verify, ssl.SSLContext):
            return self._verify
        if not secure:
            return _no_context()
        try:
            return _context(self._verify, self._trust_env, *map(os.environ.get, _AUTHORITIES))
        except OSError as exc:
            raise ConnectionFailed(f"the certificates of who is trusted cannot be read: {exc}") from exc


@functools.cache
def _context(verify: bool, trust_env: bool, *named: str | None) -> ssl.SSLContext:
    # Reading the certificates costs 14 ms and 0.7 MB, so one context serves every client of the process; until the
    # environment names others.
    return httpx.create_ssl_context(verify=verify, trust_env=trust_env)


@functools.cache
def _no_context() -> ssl.SSLContext:
    # For clients that only speak plain http: it trusts nobody, so it is cheap, and safe should it ever be used.
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
