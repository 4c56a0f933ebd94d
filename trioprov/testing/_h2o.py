"""H2O's chat as it was: huggingface/chat-ui v0.4 in front of text-generation-inference v0.9.4.

Written from chat-ui's ``src/hooks.server.ts`` and ``src/routes/``, sveltejs/kit 1.20 (adapter-node, content
negotiation, form actions, ``__data.json``) and the stream of text-generation-inference (``_tgi``).
"""

from __future__ import annotations

import math
import re
import secrets
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, cast
from urllib.parse import quote, unquote

import trio

from ._request import FORM_TYPES, RecordedRequest
from ._script import Fault
from ._server import Responder, compact_json
from ._service import EventStream, Service
from ._sveltekit import JSON, Answer, RouteError, Unexpected, origin
from ._tgi import H2oScript, Piece, Unprocessable, deserialize, generate, validate

_CONVERSATION = re.compile(r"/conversation/([^/]+)")
_STOP_TTL = 30.0  # the TTL index on chat-ui's abortedGenerations
_YEAR = 365 * 24 * 3600.0


@dataclass
class _Conversation:
    session: str
    model: str
    title: str
    messages: list[dict[str, str]] = field(default_factory=list[dict[str, str]])


@dataclass
class _Stop:
    """A row of ``abortedGenerations``: asking again refreshes only when it was updated."""

    created: float
    updated: float


@dataclass
class _Run:
    conversation: str
    started: float
    send: trio.MemorySendChannel[bytes]
    aborted: bool = False


