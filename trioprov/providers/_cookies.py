"""Cookies in, cookies out: the user's, which are read once, and the server's, which belong to one conversation."""

from __future__ import annotations

import http.cookies
import re
from collections.abc import Iterable, Mapping
from http.cookiejar import CookieJar
from typing import Any, cast
from urllib.parse import urlsplit

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# RFC 6265, 4.1.1, and what servers send beyond it (spaces, commas, quotes): all but what ends a cookie or a header.
_VALUE = re.compile(r"[\x20-\x3a\x3c-\x7e]*")


def checked(cookies: Mapping[str, str] | CookieJar, base_url: str) -> dict[str, str]:
    """The cookies to send to ``base_url``, by name.

    Of a jar, those whose domain, path and secure flag fit (RFC 6265, 5.4); of a mapping, all.

    Raises:
        TypeError: not a mapping or a jar.
        ValueError: a name or a value that no Cookie header can carry; the value is not quoted.
    """
    if isinstance(cookies, CookieJar):
        found = _of_jar(cookies, base_url)
    elif isinstance(cookies, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        found = dict(cookies)
    else:
        raise TypeError(f"cookies must be a mapping or a CookieJar, not {type(cookies).__name__}")
    for name, value in cast("dict[Any, Any]", found).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError("cookie names and values must be strings")
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a cookie name")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"the value of the cookie {name!r} cannot be sent")
    return found


def _of_jar(jar: CookieJar, base_url: str) -> dict[str, str]:
    parts = urlsplit(base_url)
    host, path = parts.hostname or "", parts.path or "/"
    found: dict[str, tuple[int, str]] = {}
    for cookie in jar:
        domain = cookie.domain.lstrip(".").lower()
        if domain.endswith(".local") and "." not in host:  # what http.cookiejar makes of a host without dots
            domain = domain.removesuffix(".local")
        if domain and host != domain and not (cookie.domain.startswith(".") and host.endswith(f".{domain}")):
            continue
        under = cookie.path.rstrip("/")
        if not (path == under or path.startswith(f"{under}/")) or (cookie.secure and parts.scheme != "https"):
            continue
        if cookie.value is not None and len(under) >= found.get(cookie.name, (0, ""))[0]:
            found[cookie.name] = len(under), cookie.value
    return {name: value for name, (_, value) in found.items()}


def header(*layers: Mapping[str, Any] | CookieJar) -> dict[str, str]:
    """The ``cookie`` header for some layers of cookies, the later ones stronger; nothing without any."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged |= cast("Mapping[str, Any]", layer)
    return {"cookie": "; ".join(f"{name}={value}" for name, value in merged.items())} if merged else {}


def received(set_cookie: Iterable[str]) -> dict[str, str]:
    """The cookies that some ``Set-Cookie`` values set; what cannot be read or is being deleted is left out."""
    found: dict[str, str] = {}
    for value in set_cookie:
        try:
            parsed = http.cookies.SimpleCookie(value[:8192])
        except http.cookies.CookieError:
            continue
        for name, morsel in parsed.items():
            if morsel.value and morsel["max-age"] != "0" and _VALUE.fullmatch(morsel.value):
                found[name] = morsel.value
    return found
