"""AllenAI's playground API as it was in March 2025: ``/v4/message/stream`` and ``/v3/message`` of allenai/olmo-api.

Written from ``src/message/create_message_service.py``, ``message_service.py``, the blueprints, ``e2e/test_message.py``
and the auth service of that repository.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import cycle
from typing import Any

import trio

from ._olmo_rules import ANSWER, AUTO, ERRORS, UNREPORTED, AllenAIScript, Form, check_form
from ._request import RecordedRequest, negotiate
from ._script import Fault
from ._server import Responder
from ._service import EventStream, Service

_SYSTEM_PROMPT = "You are a helpful assistant."
_FORBIDDEN = "You don't have the permission to access the requested resource."
_NOT_FOUND = "The requested URL was not found on the server."


@dataclass
class _Row:
    """A row of ``message``."""

    role: str
    content: str
    creator: str
    parent: str | None
    form: Form
    private: bool
    expires: str | None
    root: str = ""
    final: bool = False
    finish_reason: str | None = None
    id: str = field(default_factory=lambda: _new_id())
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat())

    def read(self, children: list[dict[str, Any]] | None) -> dict[str, Any]:
        return {
            "id": self.id,
            "content": self.content,
            "snippet": self.content[:100],
            "creator": self.creator,
            "role": self.role,
            "opts": self.form.opts,
            "root": self.root,
            "created": self.created,
            "deleted": None,
            "parent": self.parent,
            "template": self.form.template,
            "logprobs": None,
            "children": children,
            "completion": None,
            "final": self.final,
            "original": self.form.original,
            "private": self.private,
            "model_type": "chat" if self.role == "assistant" else None,
            "model_id": self.form.model,
            "model_host": self.form.host,
            "finish_reason": self.finish_reason,
            "harmful": False if self.role == "user" else None,
            "expiration_time": self.expires,
            "labels": [],
            "file_urls": None,
        }


class HTTPError(Exception):
    """A werkzeug exception: it ends in the error envelope."""

    def __init__(self, status: int, message: str, problems: list[dict[str, Any]] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.problems = problems


class AllenAIService(Service):
    """olmo-api's state and routes."""

    name = "allenai"
    script_class = AllenAIScript
    steps = ("stream", "delete", "read", "list", "models", "other")
    body_limit = 50 << 20

    def __init__(self, script: AllenAIScript) -> None:
        super().__init__(script)
        self.knobs = script
        self._threads: dict[str, dict[str, _Row]] = {}

    @property
    def conversations(self) -> tuple[str, ...]:
        """The ids of the threads' roots, whether or not their messages are final (a list shows only those)."""
        return tuple(sorted(self._threads))

    def step(self, request: RecordedRequest) -> str:
        """stream, delete, read, list, models or other."""
        method, path = request.method, request.path
        if path.startswith("/v3/message/"):
            return {"DELETE": "delete", "GET": "read"}.get(method, "other")
        known = {
            ("POST", "/v4/message/stream"): "stream",
            ("GET", "/v3/messages"): "list",
            ("GET", "/v4/models"): "models",
        }
        return known.get((method, path), "other")

    async def answer(self, request: RecordedRequest, respond: Responder, fault: Fault) -> None:
        """Flask's routes, and its error handler."""
        try:
            if request.too_large:
                raise HTTPError(413, "The data value transmitted exceeds the capacity limit.")
            if request.step == "stream":
                await self._stream(request, respond, fault)
            else:
                await _json(respond, 200, self._route(request))
        except HTTPError as error:
            await _refuse(request, respond, error)

    def _route(self, request: RecordedRequest) -> object:
        if request.step == "models":
            return [{"id": name, "name": name, "host": host} for name, host in self.knobs.models.items()]
        if request.step == "other":
            raise HTTPError(404, _NOT_FOUND)
        agent, _ = self._agent(request)
        if request.step == "list":
            return self._list(request.query, agent)
        name = request.path.removeprefix("/v3/message/")
        if request.step == "delete":
            thread = self._threads.get(name)  # rows are selected by their root: a leaf's id finds nothing
            if thread is None:
                raise HTTPError(404, _NOT_FOUND)
            if thread[name].creator != agent:
                raise HTTPError(403, _FORBIDDEN)
            del self._threads[name]
            return None
        row = self._row(name)
        if row is None:
            raise HTTPError(404, _NOT_FOUND)
        if row.creator != agent and row.private:
            raise HTTPError(403, "You do not have access to that private message.")
        return self._tree(row)

    def _agent(self, request: RecordedRequest) -> tuple[str, bool]:
        """Who asks, and whether that is an id of their own invention."""
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and token in self.knobs.bearer_tokens:
            return token, False
        anonymous = request.headers.get("x-anonymous-user-id")
        if not anonymous:
            raise HTTPError(401, "The server could not verify that you are authorized to access the URL requested.")
        return anonymous, True

    def _row(self, name: str | None) -> _Row | None:
        return next((thread[name] for thread in self._threads.values() if name in thread), None) if name else None

    def _tree(self, row: _Row) -> dict[str, Any]:
        children = [self._tree(child) for child in self._threads[row.root].values() if child.parent == row.id]
        return row.read(children or None)

    def _list(self, query: Mapping[str, str], agent: str) -> dict[str, Any]:
        creator = query.get("creator", agent)
        try:
            offset, limit = int(query.get("offset", 0)), int(query.get("limit", 10))
        except ValueError as error:
            raise HTTPError(400, str(error)) from None
        roots = [thread[root] for root, thread in self._threads.items()]
        seen = [row for row in roots if row.final and row.creator == creator and (creator == agent or not row.private)]
        seen.reverse()
        page = [self._tree(row) for row in seen[offset : offset + limit]]
        return {"messages": page, "meta": {"total": len(seen), "offset": offset, "limit": limit, "sort": None}}

    async def _stream(self, request: RecordedRequest, respond: Responder, fault: Fault) -> None:
        try:
            form = check_form(request.form)
        except ValueError as error:
            raise HTTPError(400, str(error)) from None
        if not isinstance(form, Form):
            raise HTTPError(400, f"{len(form)} validation errors", form)
        agent, anonymous = self._agent(request)
        private = anonymous or form.private
        parent = self._row(form.parent)
        if form.parent is not None:
            self._check_parent(form, parent, agent, private)
        if self.knobs.models.get(form.model) != form.host:
            raise HTTPError(400, f"model {form.model} is not available on {form.host}")
        if form.role == "user" and any(word in form.content for word in self.knobs.inappropriate):
            raise HTTPError(400, "inappropriate_prompt")

        expires = (datetime.now(UTC) + timedelta(days=1)).isoformat() if anonymous else None

        def add(role: str, content: str, above: _Row | None, *, final: bool = False) -> _Row:
            row = _Row(role, content, agent, above.id if above else None, form, private, expires, final=final)
            row.root = above.root if above else row.id
            self._threads.setdefault(row.root, {})[row.id] = row
            return row

        system = add("system", _SYSTEM_PROMPT, None) if parent is None and self.knobs.system_prompt else None
        message = add(form.role, form.content, system or parent, final=form.role == "assistant")
        if form.role == "assistant":
            await _json(respond, 200, message.read(None))
            return
        reply = add("assistant", "", message)
        self.running[reply.id] = reply.root
        try:
            await self._generate([*([system] if system else []), message, reply], respond, EventStream(respond, fault))
        finally:
            del self.running[reply.id]

    def _check_parent(self, form: Form, parent: _Row | None, agent: str, private: bool) -> None:
        if parent is None:
            raise HTTPError(400, f"Value error, Parent message {form.parent} not found")
        if parent.role == form.role:
            raise HTTPError(400, "Value error, Parent and child must have different roles")
        root = self._threads[parent.root][parent.root]
        if root.private != private:
            raise HTTPError(400, "Value error, Visibility must be identical for all messages in a thread")
        if root.creator != agent:
            raise HTTPError(403, _FORBIDDEN)

    async def _generate(self, chain: list[_Row], respond: Responder, stream: EventStream) -> None:
        """The generator behind the answer: when a write finds the client gone, it ends there, finalising nothing."""
        knobs, reply = self.knobs, chain[-1]

        async def line(value: Mapping[str, Any]) -> None:
            await stream.content(json.dumps(value).encode() + b"\n")

        await stream.start(200, [("Content-Type", "application/jsonl")])
        if knobs.start_line:
            await line({"type": "start", "message": reply.root})
        await line(_nested(chain))
        reports = reply.form.host == "inferd"
        finish = ("stop" if reports else None) if knobs.finish_reason == AUTO else knobs.finish_reason
        tokens = knobs.pieces(ANSWER)
        limit: int = reply.form.opts["max_tokens"]
        if len(tokens) > limit and not knobs.forever:
            tokens = tokens[:limit]
            finish = "length" if reports and knobs.finish_reason == AUTO else finish
        if knobs.error_reason is not None:
            count = 0 if knobs.error_reason == "model overloaded" else len(tokens)
            tokens = tokens[: count if knobs.error_after is None else knobs.error_after]
            if knobs.finish_reason == AUTO:
                finish = None if knobs.error_reason in UNREPORTED else knobs.error_reason
        delay = knobs.first_delay
        text = ""
        for token in cycle(tokens) if knobs.forever else tokens:
            await trio.sleep(delay)
            delay = knobs.token_delay
            text = token if knobs.forever else text + token
            await line({"message": reply.id, "content": token, "logprobs": []})
        if not tokens:
            await trio.sleep(delay)
        reason = knobs.error_reason or (finish if finish in ERRORS else None)
        gone = reply.root not in self._threads
        if gone or reason == "finalization failure":
            error = f"failed to finalize message {chain[-2].id}"
            await line({"message": chain[-2].id, "error": error, "reason": "finalization failure"})
            await respond.abort()
            return
        if reason is not None:
            await line({"message": reply.id, "error": ERRORS.get(reason, reason), "reason": reason})
        for row in chain:
            row.final = True
        reply.content = text if knobs.final_content is None else knobs.final_content
        reply.finish_reason = finish
        await line(_nested(chain))
        if knobs.start_line:
            await line({"type": "end", "message": reply.root})
        await stream.end()


