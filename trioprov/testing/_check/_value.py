"""A provider is a value, and keeps secrets."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import sys
from collections.abc import Iterator
from typing import Any

from ..._conversation import Conversation
from ..._errors import ModelNotSupported
from ...providers._address import is_credential
from ._subject import COOKIE, MINE, PASSWORD, QUESTION, TOKEN, Complaint, Subject, counted, drive, shown

_SECRETS = (COOKIE, TOKEN, PASSWORD)


def _models(subject: Subject) -> Iterator[Complaint]:
    """Its model is the default if none is given, an alias becomes the full id, and the service's own are known."""
    cls = subject.cls
    if cls.default_model not in cls.models:
        yield f"default_model {cls.default_model!r} is not in models", "one of them"
    for alias, full in cls.model_aliases.items():
        if full not in cls.models or alias in cls.models:
            yield f"the alias {alias!r} means {full!r}", "a name that is not in models, for one that is"
        elif (found := subject.bare(model=alias).model) != full:
            yield f"model={alias!r} became {found!r}", repr(full)
    for model in ("", None, cls.default_model):
        if (found := subject.bare(model=model).model) != cls.default_model:
            yield f"model={model!r} became {found!r}", f"the default, {cls.default_model!r}"
    if (own := subject.bare().base_url) != cls.default_base_url:
        yield f"default_base_url is {cls.default_base_url!r}, and base_url {own!r}", "the same"
    try:
        found = subject.bare(model="no-such-model").model
    except ModelNotSupported as exc:
        if missing := [model for model in cls.models if model not in str(exc)]:
            yield f"the error for an unknown model is {str(exc)!r}", f"one that names {missing[0]!r} too"
    else:
        yield f"of the public service, an unknown model became {found!r}", "ModelNotSupported"
    if (found := subject.make(model="no-such-model").model) != "no-such-model":
        yield f"of a server of one's own, 'no-such-model' became {found!r}", "the name as it is"


def _equal(subject: Subject) -> Iterator[Complaint]:
    """It is equal to one with equal arguments, has the same hash, and differs in every field."""
    one, two = subject.make(), subject.cls(**copy.deepcopy(subject.full()))
    if one != two or hash(one) != hash(two):
        yield "two with equal arguments differ, or their hashes do", "equal ones"
    others: dict[str, Any] = {
        "model": "another-model",
        "base_url": "http://localhost:2",
        "headers": {},
        "cookies": {"session": "another"},
        "proxy": None,
        "parameters": {"some_new_knob": 1},
    }
    for name, value in others.items():
        if name not in subject.fields and subject.make(**{name: value}) == one:
            yield f"{name}={value!r} makes no difference", "another provider"


def _frozen(subject: Subject) -> Iterator[Complaint]:
    """It cannot be changed, neither by its attributes nor by what it was constructed with."""
    provider = subject.make()
    for field in dataclasses.fields(provider):
        try:
            setattr(provider, field.name, getattr(provider, field.name))
        except dataclasses.FrozenInstanceError:
            continue
        yield f"{field.name} can be set", "@dataclass(frozen=True)"
    arguments = copy.deepcopy(subject.full())
    provider = subject.cls(**arguments)
    before = hash(provider)
    for name in ("headers", "cookies"):
        if isinstance(given := arguments.get(name), dict):
            given["X-Later"] = "1"  # pyright: ignore[reportUnknownMemberType]
    if hash(provider) != before or provider != subject.make():
        yield "a change of the caller's dictionary changed it", "a copy of its own (super().__post_init__())"


def _copies(subject: Subject) -> Iterator[Complaint]:
    """It survives copying, `dataclasses.replace` and, where its class can be imported, pickling."""
    provider = subject.make()
    twins = [copy.copy(provider), copy.deepcopy(provider), dataclasses.replace(provider)]
    module = sys.modules.get(subject.cls.__module__)
    if getattr(module, subject.cls.__qualname__, None) is subject.cls:
        twins.append(pickle.loads(pickle.dumps(provider)))
    for twin in twins:
        if twin != provider or hash(twin) != hash(provider):
            yield f"a copy of {provider!r} is {twin!r}", "an equal one"


def _repr(subject: Subject) -> Iterator[Complaint]:
    """Its repr shows the class and the model, and no secret."""
    provider = subject.make(model="some-model")
    for text in (repr(provider), str(provider)):
        for name in (subject.cls.__name__, "some-model"):
            if name not in text:
                yield f"it is {shown(text)}", f"one with {name}"
        for secret in (*_SECRETS, MINE):
            if secret in text:
                yield f"it shows {secret!r}: {shown(text)}", "@dataclass(repr=False, …), or one without it"


