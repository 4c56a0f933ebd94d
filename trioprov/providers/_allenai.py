"""AllenAI: the Ai2 Playground's server, olmo-api, as of spring 2025.

What the server does is read from allenai/olmo-api at March 2025 (``src/message/``, ``e2e/test_message.py``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast
from urllib.parse import quote

from .._conversation import Conversation
from .._errors import ConversationLost, InvalidRequest, ModelNotSupported, ProviderError
from .._outcomes import Outcome
from . import _cookies
from ._base import Provider
from ._decoder import Stream
from ._messages import Message
from ._olmo import OlmoDecoder
from ._parameters import flag, integer, number, strings, text
from ._refusal import by_gateway, code_word, parsed, plain_text, refusal, shortened
from ._steps import NewId, Response, Steps

_SITE = "https://playground.allenai.org"
_VISION = "mm-olmo-uber-model-v4-synthetic"

# Which of the service's backends serves a model; asked of the wrong one, the server has no such model.
_HOSTS = {"tulu3-405b": "inferd"}
_OTHER_HOST = "modal"

_DAY = 24 * 60 * 60.0


@dataclass(frozen=True, repr=False, kw_only=True)
class AllenAI(Provider):
    """Ai2 Playground: olmo-api.allen.ai, or an olmo-api of your own.

    A session chooses an anonymous user id, which owns what it creates and stays the same within a conversation. The
    first question creates the thread; its root's id comes with the first line of the stream, and is what gets deleted.
    Until that line nobody can name the thread: should the connection die there, the service deletes it after a day.

    Declined from earlier clients of this service:

    - leaving out chunks of white space: they are the answer's paragraphs and its code's indentation.
    - multipart bodies made by hand, in Latin-1: prompts in Cyrillic could not be sent.
    - ``host="inferd"`` for every model: the service has only one model there.
    - looking for the answer's id among the root's children: with a system prompt it is one level further down, and the
      next question silently began a new thread.
    - keyword arguments that slipped through (``stream``, ``proxy``, …): a `TypeError`.

    Args:
        host: the service's backend; `None` means the one that serves the model.
        private: do not list the thread publicly (an anonymous user's never is).
    """

    base_url: str = "https://olmo-api.allen.ai"
    host: str | None = None
    private: bool = True

    name: ClassVar[str] = "allenai"
    label: ClassVar[str] = "Ai2 Playground"
    url: ClassVar[str] = _SITE
    default_base_url: ClassVar[str] = "https://olmo-api.allen.ai"
    default_model: ClassVar[str] = "tulu3-405b"
    models: ClassVar[tuple[str, ...]] = (
        "tulu3-405b",
        "OLMo-2-1124-13B-Instruct",
        "tulu-3-1-8b",
        "Llama-3-1-Tulu-3-70B",
        "olmoe-0125",
        "olmo-2-0325-32b-instruct",
        _VISION,
    )
    model_aliases: ClassVar[Mapping[str, str]] = {
        "tulu-3-405b": "tulu3-405b",
        "olmo-2-13b": "OLMo-2-1124-13B-Instruct",
        "tulu-3-70b": "Llama-3-1-Tulu-3-70B",
        "llama-3.1-405b": "tulu3-405b",
        "llama-3.1-8b": "tulu-3-1-8b",
        "llama-3.1-70b": "Llama-3-1-Tulu-3-70B",
        "olmo-1-7b": "olmoe-0125",
        "olmo-2-32b": "olmo-2-0325-32b-instruct",
        "olmo-4-synthetic": _VISION,
    }
    cleanup_documented: ClassVar[bool] = True
    not_found_is_gone: ClassVar[bool] = True
    expires_after: ClassVar[float | None] = _DAY

    parameter_rules: ClassVar[Mapping[str, Any]] = {
        "max_tokens": integer(1, 2048),
        "temperature": number(0, 1, step=0.01),
        "top_p": number(0.01, 1, step=0.01),
        "n": integer(1, 1),
        "logprobs": integer(0, 10),
        "stop": strings(),
        "template": text,
        "captchaToken": text,
    }
    parameter_aliases: ClassVar[Mapping[str, str]] = {"max_new_tokens": "max_tokens"}
    reserved_parameters: ClassVar[frozenset[str]] = frozenset(
        {"host", "private", "content", "parent", "role", "original", "files"}
    )
    supported_parameters: ClassVar[tuple[str, ...]] = tuple(parameter_rules)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.host is not None and not text("host", self.host):
            raise ValueError("host must not be empty; None means the one that serves the model")
        flag("private", self.private)
        if "authorization" in (name.lower() for name in self.headers):
            self._set(expires_after=None)  # only what an anonymous user leaves is deleted by the service

    def mint(self, new_id: NewId) -> Mapping[str, str]:
        """An anonymous user id; none if the user's headers say who is asking."""
        return {} if self._known() else {"user": new_id()}

    def _known(self) -> bool:
        return any(name.lower() in ("authorization", "x-anonymous-user-id") for name in self.headers)

    def ask(
        self,
        conversation: Conversation,
        messages: Sequence[Message],
        options: Mapping[str, Any],
        new_id: NewId,
    ) -> Steps[Stream]:
        """One request, whose answer streams; it creates the thread if there is none."""
        parent = conversation.get("parent")
        if conversation.id is not None and parent is None:
            # Without it the server would begin another thread.
            raise ConversationLost("the service did not say which of its messages this thread could be continued from")
        prompt = self.prompt(conversation, messages)
        fields = [
            ("model", self.model),
            ("host", self.host or _HOSTS.get(self.model, _OTHER_HOST)),
            ("content", prompt),
            ("private", _written(self.private)),
        ]
        if parent is not None:
            fields.append(("parent", parent))
        for name, value in options.items():
            values = cast("list[Any]", value) if isinstance(value, list) else [value]
            fields += [(name, _written(item)) for item in values]
        request = self.request(
            conversation, "POST", "/v4/message/stream", multipart=fields, creates=conversation.id is None
        )
        return Stream(request, OlmoDecoder(conversation, prompt))
        yield

    def close(self, conversation: Conversation) -> Steps[Outcome]:
        """DELETE of the root: the only id under which a thread can be deleted.

        The server tells another user's thread (403) from one that is gone (404). Threads that it began besides, in
        answer to a question in this one, are deleted too.
        """
        if conversation.id is None:
            return "nothing_owed"
        refused: list[Response] = []
        outcome: Outcome = "already_gone"
        for root in (conversation.id, *conversation.get("strays", ())):
            response = yield self.request(conversation, "DELETE", f"/v3/message/{quote(root, safe='')}")
            assert response is not None
            if response.ok and not by_gateway(response):
                outcome = "deleted"
            elif not self.gone(conversation, response):
                refused.append(response)
        if refused:
            # The one that is worth another try, if there is one: a 5xx rather than a 403.
            raise self.refusal(max(refused, key=lambda response: response.status))
        return outcome

    def request_headers(self, conversation: Conversation) -> Mapping[str, str]:
        user = conversation.identity.get("user")
        identity = {"x-anonymous-user-id": user} if user else {}
        return {"origin": _SITE, "referer": f"{_SITE}/", **identity, **_cookies.header(self._jar)}

    def refusal(self, response: Response) -> ProviderError:
        """``{"error": {"code": …, "message": …, "validation_errors": […]}}``, or a gateway's page."""
        code, message = self.reason(response)
        if response.status == 400 and "is not available on" in message:
            return ModelNotSupported(message, status=400)
        if response.status == 400 and "Parent message" in message and message.endswith("not found"):
            return ConversationLost(f"the thread does not exist any more: {message}", status=400)
        if response.status == 404:
            if "URL was not found" in message or by_gateway(response):
                return InvalidRequest(
                    "the server has no /v4/message/stream: it is no olmo-api, or one from after October 2025",
                    status=404,
                )
            return ConversationLost(message or "the thread does not exist any more", status=404)
        return refusal(response, code=code, message=message)

    def reason(self, response: Response) -> tuple[str | None, str]:
        error = parsed(response).get("error")
        if not isinstance(error, dict):
            return None, shortened(error) if error else plain_text(response.body)
        fields = cast("dict[str, Any]", error)
        message = shortened(fields.get("message") or "")
        # A refusal by the safety check has its name for a message: "inappropriate_prompt".
        code = code_word(message) if "_" in message else None
        if details := fields.get("validation_errors"):
            message = shortened(f"{message}: {shortened(details)}")
        return code, message


def _written(value: Any) -> str:
    """A value as a form field: a string as it is, the rest as JSON, which for numbers and flags is the same."""
    return value if isinstance(value, str) else json.dumps(value)
