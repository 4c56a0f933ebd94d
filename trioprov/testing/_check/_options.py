"""What a provider makes of parameters and prompts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..._conversation import Conversation
from ...providers import Message
from ._subject import ID, QUESTION, Complaint, Subject, shown

# No service documents a parameter that may be any of these.
_SILLY: tuple[Any, ...] = ({"a": {"b": []}}, [None], True, "nonsense", -1e300, 10**40, "", [], -1, 0.5)
_RESERVED = ("stream", "messages", "provider", "client", "conversation", "deadlines", "timeout")
_ANSWERED = (Message("user", "Why?"), Message("assistant", "Because."))


def _options(subject: Subject, given: Mapping[str, Any], **own: Any) -> Mapping[str, Any] | Exception:
    try:
        return subject.bare(**own).options(given)
    except (TypeError, ValueError) as exc:
        return exc


def _documented(subject: Subject) -> Iterator[Complaint]:
    """The parameters that it documents it takes, and checks."""
    for name in subject.cls.supported_parameters:
        if isinstance(found := _options(subject, {name: None}), Exception):
            yield f"{name} is in supported_parameters, and refused: {found}", "one of the two"
        elif not any(isinstance(_options(subject, {name: value}), Exception) for value in _SILLY):
            yield f"{name} may be anything, {_SILLY[0]!r} too", "a check in parameter_rules"


def _passed_on(subject: Subject) -> Iterator[Complaint]:
    """Parameters that it does not know are passed on as they are, since services grow; 0 is a value, None is none."""
    for value in (0, False, "", [0], {"a": None}, 0.5, "да"):
        found = _options(subject, {"some_new_knob": value})
        if isinstance(found, Exception) or found.get("some_new_knob", "(missing)") != value:
            yield f"some_new_knob={value!r} became {shown(found)}", "the same, passed on"
    for name in {**subject.cls.default_parameters, "some_new_knob": 1}:
        found = _options(subject, {name: None})
        if isinstance(found, Exception) or name in found:
            yield f"{name}=None became {shown(found)}", f"no {name}"


def _layers(subject: Subject) -> Iterator[Complaint]:
    """What is asked for is stronger than its parameters, and these than its defaults; nobody's mapping is changed."""
    own = {"some_new_knob": [1], "another": 2}
    given: dict[str, Any] = {"some_new_knob": [3]}
    found = _options(subject, given, parameters=own)
    if isinstance(found, Exception) or found.get("some_new_knob") != [3] or found.get("another") != 2:
        yield f"{given} over {own} became {shown(found)}", "the later stronger"
    elif {name: found.get(name) for name in subject.cls.default_parameters} != dict(subject.cls.default_parameters):
        yield f"the defaults are not in {shown(found)}", shown(subject.cls.default_parameters)
    if (own, given) != ({"some_new_knob": [1], "another": 2}, {"some_new_knob": [3]}):
        yield f"the caller's mappings have become {own} and {given}", "what they were"


def _not_ours(subject: Subject) -> Iterator[Complaint]:
    """A name that is ours and not the model's is a TypeError, and so is one parameter under two names."""
    for name in (*(field.name for field in fields(subject.cls)), *_RESERVED):
        if name not in subject.cls.supported_parameters and name not in subject.cls.parameter_aliases:
            found = _options(subject, {name: "x"})
            if not isinstance(found, TypeError):
                yield f"{name}='x' became {shown(found)}", "TypeError"
    for alias, name in subject.cls.parameter_aliases.items():
        if not isinstance(found := _options(subject, {alias: None, name: None}), TypeError):
            yield f"{alias} and {name} together became {shown(found)}", "TypeError"


def _unsendable(subject: Subject) -> Iterator[Complaint]:
    """A parameter that cannot be sent is refused before anything is."""
    for value in (math.nan, math.inf, object(), b"x", {1, 2}, "\ud800"):
        if not isinstance(found := _options(subject, {"some_new_knob": value}), Exception):
            yield f"some_new_knob={value!r} became {shown(found)}", "TypeError or ValueError"


def _prompted(
    subject: Subject, messages: Sequence[Message], conversation: Conversation | None = None
) -> str | Exception:
    provider = subject.bare()
    try:
        return provider.prompt(conversation or provider.new_conversation(), messages)
    except ValueError as exc:
        return exc


def _prompts(subject: Subject) -> Iterator[Complaint]:
    """An empty prompt is a ValueError, and nobody's list of messages is changed."""
    for content in ("", " \n\t"):
        if not isinstance(found := _prompted(subject, [Message("user", content)]), ValueError):
            yield f"the prompt of {content!r} is {shown(found)}", "ValueError"
    if not isinstance(found := _prompted(subject, QUESTION), str) or QUESTION[0].content not in found:
        yield f"the prompt of {QUESTION[0].content!r} is {shown(found)}", "a text that holds it"
    messages = [*_ANSWERED, *QUESTION]
    _prompted(subject, messages)
    subject.asked(subject.bare(), messages)
    if messages != [*_ANSWERED, *QUESTION]:
        yield f"the caller's list has become {shown(messages)}", "what it was"


def _later_prompts(subject: Subject) -> Iterator[Complaint]:
    """A later prompt is what the server does not have: the user's messages at the end, and without one a ValueError."""
    if not subject.cls.supports_message_history:
        return
    started = subject.bare().new_conversation().replace(id=ID, started=True)
    if not isinstance(found := _prompted(subject, _ANSWERED, started), ValueError):
        yield f"a list that ends with an answer became {shown(found)}", "ValueError"
    found = _prompted(subject, [*_ANSWERED, *QUESTION], started)
    if isinstance(found, Exception) or QUESTION[0].content not in found or "Because." in found:
        yield f"it is {shown(found)}", f"{QUESTION[0].content!r} and nothing that was said before"


DUTIES = (_documented, _passed_on, _layers, _not_ours, _unsendable, _prompts, _later_prompts)
