"""What must be there before anything else can be asked: a class, its attributes, a constructor."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

from ...providers import PROVIDERS, Provider, Request
from ._subject import ID, QUESTION, Complaint, Subject, counted, shown

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_URL = re.compile(r"https?://[^\s/?#]+[^\s?#]*")
_TEXTS = ("name", "label", "url", "default_base_url", "default_model")
_FLAGS = (
    *("needs_auth", "supports_stream", "supports_system_message", "supports_message_history"),
    *("cleanup_documented", "not_found_is_gone", "drains", "one_pending_per_account"),
)
_MAPPINGS = ("model_aliases", "default_parameters", "parameter_rules", "parameter_aliases")
_FLOWS = ("open", "ask", "after_stream", "stop", "close", "recover")
_PLAIN = ("new_conversation", "mint", "options", "prompt", "refusal", "reason", "credential", "secrets")


def _class(subject: Subject) -> Iterator[Complaint]:
    """It is a class that can be instantiated, derived from Provider."""
    cls: type = subject.cls
    if not issubclass(cls, Provider):
        yield f"{cls.__name__} is derived from {', '.join(base.__name__ for base in cls.__bases__)}", "Provider"
    elif missing := sorted(cls.__abstractmethods__):
        yield f"{', '.join(missing)} is not implemented", "an ask flow"


def _items(value: object) -> tuple[object, ...]:
    return cast("tuple[object, ...]", value) if isinstance(value, tuple) else (None,)


def _attributes(subject: Subject) -> Iterator[Complaint]:
    """Its class attributes say what it is."""
    cls: Any = subject.cls
    for name in _TEXTS:
        value: object = getattr(cls, name, None)
        if not isinstance(value, str) or not value:
            yield f"{name} is {shown(value)}", "a string that says it"
        elif name == "name" and not _NAME.fullmatch(value):
            yield f"name is {value!r}", "lower-case letters, digits, '.', '_' and '-': it is a key and an option"
        elif name == "name" and value in PROVIDERS.ours and not issubclass(cls, PROVIDERS[value]):
            yield f"name is {value!r}", "one that no provider of trioprov has"
        elif name in ("url", "default_base_url") and not _URL.fullmatch(value):
            yield f"{name} is {value!r}", "a URL with http:// or https://"
    for name in _FLAGS:
        if not isinstance(value := getattr(cls, name, None), bool):
            yield f"{name} is {shown(value)}", "True or False"
    for name in _MAPPINGS:
        if not isinstance(value := getattr(cls, name, None), Mapping):
            yield f"{name} is {shown(value)}", "a mapping"
    rules: object = cls.parameter_rules
    for name, rule in cast("Mapping[str, object]", rules).items() if isinstance(rules, Mapping) else ():
        if not callable(rule) or isinstance(rule, type):
            yield f"parameter_rules[{name!r}] is {shown(rule)}", "a function that checks it, such as number(0, 2) gives"
    for name in ("models", "supported_parameters"):
        given: Any = getattr(cls, name, None)
        names = _items(given)
        if not all(isinstance(item, str) and item for item in names):
            yield f"{name} is {shown(given)}", "a tuple of strings"
        elif len(set(names)) < len(names):
            yield f"{name} is {shown(names)}", "each of them once"
    if cls.working not in (True, False, None):
        yield f"working is {shown(cls.working)}", "True, False, or None for not known"
    expires: object = cls.expires_after
    if expires is not None and not (isinstance(expires, (int, float)) and expires > 0):
        yield f"expires_after is {shown(expires)}", "seconds, or None"


def _plain(subject: Subject) -> Iterator[Complaint]:
    """It does no I/O: none of its methods is async, and only its flows are generators."""
    for name in (*_FLOWS, *_PLAIN):
        function = inspect.unwrap(getattr(subject.cls, name))
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            yield f"{name} is an async function", "a plain one: whoever drives it does the I/O"
        elif name in _PLAIN and inspect.isgeneratorfunction(function):
            yield f"{name} is a generator function", "a plain one: it has nothing to say to a server"


def _constructor(subject: Subject) -> Iterator[Complaint]:
    """It is a dataclass whose model may come first, and everything else by keyword alone."""
    cls = subject.cls
    parameters = list(inspect.signature(cls).parameters.values())
    if not parameters or parameters[0].name != "model" or parameters[0].default is inspect.Parameter.empty:
        yield f"its signature is {inspect.signature(cls)}", "model first, and optional"
    for parameter in parameters[1:]:
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            yield f"{parameter.name} is {parameter.kind.description}", "keyword-only: @dataclass(kw_only=True, …)"
    for field in dataclasses.fields(cls):
        if field.name in (*_TEXTS, *_FLAGS, *_MAPPINGS, "models", "supported_parameters"):
            yield f"{field.name} is a field of the dataclass", "a ClassVar: it is the same for all of them"
    try:
        subject.bare()
        subject.make()
    except Exception as exc:
        given = ", ".join(subject.fields) or "nothing"
        yield (
            f"constructed with {given} besides the common fields, it raised {type(exc).__name__}: {exc}",
            "a provider; what else it needs is given as check_provider(…, field=value)",
        )


def _identity(subject: Subject) -> Iterator[Complaint]:
    """What it mints is a mapping of strings, as it is written down with its conversations."""
    minted: object = cast("object", subject.bare().mint(counted()))
    strings = isinstance(minted, Mapping) and all(
        isinstance(one, str) for pair in cast("Mapping[object, object]", minted).items() for one in pair
    )
    if not strings:
        yield f"mint returned {shown(cast('object', minted))}", "a mapping of strings"


def _flows(subject: Subject) -> Iterator[Complaint]:
    """Its flows are generators of requests."""
    provider = subject.bare()
    conversation = provider.new_conversation().replace(id=ID)
    steps: dict[str, object] = {
        "open": provider.open(conversation, counted()),
        "ask": provider.ask(conversation, QUESTION, {}, counted()),
        "stop": provider.stop(conversation),
        "close": provider.close(conversation),
        "recover": provider.recover(conversation),
    }
    wrong = {name: flow for name, flow in steps.items() if not inspect.isgenerator(flow)}
    for name, flow in wrong.items():
        yield f"{name} returned {shown(flow)}", "a generator: a yield in it, if only one that is never reached"
    for name, step in () if wrong else subject.requests(subject.make()):
        if not isinstance(step, Request):  # pyright: ignore[reportUnnecessaryIsInstance]
            yield f"{name} yielded {shown(step)}", "a Request, a Conversation or a Pause"


FIRST = (_class, _attributes, _plain, _constructor)
THEN = (_identity, _flows)
