"""Whether somebody has put something between httpx and the network: then it is to see our requests, too.

With nobody there, httpx's client would do nothing but hand a request on to our transport, and its answer back; that
costs twice what the rest of a request does. respx, mocks, tracers and loggers all work by one of the means looked for
here, and with any of them requests go the long way: through httpx's client, and through its own transport, too, where
somebody has replaced what is below that.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from operator import is_
from types import FunctionType

import httpx

from ._http1 import HTTP1Transport

_log = logging.getLogger("httpx")

# Where httpx and what is below it connect.
_CONNECTS = "handle_async_request"

# What a request passes on that way; `respx.mock(using="httpx")`, for one, replaces the last but one.
_PASSED: list[tuple[Callable[[str], object], str]] = [
    (vars(cls).get, name)
    for cls, name in (
        (httpx.AsyncClient, "send"),
        (httpx.AsyncClient, "_send_handling_auth"),
        (httpx.AsyncClient, "_send_handling_redirects"),
        (httpx.AsyncClient, "_send_single_request"),
        (httpx.AsyncClient, "_transport_for_url"),
        (HTTP1Transport, _CONNECTS),
    )
]


def _found() -> list[object]:
    return [get(name) for get, name in _PASSED]


def _is_their_own(function: object) -> bool:
    """Whether it was defined by its library; a wrapper may have the name, and not the module, of what it wraps.

    Or it is an object, as wrapt's are, that says of itself whatever what it wraps says.
    """
    if type(function) is not FunctionType:
        return False
    where: str = function.__globals__.get("__name__", "")
    return where.partition(".")[0] in ("httpx", "httpcore", __name__.partition(".")[0])


# As they were installed; nothing, should somebody have been there before us, or httpx have changed.
_installed = found if all(map(_is_their_own, found := _found())) else None


def is_intercepted() -> bool:
    """Whether a request has to go through httpx's client for somebody to see it."""
    # By identity: an object of wrapt's is equal to what it wraps.
    return _installed is None or not all(map(is_, _found(), _installed)) or _log.isEnabledFor(logging.INFO)


def is_replaced() -> bool:
    """Whether a request has to go through httpx's own transport, since somebody has replaced what is below httpx."""
    if not _is_their_own(vars(httpx.AsyncHTTPTransport).get(_CONNECTS)):
        return True
    # httpx imports it when it first needs it.
    pool: type[object] | None = getattr(sys.modules.get("httpcore"), "AsyncConnectionPool", None)
    return pool is not None and not _is_their_own(vars(pool).get(_CONNECTS))
