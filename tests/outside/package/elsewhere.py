"""Two providers that know trioprov by its public names alone; the service of the second deletes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypedDict
from urllib.parse import quote

from trioprov import Conversation, Event, Finish, Outcome, Overloaded, ProviderError, Queued, Usage
from trioprov.providers import (
    Check,
    Decoder,
    Message,
    NewId,
    Provider,
    Request,
    Steps,
    Stream,
    integer,
    number,
    strings,
    text,
)
from trioprov.wire import NDJSONDecoder, SSEDecoder, reader


class Said(TypedDict, total=False):
    text: str
    ahead: int
    why: Literal["stop", "length"]
    tokens: int
    code: str
    say: str


class Listed(TypedDict):
    rooms: list[str]


class Line(TypedDict, total=False):
    token: str
    done: bool


_said, _listed, _line = reader(Said), reader(Listed), reader(Line)


class BrookDecoder(Decoder):
    """Named events: ``place``, ``piece``, ``end`` and ``trouble``."""

    def __init__(self, conversation: Conversation) -> None:
        super().__init__(conversation)
        self._events = SSEDecoder()

    def decode(self, data: bytes, events: list[Event]) -> None:
        for event in self._events.receive_data(data):
            said = _said(event.data)
            if event.event == "place":
                events.append(Queued(said.get("ahead", 0)))
            elif event.event == "piece" and (piece := said.get("text")):
                events.append(piece)
            elif event.event == "trouble":
                kind = Overloaded if said.get("code") == "busy" else ProviderError
                self.conversation = self.conversation.replace(generating=None)
                events.append(Finish("error", kind(said.get("say", ""), code=said.get("code"))))
                return
            elif event.event == "end":
                self.conversation = self.conversation.replace(generating=None, started=True)
                usage = Usage(output_tokens=said.get("tokens"))
                events.append(Finish(said.get("why", "stop"), usage=usage))
                return


@dataclass(frozen=True, repr=False, kw_only=True)
class Brook(Provider):
    """A service whose rooms belong to an owner that the client invents.

    Args:
        tone: how it answers.
    """

    tone: str = "calm"

    name: ClassVar[str] = "brook"
    label: ClassVar[str] = "Brook"
    url: ClassVar[str] = "https://brook.example"
    default_base_url: ClassVar[str] = "https://api.brook.example"
    default_model: ClassVar[str] = "brook-1"
    models: ClassVar[tuple[str, ...]] = ("brook-1", "brook-2")
    model_aliases: ClassVar[Mapping[str, str]] = {"latest": "brook-2"}
    cleanup_documented: ClassVar[bool] = True
    default_parameters: ClassVar[Mapping[str, Any]] = {"temperature": 0.5}
    parameter_rules: ClassVar[Mapping[str, Check]] = {
        "temperature": number(0, 2),
        "limit": integer(1),
        "stop": strings(most=2),
    }
    parameter_aliases: ClassVar[Mapping[str, str]] = {"max_tokens": "limit"}
    supported_parameters: ClassVar[tuple[str, ...]] = ("max_tokens", *parameter_rules)

    def __post_init__(self) -> None:
        super().__post_init__()
        text("tone", self.tone)

    def mint(self, new_id: NewId) -> Mapping[str, str]:
        return {"owner": new_id()}

    def request_headers(self, conversation: Conversation) -> Mapping[str, str]:
        owner = conversation.identity.get("owner")
        return {**super().request_headers(conversation), **({"x-brook-owner": owner} if owner else {})}

    def open(self, conversation: Conversation, new_id: NewId) -> Steps[Conversation]:
        response = yield self.request(conversation, "POST", "/rooms", json={"model": self.model}, creates=True)
        assert response is not None
        if not response.ok:
            raise self.refusal(response)
        return conversation.replace(id=response.id("room"))

    def ask(
        self, conversation: Conversation, messages: Sequence[Message], options: Mapping[str, Any], new_id: NewId
    ) -> Steps[Stream]:
        body = {"say": self.prompt(conversation, messages), "tone": self.tone, **options}
        request = self.request(conversation, "POST", f"{_room(conversation)}/turns", json=body)
        return Stream(request, BrookDecoder(conversation.replace(generating=True)))
        yield

    def stop(self, conversation: Conversation) -> Steps[Conversation]:
        if conversation.get("generating"):
            response = yield self._stop(conversation)
            assert response is not None
            if not response.ok:
                raise self.refusal(response)
        return conversation.replace(generating=None)

    def close(self, conversation: Conversation) -> Steps[Outcome]:
        if conversation.id is None:
            return "nothing_owed"
        response = yield self.request(conversation, "DELETE", _room(conversation))
        assert response is not None
        if response.ok:
            return "deleted"
        if self.gone(conversation, response):
            return "already_gone"
        raise self.refusal(response)

    def recover(self, conversation: Conversation) -> Steps[Outcome]:
        """The rooms of an owner that was invented for this conversation alone are this conversation."""
        if "owner" not in conversation.identity:
            return "lost"
        response = yield self.request(conversation, "GET", "/rooms")
        assert response is not None
        if not response.ok:
            raise self.refusal(response)
        for room in _listed(response.body)["rooms"]:
            yield from self.close(conversation.replace(id=room))
        return "deleted"

    def _stop(self, conversation: Conversation) -> Request:
        return self.request(conversation, "POST", f"{_room(conversation)}/stop", best_effort=True)


def _room(conversation: Conversation) -> str:
    return f"/rooms/{quote(conversation.id or '', safe='')}"


class PuffDecoder(Decoder):
    """One JSON object to a line; the last one is done."""

    def __init__(self, conversation: Conversation) -> None:
        super().__init__(conversation)
        self._lines = NDJSONDecoder()

    def decode(self, data: bytes, events: list[Event]) -> None:
        for one in self._lines.receive_data(data):
            line = _line(one)
            if token := line.get("token"):
                events.append(token)
            if line.get("done"):
                events.append(Finish("stop"))
                return


class Puff(Provider):
    """A service that keeps what it is asked, and documents no way to delete it."""

    name = "puff"
    label = "Puff"
    url = "https://puff.example"
    default_base_url = "https://puff.example"
    default_model = "puff"
    models = ("puff",)
    supports_message_history = False

    def open(self, conversation: Conversation, new_id: NewId) -> Steps[Conversation]:
        response = yield self.request(conversation, "POST", "/puffs")
        assert response is not None
        if not response.ok:
            raise self.refusal(response)
        return conversation.replace(id=response.id())

    def ask(
        self, conversation: Conversation, messages: Sequence[Message], options: Mapping[str, Any], new_id: NewId
    ) -> Steps[Stream]:
        body = {"puff": conversation.id, "prompt": self.prompt(conversation, messages), **options}
        return Stream(self.request(conversation, "POST", "/say", json=body), PuffDecoder(conversation))
        yield
