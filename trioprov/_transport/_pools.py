"""httpx clients, each with a connection pool that few use at once.

httpcore looks at every connection of a pool for every request: with a thousand streams in one pool, that costs more
than all else together (encode/httpcore#1035). So a pool takes a few users, and the next ones get another.
"""

from __future__ import annotations

import functools
import http.cookiejar
import ssl
from collections.abc import Generator
from contextlib import contextmanager

import httpx

from .._errors import ConnectionFailed
from ..providers import Provider

# Connecting is the one wait that no answer is lost by giving up; everything else has budgets and deadlines of ours.
_TIMEOUT = httpx.Timeout(None, connect=30.0)

# Servers close idle connections after 5 s (node's default); one that is reused at that edge fails in 2-10 % of tries.
_KEEPALIVE = 3.0

# How many requests and streams one pool carries at once.
_USERS = 32

# Takes no cookie from anybody: cookies belong to conversations, and a client serves many.
_NO_COOKIES = http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))


class _Pool:
    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.users = 0


class Pools:
    """All pools of one client, by proxy, scheme and purpose."""

    def __init__(
        self, transport: httpx.AsyncBaseTransport | None, verify: bool | ssl.SSLContext, trust_env: bool
    ) -> None:
        self._transport = transport
        self._verify = verify
        self._trust_env = trust_env
        self._pools: dict[tuple[str | None, bool, bool], list[_Pool]] = {}

    @contextmanager
    def borrow(self, provider: Provider, *, cleanup: bool = False) -> Generator[httpx.AsyncClient]:
        """Use one of the pools for a provider: for cleaning up, one that no stream uses.

        Raises:
            ConnectionFailed: there is no way to speak to such a proxy.
            ValueError: the provider has a proxy, and the client a transport of its own.
        """
        if provider.proxy is not None and self._transport is not None:
            raise ValueError("the provider has a proxy, but the client's own transport decides how to connect")
        secure = provider.base_url.startswith("https:")
        pools = self._pools.setdefault((provider.proxy, secure, cleanup), [])
        # A transport of somebody else's is one pool, whatever it is inside.
        pool = next((pool for pool in pools if pool.users < _USERS or self._transport is not None), None)
        if pool is None:
            try:
                pool = _Pool(self._new_client(provider.proxy, secure))
            except ImportError as exc:
                raise ConnectionFailed("a SOCKS proxy needs: pip install 'trioprov[socks]'") from exc
            pools.append(pool)
        pool.users += 1
        try:
            yield pool.client
        finally:
            pool.users -= 1

    async def aclose(self) -> None:
        """Close every pool."""
        pools, self._pools = self._pools, {}
        for pool in [pool for some in pools.values() for pool in some]:
            await pool.client.aclose()

    def _new_client(self, proxy: str | None, secure: bool) -> httpx.AsyncClient:
        client = httpx.AsyncClient(
            transport=self._transport,
            verify=self._context(secure),
            trust_env=self._trust_env,
            proxy=self._proxy(proxy),
            limits=httpx.Limits(max_connections=None, keepalive_expiry=_KEEPALIVE),
            timeout=_TIMEOUT,
            cookies=_NO_COOKIES,
            follow_redirects=False,
        )
        for name in ("user-agent", "accept"):
            client.headers.pop(name, None)
        return client

    def _proxy(self, url: str | None) -> str | httpx.Proxy | None:
        """A proxy that is spoken to by TLS is verified as any server is."""
        if url is None or not url.startswith("https:"):
            return url
        return httpx.Proxy(url, ssl_context=self._context(True))

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
