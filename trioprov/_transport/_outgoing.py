"""A provider's request as HTTP has it: whom to ask, for what, with which headers and body."""

from __future__ import annotations

import functools
import json
import re
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import NamedTuple, TypeAlias
from urllib.parse import urlencode

import httpx

from ..providers import Provider, Request

Origin: TypeAlias = tuple[str, str, int]

PORTS = {"http": 80, "https": 443}

# As httpx writes it, which makes a new encoder for each request.
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode

# To read an address costs as much as all else about a request, and a conversation has few of them.
_address = functools.lru_cache(maxsize=256)(httpx.URL)

# A path that is the same after it was read: segments without dots at their beginning, nor anything to be quoted.
_PLAIN = re.compile(r"(?:/(?:[A-Za-z0-9_~-][A-Za-z0-9_~.-]*)?)+")

_HAVE_BODIES = ("POST", "PUT", "PATCH")


class Message(NamedTuple):
    """One request.

    Attributes:
        method: the HTTP method.
        url: the whole address.
        origin: scheme, host and port of it.
        target: the rest of it, as the request's first line has it.
        headers: all of them, also those that follow from the address and the body.
        body: may be empty.
    """

    method: str
    url: str
    origin: Origin
    target: bytes
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes

    def for_httpx(self) -> httpx.Request:
        """The same, in httpx's words. Not made by a client, which has defaults to merge with it, and ours have none."""
        request = httpx.Request(self.method, _address(self.url), headers=list(self.headers), content=self.body)
        request.stream = _Body(self.body)
        return request


def origin_of(url: httpx.URL) -> Origin:
    """Whom to connect to.

    Raises:
        httpx.UnsupportedProtocol: it is neither http nor https.
    """
    if url.scheme not in PORTS:
        raise httpx.UnsupportedProtocol(f"there is no way to speak {url.scheme!r}")
    return url.scheme, url.raw_host.decode("ascii").strip("[]"), url.port or PORTS[url.scheme]


def built(provider: Provider, request: Request) -> Message:
    """The request, with the headers that we and its body add to it.

    Raises:
        httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError: it cannot be sent.
    """
    base = _address(f"{provider.base_url}/")  # with the slash, without which dots at the end are read in another way
    path = f"{request.path}?{urlencode(request.query)}" if request.query else request.path
    url = f"{provider.base_url}{path}"
    plain = _PLAIN.fullmatch(path) is not None
    target = base.raw_path[:-1] + path.encode("ascii") if plain else _address(url).raw_path
    headers = {"accept-encoding": "identity", "connection": "keep-alive"}
    headers |= {name.lower(): value for name, value in request.headers.items()}
    kind, body = _content(request)
    if kind is not None and (request.json is None or "content-type" not in headers):
        headers["content-type"] = kind
    fields = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
    if "host" not in headers:
        fields.insert(0, (b"Host", base.netloc))
    if body or request.method in _HAVE_BODIES:
        fields.append((b"Content-Length", b"%d" % len(body)))
    return Message(request.method, url, origin_of(base), target, fields, body)


def _content(request: Request) -> tuple[str | None, bytes]:
    """What kind of body, and the body."""
    if request.form is not None:
        return "application/x-www-form-urlencoded", urlencode(request.form).encode("ascii")
    if request.multipart is not None:
        boundary = secrets.token_hex(16)
        return f"multipart/form-data; boundary={boundary}", _multipart(boundary, request.multipart)
    if request.json is not None:
        return "application/json", _json(request.json).encode()
    return None, b""


def _multipart(boundary: str, parts: Iterable[tuple[str, str]]) -> bytes:
    """Fields of a form, as browsers send them (RFC 7578; names quoted as the HTML standard has it)."""
    lines: list[str] = []
    for name, value in parts:
        quoted = name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")
        lines += [f"--{boundary}", f'Content-Disposition: form-data; name="{quoted}"', "", value]
    return "\r\n".join([*lines, f"--{boundary}--", ""]).encode()


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