def _nested(chain: list[_Row]) -> dict[str, Any]:
    """A chain of messages, each the only child of the one before."""
    tree: dict[str, Any] | None = None
    for row in reversed(chain):
        tree = row.read([tree] if tree else None)
    return tree or {}


def _new_id() -> str:
    pairs = (random.choice(string.ascii_uppercase) + random.choice(string.digits) for _ in range(5))
    return "msg_" + "".join(pairs)


async def _json(respond: Responder, status: int, value: object) -> None:
    """Flask's ``jsonify``: ASCII, sorted keys, a newline."""
    body = json.dumps(value, separators=(",", ":"), sort_keys=True) + "\n"
    await respond.send(status, body.encode(), [("Content-Type", "application/json")])


async def _refuse(request: RecordedRequest, respond: Responder, error: HTTPError) -> None:
    accept = request.headers.get("accept", "*/*")
    if negotiate(accept, ("application/json", "text/html")) == "text/html":
        page = f"<!doctype html>\n<html lang=en>\n<title>{error.status}</title>\n<p>{error.message}</p>\n"
        await respond.send(error.status, page.encode(), [("Content-Type", "text/html; charset=utf-8")])
        return
    value: dict[str, Any] = {"code": error.status, "message": error.message}
    if error.problems is not None:
        value["validation_errors"] = error.problems
    await _json(respond, error.status, {"error": value})
