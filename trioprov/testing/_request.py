"""One HTTP request as the emulators saw it, with the readings that their handlers and a test need."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")


@dataclass(frozen=True, kw_only=True)
class RecordedRequest:
    """A request, kept whole.

    Attributes:
        step: what the service calls it ("create", "delete", …; "other" for a path it does not have).
        method: the HTTP method, in capitals.
        path: the path as sent, without the query.
        query: the query's fields; of a repeated one, the first. A key without ``=`` is there with an empty value.
        headers: field names in small letters; repeated fields are joined with ``", "`` (cookies with ``"; "``).
        body: the bytes of the body, at most the service's limit.
        too_large: the body was longer than that; the rest was thrown away.
        time: when it was complete, on the emulator's own trio clock (only differences mean something).
    """

    step: str = "other"
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    too_large: bool = False
    time: float = 0.0

    @property
    def content_type(self) -> str:
        """The media type without its parameters, in small letters; empty if none was sent."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies sent; of a repeated name, the first, as the servers' parsers do."""
        found: dict[str, str] = {}
        for pair in self.headers.get("cookie", "").split(";"):
            name, equals, value = pair.strip().partition("=")
            if equals:
                found.setdefault(name, value.strip('"'))
        return found

    @property
    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: it is not JSON in UTF-8.
        """
        try:
            return json.loads(self.body.decode())
        except RecursionError:
            raise ValueError("the JSON is nested too deeply") from None

    @property
    def form(self) -> list[tuple[str, str]]:
        """The fields of an urlencoded or multipart body, in order; a file's contents count as its value.

        Raises:
            ValueError: it is not UTF-8, or a multipart body is malformed.
        """
        if self.content_type == "multipart/form-data":
            return [(name, value.decode()) for name, value in _multipart(self.headers["content-type"], self.body)]
        return parse_qsl(self.body.decode(), keep_blank_values=True)


def parse_query(text: str) -> dict[str, str]:
    """The fields of a query string, of a repeated one the first."""
    found: dict[str, str] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        found.setdefault(name, value)
    return found


def _parameters(value: str) -> dict[str, str]:
    """The parameters of a header such as ``form-data; name="content"``."""
    found: dict[str, str] = {}
    for piece in value.split(";")[1:]:
        name, equals, text = piece.strip().partition("=")
        if equals:
            found[name.lower()] = text.strip('"').replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")
    return found


def _multipart(content_type: str, body: bytes) -> list[tuple[str, bytes]]:
    boundary = _parameters(content_type).get("boundary")
    if not boundary:
        raise ValueError("multipart body without a boundary")
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary.encode())
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise ValueError("multipart body without its closing boundary")
    found: list[tuple[str, bytes]] = []
    for piece in pieces[1:-1]:
        head, blank, value = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        if not blank:
            raise ValueError("multipart part without an end of its headers")
        for line in head.decode().split("\r\n"):
            name, _, text = line.partition(":")
            if name.strip().lower() == "content-disposition":
                found.append((_parameters(text).get("name", ""), value))
    return found


def negotiate(accept: str, offers: tuple[str, ...]) -> str | None:
    """The offer that an ``Accept`` header prefers: by weight, then the more specific range, then the order given.

    This is SvelteKit's way (sveltejs/kit 1.20, ``utils/http.js``); the other services' frameworks agree with it on
    everything a client of theirs sends.
    """
    ranges: list[tuple[float, bool, bool, int, str, str]] = []
    for position, piece in enumerate(accept.split(",")):
        media, *parameters = piece.strip().split(";")
        kind, slash, subtype = media.strip().lower().partition("/")
        if not slash:
            continue
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.strip().partition("=")
            if name == "q":
                try:
                    weight = float(value)
                except ValueError:
                    weight = 1.0
        ranges.append((-weight, subtype == "*", kind == "*", position, kind, subtype))
    best: tuple[int, str] | None = None
    for offer in offers:
        kind, _, subtype = offer.partition("/")
        for rank, (_, _, _, _, wanted, wanted_subtype) in enumerate(sorted(ranges)):
            if wanted in (kind, "*") and wanted_subtype in (subtype, "*"):
                if best is None or rank < best[0]:
                    best = (rank, offer)
                break
    return best[1] if best else None
