"""What a provider does about what is left on its server."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any, get_args
from urllib.parse import urlencode

from ..._conversation import Conversation
from ..._errors import ProviderError, TrioprovError
from ..._outcomes import Outcome
from ...providers import Request, Response, Steps
from ._flows import HOSTILE, REFUSALS
from ._subject import Answering, Complaint, Driven, Endless, Subject, broken, drive, shown

_STATUSES = (200, 204, *REFUSALS, 403, 405, 410)
_GONE = ("deleted", "already_gone")


def _tried(steps: Steps[Any], answer: Answering) -> Driven | str:
    try:
        return drive(steps, answer)
    except Endless as exc:
        return str(exc)


def _nothing_owed(subject: Subject) -> Iterator[Complaint]:
    """Closing a conversation that was never created asks the server nothing."""
    provider = subject.make()
    driven = drive(provider.close(subject.minted(provider)), subject.answers())
    allowed = ("nothing_owed",) if subject.cls.cleanup_documented else ("nothing_owed", "unsupported")
    if driven.requests or driven.value not in allowed:
        yield (
            f"{len(driven.requests)} requests, and {shown(driven.error or driven.value)}",
            f"no request, {allowed[0]!r}",
        )


def _deletes(subject: Subject) -> Iterator[Complaint]:
    """Closing deletes where cleanup_documented says so, and is "unsupported" where it does not."""
    provider = subject.make()
    driven = drive(provider.close(subject.opened(provider)), subject.answers(200))
    said = f"{len(driven.requests)} requests, each answered 200, and {shown(driven.error or driven.value)}"
    if not subject.cls.cleanup_documented:
        if driven.requests or driven.value != "unsupported":
            yield said, "no request, 'unsupported'; or cleanup_documented = True"
    elif not driven.requests or driven.value != "deleted":
        yield said, "a request and 'deleted'; or cleanup_documented = False"


def _ends(subject: Subject) -> Iterator[Complaint]:
    """Closing, recovering and stopping end for every answer, with an outcome or an error of ours."""
    provider = subject.make()
    opened = subject.opened(provider)
    flows: dict[str, Callable[[], Steps[Any]]] = {
        "close": lambda: provider.close(opened),
        "recover": lambda: provider.recover(subject.minted(provider)),
        "stop": lambda: provider.stop(opened),
    }
    answers: dict[str, Answering] = {f"a {status}": subject.answers(status) for status in _STATUSES}
    answers |= {f"200 with {shown(body)}": subject.answers(200, body) for body in HOSTILE}
    answers["a broken connection"] = broken
    for name, flow in flows.items():
        for what, answer in answers.items():
            driven = _tried(flow(), answer)
            if isinstance(driven, str):
                yield f"{name} does not end when every answer is {what}: {driven}", "an end"
            elif driven.error is None and name == "stop":
                if not isinstance(driven.value, Conversation):
                    yield f"stop returned {shown(driven.value)}", "the conversation"
            elif driven.error is None and driven.value not in get_args(Outcome):
                yield f"{name} returned {shown(driven.value)} for {what}", f"one of {', '.join(get_args(Outcome))}"


def _never_by_mistake(subject: Subject) -> Iterator[Complaint]:
    """No refusal and no broken connection is taken for a deletion, and what may pass is an error to try again after."""
    if not subject.cls.cleanup_documented:
        return
    provider = subject.make()
    opened = subject.opened(provider)
    for status in (*(status for status in _STATUSES if status >= 400 and status not in (404, 410)), 302):
        driven = drive(provider.close(opened), subject.answers(status))
        if driven.error is None:
            yield f"a {status} became {driven.value!r}", "raise self.refusal(response)"
        elif status in (429, 500, 502, 503) and not (
            isinstance(driven.error, ProviderError) and driven.error.status == status
        ):
            yield f"a {status} became {driven.error!r}", f"a ProviderError with status={status}: it is tried again"
    driven = drive(provider.close(opened), broken)
    if driven.error is None:
        yield f"a broken connection became {driven.value!r}", "its error, let through"


def _of_another(subject: Subject) -> Iterator[Complaint]:
    """Not found means "already gone" only to who created it: somebody else's is not found as well."""
    cls, provider = subject.cls, subject.make()
    opened = subject.opened(provider)
    if not cls.cleanup_documented or cls.not_found_is_gone:
        return
    for status in (404, 410, 500):

        def answer(request: Request, status: int = status) -> Response:
            return Response(status=404 if request.method == "GET" else status, body=b"{}")

        for credential in ("another's", None):
            driven = drive(provider.close(opened.replace(credential=credential)), answer)
            if driven.value in _GONE:
                yield (
                    f"with {'another' if credential else 'no'} credential, a {status} became {driven.value!r}",
                    "if self.gone(conversation, response), or not_found_is_gone = True",
                )


def _no_guessing(subject: Subject) -> Iterator[Complaint]:
    """A create whose answer was lost is never deleted by guess: only by what was minted for this conversation alone."""
    for provider in (subject.make(), subject.make(cookies={}), subject.bare()):
        conversation = subject.minted(provider)
        driven = drive(provider.recover(conversation), subject.answers())
        minted = [value for value in conversation.identity.values() if value]
        for request in driven.requests:
            said = urlencode({**(request.query or {}), **(request.form or {})}) + json.dumps(
                [request.path, dict(request.headers), request.json, request.multipart]
            )
            if request.method not in ("GET", "HEAD") and not any(value in said for value in minted):
                yield (
                    f"with {provider!r}, recover sends {request.method} {request.path}",
                    "'lost', unless the request names what mint() made for this conversation",
                )
        if not driven.requests and driven.value in _GONE:
            yield f"recover says {driven.value!r} without asking", "'lost'"


def _by_any_hand(subject: Subject) -> Iterator[Complaint]:
    """Closing needs nothing but the provider and the conversation's JSON, so that a sweeper can do it."""
    provider = subject.make()
    opened = subject.opened(provider)
    one = drive(provider.close(opened), subject.answers())
    twin = dataclasses.replace(provider, model="another-model", parameters={})
    other = drive(twin.close(Conversation.from_json(opened.to_json())), subject.answers())
    if (one.requests, one.value) != (other.requests, other.value):
        yield f"{shown(one.requests)}, and later {shown(other.requests)}", "the same"
    if isinstance(one.error, TrioprovError):
        yield f"closing a new conversation raised {one.error!r}", "an outcome"


DUTIES = (_nothing_owed, _deletes, _ends, _never_by_mistake, _of_another, _no_guessing, _by_any_hand)
