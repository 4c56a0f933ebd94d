"""The provider class under test, what it is constructed with, and its flows driven by hand."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..._conversation import Conversation
from ..._errors import ConnectionFailed, TotalTimeout, TrioprovError
from ...providers import Message, Pause, Provider, Request, Response, Steps, Stream

Complaint: TypeAlias = tuple[str, str]
"""What was seen, and what is wanted."""

Duty: TypeAlias = Callable[["Subject"], Iterator[Complaint]]
"""Its docstring is the duty, in words."""

Answering: TypeAlias = Callable[[Request], Response | TrioprovError]

ID = "0123456789abcdef01234567"
QUESTION = (Message("user", "Why is the sky blue?"),)

COOKIE, TOKEN, PASSWORD, MINE = "cookie-5f2e1c77", "token-9a8b7c66", "password-3d4e5f", "header-of-the-user"

# More steps than any flow needs, and more pauses than a cleanup's budget has.
_MOST, _PATIENCE = 200, 20

# Where services put the id of what they create.
_IDS = ("id", "conversationId", "conversation_id", "chatId", "chat_id", "threadId", "thread_id", "sessionId", "uuid")


class Endless(Exception):
    """A flow that does not end."""


@dataclass
class Driven:
    """What a flow said, and what it came to.

    Attributes:
        requests: in order.
        conversations: those it yielded.
        value: what it returned, if it did.
        error: the error of ours that it raised, if it did.
    """

    requests: list[Request] = field(default_factory=list[Request])
    conversations: list[Conversation] = field(default_factory=list[Conversation])
    value: Any = None
    error: TrioprovError | None = None


def drive(steps: Steps[Any], answer: Answering) -> Driven:
    """Run a flow to its end, as a session would; exceptions that are not ours pass."""
    driven, pauses = Driven(), 0
    reply: Response | TrioprovError | None = None
    try:
        for _ in range(_MOST):
            step = steps.throw(reply) if isinstance(reply, TrioprovError) else steps.send(reply)
            reply = None
            if isinstance(step, Conversation):
                driven.conversations.append(step)
            elif isinstance(step, Pause):
                pauses += 1
                reply = TotalTimeout("no time is left") if pauses > _PATIENCE else None
            else:
                driven.requests.append(step)
                reply = answer(step)
        raise Endless(f"more than {_MOST} steps of {getattr(steps, '__qualname__', steps)}")
    except StopIteration as stop:
        driven.value = stop.value
    except TrioprovError as exc:
        driven.error = exc
    finally:
        steps.close()
    return driven


def broken(request: Request) -> TrioprovError:
    """A network that never delivers."""
    return ConnectionFailed("the connection failed")


@dataclass(frozen=True)
class Subject:
    """A provider class and what its author says of its service.

    Attributes:
        cls: the class.
        fields: what its constructor needs besides.
        says: the JSON object with which the service answers a request that succeeds.
        streams: recorded bodies of whole answers.
    """

    cls: type[Provider]
    fields: Mapping[str, Any]
    says: Mapping[str, Any]
    streams: Sequence[bytes]

    def make(self, **fields: Any) -> Provider:
        """A provider for a server of one's own, with every credential that there is."""
        return self.cls(**{**self.full(), **fields})

    def bare(self, **fields: Any) -> Provider:
        """A provider with nothing that its constructor does not need."""
        return self.cls(**{**self.fields, **fields})

    def full(self) -> dict[str, Any]:
        """All common fields, each with a value of its own."""
        return {
            "base_url": "http://localhost:1/x",
            "headers": {"Authorization": f"Bearer {TOKEN}", "X-Check": MINE},
            "cookies": {"session": COOKIE},
            "proxy": f"http://me:{PASSWORD}@localhost:3128",
            **self.fields,
        }

    def success(self) -> Response:
        """What the service answers when it does what it is asked."""
        return Response(status=200, body=json.dumps(dict(self.says)).encode())

    def answers(self, status: int = 200, body: bytes | None = None) -> Answering:
        """A server that always says the same."""
        if body is None:
            body = self.success().body if status == 200 else b"" if status == 204 else b'{"error": "no"}'
        return lambda _: Response(status=status, body=body)

    def minted(self, provider: Provider) -> Conversation:
        """An empty conversation with its identity, as `open` gets it."""
        conversation = provider.new_conversation()
        conversation = conversation.replace(identity=dict(provider.mint(counted())), opened_by="check")
        return conversation.replace(credential=provider.credential(conversation))

    def opened(self, provider: Provider) -> Conversation:
        """A conversation that exists."""
        driven = drive(provider.open(self.minted(provider), counted()), self.answers())
        found = driven.value if isinstance(driven.value, Conversation) else self.minted(provider)
        found = found.replace(id=found.id or ID)
        return found.replace(credential=provider.credential(found))

    def asked(self, provider: Provider, messages: Sequence[Message] = QUESTION) -> Driven:
        """The first question of a new conversation, up to its stream."""
        opening = drive(provider.open(self.minted(provider), counted()), self.answers())
        if not isinstance(opening.value, Conversation):
            return opening
        return drive(provider.ask(opening.value, messages, provider.options({}), counted()), self.answers())

    def stream(self, provider: Provider) -> Stream | None:
        """The stream of that question, if it comes to one."""
        value = self.asked(provider).value
        return value if isinstance(value, Stream) else None

    def requests(self, provider: Provider) -> list[tuple[str, Request]]:
        """Every request of every flow, by the name of the flow."""
        opened, say = self.opened(provider), self.answers()
        said = [
            *(("open", one) for one in drive(provider.open(self.minted(provider), counted()), say).requests),
            *(("ask", one) for one in self.asked(provider).requests),
            *(("stop", one) for one in drive(provider.stop(opened), say).requests),
            *(("close", one) for one in drive(provider.close(opened), say).requests),
            *(("recover", one) for one in drive(provider.recover(self.minted(provider)), say).requests),
        ]
        stream = self.stream(provider)
        return said if stream is None else [*said, ("the stream of ask", stream.request)]


def ids() -> dict[str, Any]:
    """What a service may answer that has created something."""
    return {**dict.fromkeys(_IDS, ID), "state": "complete", "content": "Because."}


def counted() -> Callable[[], str]:
    """Ids that are counted instead of random, so that a flow says the same twice."""
    numbers = itertools.count(1)
    return lambda: f"00000000-0000-4000-8000-{next(numbers):012}"


def shown(value: object) -> str:
    """A value for a complaint."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
