"""Open Assistant's website as it was at its end: the Next.js routes of LAION-AI/Open-Assistant under ``/api/chat``.

Written from ``website/src/pages/api/chat/*``, ``website/src/lib/oasst_inference_client.ts``, Next.js 13's own body
parser and error page, and, behind them, the inference server (`_oasst_server`, `_oasst_worker`). What the first hop
does not catch becomes a 500, whatever the second hop said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import trio

from ._oasst_server import InferenceServer, UpstreamError
from ._oasst_worker import FINISHED, Message, OpenAssistantScript, Packet, events, ping, work
from ._request import RecordedRequest
from ._script import Fault
from ._server import Responder, compact_json
from ._service import EventStream, Service

_COOKIES = ("__Secure-next-auth.session-token", "next-auth.session-token")
_JSON = ("Content-Type", "application/json; charset=utf-8")
_STEPS = {
    "/api/chat/prompter_message": "prompter",
    "/api/chat/assistant_message": "assistant",
    "/api/chat/events": "events",
    "/api/chat/message": "message",
    "/api/chat/models": "models",
}


class OpenAssistantService(Service):
    """The website's routes and the inference server's state."""

    name = "openassistant"
    script_class = OpenAssistantScript
    steps = (
        "create",
        "prompter",
        "assistant",
        "events",
        "message",
        "chat",
        "list",
        "update",
        "delete",
        "models",
        "other",
    )
    body_limit = 1 << 20

    def __init__(self, script: OpenAssistantScript) -> None:
        super().__init__(script)
        self.knobs = script
        self._server = InferenceServer(script, self._enqueue)

    @property
    def conversations(self) -> tuple[str, ...]:
        """The rows of ``chat``, hidden ones too."""
        return tuple(sorted(self._server.chats))

    @property
    def worker_crashes(self) -> int:
        """How often a worker was broken by deleting what it worked on."""
        return self._server.worker_crashes

    def provider_fields(self, url: str) -> dict[str, Any]:
        """The address, and the first account's cookie."""
        return {"base_url": url, "cookies": {_COOKIES[1]: self.knobs.accounts[0]}}

    def step(self, request: RecordedRequest) -> str:
        """create, chat (one), list, update, delete, prompter, assistant, events, message, models or other."""
        if request.path != "/api/chat":
            return _STEPS.get(request.path, "other")
        if request.method == "GET":
            return "chat" if request.query.get("chat_id") else "list"
        return {"POST": "create", "PUT": "update", "DELETE": "delete"}.get(request.method, "other")

    async def answer(self, request: RecordedRequest, respond: Responder, fault: Fault) -> None:
        """Next.js parses the body, ``withoutRole`` looks at the session, the route asks the inference server."""
        if request.too_large:
            await respond.send(413, b"Body exceeded 1mb limit")
            return
        body: dict[str, Any] = {}
        if request.content_type == "application/json" and request.body:
            try:
                parsed = request.json
            except ValueError:
                await respond.send(400, b"Invalid JSON")
                return
            body = cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else {}
        token = next((request.cookies[name] for name in _COOKIES if name in request.cookies), "")
        if token not in self.knobs.accounts:
            await respond.send(403)
            return
        step = request.step
        try:
            if step == "events":
                await self._events(request.query, token, respond, fault)
            else:
                status, value = self._route(step, request, body, token)
                if value is None:
                    await respond.send(status)
                else:
                    await respond.send(status, compact_json(value).encode(), [_JSON])
        except UpstreamError as error:
            if step in ("prompter", "assistant"):
                message = "Something went wrong" if error.detail is None else error.detail
                await respond.send(error.status, compact_json({"message": message}).encode(), [_JSON])
            else:
                await respond.send(500, b"Internal Server Error")

    def _route(self, step: str, request: RecordedRequest, body: Mapping[str, Any], user: str) -> tuple[int, object]:
        server = self._server
        chat_id = request.query.get("chat_id", "undefined")
        if step == "create":
            return 200, server.create(user).item()
        if step == "list":
            return 200, server.list_chats(request.query, user)
        if step == "chat":
            chat = server.chats.get(chat_id)
            if chat is None or chat.user != user:
                return 404, None
            return 200, {**chat.item(), "messages": [message.read() for message in chat.messages.values()]}
        if step == "update":
            chat = server.chat(str(body.get("chat_id")), user)
            chat.title = body.get("title", chat.title)
            chat.hidden = bool(body.get("hidden", chat.hidden))
            chat.allow_data_use = bool(body.get("allow_data_use", chat.allow_data_use))
            chat.tail = body.get("active_thread_tail_message_id", chat.tail)
            return 200, None
        if step == "delete":
            server.delete(server.chat(chat_id, user))
            return 200, None
        if step == "prompter":
            return 200, server.prompter(body, user).read()
        if step == "assistant":
            return 200, server.assistant(body, user).read()
        if step == "message":
            return 200, server.message(request.query, user).read()
        if step == "models":
            return 200, [{"name": name, "description": ""} for name in self.knobs.models]
        return (400 if request.path == "/api/chat" else 404), None

    def _enqueue(self, message: Message) -> None:
        message.queued = True
        self.start_soon(work, message, self.knobs, self.running)

    async def _events(self, query: Mapping[str, str], user: str, respond: Responder, fault: Fault) -> None:
        message = self._server.message(query, user)
        if message.role != "assistant":
            raise UpstreamError(400, "Only assistant messages can be streamed.")
        stream = EventStream(respond, fault)
        if message.state in FINISHED:
            await stream.start(200, ())  # upstream says 204; the proxy pipes nothing into a 200
            await stream.end()
            return
        send, receive = trio.open_memory_channel[Packet](64)
        self.start_soon(events, message, self.knobs, send)
        with receive, respond.while_connected():
            await stream.start(200, ())
            next_ping = trio.current_time() + self.knobs.heartbeat if self.knobs.pings else math.inf
            while True:
                packet: Packet | None = None
                with trio.move_on_at(next_ping):
                    try:
                        packet = await receive.receive()
                    except trio.EndOfChannel:
                        break
                if packet is None:
                    next_ping += self.knobs.heartbeat
                    await stream.other(ping())
                elif packet.value["event_type"] == "pending":
                    await stream.other(packet.data)
                else:
                    await stream.content(packet.data)
            await stream.end()
