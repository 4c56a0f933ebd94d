"""How sveltejs/kit 1.20 answers: JSON or a page by ``Accept``, form actions, and ``__data.json`` in devalue's form."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any, cast
from urllib.parse import urlsplit

from ._request import RecordedRequest, negotiate
from ._script import Fault
from ._server import Responder, compact_json

JSON = ("Content-Type", "application/json")
_JSON_OR_PAGE = ("application/json", "text/html")


class RouteError(Exception):
    """SvelteKit's ``error(status, message)``, thrown inside a route."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Unexpected(Exception):
    """Anything else that a route throws (zod, ``new ObjectId``, ``JSON.parse``): a 500 in this era."""


class Answer:
    """The answer to one request, with the cookies that every answer of a route carries.

    Attributes:
        request: what is answered.
        respond: where.
        fault: for streams.
        cookies: the ``Set-Cookie`` fields.
    """

    def __init__(
        self, request: RecordedRequest, respond: Responder, fault: Fault, cookies: list[tuple[str, str]]
    ) -> None:
        self.request = request
        self.respond = respond
        self.fault = fault
        self.cookies = cookies

    @property
    def wants_page(self) -> bool:
        """Whether a GET of a path that is both a page and an endpoint gets the page."""
        return negotiate(self.request.headers.get("accept", "*/*"), ("*/*", "text/html")) == "text/html"

    async def send(self, status: int, body: bytes = b"", headers: Iterable[tuple[str, str]] = ()) -> None:
        """Any answer."""
        await self.respond.send(status, body, [*headers, *self.cookies])

    async def json(self, status: int, value: object) -> None:
        """A JSON answer."""
        await self.send(status, compact_json(value).encode(), [JSON])

    async def page(self, status: int, text: str) -> None:
        """An HTML page."""
        body = f'<!DOCTYPE html>\n<html lang="en"><head><title>{html.escape(text)}</title></head><body></body></html>\n'
        await self.send(status, body.encode(), [("Content-Type", "text/html; charset=utf-8")])

    async def error(self, status: int, message: str) -> None:
        """An error in a route: JSON only if ``Accept`` is there and allows it."""
        accept = self.request.headers.get("accept") or "text/html"
        if negotiate(accept, _JSON_OR_PAGE) == "application/json":
            await self.json(status, {"message": message})
        else:
            await self.page(status, message)

    async def redirect(self, location: str) -> None:
        """What a form action answers with when it succeeds: a 200 that says 303, or a 303."""
        if self._action_in_json():
            await self.json(200, {"type": "redirect", "status": 303, "location": location})
        else:
            await self.send(303, b"", [("Location", location)])

    async def action_error(self) -> None:
        """What a form action answers with when it throws."""
        if self._action_in_json():
            await self.json(500, {"type": "error", "error": {"message": "Internal Error"}})
        else:
            await self.page(500, "Internal Error")

    async def data(self, value: dict[str, Any]) -> None:
        """The data of a page: one node, without the layout's."""
        node: dict[str, Any] = {"type": "data", "data": flatten(value), "uses": {}}
        await self.json(200, {"type": "data", "nodes": [node]})

    async def data_error(self, status: int, message: str) -> None:
        """The data of a page whose load threw: the status of the answer is still 200."""
        node = {"type": "error", "error": {"message": message}, "status": status}
        await self.json(200, {"type": "data", "nodes": [{"type": "skip"}, node]})

    def _action_in_json(self) -> bool:
        return negotiate(self.request.headers.get("accept", "*/*"), _JSON_OR_PAGE) == "application/json"


def flatten(value: object) -> list[Any]:
    """A JSON value in the form of the npm package devalue: a list in which values refer to others by their index."""
    flat: list[Any] = []

    def add(item: object) -> int:
        index = len(flat)
        flat.append(None)
        if isinstance(item, dict):
            flat[index] = {key: add(inner) for key, inner in cast("dict[str, object]", item).items()}
        elif isinstance(item, list):
            flat[index] = [add(inner) for inner in cast("list[object]", item)]
        else:
            flat[index] = item
        return index

    add(value)
    return flat


def origin(url: str) -> tuple[str, str | None, int | None]:
    """The origin of a URL: scheme, host, port."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
