"""What a provider says to its server, and what it makes of the answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from ..._conversation import Conversation
from ..._errors import AuthenticationError, Overloaded, ProviderError, RateLimited, TrioprovError
from ...providers import Decoder, Provider, Request, Response, Steps, Stream
from ._subject import (
    COOKIE,
    MINE,
    QUESTION,
    TOKEN,
    Complaint,
    Subject,
    broken,
    counted,
    drive,
    shown,
)

REFUSALS = (400, 401, 404, 429, 500, 502, 503)

# Bodies with which no server that works answers.
HOSTILE: tuple[bytes, ...] = (
    *(b"", b"null", b"[]", b"{}", b"5", b'"x"', b"[1, {}]", b"\xff\xfe", b"<html>\n", b'{"id": ', b"[" * 100_000),
    b"9" * 5000,
)
# What is no id, or would make another path of the one it is put into.
_BAD_IDS: tuple[Any, ...] = (
    None,
    "",
    5,
    True,
    [],
    {},
    ".",
    "..",
    "a/../b",
    "a?b=c",
    "a#b",
    "a b",
    "a\r\nX: y",
    "%2e%2e",
    "ы",
)


def _comes_to_a_stream(subject: Subject) -> Iterator[Complaint]:
    """A question comes to a stream: a request, and a decoder of the conversation."""
    asked = subject.asked(subject.make())
    stream = asked.value
    if asked.error is not None:
        yield (
            f"against a server that answers 200 with {shown(dict(subject.says))} it raised {asked.error!r}",
            "a Stream; what yours answers is given as check_provider(…, answer={…})",
        )
    elif not isinstance(stream, Stream):
        yield f"ask returned {shown(stream)}", "a Stream"
    elif not isinstance(stream.decoder, Decoder) or not isinstance(stream.request, Request):  # pyright: ignore[reportUnnecessaryIsInstance]
        yield f"it is {shown(stream)}", "a Stream of a Request and a Decoder"


def _well_formed(subject: Subject) -> Iterator[Complaint]:
    """Every request can be sent: a method, a path below base_url, lower-case headers, and at most one body."""
    for flow, request in subject.requests(subject.make()):
        said = f"{flow} sends {request.method} {request.path}"
        if not request.method.isupper():
            yield said, "a method in upper case"
        if not request.path.startswith("/") or not request.path.isascii() or " " in request.path:
            yield said, "a path from the first slash, percent-encoded"
        if odd := [name for name in request.headers if name != name.lower()]:
            yield f"{said} with the header {odd[0]}", "names in lower case"
        for name, value in (*request.headers.items(), *(request.query or {}).items(), *(request.form or {}).items()):
            if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                yield f"{said} with {name}: {shown(value)}", "a string"
            elif name in request.headers and not (value.isascii() and value.isprintable()):
                yield f"{said} with the header {name}: {shown(value)}", "ASCII in one line"
        if sum(body is not None for body in (request.json, request.form, request.multipart)) > 1:
            yield f"{said} with several bodies", "one"
        try:
            json.dumps(request.json, allow_nan=False)
        except (TypeError, ValueError) as exc:
            yield f"{said} with a body of which JSON makes: {exc}", "JSON values alone"


def _headers(subject: Subject) -> Iterator[Complaint]:
    """Every request says who we are and carries the user's cookies and headers, which are stronger than ours."""
    jar, mine = subject.full()["cookies"], {"User-Agent": "mine/1", "X-Check": MINE}
    for flow, request in subject.requests(subject.make(headers=mine)):
        said = f"{flow} sends {request.method} {request.path} with {shown(sorted(request.headers))}"
        if request.headers.get("user-agent") != "mine/1" or request.headers.get("x-check") != MINE:
            yield said, "the user's headers (self.request(…) puts them in)"
        if isinstance(jar, dict) and COOKIE in jar.values() and COOKIE not in request.headers.get("cookie", ""):  # pyright: ignore[reportUnknownMemberType]
            yield said, "the user's cookies (super().request_headers(…) has them)"
    for flow, request in subject.requests(subject.bare()):
        if not request.headers.get("user-agent", "").startswith("trioprov/"):
            yield f"{flow} sends {request.method} {request.path} without a name", "User-Agent: trioprov/…"


