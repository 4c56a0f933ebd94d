"""What every provider is: a value that knows what its service says, and does no I/O.

A provider's flows are generators of steps, the way ``httpx.Auth.auth_flow`` is one: they yield a `Request` and are sent
its `Response`; they yield a `Conversation` to say "from here on, this is what we know"; they yield a `Pause` to let the
service catch up. Whoever drives a flow decides which steps are shielded, retried and written down; the flow decides
what is said and what an answer means.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from http.cookiejar import CookieJar
from typing import Any, ClassVar, TypeAlias, TypeVar
from urllib.parse import SplitResult, urlsplit

from .._conversation import Conversation
from .._errors import (
    AuthenticationError,
    IncompleteReply,
    InvalidRequest,
    ModelNotSupported,
    Overloaded,
    ProviderError,
    RateLimited,
    TrioprovError,
)
from .._events import Event, Finish
from .._outcomes import Outcome
from .._version import __version__
from ..wire import loads
from . import _cookies, _messages, _parameters

T = TypeVar("T")

USER_AGENT = f"trioprov/{__version__}"

# Headers that the client or the HTTP library must set itself; another value would break the request, or the rule that
# credentials go into `cookies`, where they are known to be secret.
_OURS = frozenset({"cookie", "host", "content-length", "content-type", "transfer-encoding", "connection", "te"})

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, relative to the provider's ``base_url``.

    Attributes:
        method: the HTTP method.
        path: path below ``base_url``, percent-encoded.
        headers: all headers but those that follow from the body; secret.
        query: query parameters.
        json: a body sent as JSON, if not `None`.
        form: a body sent form-encoded, if not `None`.
        multipart: a body sent as ``multipart/form-data`` fields, if not `None`.
        creates: the server makes the conversation when it gets this request.
        must_answer: the server begins work by it that only its answer lets us wait for.
        best_effort: its failure changes nothing: sent once, with a part of the budget.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    query: Mapping[str, str] | None = None
    json: Any = field(default=None, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    multipart: Sequence[tuple[str, str]] | None = field(default=None, repr=False)
    creates: bool = False
    must_answer: bool = False
    best_effort: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One answer, its body read to the end (and bounded).

    Attributes:
        status: the HTTP status.
        headers: pairs of lower-case name and value, in order; secret, as they may set cookies.
        body: the content, decoded if it was compressed.
        retry_after: seconds the server asked to wait (``Retry-After``, in either of its forms).
    """

    status: int
    headers: Sequence[tuple[str, str]] = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)
    retry_after: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the status is a 2xx."""
        return 200 <= self.status < 300

    def all(self, name: str) -> list[str]:
        """Every value of the header ``name`` (lower case)."""
        return [value for key, value in self.headers if key == name]

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            RemoteProtocolError: it is not JSON.
        """
        return loads(self.body)


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait ``seconds`` before the next step, because the service still works on the previous answer."""

    seconds: float


Step: TypeAlias = Request | Conversation | Pause
Steps: TypeAlias = Generator[Step, Response | None, T]
NewId: TypeAlias = Callable[[], str]
"""Makes a fresh random UUID; passed in, so that a provider stays a pure value."""


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
        self.finished = False

    @abstractmethod
    def decode(self, data: bytes, events: list[Event]) -> None:
        """Append the events that ``data`` completes; a `TrioprovError` ends the reply after those."""

    def decode_eof(self, events: list[Event]) -> None:
        """Append what the end of the body completes; by default nothing."""

    def receive_data(self, data: bytes) -> list[Event]:
        """The events that ``data`` completes; a `Finish` is the last of them. Never raises for what a server sent."""
        return self._run(lambda events: self.decode(data, events))

    def receive_eof(self) -> list[Event]:
        """The events at the end of the body: without the protocol's own end marker, an `IncompleteReply`."""

        def end(events: list[Event]) -> None:
            self.decode_eof(events)
            if not (events and isinstance(events[-1], Finish)):
                raise IncompleteReply("the stream ended before the service said that the reply was complete")

        return self._run(end)

    def _run(self, decode: Callable[[list[Event]], None]) -> list[Event]:
        events: list[Event] = []
        if not self.finished:
            try:
                decode(events)
            except TrioprovError as exc:
                events.append(Finish("error", exc))
            self.finished = bool(events) and isinstance(events[-1], Finish)
        return events


