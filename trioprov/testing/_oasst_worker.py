"""Open Assistant's inference server: the queue, the worker, and the events of a message.

Written from LAION-AI/Open-Assistant, ``inference/server`` (``routes/chats.py``, ``routes/workers.py``,
``chat_utils.py``, ``user_chat_repository.py``) and sysid/sse-starlette 1.6.
"""

from __future__ import annotations

import json
import math
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import cycle
from typing import Any

import trio

from ._script import Script

ANSWER = (
    "Sun", "light", " is", " a", " mix", " of", " all", " colours", ".", " When", " it", " meets", " the", " air", ",",
    " the", " molecules", " send", " blue", " off", " in", " every", " direction", ",", " about", " 5", "–", "6",
    " times", " as", " strongly", " as", " red", ".", " So", " the", " whole", " sky", " glows", " blue", " 😊",
)  # fmt: skip

FINISHED = ("manual", "complete", "aborted_by_worker")  # DbMessage.has_finished: neither cancelled nor timeout


@dataclass(frozen=True, kw_only=True)
class OpenAssistantScript(Script):
    """What the Open Assistant emulator can be told. ``heartbeat`` is the time between two pings.

    Attributes:
        accounts: the session tokens that are let in, each another user's; the provider gets the first.
        models: the model configurations it has.
        pending: the places in the queue that a message goes through, one for each ``pending`` event; or how many
            there are; or `math.inf`: there is no worker and it pends for ever.
        pending_interval: seconds between two of them.
        pings: whether there are pings at all.
        worker_wait: the worker begins when somebody subscribes to the message, at the latest after so many seconds.
        message_timeout: a worker drops messages older than so many seconds.
        empty_stream: every message is finished before anybody can subscribe: events are an empty 200.
        plugin_events: what a plugin says before the answer: ``thought``, ``action_taken``, ``action_input``,
            ``action_response``, as far as given.
        error_event: the text of an error event…
        error_after: …after so many tokens.
        final_content: the content of the finished message, if it is not the tokens joined and trimmed.
        rate_limited: every assistant message is over the rate limit.
        queue_full: how many of the next assistant messages find the queue full; `True` is all.
        max_content: characters of a prompt.
        max_messages: messages of a chat.
    """

    accounts: Sequence[str] = ("emulated-session-token",)
    models: Sequence[str] = (
        *("OA_SFT_Pythia_12B", "OA_SFT_Pythia_12Bq", "OA_SFT_Pythia_12B_4", "OA_SFT_Pythia_12Bq_4"),
        *("OA_SFT_Llama_7B", "OA_SFT_Llama_13B", "OA_SFT_Llama_13Bq", "OA_SFT_Llama_30B", "OA_SFT_Llama_30Bq"),
        *("OA_SFT_Llama_30B_2", "OA_SFT_Llama_30Bq_2", "OA_SFT_Llama_30B_5", "OA_SFT_Llama_30Bq_5"),
        *("OA_SFT_Llama_30B_6", "OA_SFT_Llama_30Bq_6", "OA_SFT_Llama_30B_7", "OA_SFT_Llama_30Bq_7"),
        *("OA_SFT_Llama_30B_7e3", "OA_SFT_Llama_30Bq_7e3", "OA_RLHF_Llama_30B_2_7k", "Carper_RLHF_13B_1"),
        *("Carper_RLHF_13Bq_1", "OA_SFT_Llama2_70B_10", "OA_SFT_CodeLlama_13B_10"),
    )
    pending: float | Sequence[int] = 0
    pending_interval: float = 1.0
    pings: bool = True
    worker_wait: float = 1.0
    message_timeout: float = 60.0
    empty_stream: bool = False
    plugin_events: Sequence[Mapping[str, str]] = ()
    error_event: str | None = None
    error_after: int = 0
    final_content: str | None = None
    rate_limited: bool = False
    queue_full: float = 0
    max_content: int = 50_000
    max_messages: int = 1_000

    @property
    def positions(self) -> tuple[int, ...] | None:
        """The places in the queue; `None` without a worker."""
        if isinstance(self.pending, Sequence):
            return tuple(self.pending)
        if math.isinf(self.pending):
            return None
        return tuple(range(int(self.pending) - 1, -1, -1))


@dataclass(frozen=True)
class Packet:
    """One event of a message, on its way through the queue.

    Attributes:
        value: the JSON value.
        terminal: whether the server's stream ends with it.
    """

    value: Mapping[str, Any]
    terminal: bool = False

    @property
    def data(self) -> bytes:
        """The event as sse-starlette writes it: CRLF, and pydantic's JSON, which is ASCII."""
        return b"data: " + json.dumps(self.value).encode() + b"\r\n\r\n"