class H2oService(Service):
    """chat-ui's state and routes."""

    name = "h2o"
    script_class = H2oScript
    steps = ("home", "settings", "create", "generate", "stop", "delete", "delete_all", "list", "read", "page", "other")
    body_limit = 512 * 1024  # adapter-node's BODY_SIZE_LIMIT

    def __init__(self, script: H2oScript) -> None:
        super().__init__(script)
        self.knobs = script
        self._conversations: dict[str, _Conversation] = {}
        self._accepted: set[str] = set()
        self._stops: dict[str, _Stop] = {}
        self._completed: list[tuple[float, str]] = []

    @property
    def conversations(self) -> tuple[str, ...]:
        """The rows of chat-ui's ``conversations``."""
        return tuple(sorted(self._conversations))

    def step(self, request: RecordedRequest) -> str:
        """home, settings, create, generate, stop, delete, delete_all, list, read, page or other."""
        method, path = request.method, request.path
        if path.endswith("/__data.json"):
            return "list" if path == "/__data.json" else "read"
        if path.endswith("/stop-generating"):
            return "stop"
        if _CONVERSATION.fullmatch(path):
            return {"POST": "generate", "DELETE": "delete", "GET": "page"}.get(method, "other")
        if path == "/conversations" and "/delete" in request.query:
            return "delete_all"
        known = {("GET", "/"): "home", ("POST", "/settings"): "settings", ("POST", "/conversation"): "create"}
        return known.get((method, path), "other")

    async def answer(self, request: RecordedRequest, respond: Responder, fault: Fault) -> None:
        """The hook's guards in their order, then the route."""
        if request.too_large:
            await respond.send(413, b"Invalid request body")
            return
        session = unquote(request.cookies.get(self.knobs.cookie_name, "")) or str(uuid.uuid4())
        refusal = self._guards(request, session)
        if refusal is not None:
            status, message = refusal
            as_json = any("application/json" in request.headers.get(name, "") for name in ("accept", "content-type"))
            body = compact_json({"error": message}) if as_json else message
            await respond.send(status, body.encode(), [JSON if as_json else ("Content-Type", "text/plain")])
            return
        cookie = (
            f"{self.knobs.cookie_name}={quote(session, safe='!*()')}; Path=/; "
            f"Expires={formatdate(time.time() + _YEAR, usegmt=True)}; HttpOnly; Secure; SameSite=None"
        )
        answer = Answer(request, respond, fault, [("Set-Cookie", cookie)])
        try:
            await self._route(request, session, answer)
        except RouteError as error:
            await answer.error(error.status, error.message)
        except (ValueError, KeyError, TypeError, AttributeError, Unexpected):
            await answer.error(500, "Internal Error")  # zod, JSON.parse, ObjectId: no code of this era handles them

    def _guards(self, request: RecordedRequest, session: str) -> tuple[int, str] | None:
        if request.method == "POST" and request.content_type in FORM_TYPES:
            referer = request.headers.get("referer")
            if not referer:
                return 403, "Non-JSON form requests need to have a referer"
            scheme = "https" if self.knobs.https_origin else "http"
            if origin(referer) != origin(f"{scheme}://{request.headers.get('host', '')}"):
                return 403, "Invalid referer for POST request"
        if (
            request.method not in ("GET", "HEAD", "OPTIONS")
            and not request.path.startswith("/settings")
            and self.knobs.disclaimer
            and session not in self._accepted
        ):
            return 405, "You need to accept the welcome modal first"
        return None

    async def _route(self, request: RecordedRequest, session: str, answer: Answer) -> None:
        step = self.step(request)
        if step == "home":
            await answer.page(200, "chat-ui")
        elif step == "settings":
            await self._settings(request, session, answer)
        elif step == "create":
            await self._create(request, session, answer)
        elif step == "list":
            rows = [
                {"id": name, "title": row.title, "model": row.model}
                for name, row in self._conversations.items()
                if row.session == session
            ]
            await answer.data({"conversations": rows})
        elif step == "delete_all":
            if request.content_type not in FORM_TYPES:
                await answer.action_error()  # "Actions expect form-encoded data"
                return
            for name in [name for name, row in self._conversations.items() if row.session == session]:
                del self._conversations[name]
            await answer.redirect("/")
        elif step in ("generate", "stop", "delete", "read", "page"):
            await self._conversation(step, request.path.split("/")[2], session, answer)
        elif request.path == "/conversation" and request.method == "GET":
            await answer.send(302, b"", [("Location", "/")])
        else:
            await answer.error(404, f"Not found: {request.path}")

    async def _settings(self, request: RecordedRequest, session: str, answer: Answer) -> None:
        fields = dict(request.form) if request.content_type in FORM_TYPES else {"activeModel": ""}
        if fields.get("activeModel", self.knobs.models[0]) not in self.knobs.models:
            await answer.action_error()
            return
        if fields.get("ethicsModalAccepted"):  # Boolean(x): "false" is true
            self._accepted.add(session)
        await answer.redirect(request.headers.get("referer", "/"))

    async def _create(self, request: RecordedRequest, session: str, answer: Answer) -> None:
        values = _mapping(request.json)
        if values.get("model") not in self.knobs.models:
            raise Unexpected
        if values.get("fromShare"):
            raise RouteError(404, "Conversation not found")
        name = f"{int(time.time()):08x}{secrets.token_hex(8)}"
        number = 1 + sum(row.session == session for row in self._conversations.values())
        self._conversations[name] = _Conversation(session, cast("str", values["model"]), f"Untitled {number}")
        await answer.json(200, {"conversationId": name})

    async def _conversation(self, step: str, name: str, session: str, answer: Answer) -> None:
        if step == "page" and not answer.wants_page:
            await answer.send(405, b"GET method not allowed", [("Content-Type", "text/plain")])
            return
        if not re.fullmatch(r"[0-9a-fA-F]{24}", name):
            raise Unexpected
        row = self._conversations.get(name)
        mine = row is not None and row.session == session
        if step == "read":
            if row is None or not mine:
                status, message = (404, "Conversation not found") if row is None else (403, "You don't have access")
                await answer.data_error(status, message)
            else:
                await answer.data({"messages": row.messages, "title": row.title, "model": row.model})
            return
        if row is None or not mine:
            raise RouteError(404, "Conversation not found")
        if step == "generate":
            await self._generate(name, row, answer)
        elif step == "stop":
            now = trio.current_time()
            stop = self._stops.get(name)
            if stop is not None and stop.updated + _STOP_TTL > now:
                stop.updated = now
            else:
                self._stops[name] = _Stop(now, now)
            await answer.send(200)
        elif step == "delete":
            del self._conversations[name]
            await answer.send(200)
        else:
            await answer.page(200, row.title)

    async def _generate(self, name: str, row: _Conversation, answer: Answer) -> None:
        now = trio.current_time()
        recent = sum(when > now - 60 and session == row.session for when, session in self._completed)
        if self.knobs.messages_per_minute and recent >= self.knobs.messages_per_minute:
            raise RouteError(429, "You are sending too many messages. Try again later.")
        if row.model not in self.knobs.models:
            raise RouteError(410, "Model not available anymore")
        values = _mapping(answer.request.json)
        inputs = values["inputs"].strip()
        options = _mapping(values["options"])
        for key in ("id", "response_id"):
            if options.get(key) is not None:
                uuid.UUID(options[key])
        if not inputs or not isinstance(options.get("is_retry", False), bool) or options.get("web_search_id"):
            raise Unexpected
        history = list(row.messages)
        if options.get("is_retry") and options.get("id"):
            cut = next((at for at, message in enumerate(history) if message["id"] == options["id"]), len(history))
            history = history[:cut]
        prompt = " ".join([*(message["content"] for message in history), inputs])
        try:
            parameters = deserialize(values.get("parameters"))
        except Unprocessable as error:
            await answer.send(422, str(error).encode(), [("Content-Type", "text/plain; charset=utf-8")])
            return
        pieces = generate(self.knobs, prompt, parameters)
        if values.get("stream") is not True:
            await self._at_once(pieces, validate(prompt, parameters, self.knobs, streaming=False), answer)
            return
        question = {"id": options.get("id") or str(uuid.uuid4()), "from": "user", "content": inputs}
        reply = {"id": options.get("response_id") or str(uuid.uuid4()), "from": "assistant", "content": ""}
        send, receive = trio.open_memory_channel[bytes](math.inf)
        run = _Run(name, now, send)
        self.start_soon(self._work, run, pieces, row, [*history, question, reply])
        with receive, answer.respond.while_connected():
            await self._pump(run, receive, answer)

    async def _work(
        self, run: _Run, pieces: Iterator[Piece], row: _Conversation, messages: list[dict[str, str]]
    ) -> None:
        """One generation: it reads to the end whether or not anybody listens, and only then is anything saved."""
        key = str(uuid.uuid4())
        self.running[key] = run.conversation
        text: list[str] = []
        try:
            with run.send:
                for piece in pieces:
                    await trio.sleep(piece.delay)
                    if self._stopped(run):
                        run.aborted = True
                        break
                    text.append(piece.text)
                    with suppress(trio.BrokenResourceError):
                        run.send.send_nowait(self._event(piece))
                    queue = run.send.statistics()
                    if self.knobs.forever and (queue.current_buffer_used > 1000 or not queue.open_receive_channels):
                        await trio.sleep(0.01)  # nobody reads that fast, or at all: be kind to the machine
        finally:
            del self.running[key]
        messages[-1]["content"] = "".join(text).strip()
        row.messages = messages  # of a deleted conversation this saves nothing: an update, not an upsert
        self._completed.append((trio.current_time(), row.session))

    def _event(self, piece: Piece) -> bytes:
        return f"data:{' ' if self.knobs.space_after_data else ''}{compact_json(piece.value)}\n\n".encode()

    def _stopped(self, run: _Run) -> bool:
        stop = self._stops.get(run.conversation)
        if stop is None or stop.created <= run.started:
            return False
        poll = self.knobs.stop_poll
        seen = math.ceil(stop.created / poll) * poll if poll else stop.created
        return trio.current_time() >= seen

    async def _pump(self, run: _Run, receive: trio.MemoryReceiveChannel[bytes], answer: Answer) -> None:
        stream = EventStream(answer.respond, answer.fault)
        headers = [("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no")]
        await stream.start(200, [*headers, *answer.cookies])
        while True:
            event = b""
            with trio.move_on_after(self.knobs.heartbeat) as silence:
                try:
                    event = await receive.receive()
                except trio.EndOfChannel:
                    break
            if silence.cancelled_caught:
                await stream.other(b":\n\n")
            else:
                await stream.content(event)
        if run.aborted:
            await answer.respond.abort()
        else:
            await stream.end()

    async def _at_once(self, pieces: Iterator[Piece], complaint: str | None, answer: Answer) -> None:
        """``stream`` was not true: the compatibility route of TGI answers in one piece."""
        if complaint is not None:
            error = {"error": f"Input validation error: {complaint}", "error_type": "validation"}
            await answer.json(422, error)
            return
        last: Mapping[str, Any] = {}
        for piece in pieces:
            await trio.sleep(piece.delay)
            last = piece.value
        if "error" in last:
            await answer.json(429 if last["error_type"] == "overloaded" else 424, last)
        else:
            await answer.json(200, [{"generated_text": last["generated_text"]}])


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unexpected
    return cast("dict[str, Any]", value)