@dataclass(frozen=True, slots=True)
class Stream:
    """Where an ask flow ends: the request whose answer is the stream, and what reads it.

    Until the request may have left, ``decoder.conversation`` is not the truth yet; from then on it is.
    """

    request: Request
    decoder: Decoder


@dataclass(frozen=True, repr=False)
class Provider(ABC):
    """A service, a model on it, and how to reach it.

    A value: frozen, comparable, hashable, safe to share between tasks. Its repr hides cookies, header values and the
    password of a proxy.

    Args:
        model: a model's full id or alias; empty means ``default_model``.
        base_url: where the service is; a self-hosted server is as good as the public one.
        headers: sent with every request, over our own of the same name.
        cookies: the user's credentials, as a mapping or a `http.cookiejar.CookieJar` (of which the cookies for
            ``base_url`` are taken, once, now). Browser stores are never read.
        proxy: URL of an HTTP or SOCKS proxy.
        parameters: generation parameters for every ask; those of `ask` are stronger.

    Raises:
        ModelNotSupported: the public service has no such model.
        TypeError: a value of the wrong type, or a parameter that is none.
        ValueError: a value that cannot be sent; the message never quotes a secret.
    """

    model: str = ""
    _: KW_ONLY
    base_url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    cookies: Mapping[str, str] | CookieJar = field(default_factory=dict[str, str])
    proxy: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])

    name: ClassVar[str]
    """Key in `PROVIDERS`."""
    label: ClassVar[str]
    """What people call it."""
    url: ClassVar[str]
    """The site where people use it."""
    default_base_url: ClassVar[str]
    default_model: ClassVar[str]
    models: ClassVar[tuple[str, ...]]
    model_aliases: ClassVar[Mapping[str, str]] = {}
    needs_auth: ClassVar[bool] = False
    supports_stream: ClassVar[bool] = True
    supports_system_message: ClassVar[bool] = False
    supports_message_history: ClassVar[bool] = True
    working: ClassVar[bool | None] = None
    """Whether the public service is known to be up; `None`: not known. Self-hosted servers are not meant."""
    supported_parameters: ClassVar[tuple[str, ...]] = ()
    cleanup_documented: ClassVar[bool] = False
    """Whether the service has a documented way to delete a conversation."""
    drains: ClassVar[bool] = False
    """Whether a stream that nobody wants any more must still be read to its end, because the service cannot stop."""
    expires_after: ClassVar[float | None] = None
    """Seconds after which the service itself deletes what this client left, if it does."""

    default_parameters: ClassVar[Mapping[str, Any]] = {}
    parameter_rules: ClassVar[Mapping[str, _parameters.Check]] = {}
    parameter_aliases: ClassVar[Mapping[str, str]] = {}
    reserved_parameters: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        base_url = _checked_url("base_url", self.base_url or self.default_base_url, ("http", "https"))
        if self.proxy is not None:
            _checked_url("proxy", self.proxy, ("http", "https", "socks5", "socks5h"))
        self._set(base_url=base_url, model=self._resolved(self.model, base_url))
        self._set(headers=_parameters.Frozen(_checked_headers(self.headers)))
        self._set(cookies=_parameters.Frozen(_cookies.checked(self.cookies, base_url)))
        self._set(parameters=_parameters.Frozen(self.parameters))
        self.options({})

    def _set(self, **fields: Any) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def _resolved(self, model: str, base_url: str) -> str:
        full = self.model_aliases.get(model, model) or self.default_model
        if full not in self.models and base_url == self.default_base_url:
            known = ", ".join([*self.models, *self.model_aliases])
            raise ModelNotSupported(f"{self.label} has no model {model!r}; it has: {known}")
        return full

    def __repr__(self) -> str:
        shown = [repr(self.model)]
        if self.base_url != self.default_base_url:
            shown.append(f"base_url={self.base_url!r}")
        if self.proxy is not None:
            shown.append(f"proxy={_without_password(self.proxy)!r}")
        for secret in ("headers", "cookies"):
            if value := getattr(self, secret):
                shown.append(f"{secret}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    # -- What a session asks of it -----------------------------------------------------------------------------------

    def new_conversation(self) -> Conversation:
        """An empty conversation: nothing on the server, nobody minted."""
        return Conversation(provider=self.name, base_url=self.base_url)

    def mint(self, new_id: NewId) -> Mapping[str, str]:
        """The identity for one new conversation, where the service lets the client choose it."""
        return {}

    def options(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """All generation parameters of one ask, in the service's own names.

        Raises:
            TypeError: a name that is not a parameter, or a value of the wrong type or that JSON does not have.
            ValueError: a value outside what the service documents.
        """
        options = _parameters.merged(
            self.default_parameters,
            self.parameters,
            parameters,
            rules=self.parameter_rules,
            aliases=self.parameter_aliases,
            reserved=self.reserved_parameters,
        )
        json.dumps(options, allow_nan=False)
        return options

    def prompt(self, conversation: Conversation, messages: Sequence[_messages.Message]) -> str:
        """The text to send: all messages while the conversation is empty, then only what the server does not have.

        Raises:
            ValueError: there is nothing to say, or no user message at the end of a later list.
        """
        first = not conversation.started
        prompt = self._first_prompt(messages) if first else _messages.last_user_run(messages)
        if not prompt.strip():
            raise ValueError("the prompt is empty")
        return prompt

    def _first_prompt(self, messages: Sequence[_messages.Message]) -> str:
        return _messages.roles(messages)

    def open(self, conversation: Conversation, new_id: NewId) -> Steps[Conversation]:
        """Create the conversation, where the service has a create; ``conversation`` carries the minted identity."""
        return conversation
        yield

    @abstractmethod
    def ask(
        self,
        conversation: Conversation,
        messages: Sequence[_messages.Message],
        options: Mapping[str, Any],
        new_id: NewId,
    ) -> Steps[Stream]:
        """Everything that comes before the stream; ends with the request for it."""

    def after_stream(self, decoder: Decoder) -> Steps[list[Event]]:
        """What to make of a stream that ended without its end marker."""
        return decoder.receive_eof()
        yield

    def stop(self, conversation: Conversation) -> Steps[Conversation]:
        """Stop what the server still generates, and keep the conversation."""
        return conversation
        yield

    def close(self, conversation: Conversation) -> Steps[Outcome]:
        """Delete the conversation and make sure that it is gone.

        Raises:
            ProviderError: it was refused; with a 429 or 5xx status it is worth another try.
        """
        return "unsupported"
        yield

    def recover(self, conversation: Conversation) -> Steps[Outcome]:
        """Delete what a create made whose answer was lost; ``lost`` if the service gives no way to find it."""
        return "lost"
        yield

    def refusal(self, response: Response) -> ProviderError:
        """The error that an answer with a status other than 2xx means."""
        code, message = self._reason(response)
        return refusal(response, code=code, message=message)

    def _reason(self, response: Response) -> tuple[str | None, str]:
        """The service's code and sentence in an error body."""
        return None, plain_text(response.body)

    def credential(self) -> str | None:
        """A fingerprint of the user's own credentials, or `None` without any.

        Two providers with the same one speak as the same user, so that "not found" means "gone" and not "not yours".
        """
        secrets = {**self.cookies, **{name: self.headers[name] for name in self.headers if _is_credential(name)}}
        if not secrets:
            return None
        return hashlib.sha256(json.dumps(sorted(secrets.items())).encode()).hexdigest()

    def owns(self, conversation: Conversation) -> bool:
        """Whether this provider speaks as the user that created the conversation."""
        return conversation.get("credential") == self.credential()

    def secrets(self, conversation: Conversation) -> tuple[str, ...]:
        """What no log or error message may show, should a server echo it."""
        mine = [*self.cookies.values(), *(value for name, value in self.headers.items() if _is_credential(name))]
        return tuple(str(secret) for secret in (*mine, *conversation.identity.values()) if len(str(secret)) >= 4)

    def _request(
        self,
        conversation: Conversation,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        json: Any = None,
        form: Mapping[str, str] | None = None,
        multipart: Sequence[tuple[str, str]] | None = None,
        creates: bool = False,
        must_answer: bool = False,
        best_effort: bool = False,
    ) -> Request:
        """A request with every header this provider sends; the user's `headers` are stronger than ours."""
        headers = {"accept": "*/*", "user-agent": USER_AGENT, **self._headers(conversation)}
        headers |= {name.lower(): value for name, value in self.headers.items()}
        return Request(
            method=method,
            path=path,
            headers=headers,
            query=query,
            json=json,
            form=form,
            multipart=multipart,
            creates=creates,
            must_answer=must_answer,
            best_effort=best_effort,
        )

    def _headers(self, conversation: Conversation) -> Mapping[str, str]:
        return _cookies.header(self.cookies)


def refusal(
    response: Response, *, code: str | None = None, message: str = "", status: int | None = None
) -> ProviderError:
    """The `ProviderError` that fits a status, the same for every service unless its provider knows better."""
    status = status or response.status
    if status in (401, 403):
        kind: type[ProviderError] = AuthenticationError
    elif status == 429:
        kind = RateLimited
    elif status == 503:
        kind = Overloaded
    elif 400 <= status < 500:
        kind = InvalidRequest
    else:
        kind = ProviderError
    if 300 <= status < 400:
        message = "the server redirects; check base_url"
    return kind(message or f"HTTP status {status}", status=status, code=code, retry_after=response.retry_after)


def plain_text(body: bytes, most: int = 300) -> str:
    """The start of an error body as one printable line; markup is left out, since a gateway's page says nothing."""
    text = body[:4096].decode("utf-8", "replace").strip()
    if text.startswith("<"):
        found = re.search(r"<title[^>]*>([^<]*)", text, re.IGNORECASE)
        text = found.group(1) if found else ""
    return shortened(text, most)


def shortened(text: str, most: int = 300) -> str:
    """At most ``most`` characters of ``text``, on one line, without control characters."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text[: most * 4]).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def parsed(response: Response) -> dict[str, Any]:
    """An error body as a JSON object; empty when it is none."""
    try:
        value = response.json()
    except TrioprovError:
        return {}
    return value if isinstance(value, dict) else {}


def _is_credential(header: str) -> bool:
    return header.lower() in {"authorization", "proxy-authorization", "x-anonymous-user-id", "x-api-key"}


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is not a header name")
        if name.lower() in _OURS:
            raise ValueError(f"the header {name!r} is set by the client itself (credentials go into cookies=)")
        if not value.isprintable() or not value.isascii() or value != value.strip():
            raise ValueError(f"the value of the header {name!r} cannot be sent: printable ASCII only")
    return dict(headers)


def _split(what: str, url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError(f"{what} is not a URL") from None  # the cause would quote it, password and all
    return parts


def _checked_url(what: str, url: str, schemes: tuple[str, ...]) -> str:
    parts = _split(what, url)
    if parts.scheme not in schemes or not parts.hostname or not url.isprintable() or " " in url:
        raise ValueError(f"{what} must be a URL that starts with {' or '.join(f'{s}://' for s in schemes)} and a host")
    if what == "base_url" and (parts.query or parts.fragment or "@" in parts.netloc):
        raise ValueError("base_url must have no query, fragment, user or password")
    return url.rstrip("/")


def _without_password(url: str) -> str:
    parts = _split("proxy", url)
    user, at, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}" if at else host, query="").geturl()
