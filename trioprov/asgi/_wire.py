"""An event, in the words of server-sent events (WHATWG HTML, section 9.2).

Every block has an id, ``<reply>:<number of the event>``, which the client says again in ``Last-Event-ID`` when it comes
back; the last one is ``<reply>:end``. What a block carries is JSON, so it has no line breaks of its own.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from ..anyio import Event, Finish, Notice, Queued  # noqa: ASYNC106 - ours
from ._failures import failure

HEARTBEAT = b":\n\n"
"""A comment, which no client hears of, and which keeps everybody on the way awake."""

END = "end"
"""In the place of the last event's number."""


def prelude(reply: str, number: int, *, resumable: bool) -> bytes:
    """What comes first: the id of what the client has already. A block without data sets it, and nobody hears of it."""
    # A second is long enough for a server that starts anew, and what the client misses meanwhile is kept.
    retry = "retry: 1000\n" if resumable else ""
    return f"{retry}id: {reply}:{number}\n\n".encode()


def block(event: Event, reply: str, number: int) -> bytes:
    """One event; ``b""`` for what a client has no use for."""
    match event:
        case str():
            name, data = "token", event
        case Queued():
            name, data = "queued", asdict(event)
        case Notice():
            name, data = "notice", asdict(event)
        case Finish():
            name, data = "finish", _finish(event)
        case _:  # Lagged: a reader that holds the stream back misses nothing
            return b""
    last = END if isinstance(event, Finish) else number
    text = f"id: {reply}:{last}\nevent: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
    return text.encode(errors="backslashreplace")  # half of a surrogate pair, as JSON has it


def _finish(event: Finish) -> dict[str, object]:
    return {
        "reason": event.reason,
        "usage": None if event.usage is None else asdict(event.usage),
        "error": None if event.error is None else failure(event.error).said,
    }
