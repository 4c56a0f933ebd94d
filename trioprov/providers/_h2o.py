"""H2o: Hugging Face chat-ui (v0.3 to v0.6) in front of text-generation-inference (`_tgi`).

What the server does is read from huggingface/chat-ui at v0.4 (``src/hooks.server.ts``, ``src/routes/``),
huggingface/text-generation-inference at v0.9.4 (``router/src/server.rs``, ``validation.rs``) and SvelteKit 1.20.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast
from urllib.parse import quote, urlsplit

from .._conversation import Conversation
from .._errors import (
    ConversationLost,
    InvalidRequest,
    ModelNotSupported,
    ProviderError,
    RemoteProtocolError,
    TrioprovError,
)
from .._outcomes import Outcome
from . import _cookies
from ._base import Provider
from ._decoder import Stream
from ._messages import Message, instruction, roles
from ._parameters import flag, integer, number, strings, text
from ._refusal import by_gateway, code_word, parsed, plain_text, refusal
from ._steps import NewId, Request, Response, Steps, given_id
from ._tgi import TGIDecoder, said

_FALCON_40B = "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-40b-v1"
_FALCON_7B = "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-7b-v3"
_LLAMA_13B = "h2oai/h2ogpt-gm-oasst1-en-2048-open-llama-13b"

_NOT_FOUND = "Conversation not found"


@dataclass(frozen=True, repr=False, kw_only=True)
class H2o(Provider):
    """A chat-ui server: gpt-gm.h2o.ai as it was, or one of your own.

    A session accepts the server's terms (``POST /settings``), creates a conversation, generates, and deletes it. The
    session cookie is chosen by this client and sent explicitly, so it also works over plain http, where a ``Secure``
    cookie of the server would be lost and with it the conversation; a server that uses another cookie name is followed.

    Declined from earlier clients of this service:

    - ``GET /`` for cookies: the server accepts any session id that the client brings.
    - the settings fields ``ethicsModalAcceptedAt`` and ``searchEnabled``: the server reads neither.
    - consent to give the user's prompts to model authors: only with ``share_with_model_authors=True``. (The server
      takes any non-empty text as yes, "false" too, so the field is left out otherwise.)
    - a browser's headers (``authority``, ``sec-*``, its ``User-Agent``): this is not a browser.
    - keyword arguments that slipped into the generation parameters (``stream``, ``proxy``, …): a `TypeError`.

    Args:
        prompt_style: how the first ask writes several messages: ``"roles"`` (``User: …`` lines) or ``"instruction"``
            (an English instruction, then ``user: …`` lines, also for a single message).
        share_with_model_authors: tell the server that it may pass the conversation on.
        cookie_name: the server's ``COOKIE_NAME``.
    """

    base_url: str = "https://gpt-gm.h2o.ai"
    prompt_style: Literal["roles", "instruction"] = "roles"
    share_with_model_authors: bool = False
    cookie_name: str = "hf-chat"

    name: ClassVar[str] = "h2o"
    label: ClassVar[str] = "H2o"
    url: ClassVar[str] = "https://gpt-gm.h2o.ai"
    default_base_url: ClassVar[str] = "https://gpt-gm.h2o.ai"
    default_model: ClassVar[str] = _FALCON_40B
    models: ClassVar[tuple[str, ...]] = (_FALCON_40B, _FALCON_7B, _LLAMA_13B)
    model_aliases: ClassVar[Mapping[str, str]] = {
        "falcon-40b": _FALCON_40B,
        "falcon-7b": _FALCON_7B,
        "llama-13b": _LLAMA_13B,
    }
    working: ClassVar[bool | None] = False
    cleanup_documented: ClassVar[bool] = True

    default_parameters: ClassVar[Mapping[str, Any]] = {
        "temperature": 0.4,
        "truncate": 2048,
        "max_new_tokens": 1024,
        "do_sample": True,
        "repetition_penalty": 1.2,
        "return_full_text": False,
    }
    # TGI's own limits (router/src/validation.rs). Where it wants "more than 0", 0 is let through: it is sent, and the
    # server's own answer is clearer than a guess at which versions accept it.
    parameter_rules: ClassVar[Mapping[str, Any]] = {
        "temperature": number(0),
        "truncate": integer(1),
        "max_new_tokens": integer(0),
        "do_sample": flag,
        "repetition_penalty": number(0),
        "return_full_text": flag,
        "top_k": integer(0),
        "top_p": number(0, below=1),
        "typical_p": number(0, below=1),
        "stop": strings(most=4),
        "seed": integer(0),
        "best_of": integer(1, 1),
        "watermark": flag,
        "details": flag,
        "id": text,
        "response_id": text,
    }
    parameter_aliases: ClassVar[Mapping[str, str]] = {"max_tokens": "max_new_tokens"}
    reserved_parameters: ClassVar[frozenset[str]] = frozenset(
        {"inputs", "options", "is_retry", "use_cache", "web_search_id"}
    )
    supported_parameters: ClassVar[tuple[str, ...]] = ("max_tokens", *parameter_rules)

    def __post_init__(self) -> None:
        if self.prompt_style not in ("roles", "instruction"):
            raise ValueError(f"prompt_style must be 'roles' or 'instruction', not {self.prompt_style!r}")
        flag("share_with_model_authors", self.share_with_model_authors)
        _cookies.checked({self.cookie_name: ""}, "")
        super().__post_init__()

    def first_prompt(self, messages: Sequence[Message]) -> str:
        return instruction(messages) if self.prompt_style == "instruction" else roles(messages)

    def mint(self, new_id: NewId) -> Mapping[str, str]:
        """A session cookie of our own; none if the user brings the cookie of a session."""
        return {} if self.cookie_name in self._jar else {self.cookie_name: new_id()}

    def open(self, conversation: Conversation, new_id: NewId) -> Steps[Conversation]:
        """Accept the terms (without which every POST is a 405), adopt the server's cookies, create."""
        settings = {"ethicsModalAccepted": "true", "activeModel": self.model}
        if self.share_with_model_authors:
            settings["shareConversationsWithModelAuthors"] = "true"
        response = yield self.request(conversation, "POST", "/settings", form=settings)
        assert response is not None
        if not _acted(response):
            raise self._opening_refused(response)
        conversation = self._adopted(conversation, response)
        if self.cookie_name in conversation.identity:
            # A sweeper's provider need not know the name.
            conversation = conversation.replace(session_cookie=self.cookie_name)
        yield conversation

        response = yield self.request(conversation, "POST", "/conversation", json={"model": self.model}, creates=True)
        assert response is not None
        if not response.ok:
            raise self._opening_refused(response)
        conversation = self._adopted(conversation, response)
        created = given_id(parsed(response).get("conversationId"))
        if created is None:
            yield conversation
            raise RemoteProtocolError("the server created a conversation and did not say its id")
        return conversation.replace(id=created)

    def _opening_refused(self, response: Response) -> ProviderError:
        """The server calls it an internal error if it does not know the model, or wants its settings as JSON."""
        error = self.refusal(response)
        if error.message == "Internal Error":
            error.message = (
                f"Internal Error, which it also answers if it has no model {self.model!r} or is newer than v0.6"
            )
        return error

    def _adopted(self, conversation: Conversation, response: Response) -> Conversation:
        """With the cookies the server set, except for names that the client or the user already speaks for."""
        theirs = _cookies.received(response.all("set-cookie"))
        new = {name: theirs[name] for name in theirs if name not in self._jar and name != self.cookie_name}
        return conversation.replace(identity={**conversation.identity, **new}) if new else conversation

    def ask(
        self,
        conversation: Conversation,
        messages: Sequence[Message],
        options: Mapping[str, Any],
        new_id: NewId,
    ) -> Steps[Stream]:
        """One request; ``id`` and ``response_id`` of the options name the two messages it will store."""
        if conversation.id is None:
            raise ConversationLost("the conversation was never created")
        parameters = dict(options)
        ids = {name: parameters.pop(name, None) or new_id() for name in ("id", "response_id")}
        body = {
            "inputs": self.prompt(conversation, messages),
            "parameters": parameters,
            "stream": True,
            "options": {**ids, "is_retry": False, "use_cache": False, "web_search_id": ""},
        }
        # The generation goes on when the client leaves, so from here on it must be stopped if it is not waited for.
        generating = conversation.replace(generating=True)
        request = self.request(conversation, "POST", self._path(conversation), json=body)
        return Stream(request, TGIDecoder(generating, stop=tuple(parameters.get("stop", ()))))
        yield

    def stop(self, conversation: Conversation) -> Steps[Conversation]:
        """``POST …/stop-generating``, which the server obeys at the next token."""
        if not conversation.get("generating"):
            return conversation
        response = yield self._stop_request(conversation)
        assert response is not None
        if not response.ok:
            raise self.refusal(response)
        return conversation.replace(generating=None)

    def close(self, conversation: Conversation) -> Steps[Outcome]:
        """Stop the generation if it may run, then DELETE.

        The server answers 404 for a conversation that is gone and for one of another session alike, so a 404 is
        "gone" only if we speak with the cookie that created it.
        """
        if conversation.id is None:
            return "nothing_owed"
        if conversation.get("generating"):
            with suppress(TrioprovError):  # deleting matters more, and the generation ends by itself
                yield self._stop_request(conversation)
        response = yield self.request(conversation, "DELETE", self._path(conversation))
        assert response is not None
        if response.ok and not by_gateway(response):
            return "deleted"
        if self.gone(conversation, response):
            return "already_gone"
        raise self.refusal(response)

    def gone(self, conversation: Conversation, response: Response) -> bool:
        """Also if chat-ui says it on a page, as it does when the user's headers ask for one."""
        said = response.status == 404 and self.reason(response)[1] == _NOT_FOUND
        return (said and self.owns(conversation)) or super().gone(conversation, response)

    def recover(self, conversation: Conversation) -> Steps[Outcome]:
        """Delete everything of this session: only if this client chose the session, for this conversation alone.

        Whoever brings credentials of any kind may have a session of his own by them, and more conversations than this.
        """
        ours = conversation.get("session_cookie", self.cookie_name) in conversation.identity
        if not ours or self.credential(Conversation()) is not None:
            return "lost"
        # A named form action of SvelteKit: form-encoded, though it has no fields.
        response = yield self.request(conversation, "POST", "/conversations?/delete", form={})
        assert response is not None
        if _acted(response):
            return "deleted"
        raise self.refusal(response)

    def _stop_request(self, conversation: Conversation) -> Request:
        return self.request(conversation, "POST", f"{self._path(conversation)}/stop-generating", best_effort=True)

    @staticmethod
    def _path(conversation: Conversation) -> str:
        return f"/conversation/{quote(conversation.id or '', safe='')}"

    def request_headers(self, conversation: Conversation) -> Mapping[str, str]:
        parts = urlsplit(self.base_url)
        origin = f"{parts.scheme}://{parts.netloc}"
        cookie = _cookies.header(self._jar, conversation.identity)
        return {"origin": origin, "referer": f"{self.base_url}/", **cookie}

    def refusal(self, response: Response) -> ProviderError:
        """chat-ui's own refusals, and those of the model's endpoint, which it passes on as they are."""
        code, message = self.reason(response)
        if response.status == 404 and message == _NOT_FOUND:
            return ConversationLost(message, status=404)
        if response.status == 410 and message == "Model not available anymore":
            return ModelNotSupported(message, status=410)
        if response.status == 403 and "refer" in message.lower():
            return InvalidRequest(
                f"{message} (the server's ORIGIN or PUBLIC_ORIGIN must be {self.base_url})", status=403
            )
        error = refusal(response, code=code, message=message)
        # The Hugging Face inference API: how many seconds until the model is loaded.
        estimated = parsed(response).get("estimated_time")
        if error.retry_after is None and isinstance(estimated, (int, float)) and 0 <= estimated < 1e9:
            error.retry_after = float(estimated)
        return error

    def reason(self, response: Response) -> tuple[str | None, str]:
        """``{"message": …}`` from a route, ``{"error": …}`` from a guard or TGI, or text."""
        body = parsed(response)
        message = body.get("message") or body.get("error")
        if isinstance(message, dict):
            message = cast("dict[str, Any]", message).get("message")
        if not message:
            return None, "" if body else plain_text(response.body)
        return code_word(body.get("error_type")), said(message)


def _acted(response: Response) -> bool:
    """Whether SvelteKit did what a form asked: 200 or 303, by its reading of Accept, and a 200 may hold an error."""
    if response.status == 303:
        return True
    return response.ok and not by_gateway(response) and parsed(response).get("type") not in ("error", "failure")
