"""The event stream of text-generation-inference (``generate_stream`` in its ``router/src/server.rs``, at v0.9.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from .._conversation import Conversation
from .._errors import InvalidRequest, Overloaded, ProviderError, RemoteProtocolError
from .._events import Event, Finish, FinishReason, Usage
from ..wire import SSEValues
from ._decoder import Decoder
from ._refusal import code_word, shortened

# A token some models send as text at their end; the earlier clients stopped at it. It is dropped, and ends nothing.
_END_OF_TEXT = "<|endoftext|>"


# `gc=False`: what is read from JSON is never part of a cycle, and a stream is many small messages.
class _Piece(msgspec.Struct, gc=False):
    text: str
    special: bool | None = False


class _Details(msgspec.Struct, gc=False):
    finish_reason: str | None = None
    generated_tokens: int | None = None
    input_length: int | None = None


class _Message(msgspec.Struct, gc=False):
    token: _Piece | None = None
    generated_text: str | None = None
    details: _Details | None = None
    error: Any = None
    error_type: Any = None


_REASONS: dict[str, FinishReason] = {"eos_token": "stop", "length": "length", "stop_sequence": "stop_sequence"}


class TGIDecoder(Decoder):
    """One JSON object per event; the last one has a ``generated_text``, or an ``error``.

    An error comes inside a 200, because the handler cannot set a status any more. A stream that ends before either was
    cut.

    Args:
        conversation: the conversation, with ``generating`` set.
        stop: the stop sequences that were asked for.
    """

    def __init__(self, conversation: Conversation, stop: Sequence[str] = ()) -> None:
        super().__init__(conversation)
        self._messages = SSEValues(_Message)
        self._stop = tuple(stop)
        self._before = conversation.get("started")
        self._silent = True
        self._begun = False

    def decode(self, data: bytes, events: list[Event]) -> None:
        if not self._begun and (start := data.lstrip()):
            self._begun = True
            if start.startswith(b"{"):
                # Said at once, since v0.7 never closes its streams. The content type says nothing: for some versions
                # it is that of an event stream.
                raise RemoteProtocolError(
                    "the server streams JSON lines: it is a chat-ui newer than v0.6, whose protocol is another"
                )
        for message in self._messages.receive_data(data):
            token = message.token
            if token is not None and not token.special and token.text and token.text != _END_OF_TEXT:
                events.append(token.text)
                if self._silent:
                    self._silent = False
                    # chat-ui stores a turn also when it is stopped or left; not when the model's end says "error".
                    self.conversation = self.conversation.replace(started=True)
            if message.error is not None:
                self.conversation = self.conversation.replace(started=self._before, generating=None)
                events.append(Finish("error", _error(message)))
                return
            if message.generated_text is not None:
                self.conversation = self.conversation.replace(started=True, generating=None)
                self.server_text = _without_marks(message.generated_text, token)
                events.append(self._finish(message, message.generated_text))
                return

    def _finish(self, message: _Message, whole: str) -> Finish:
        details = message.details
        usage = details and Usage(input_tokens=details.input_length, output_tokens=details.generated_tokens)
        if details is None or details.finish_reason is None:
            # Only an end-of-sequence token is special; a stop sequence stays at the end of the text.
            special = message.token is not None and bool(message.token.special)
            stopped = any(whole.endswith(stop) for stop in self._stop)
            return Finish("stop" if special else "stop_sequence" if stopped else "length", usage=usage)
        reason = _REASONS.get(details.finish_reason)
        if reason is None:
            said = code_word(details.finish_reason) or "?"
            return Finish("error", RemoteProtocolError(f"the model ended for an unknown reason: {said}"), usage)
        return Finish(reason, usage=usage)


def _without_marks(whole: str, last: _Piece | None) -> str:
    """The final text without the end marks that some servers leave in it and that were not emitted as tokens.

    chat-ui takes the same off before it stores an answer.
    """
    marks = [_END_OF_TEXT]
    if last is not None and last.special and last.text:
        marks.append(last.text)
    end = len(whole)
    while mark := next((mark for mark in marks if whole.endswith(mark, 0, end)), ""):
        end -= len(mark)
    return whole[:end]


def said(error: object) -> str:
    """An error text; the Hugging Face inference API sends some as a list."""
    if isinstance(error, list):
        return shortened("; ".join(shortened(item) for item in cast("list[object]", error)))
    return shortened(error)


def _error(message: _Message) -> ProviderError:
    code = code_word(message.error_type)
    kind = ProviderError
    if code == "overloaded":
        kind = Overloaded
    elif code in ("validation", "template_error", "missing_template_variable", "tool_error"):
        kind = InvalidRequest
    return kind(said(message.error), code=code)
