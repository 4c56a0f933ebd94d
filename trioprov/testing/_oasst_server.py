"""Open Assistant's inference server, as the website talks to it: users, chats, messages, and what it refuses.

Written from LAION-AI/Open-Assistant, ``inference/server/oasst_inference_server`` (``routes/chats.py``,
``user_chat_repository.py``) and pydantic 1, whose error lists reach the client.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from ._oasst_worker import ANSWER, Message, OpenAssistantScript, finish, now, uuid7

_PAGE = 20
_INTEGERS = ("top_k", "max_new_tokens")
_FLOATS = ("top_p", "typical_p", "temperature", "repetition_penalty")


@dataclass
class Chat:
    """A row of ``chat``."""

    user: str
    id: str = field(default_factory=uuid7)
    created: str = field(default_factory=now)
    modified: str = field(default_factory=now)
    title: str | None = None
    hidden: bool = False
    allow_data_use: bool = True
    tail: str | None = None
    messages: dict[str, Message] = field(default_factory=dict[str, Message])

    def item(self) -> dict[str, Any]:
        """The row as the API shows it in a list."""
        return {
            "id": self.id,
            "created_at": self.created,
            "modified_at": self.modified,
            "title": self.title,
            "hidden": self.hidden,
            "allow_data_use": self.allow_data_use,
            "active_thread_tail_message_id": self.tail,
        }


class UpstreamError(Exception):
    """The inference server's answer, with the ``detail`` of its body; `None` if that was no JSON."""

    def __init__(self, status: int, detail: object = None) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail


