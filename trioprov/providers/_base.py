"""What every provider is: a value that knows what its service says, and does no I/O.

A provider's flows are generators of steps, the way ``httpx.Auth.auth_flow`` is one: they yield a `Request` and are sent
its `Response`; they yield a `Conversation` to say "from here on, this is what we know"; they yield a `Pause` to let the
service catch up. Whoever drives a flow decides which steps are shielded, retried and written down; the flow decides
what is said and what an answer means.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from http.cookiejar import CookieJar
from typing import Any, ClassVar, cast

from .._conversation import Conversation
from .._errors import ModelNotSupported, ProviderError
from .._events import Event
from .._outcomes import Outcome
from .._version import __version__
from . import _cookies
from ._address import checked_base_url, checked_headers, checked_url, is_credential, passwords, without_password
from ._decoder import Decoder, Stream
from ._messages import Message, last_user_run, roles
from ._parameters import Check, Frozen, merged, text
from ._refusal import by_gateway, reason, refusal
from ._steps import NewId, Request, Response, Steps

USER_AGENT = f"trioprov/{__version__}"


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
    not_found_is_gone: ClassVar[bool] = False
    """Whether a 404 can only mean "gone": the service has no owners, or answers in another way who is not the owner."""
    drains: ClassVar[bool] = False
    """Whether a stream that nobody wants any more must still be read to its end, because the service cannot stop."""
    one_pending_per_account: ClassVar[bool] = False
    """Whether a question that is asked while another one waits, under the same account, undoes that one."""
    expires_after: ClassVar[float | None] = None
    """Seconds after which the service itself deletes what this client left, if it does."""

    default_parameters: ClassVar[Mapping[str, Any]] = {}
    parameter_rules: ClassVar[Mapping[str, Check]] = {}
    parameter_aliases: ClassVar[Mapping[str, str]] = {}
    reserved_parameters: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        base_url = checked_base_url(self.base_url or self.default_base_url)
        if self.proxy is not None:
            checked_url("proxy", self.proxy, ("http", "https", "socks5", "socks5h"))
        self._set(base_url=base_url, model=self._resolved(text("model", self.model or ""), base_url))
        self._set(headers=Frozen(checked_headers(self.headers)))
        self._set(cookies=Frozen(_cookies.checked(self.cookies, base_url)))
        self.options({})
        self._set(parameters=Frozen(self.parameters))

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
            shown.append(f"proxy={without_password(self.proxy)!r}")
        shown += [f"{name}={value!r}" for name in ("headers", "cookies") if (value := getattr(self, name))]
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
        try:
            options = merged(
                self.default_parameters,
                self.parameters,
                parameters,
                rules=self.parameter_rules,
                aliases=self.parameter_aliases,
                reserved=self.reserved_parameters.union(field.name for field in fields(self)),
            )
            json.dumps(options, allow_nan=False, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a parameter holds a lone surrogate, which cannot be sent as UTF-8") from None
        except RecursionError:
            raise ValueError("the parameters are nested too deeply") from None
        return options

    def prompt(self, conversation: Conversation, messages: Sequence[Message]) -> str:
        """The text to send: all messages while the conversation is empty, then only what the server does not have.

        Raises:
            ValueError: there is nothing to say, or no user message at the end of a later list.
        """
        first = not conversation.started
        prompt = self.first_prompt(messages) if first else last_user_run(messages)
        # What is put around the messages is nothing to answer.
        if not prompt.strip() or not any(message.content.strip() for message in messages):
            raise ValueError("the prompt is empty")
        return prompt

    def first_prompt(self, messages: Sequence[Message]) -> str:
        """All messages as the one text that begins a conversation."""
        return roles(messages)

    def open(self, conversation: Conversation, new_id: NewId) -> Steps[Conversation]:
        """Create the conversation, where the service has a create; ``conversation`` carries the minted identity."""
        return conversation
        yield

    @abstractmethod
    def ask(
        self,
        conversation: Conversation,
        messages: Sequence[Message],
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
        code, message = self.reason(response)
        return refusal(response, code=code, message=message)

    def reason(self, response: Response) -> tuple[str | None, str]:
        """The service's code and sentence in an error body: here, of the JSON that most have, or the text itself."""
        return reason(response)

    def credential(self, conversation: Conversation) -> str | None:
        """A fingerprint of all credentials we speak with: the user's, and those minted for the conversation.

        Whoever has the same one is the same to the server, so that its "not found" means "gone" and not "not yours".
        `None` without any.
        """
        all_of_them = [sorted(each.items()) for each in (self._jar, self._keys, conversation.identity)]
        return hashlib.sha256(json.dumps(all_of_them).encode()).hexdigest() if any(all_of_them) else None

    def access(self) -> str | None:
        """A fingerprint of all that the user brought to reach the service: credentials, headers, proxy.

        What needs any of it can be done again only by a provider with the same. `None` if it was nothing.
        """
        headers = {name.lower(): value for name, value in self.headers.items()} | self._keys
        brought = [sorted(self._jar.items()), sorted(headers.items()), self.proxy]
        return hashlib.sha256(json.dumps(brought).encode()).hexdigest() if any(brought) else None

    def gone(self, conversation: Conversation, response: Response) -> bool:
        """Whether the answer to a DELETE says that there is nothing to delete any more, and not: nothing of yours.

        Only the service knows that: a gateway's own 404, which is a page as a rule, does not say it.
        """
        mine = self.not_found_is_gone or self.owns(conversation)
        return response.status == 404 and mine and not by_gateway(response)

    def owns(self, conversation: Conversation) -> bool:
        """Whether this provider, with this conversation, speaks as whoever created it."""
        credential = self.credential(conversation)
        return credential is not None and credential == conversation.get("credential")

    def secrets(self, conversation: Conversation) -> tuple[str, ...]:
        """What no log or error message may show, should a server echo it.

        The longest first, since one may hold another.
        """
        found = {*self._jar.values(), *map(str, conversation.identity.values()), *passwords(self.proxy or "")}
        for value in self._keys.values():
            found |= {value, value.rpartition(" ")[2]}  # with "Bearer" and without
        return tuple(sorted((secret for secret in found if len(secret) >= 4), key=len, reverse=True))

    @property
    def _jar(self) -> Mapping[str, str]:
        """The cookies, as the constructor has left them."""
        return cast("Mapping[str, str]", self.cookies)

    @property
    def _keys(self) -> dict[str, str]:
        """The headers, and the fields that a class has of its own, whose names say that they hold a credential."""
        own = {field.name: value for field in fields(self) if isinstance(value := getattr(self, field.name), str)}
        return {name.lower(): value for name, value in {**own, **self.headers}.items() if value and is_credential(name)}

    # -- What its flows are written with -----------------------------------------------------------------------------

    def request(
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
        once: bool = False,
        best_effort: bool = False,
    ) -> Request:
        """A request with every header this provider sends; the user's `headers` are stronger than ours.

        The arguments are the fields of `Request`.
        """
        headers = {"accept": "*/*", "user-agent": USER_AGENT, **self.request_headers(conversation)}
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
            once=once,
            best_effort=best_effort,
        )

    def request_headers(self, conversation: Conversation) -> Mapping[str, str]:
        """What every request says besides: by default the user's cookies. Names are lower-case."""
        return _cookies.header(self._jar)


def checked_provider(provider: object) -> Provider:
    """The provider, if it is one.

    Raises:
        TypeError: it is not: a name, or the class itself.
    """
    if not isinstance(provider, Provider):
        raise TypeError(f"a provider is an object such as H2o(), and not {type(provider).__name__}")
    return provider