@dataclass
class Message:
    """A row of ``message``, and the Redis list that belongs to it."""

    chat: str
    user: str
    role: str
    parent: str | None
    content: str | None
    state: str
    work: Mapping[str, Any] | None = None
    id: str = field(default_factory=lambda: uuid7())
    created: str = field(default_factory=lambda: now())
    born: float = field(default_factory=lambda: trio.current_time())
    queued: bool = False
    deleted: bool = False
    subscribed: trio.Event = field(default_factory=lambda: trio.Event())

    def __post_init__(self) -> None:
        self.push, self.pop = trio.open_memory_channel[Packet](math.inf)

    def read(self) -> dict[str, Any]:
        """The row as the API shows it."""
        return {
            "id": self.id,
            "parent_id": self.parent,
            "chat_id": self.chat,
            "content": self.content,
            "created_at": self.created,
            "role": self.role,
            "state": self.state,
            "score": 0,
            "work_parameters": self.work,
            "reports": [],
            "safe_content": None,
            "safety_level": None,
            "safety_label": None,
            "safety_rots": None,
            "used_plugin": None,
        }


async def work(message: Message, script: OpenAssistantScript, running: dict[str, str]) -> None:
    """What the worker does with one message; it never learns whether anybody listens.

    Args:
        message: it stands in the queue.
        script: what to say.
        running: where to enter, by the message's id, that its chat is being worked on.
    """
    positions = script.positions
    if positions is None:
        return
    if positions:
        await trio.sleep((len(positions) + 0.5) * script.pending_interval)
    with trio.move_on_after(script.worker_wait):
        await message.subscribed.wait()
    message.queued = False
    if message.deleted or message.state == "cancelled":
        return  # dropped without a word
    if trio.current_time() - message.born > script.message_timeout:
        message.state = "timeout"
        _error(message, "Timeout")
        return
    message.state = "in_progress"
    running[message.id] = message.chat
    try:
        await _generate(message, script)
    finally:
        del running[message.id]


async def _generate(message: Message, script: OpenAssistantScript) -> None:
    def say(value: Mapping[str, Any]) -> None:
        message.push.send_nowait(Packet(value))

    for thought in script.plugin_events:
        names = ("thought", "action_taken", "action_input", "action_response")
        fields = {f"current_plugin_{name}": thought.get(name, "") for name in names}
        say({"event_type": "plugin_intermediate", **fields})
        say({"event_type": "token", "text": ""})  # the server forgets a `continue` there
    tokens = script.pieces(ANSWER)
    text = ""
    delay = script.first_delay
    for count, token in enumerate(cycle(tokens) if script.forever else tokens):
        if script.error_event is not None and count >= script.error_after:
            break
        await trio.sleep(delay)
        if message.deleted:
            return  # the worker's session died of it; nobody gets another event
        delay = script.token_delay
        say({"event_type": "token", "text": token})
        if not script.forever:
            text += token
        elif message.push.statistics().current_buffer_used > 1000:
            await trio.sleep(0.01)
    if script.error_event is not None:
        message.state = "aborted_by_worker"
        _error(message, script.error_event)
        return
    finish(message, text if script.final_content is None else script.final_content)


def finish(message: Message, text: str) -> None:
    """The message is complete, and says so."""
    message.content = text.strip()
    message.state = "complete"
    message.push.send_nowait(Packet({"event_type": "message", "message": message.read()}, terminal=True))


def _error(message: Message, error: str) -> None:
    value = {"event_type": "error", "error": error, "message": message.read()}
    message.push.send_nowait(Packet(value, terminal=True))


async def events(
    message: Message,
    script: OpenAssistantScript,
    send: trio.MemorySendChannel[Packet],
) -> None:
    """The event generator of one subscriber. It pops packets (a second subscriber steals), whether or not it is read.

    Args:
        message: whose events.
        script: for the places in the queue.
        send: what goes to the proxy, which may have lost interest.
    """
    message.subscribed.set()
    positions = script.positions or (0,)
    size = max(positions) + 1
    asked = 0
    started = False
    with send:
        while True:
            packet: Packet | None = None
            with trio.move_on_after(script.pending_interval):
                packet = await message.pop.receive()
            if packet is None:
                if started:
                    continue
                waits = message.queued and message.state == "pending"
                position = positions[min(asked, len(positions) - 1)] if waits else 0
                packet = Packet({"event_type": "pending", "queue_position": position, "queue_size": size})
                asked += 1
            else:
                started = True
            try:
                await send.send(packet)
            except trio.BrokenResourceError:
                if script.forever:
                    await trio.sleep(0.01)  # nobody listens: be kind to the machine
            if packet.terminal:
                return


def uuid7() -> str:
    """A time-ordered id: milliseconds, then 12 bits of a fraction of one, then chance."""
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = rest * 4096 // 1_000_000
    high = milliseconds << 16 | 0x7000 | fraction
    low = 2 << 62 | int.from_bytes(os.urandom(8), "big") >> 2
    return str(uuid.UUID(int=high << 64 | low))


def now() -> str:
    """A time as pydantic writes it: UTC, without saying so."""
    return datetime.now(UTC).replace(tzinfo=None).isoformat()


def ping() -> bytes:
    """sse-starlette's ping."""
    return f": ping - {datetime.now(UTC).replace(tzinfo=None)}\r\n\r\n".encode()
