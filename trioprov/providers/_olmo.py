"""The lines of olmo-api's ``POST /v4/message/stream`` (``src/message/create_message_service.py``, at March 2025)."""

from __future__ import annotations

import json
from typing import Any, cast

import msgspec

from .._conversation import Conversation
from .._errors import Overloaded, ProviderError, RemoteProtocolError
from .._events import Event, Finish, FinishReason
from ..wire import NDJSONValues
from ._decoder import Decoder
from ._refusal import code_word, shortened
from ._steps import given_id

# Deeper than any thread of an answer; a hostile server could nest for ever.
_DEPTH = 100

# Bytes of a line, the question in it not counted. The last one repeats all log probabilities: at most ten for each of
# 2,048 tokens, some hundred bytes each.
_LONGEST = 4 * 1024 * 1024

_REASONS: dict[object, FinishReason] = {None: "stop", "stop": "stop", "length": "length"}


class _Line(msgspec.Struct, gc=False):
    """What is looked at of any line. What it may be is not checked here; null is as good as not there."""

    content: Any = None
    error: Any = None
    reason: Any = None
    message: Any = None
    root: Any = None
    finish_reason: Any = None
    type: Any = None
    id: Any = None
    role: Any = None
    children: Any = None


class _Chunk(msgspec.Struct, gc=False):
    """What nearly every line is; any other has something else in one of these places."""

    content: str
    error: None = None
    type: None = None
    id: None = None
    children: None = None


class OlmoDecoder(Decoder):
    """The lines of one answer: a tree, chunks, perhaps an error, and the tree again, which ends it.

    How it ended says the tree's assistant message; backends on Modal never fill in its ``finish_reason``, so "stop" is
    no mark of the end, and the second tree is. An error line other than ``length`` makes the end an error.

    Args:
        conversation: as it was before the question.
        prompt: the question; both trees repeat it.
    """

    def __init__(self, conversation: Conversation, prompt: str = "") -> None:
        super().__init__(conversation)
        # However long it is, the line that repeats it must be read: it alone says what to delete.
        room = _LONGEST + len(json.dumps(prompt))
        self._lines = NDJSONValues[_Line | _Chunk](_Line, plain=_Chunk, max_line=room)
        self._begun = False
        self._failure: ProviderError | None = None
        self._too_long = False

    def decode(self, data: bytes, events: list[Event]) -> None:
        for line in self._lines.receive_data(data):
            if isinstance(line, _Chunk):
                if line.content:
                    events.append(line.content)
            elif self._line(line, events):
                return

    def decode_eof(self, events: list[Event]) -> None:
        try:
            rest = list(self._lines.receive_eof())
        except RemoteProtocolError:
            rest = []  # a line without its end was cut
        for line in rest:
            if isinstance(line, _Line) and self._line(line, events):
                return
        if self._failure is not None or self._too_long:
            # The server told why before the stream was cut.
            events.append(self._finish(None))

    def _line(self, line: _Line, events: list[Event]) -> bool:
        """Take one line; true if it was the last."""
        if line.children is not None or (line.id is not None and line.role is not None):
            return self._tree(msgspec.structs.asdict(line), events)
        if line.error is not None:
            self._error(line)
        elif line.type is None:
            if isinstance(line.content, str) and line.content:
                events.append(line.content)
        elif line.type == "start":  # sent for some months of 2025, before the tree
            self._bind(line.message)
        return False

    def _tree(self, top: dict[str, Any], events: list[Event]) -> bool:
        leaf = _assistant(top)
        if not self._begun:
            self._begun = True
            # In a follow-up the top is the user's message, and only ``root`` names the thread.
            self._bind(top.get("root") or (top.get("id") if self.conversation.id is None else None))
            self.conversation = self.conversation.replace(started=True, parent=given_id(leaf.get("id")))
            return False
        content = leaf.get("content")
        self.server_text = content if isinstance(content, str) else None
        events.append(self._finish(leaf.get("finish_reason")))
        return True

    def _bind(self, root: object) -> None:
        """Remember the thread that the server says this is: it is deleted under its root."""
        known, found = self.conversation.id, given_id(root)
        if known is None:
            if found is None:
                raise RemoteProtocolError("the server created a thread and did not say its root")
            self.conversation = self.conversation.replace(id=found)
        elif found is not None and found != known:
            strays = [root for root in self.conversation.get("strays", ()) if root != found]
            self.conversation = self.conversation.replace(strays=[*strays, found])
            raise RemoteProtocolError("the server began another thread than the one it was asked in")

    def _error(self, line: _Line) -> None:
        reason = line.reason or line.error
        if reason == "length":
            self._too_long = True
        elif self._failure is None:
            kind = Overloaded if reason == "model overloaded" else ProviderError
            self._failure = kind(shortened(line.error), code=code_word(reason))

    def _finish(self, reason: object) -> Finish:
        if self._failure is not None:
            return Finish("error", self._failure)
        if self._too_long:
            return Finish("length")
        if reason is None or isinstance(reason, str):
            known = _REASONS.get(reason)
            if known is not None:
                return Finish(known)
        kind = Overloaded if reason == "model overloaded" else ProviderError
        return Finish("error", kind(f"the model ended: {shortened(reason, 60)}", code=code_word(reason)))


def _assistant(top: object) -> dict[str, Any]:
    """The deepest assistant message of a tree, where the answer is; empty if there is none."""
    found: dict[str, Any] = {}
    node: object = top
    for _ in range(_DEPTH):
        if not isinstance(node, dict):
            break
        fields = cast("dict[str, Any]", node)
        if fields.get("role") == "assistant":
            found = fields
        children = fields.get("children")
        node = cast("list[object]", children)[-1] if isinstance(children, list) and children else None
    return found