def _secret_requests(subject: Subject) -> Iterator[Complaint]:
    """No request shows a secret in its repr or its path."""
    for flow, request in subject.requests(subject.make()):
        for secret in (COOKIE, TOKEN):
            if secret in repr(request):
                yield f"{flow} sends {request!r}", "credentials in headers or cookies alone"


def _same_again(subject: Subject) -> Iterator[Complaint]:
    """A flow is made of what it is given alone, and says the same when it is given the same."""
    provider = subject.make()
    first, again = subject.requests(provider), subject.requests(provider)
    for (flow, one), (_, other) in zip(first, again, strict=False):
        if one != other:
            yield f"{flow} sends {shown(one.json or one)}, then {shown(other.json or other)}", "the same"
    if len(first) != len(again):
        yield f"{len(first)} requests, then {len(again)}", "the same"


def _creates(subject: Subject) -> Iterator[Complaint]:
    """The request that creates the conversation says so, or a cancellation would part it from its DELETE."""
    if not subject.cls.cleanup_documented:
        return
    provider = subject.make()
    opening = drive(provider.open(subject.minted(provider), counted()), subject.answers())
    conversation = opening.value
    if not isinstance(conversation, Conversation):
        return
    requests, flow = opening.requests, "open"
    if conversation.id is not None and not requests:
        yield (
            "open gives an id and asks nobody",
            "an id of the client's own where it is first said: in ask's request, with creates=True, and its decoder",
        )
        return
    if conversation.id is None:
        stream = subject.stream(provider)
        requests, flow = [*subject.asked(provider).requests, *([stream.request] if stream else [])], "ask"
    if not any(request.creates for request in requests):
        yield f"{flow} sends {[f'{one.method} {one.path}' for one in requests]}", "creates=True on the one that creates"


def _refused(subject: Subject) -> Iterator[Complaint]:
    """What the server refuses is an error of open and ask, of the kind that the status says."""
    provider = subject.make()
    conversation = subject.opened(provider)
    options = provider.options({})
    flows: dict[str, Callable[[], Steps[Any]]] = {
        "open": lambda: provider.open(subject.minted(provider), counted()),
        "ask": lambda: provider.ask(conversation, QUESTION, options, counted()),
    }
    for name, flow in flows.items():
        for status in REFUSALS:
            driven = drive(flow(), subject.answers(status))
            if driven.requests and not isinstance(driven.error, ProviderError):
                yield f"{name} made {shown(driven.error or driven.value)} of a {status}", "raise self.refusal(response)"
        driven = drive(flow(), broken)
        if driven.requests and driven.error is None:
            yield f"{name} made {shown(driven.value)} of a broken connection", "its error, let through"
        for body in HOSTILE:
            drive(flow(), subject.answers(200, body))  # an error of ours is as good as a value; no other passes


