"""Cookies in, cookies out: the user's, which are read once, and the server's, which belong to one conversation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http.cookiejar import CookieJar
from typing import cast
from urllib.parse import urlsplit

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# RFC 6265, 4.1.1, and what servers send beyond it (spaces, commas, quotes): all but what ends a cookie or a header.
_VALUE = re.compile(r"[\x20-\x3a\x3c-\x7e]*")


def checked(cookies: object, base_url: str) -> dict[str, str]:
    """The cookies to send to ``base_url``, by name.

    Of a jar, those whose domain, path and secure flag fit (RFC 6265, 5.4); of a mapping, all.

    Raises:
        TypeError: not a mapping or a jar.
        ValueError: a name or a value that no Cookie header can carry; the value is not quoted.
    """
    if isinstance(cookies, CookieJar):
        found: dict[object, object] = {**_of_jar(cookies, base_url)}
    elif isinstance(cookies, Mapping):
        found = dict(cast("Mapping[object, object]", cookies))
    else:
        raise TypeError(f"cookies must be a mapping or a CookieJar, not {type(cookies).__name__}")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError("cookie names and values must be strings")
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a cookie name")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"the value of the cookie {name!r} cannot be sent")
    return cast("dict[str, str]", found)


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


def header(*layers: Mapping[str, str]) -> dict[str, str]:
    """The ``cookie`` header for some layers of cookies, the later ones stronger; nothing without any."""
    merged: dict[str, str] = {}
    for layer in layers:
        merged |= layer
    return {"cookie": "; ".join(f"{name}={value}" for name, value in merged.items())} if merged else {}


def received(set_cookie: Iterable[str]) -> dict[str, str]:
    """The cookies that some ``Set-Cookie`` values set (RFC 6265, 5.2); what is deleted or cannot be sent is left out.

    Not by `http.cookies`, which gives up at an attribute it does not know, as ``Partitioned`` once was.
    """
    found: dict[str, str] = {}
    for line in set_cookie:
        pair, *rest = line.split(";")
        name, _, value = (part.strip() for part in pair.partition("="))
        attributes = {key.strip().lower(): text.strip() for key, _, text in (item.partition("=") for item in rest)}
        age = attributes.get("max-age", "")
        deleted = age == "0" or age.startswith("-") or "1970" in attributes.get("expires", "")
        if value and not deleted and len(line) <= 8192 and _NAME.fullmatch(name) and _VALUE.fullmatch(value):
            found[name] = value
    return found