class InferenceServer:
    """The state behind the website.

    Args:
        script: what to say.
        enqueue: puts a message into the worker's queue.

    Attributes:
        chats: the rows of ``chat``.
        worker_crashes: how often a worker lost a message to a DELETE.
    """

    def __init__(self, script: OpenAssistantScript, enqueue: Callable[[Message], None]) -> None:
        self.knobs = script
        self.chats: dict[str, Chat] = {}
        self.worker_crashes = 0
        self._enqueue = enqueue
        self._full = math.inf if script.queue_full is True else float(script.queue_full)

    def create(self, user: str) -> Chat:
        """A new chat."""
        chat = Chat(user)
        self.chats[chat.id] = chat
        return chat

    def chat(self, chat_id: str, user: str) -> Chat:
        """One of the user's chats."""
        chat = self.chats.get(chat_id)
        if chat is None or chat.user != user:
            raise UpstreamError(404, "Chat not found")
        return chat

    def message(self, query: Mapping[str, str], user: str) -> Message:
        """A message of one of the user's chats."""
        message = self.chat(query.get("chat_id", ""), user).messages.get(query.get("message_id", ""))
        if message is None:
            raise UpstreamError(404, "Message not found")
        return message

    def list_chats(self, query: Mapping[str, str], user: str) -> dict[str, Any]:
        """Newest first; cursors are ids in base64."""
        wanted = query.get("include_hidden") == "true"
        rows = [chat for chat in self.chats.values() if chat.user == user and (wanted or not chat.hidden)]
        rows.sort(key=lambda chat: chat.id, reverse=True)
        try:
            after, before = (base64.b64decode(query.get(name, "")).decode() for name in ("after", "before"))
        except ValueError:
            raise UpstreamError(500) from None
        if after:
            rows = [chat for chat in rows if chat.id < after]
        if before:
            rows = [chat for chat in rows if chat.id > before][-_PAGE:]
        page = rows[:_PAGE]

        def cursor(present: bool, at: int) -> str | None:
            return base64.b64encode(page[at].id.encode()).decode() if present and page else None

        following, previous = cursor(len(rows) > _PAGE or bool(before), -1), cursor(bool(after), 0)
        return {"chats": [chat.item() for chat in page], "next": following, "prev": previous}

    def delete(self, chat: Chat) -> None:
        """Really delete; what a worker was busy with breaks it."""
        del self.chats[chat.id]
        broken = False
        for message in chat.messages.values():
            message.deleted = True
            in_queue = message.queued and self.knobs.positions is not None
            broken = broken or in_queue or message.state == "in_progress"
        self.worker_crashes += broken  # the worker's session looks its message up with `.one()`

    def prompter(self, body: Mapping[str, Any], user: str) -> Message:
        """Add a question."""
        content, parent = body.get("content"), body.get("parent_id")
        if not isinstance(content, str):
            raise UpstreamError(422, [_pydantic(["body", "content"], content, "str")])
        chat = self.chats.get(str(body.get("chat_id")))
        if chat is None or chat.user != user:
            raise UpstreamError(500)  # `.one()` again, and a handler for every exception
        if len(content) > self.knobs.max_content:
            raise UpstreamError(413, "Message content exceeds max length")
        if len(chat.messages) >= self.knobs.max_messages:
            raise UpstreamError(413, "Maximum number of messages reached for this chat")
        if parent is None:
            if chat.messages:
                raise UpstreamError(400, "Trying to add first message to non-empty chat")
            chat.title = content
        else:
            above = chat.messages.get(str(parent))
            if above is None:
                raise UpstreamError(400, "Parent message not found")
            if above.role != "assistant":
                raise UpstreamError(400, "Parent message is not an assistant message")
            if above.state != "complete":
                raise UpstreamError(400, "Parent message is not complete")
        message = Message(chat.id, user, "prompter", parent, content, "manual")
        chat.messages[message.id] = message
        chat.modified = message.created
        return message

    def assistant(self, body: Mapping[str, Any], user: str) -> Message:
        """Add an answer to come, and queue it."""
        if self.knobs.rate_limited:
            raise UpstreamError(500)  # meant as a 429; the limiter's callback fails
        sampling: object = body.get("sampling_parameters") or {}
        problems = [
            _pydantic(["body", name], body.get(name), "str")
            for name in ("parent_id", "model_config_name")
            if not isinstance(body.get(name), str)
        ]
        problems += _sampling_problems(cast("dict[str, Any]", sampling) if isinstance(sampling, dict) else {})
        if problems:
            raise UpstreamError(422, problems)
        model, parent_id = body["model_config_name"], body["parent_id"]
        if model not in self.knobs.models:
            raise UpstreamError(422, f"Model {model} not found")
        mine = [message for chat in self.chats.values() if chat.user == user for message in chat.messages.values()]
        for other in mine:
            if other.role == "assistant" and other.state == "pending" and other.parent != parent_id:
                other.state = "cancelled"  # in all chats of this user; it will pend for ever
        found = [chat.messages[parent_id] for chat in self.chats.values() if parent_id in chat.messages]
        if not found or found[0].role != "prompter":
            raise UpstreamError(500)
        parent = found[0]
        if parent.user != user:
            raise UpstreamError(400, "Message not found")
        chat = self.chats[parent.chat]
        if len(chat.messages) >= self.knobs.max_messages:
            raise UpstreamError(413, "Maximum number of messages reached for this chat")
        work_parameters: dict[str, Any] = {
            "model_config": {"model_id": model},
            "sampling_parameters": sampling,
            "do_sample": True,
            "seed": 0,
            "system_prompt": body.get("system_prompt"),
            "user_profile": body.get("user_profile"),
            "user_response_instructions": body.get("user_response_instructions"),
            "plugins": body.get("plugins") or [],
        }
        message = Message(chat.id, user, "assistant", parent_id, None, "pending", work_parameters)
        chat.messages[message.id] = message
        if self._full > 0:
            self._full -= 1  # the row is committed already
            raise UpstreamError(503, "The server is currently busy. Please try again later.")
        if self.knobs.empty_stream:
            finish(message, self._whole_text())
        else:
            message.queued = True
            self._enqueue(message)
        return message

    def _whole_text(self) -> str:
        return "".join(self.knobs.pieces(ANSWER)) if self.knobs.final_content is None else self.knobs.final_content


def _pydantic(where: list[str], value: object, kind: str) -> dict[str, Any]:
    """One entry of a pydantic 1 error list."""
    if value is None:
        return {"loc": where, "msg": "field required", "type": "value_error.missing"}
    if kind == "str":
        return {"loc": where, "msg": "str type expected", "type": "type_error.str"}
    return {"loc": where, "msg": f"value is not a valid {kind}", "type": f"type_error.{kind}"}


def _sampling_problems(sampling: Mapping[str, Any]) -> list[dict[str, Any]]:
    problems: list[dict[str, Any]] = []
    for name in (*_INTEGERS, *_FLOATS):
        where = ["body", "sampling_parameters", name]
        value = sampling.get(name)
        if value is None:
            if name == "max_new_tokens" and name in sampling:
                error = {"msg": "none is not an allowed value", "type": "type_error.none.not_allowed"}
                problems.append({"loc": where, **error})
            continue
        try:
            int(value) if name in _INTEGERS else float(value)
        except (TypeError, ValueError):
            problems.append(_pydantic(where, value, "integer" if name in _INTEGERS else "float"))
    return problems