def _refused(subject: Subject) -> Iterator[Complaint]:
    """Its constructor refuses what cannot be sent, and quotes none of it."""
    wrong: list[dict[str, Any]] = [
        {"base_url": f"ftp://me:{PASSWORD}@localhost"},
        {"proxy": f"me:{PASSWORD}"},
        {"headers": {"X-Check": f"{TOKEN}\r\nX-More: 1"}},
        {"cookies": {"session": f"{COOKIE}; other=1"}},
        {"model": 5},
        {"parameters": {"some_new_knob": object()}},
        {"parameters": {"stream": True}},
    ]
    for fields in wrong:
        try:
            subject.make(**fields)
        except (TypeError, ValueError) as exc:
            if any(secret in f"{exc} {exc.__cause__}" for secret in _SECRETS):
                yield f"the error for {next(iter(fields))} quotes it: {exc}", "one that does not"
        else:
            yield f"it took {shown(fields)}", "TypeError or ValueError (super().__post_init__() checks)"


def _secrets(subject: Subject) -> Iterator[Complaint]:
    """It knows its secrets, so that whoever shows an error can blot them out, and what needs them to be paid."""
    provider = subject.make()
    conversation = subject.minted(provider)
    known = provider.secrets(conversation)
    brought = [secret for secret in _SECRETS if secret in str(subject.full())]
    for secret in (*brought, *(value for value in conversation.identity.values() if len(value) >= 4)):
        if secret not in known:
            yield f"secrets() does not hold {secret!r}", "all credentials, and the minted identity"
    if provider.credential(conversation) is None or provider.access() is None:
        yield "credential() or access() is None with cookies, headers and a proxy", "a fingerprint"
    if provider.owns(conversation.replace(credential="another's")):
        yield "it owns a conversation with another credential", "owns() is for who created it"


def _keys(subject: Subject) -> Iterator[Complaint]:
    """A key that it has besides cookies and headers is a secret too, and tells who speaks from who else does."""
    provider = subject.bare()
    conversation = subject.minted(provider)
    known, minted = provider.secrets(conversation), conversation.identity.values()
    for flow, request in subject.requests(provider):
        for name, value in request.headers.items():
            sent = {str(value), str(value).rpartition(" ")[2]}
            if not is_credential(name) or sent & set(minted):
                continue
            said = f"{flow} sends {request.method} {request.path} with {name}"
            if not sent & set(known):
                yield (
                    f"{said}, and secrets() does not hold it",
                    "(*super().secrets(conversation), …), or it in headers=",
                )
            if provider.access() is None or provider.credential(conversation) is None:
                yield f"{said}, and access() or credential() is None", "a fingerprint of it too, or it in headers="


def _conversations(subject: Subject) -> Iterator[Complaint]:
    """Its conversations are plain JSON, survive it, and hold nothing that the user brought."""
    provider = subject.make()
    empty = provider.new_conversation()
    if (empty.provider, empty.base_url, empty.id) != (provider.name, provider.base_url, None):
        yield f"a new one is {dict(empty)}", "its provider's name and base_url, and no id"
    opening = drive(provider.open(subject.minted(provider), counted()), subject.answers())
    asking = subject.asked(provider, QUESTION)
    stream = getattr(asking.value, "decoder", None)
    known = [empty, *opening.conversations, *asking.conversations, opening.value, getattr(stream, "conversation", None)]
    for conversation in known:
        if not isinstance(conversation, Conversation):
            continue
        text = conversation.to_json()
        if Conversation.from_json(text) != conversation:
            yield f"{dict(conversation)} comes back from JSON as another", "lists, dicts, strings and numbers alone"
        for secret in (*_SECRETS, MINE):
            if secret in text:
                yield f"it holds {secret!r}", "what was minted for it: it is written down where others may read it"


def _minted(subject: Subject) -> Iterator[Complaint]:
    """What it mints is new for each conversation, and made by the function that it is given."""
    provider = subject.bare()
    ids = counted()
    first, second = dict(provider.mint(ids)), dict(provider.mint(ids))
    if first and (first == second or first.keys() != second.keys()):
        yield f"two identities are {first} and {second}", "values of their own, from new_id"
    if dict(provider.mint(counted())) != first:
        yield "with the same ids it mints another identity", "new_id alone decides"


DUTIES = (_models, _equal, _frozen, _copies, _repr, _refused, _secrets, _keys, _conversations, _minted)
