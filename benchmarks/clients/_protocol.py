"""What a client written by hand sends, to each service: the same bodies in all of them.

A conversation is a flow, as a provider's is: it yields requests, is sent their answers, and returns the request whose
answer is the stream, and the one that deletes.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Generator
from typing import Any, NamedTuple
from urllib.parse import urlencode

_PROMPT = "Why is the sky blue?"
_FORM, _JSON = "application/x-www-form-urlencoded", "application/json"
_BOUNDARY = "53f7b6d1f2a34d0d9e6f1f3ad6a1b0c2"


class Ask(NamedTuple):
    """A request."""

    method: str
    path: str
    kind: str = ""
    body: str = ""


Flow = Generator[Ask, Any, tuple[Ask, Ask]]


def _json(path: str, value: object = None) -> Ask:
    return Ask("POST", path, _JSON, json.dumps(value)) if value is not None else Ask("POST", path)


def settings(model: str) -> dict[str, str]:
    """The form that accepts chat-ui's terms."""
    return {"ethicsModalAccepted": "true", "activeModel": model}


def question(count: int) -> dict[str, Any]:
    """chat-ui's request for a stream of at most ``count`` tokens."""
    return {
        "inputs": _PROMPT,
        "parameters": {
            "temperature": 0.4,
            "truncate": 2048,
            "max_new_tokens": count,
            "do_sample": True,
            "repetition_penalty": 1.2,
            "return_full_text": False,
        },
        "stream": True,
        "options": {
            "id": str(uuid.uuid4()),
            "response_id": str(uuid.uuid4()),
            "is_retry": False,
            "use_cache": False,
            "web_search_id": "",
        },
    }


def _tgi(model: str) -> Flow:
    yield Ask("POST", "/settings", _FORM, urlencode(settings(model)))
    created = yield _json("/conversation", {"model": model})
    path = f"/conversation/{json.loads(created)['conversationId']}"
    return _json(path, question(1024)), Ask("DELETE", path)


def _oasst(model: str) -> Flow:
    chat = json.loads((yield _json("/api/chat")))["id"]
    prompt = {"chat_id": chat, "content": _PROMPT, "parent_id": None}
    parent = json.loads((yield _json("/api/chat/prompter_message", prompt)))["id"]
    sampling = {"top_k": 50, "top_p": None, "typical_p": None, "temperature": 0.35, "max_new_tokens": 1024}
    asked = {"chat_id": chat, "parent_id": parent, "model_config_name": model, "sampling_parameters": sampling}
    message = json.loads((yield _json("/api/chat/assistant_message", {**asked, "plugins": []})))["id"]
    events = _json(f"/api/chat/events?chat_id={chat}&message_id={message}")
    return events, Ask("DELETE", f"/api/chat?chat_id={chat}")


def _olmo(model: str) -> Flow:
    fields = {"model": model, "host": "modal", "content": _PROMPT, "private": "true"}
    parts = [f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n' for name in fields]
    body = "".join(f"{part}{value}\r\n" for part, value in zip(parts, fields.values(), strict=True))
    kind = f"multipart/form-data; boundary={_BOUNDARY}"
    # The root's id is in the first line of the answer; here it is always the same.
    asked = Ask("POST", "/v4/message/stream", kind, f"{body}--{_BOUNDARY}--\r\n")
    return asked, Ask("DELETE", "/v3/message/msg_F6G7H8I9J0")
    yield


FLOWS: dict[str, Callable[[str], Flow]] = {"tgi": _tgi, "oasst": _oasst, "olmo": _olmo}

# -- What one writes who reads by the line ----------------------------------------------------------------------------


def _tgi_line(line: str) -> str | None:
    if line.startswith("data:"):
        token = json.loads(line[5:])["token"]
        if not token["special"]:
            return token["text"]
    return None


def _oasst_line(line: str) -> str | None:
    if line.startswith("data:"):
        event = json.loads(line[5:])
        if event["event_type"] == "token":
            return event["text"]
    return None


def _olmo_line(line: str) -> str | None:
    chunk: dict[str, Any] = json.loads(line)
    return None if "children" in chunk else chunk["content"]


LINES: dict[str, Callable[[str], str | None]] = {"tgi": _tgi_line, "oasst": _oasst_line, "olmo": _olmo_line}
"""The token in a line, if it has one."""
