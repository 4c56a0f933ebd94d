"""What a provider is constructed with, checked before anything is sent; no message quotes what may be a secret."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import SplitResult, unquote, urlsplit

# Headers that the client or the HTTP library must set itself; another value would break the request, or the rule that
# credentials go into `cookies`, where they are known to be secret.
_OURS = frozenset({"cookie", "host", "content-length", "content-type", "transfer-encoding", "connection", "te"})

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2

_HOST = re.compile(r"([\w-]{1,63}\.)*[\w-]{1,63}\.?", re.ASCII)  # RFC 1034, 3.5, and the underscores there are besides

_CREDENTIAL = re.compile(r"auth|token|key|secret|password|session|signature|user-id", re.IGNORECASE)


def is_credential(header: str) -> bool:
    """Whether the header of this name says who is asking."""
    return _CREDENTIAL.search(header) is not None


def checked_headers(headers: Any) -> dict[str, str]:
    """The headers, if every one can be sent.

    Raises:
        TypeError: not a mapping of strings.
        ValueError: a name or a value that HTTP does not carry, or that is not the caller's to set.
    """
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping, not {type(headers).__name__}")
    for name, value in cast("Mapping[object, object]", headers).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError("header names and values must be strings")
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is not a header name")
        if name.lower() in _OURS:
            raise ValueError(f"the header {name!r} is set by the client itself (credentials go into cookies=)")
        if not value.isprintable() or not value.isascii() or value != value.strip():
            raise ValueError(f"the value of the header {name!r} cannot be sent: printable ASCII only")
    return dict(cast("Mapping[str, str]", headers))


def checked_base_url(url: Any) -> str:
    """Where a service is: scheme and host in lower case, without a slash at the end.

    Raises:
        TypeError: not a string.
        ValueError: not a URL below which there are others.
    """
    parts = checked_url("base_url", url, ("http", "https"))
    if "?" in url or "#" in url or "@" in parts.netloc:
        raise ValueError("base_url must have no query, fragment, user or password")
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def checked_url(what: str, url: Any, schemes: tuple[str, ...]) -> SplitResult:
    """The parts of a URL.

    Raises:
        TypeError: not a string.
        ValueError: not a URL that a request can be sent to.
    """
    if not isinstance(url, str):
        raise TypeError(f"{what} must be a string, not {type(url).__name__}")
    parts = _split(what, url)
    if parts.scheme not in schemes or not parts.hostname or not url.isprintable() or " " in url:
        raise ValueError(f"{what} must be a URL that starts with {' or '.join(f'{s}://' for s in schemes)} and a host")
    if url.isascii() and ":" not in parts.hostname and not _HOST.fullmatch(parts.hostname):
        raise ValueError(f"{what} has a host that cannot be one")
    if not url.isascii():
        raise ValueError(f"{what} must be ASCII: a host in its xn-- form, the rest percent-encoded")
    return parts


def passwords(url: str) -> set[str]:
    """The password in a URL in every form in which it is sent; empty if there is none."""
    parts = _split("proxy", url)
    if parts.password is None:
        return set()
    user, password = unquote(parts.username or ""), unquote(parts.password)
    return {password, base64.b64encode(f"{user}:{password}".encode()).decode()}


def without_password(url: str) -> str:
    """The URL with three stars for its password."""
    parts = _split("proxy", url)
    user, at, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}" if at else host, query="").geturl()


def _split(what: str, url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError(f"{what} is not a URL") from None  # the cause would quote it, password and all
    return parts