def _refusals(subject: Subject) -> Iterator[Complaint]:
    """Every answer that refuses is a ProviderError with its status, a message of one line, and no half of a secret."""
    provider = subject.make()
    kinds = {401: AuthenticationError, 429: RateLimited, 503: Overloaded}
    for status in (*REFUSALS, 302, 403, 405, 410, 413, 422, 504):
        for body in (*HOSTILE, b'{"error": {"message": [1]}}', b'{"message": {"a": "\\ud800"}}', b"word " * 100_000):
            error = provider.refusal(Response(status=status, body=body, retry_after=7.0))
            if not isinstance(error, ProviderError) or error.status != status:  # pyright: ignore[reportUnnecessaryIsInstance]
                yield f"a {status} became {error!r}", f"a ProviderError with status={status}"
            elif not error.message or len(error.message) > 1000 or "\n" in str(error):
                yield f"a {status} with {shown(body)} says {shown(error.message)}", "one line of a length to be read"
            elif status in kinds and not isinstance(error, kinds[status]):
                yield f"a {status} became {type(error).__name__}", kinds[status].__name__
            elif status == 429 and error.retry_after != 7.0:
                yield f"its retry_after is {error.retry_after}", "response.retry_after"
    for length in range(200, 400):
        error = provider.refusal(Response(status=500, body=b"x " * (length // 2) + TOKEN.encode() + b" y" * 9000))
        if TOKEN[:6] in error.message and TOKEN not in error.message:
            yield (
                f"a credential that the server echoes was cut in its middle: {shown(error.message[-40:])}",
                "all, or none",
            )
            return


def _ids(subject: Subject) -> Iterator[Complaint]:
    """An id from the server cannot change the path of a request: it is checked, and percent-encoded."""
    provider = subject.make()
    opened = subject.opened(provider)
    whole = _paths(subject, provider, opened)
    for bad in _BAD_IDS:
        says = {name: bad if isinstance(value, str) else value for name, value in subject.says.items()}
        opening = drive(
            provider.open(subject.minted(provider), counted()), subject.answers(200, json.dumps(says).encode())
        )
        found = opening.value
        if not isinstance(found, Conversation) or found.id in (None, opened.id):
            continue
        if not isinstance(found.id, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            yield f"the id {bad!r} was taken", "response.id(…), which takes strings alone"
            continue
        for flow, path in _paths(subject, provider, found).items():
            parts, wanted = urlsplit(path), urlsplit(whole.get(flow, path))
            segments = path.split("/")
            if (
                path.count("/") != whole.get(flow, path).count("/")
                or bool(parts.query) != bool(wanted.query)
                or parts.fragment
                or {".", "..", ""} & set(segments[1:])
                or not (path.isascii() and path.isprintable() and " " not in path)
            ):
                yield (
                    f"with the id {bad!r}, {flow} asks for {path!r}",
                    "response.id(…) and urllib.parse.quote(id, safe='')",
                )


def _paths(subject: Subject, provider: Provider, conversation: Conversation) -> dict[str, str]:
    flows: dict[str, Steps[Any]] = {
        "close": provider.close(conversation),
        "stop": provider.stop(conversation),
        "ask": provider.ask(conversation, QUESTION, provider.options({}), counted()),
    }
    driven = {name: drive(flow, subject.answers()) for name, flow in flows.items()}
    paths = {
        f"{name} (request {n})": one.path for name, each in driven.items() for n, one in enumerate(each.requests, 1)
    }
    stream = driven["ask"].value
    return {**paths, "ask": stream.request.path} if isinstance(stream, Stream) else paths


def _left(subject: Subject) -> Iterator[Complaint]:
    """A flow that is left at any step says nothing more."""
    provider = subject.make()
    opened = subject.opened(provider)
    flows: dict[str, Callable[[], Steps[Any]]] = {
        "open": lambda: provider.open(subject.minted(provider), counted()),
        "ask": lambda: provider.ask(opened, QUESTION, provider.options({}), counted()),
        "stop": lambda: provider.stop(opened),
        "close": lambda: provider.close(opened),
        "recover": lambda: provider.recover(subject.minted(provider)),
    }
    for name, flow in flows.items():
        for steps in range(1, 10):
            running = flow()
            reply: Response | None = None
            try:
                for _ in range(steps):
                    step = running.send(reply)
                    reply = subject.success() if isinstance(step, Request) else None
            except (StopIteration, TrioprovError):
                break
            try:
                running.close()
            except RuntimeError:
                yield f"{name} went on after step {steps}", "no yield in a finally, or where every exception is caught"


DUTIES = (
    *(_comes_to_a_stream, _well_formed, _headers, _secret_requests, _same_again, _creates, _refused, _refusals, _ids),
    _left,
)
