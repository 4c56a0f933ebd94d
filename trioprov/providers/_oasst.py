"""The event stream of Open Assistant's inference server (``oasst_inference_server/schemas/chat.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from .._conversation import Conversation
from .._errors import IncompleteReply, Overloaded, ProviderError, RemoteProtocolError
from .._events import Event, Finish, Notice, Queued
from ..wire import SSEValues
from ._decoder import Decoder
from ._refusal import shortened


def settled(conversation: Conversation, state: object) -> Conversation:
    """The conversation once its pending answer has ended: only a complete answer can be built upon."""
    if state != "complete":
        return conversation.replace(pending=None)
    parent = conversation.get("pending")
    return conversation.replace(pending=None, parent=parent, unanswered=None, unanswered_prompt=None, started=True)


# `gc=False`: what is read from JSON is never part of a cycle, and a stream is many small events.
class _Body(msgspec.Struct, gc=False):
    content: str | None = None
    state: str | None = None


class _Event(msgspec.Struct, gc=False):
    event_type: str
    text: str | None = None
    queue_position: int | None = None
    queue_size: int | None = None
    error: Any = None
    message: _Body | None = None
    current_plugin_thought: Any = None
    current_plugin_action_taken: Any = None
    current_plugin_action_input: Any = None
    current_plugin_action_response: Any = None

    def plugin(self) -> str:
        """What a plugin is at, as far as it says."""
        thought, action = self.current_plugin_thought, self.current_plugin_action_taken
        said = (thought, action, self.current_plugin_action_input, self.current_plugin_action_response)
        return shortened(" · ".join(shortened(part, 2000) for part in said if part), 4000)


class OpenAssistantDecoder(Decoder):
    """The events of one answer; ``message`` and ``error`` end it.

    Texts of tokens are held back on the worker by the length of the longest stop sequence, so that joined they may
    differ from the final message in white space.

    Attributes:
        heard: whether there was any event. A stream without one belongs to a message that had ended before.
    """

    def __init__(self, conversation: Conversation) -> None:
        super().__init__(conversation)
        self._events = SSEValues(_Event)
        self.heard = False

    def decode(self, data: bytes, events: list[Event]) -> None:
        for said in self._events.receive_data(data):
            self.heard = True
            kind = said.event_type
            if kind == "token":
                if said.text:
                    events.append(said.text)
            elif kind == "pending":
                events.append(Queued(said.queue_position or 0, said.queue_size))
            elif kind == "plugin_intermediate":
                if text := said.plugin():
                    events.append(Notice("plugin", text))
            elif kind == "message":
                events += self.read({"state": "complete", "content": said.message and said.message.content})
                return
            elif kind == "error":
                # Whatever state its message is in: what was reported as a failure is no answer to build upon.
                self.conversation = self.conversation.replace(pending=None)
                events.append(Finish("error", _failure(said.error)))
                return

    def read(self, message: Mapping[str, Any]) -> list[Event]:
        """The end of the answer, from its message."""
        state, content = message.get("state"), message.get("content")
        if state in ("pending", "in_progress"):
            return [Finish("error", IncompleteReply("the stream ended, and the service still works on the answer"))]
        if state == "complete" and isinstance(content, str):
            self.conversation = settled(self.conversation, state)
            self.server_text = content
            return [Finish("stop")]
        self.conversation = self.conversation.replace(pending=None)
        if state == "complete":
            return [Finish("error", RemoteProtocolError("the service completed an answer without content"))]
        return [Finish("error", ProviderError(f"the service ended the answer: {shortened(state, 60)}"))]


def _failure(error: object) -> ProviderError:
    said = "" if error is None else shortened(error)
    if said == "Timeout":
        return Overloaded("Timeout: no worker took the question from the queue in time")
    return ProviderError(said)
