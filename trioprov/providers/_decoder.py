"""What reads a stream: bytes in, events out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from .._conversation import Conversation
from .._errors import IncompleteReply, TrioprovError
from .._events import Event, Finish
from ._steps import Request


class Decoder(ABC):
    """Turns the bytes of one stream into events; keeps what the stream teaches about the conversation.

    Attributes:
        conversation: the conversation as the stream has changed it so far.
        server_text: the service's own final text, once it has sent one.
        finished: whether a `Finish` was returned; what comes after it is ignored.
    """

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.server_text: str | None = None
        self.finished: bool = False

    @abstractmethod
    def decode(self, data: bytes, events: list[Event]) -> None:
        """Append the events that ``data`` completes; a `TrioprovError` ends the reply after those."""

    def decode_eof(self, events: list[Event]) -> None:  # noqa: B027 - few streams have anything left to say
        """Append what the end of the body completes; by default nothing."""

    def receive_data(self, data: bytes) -> list[Event]:
        """The events that ``data`` completes; a `Finish` is the last of them. Never raises for what a server sent."""
        events: list[Event] = []
        if not self.finished:
            try:
                self.decode(data, events)
            except TrioprovError as exc:
                events.append(Finish("error", exc))
            self.finished = bool(events) and isinstance(events[-1], Finish)
        return events

    def receive_eof(self) -> list[Event]:
        """The events at the end of the body: without the protocol's own end marker, an `IncompleteReply`."""
        events: list[Event] = []
        if not self.finished:
            try:
                self.decode_eof(events)
                if not (events and isinstance(events[-1], Finish)):
                    raise IncompleteReply("the stream ended before the service said that the reply was complete")
            except TrioprovError as exc:
                events.append(Finish("error", exc))
            self.finished = True
        return events


@dataclass(frozen=True, slots=True)
class Stream:
    """Where an ask flow ends: the request whose answer is the stream, and what reads it.

    Until the request may have left, ``decoder.conversation`` is not the truth yet; from then on it is.
    """

    request: Request
    decoder: Decoder
