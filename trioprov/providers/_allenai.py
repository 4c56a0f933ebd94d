"""AllenAI: the Ai2 Playground's server, olmo-api, as of spring 2025.

What the server does is read from allenai/olmo-api at March 2025 (``src/message/``, ``e2e/test_message.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast
from urllib.parse import quote

from .._conversation import Conversation
from .._errors import ConversationLost, ModelNotSupported, Overloaded, ProviderError, RemoteProtocolError
from .._events import Event, Finish, FinishReason
from .._outcomes import Outcome
from ..wire import NDJSONDecoder, loads
from . import _cookies, _messages, _parameters
from ._base import Decoder, NewId, Provider, Response, Steps, Stream, parsed, plain_text, refusal, shortened
from ._parameters import integer, number, strings, text

_SITE = "https://playground.allenai.org"
_VISION = "mm-olmo-uber-model-v4-synthetic"

# Which of the service's backends serves a model; asked of the wrong one, the server has no such model.
_HOSTS = {"tulu3-405b": "inferd"}
_OTHER_HOST = "modal"

_DAY = 24 * 60 * 60.0

# Deeper than any thread of an answer; a hostile server could nest for ever.
_DEPTH = 100


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
        host = _HOSTS.get(self.model, _OTHER_HOST) if self.host is None else self.host
        self._set(host=text("host", host), private=_parameters.flag("private", self.private))

    def mint(self, new_id: NewId) -> Mapping[str, str]:
        """An anonymous user id; none if the user's headers say who is asking."""
        return {} if self._known() else {"user": new_id()}

    def _known(self) -> bool:
        return any(name.lower() in ("authorization", "x-anonymous-user-id") for name in self.headers)

    def ask(
        self,
        conversation: Conversation,
        messages: Sequence[_messages.Message],
        options: Mapping[str, Any],
        new_id: NewId,
    ) -> Steps[Stream]:
        """One request, whose answer streams; it creates the thread if there is none."""
        fields = [
            ("model", self.model),
            ("host", self.host or ""),
            ("content", self.prompt(conversation, messages)),
            ("private", _written(self.private)),
        ]
        if parent := conversation.get("parent"):
            fields.append(("parent", parent))
        for name, value in options.items():
            values = cast("list[Any]", value) if isinstance(value, list) else [value]
            fields += [(name, _written(item)) for item in values]
        request = self._request(
            conversation, "POST", "/v4/message/stream", multipart=fields, creates=conversation.id is None
        )
        return Stream(request, OlmoDecoder(conversation))
        yield

    def close(self, conversation: Conversation) -> Steps[Outcome]:
        """DELETE of the root: the only id under which a thread can be deleted.

        The server tells another user's thread (403) from one that is gone (404).
        """
        response = yield self._request(conversation, "DELETE", f"/v3/message/{quote(conversation.id or '', safe='')}")
        assert response is not None
        if response.ok:
            return "deleted"
        if response.status == 404:
            return "already_gone"
        raise self.refusal(response)

    def _headers(self, conversation: Conversation) -> Mapping[str, str]:
        user = conversation.identity.get("user")
        identity = {"x-anonymous-user-id": user} if user else {}
        return {"origin": _SITE, "referer": f"{_SITE}/", **identity, **_cookies.header(self.cookies)}

    def refusal(self, response: Response) -> ProviderError:
        """``{"error": {"code": …, "message": …, "validation_errors": […]}}``, or a gateway's page."""
        code, message = self._reason(response)
        if response.status == 400 and "is not available on" in message:
            return ModelNotSupported(message, status=400)
        if response.status == 404:
            return ConversationLost(message or "the thread does not exist any more", status=404)
        return refusal(response, code=code, message=message)

    def _reason(self, response: Response) -> tuple[str | None, str]:
        error = parsed(response).get("error")
        if not isinstance(error, dict):
            return None, shortened(str(error)) if error else plain_text(response.body)
        fields = cast("dict[str, Any]", error)
        message = shortened(str(fields.get("message") or ""))
        # A refusal by the safety check has its name for a message: "inappropriate_prompt".
        code = message if message.isidentifier() and "_" in message else None
        if details := fields.get("validation_errors"):
            message = shortened(f"{message}: {details}")
        return code, message


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


_REASONS: dict[str | None, FinishReason] = {None: "stop", "stop": "stop", "length": "length"}


class OlmoDecoder(Decoder):
    """The lines of one answer: a tree, chunks, perhaps an error, and the tree again, which ends it.

    Which end it is says the tree's assistant message; backends on Modal never fill in its ``finish_reason``, so "stop"
    is no mark of the end, and the second tree is. An error line other than ``length`` makes the end an error.
    """

    def __init__(self, conversation: Conversation) -> None:
        super().__init__(conversation)
        self._lines = NDJSONDecoder()
        self._begun = False
        self._failure: ProviderError | None = None
        self._reason: str | None = None

    def decode(self, data: bytes, events: list[Event]) -> None:
        for line in self._lines.receive_data(data):
            if self._line(line, events):
                return

    def decode_eof(self, events: list[Event]) -> None:
        for line in self._lines.receive_eof():
            if self._line(line, events):
                return
        if self._failure is not None:
            # The error was told before the stream was cut: it is the reason for the cut.
            events.append(Finish("error", self._failure))

    def _line(self, line: bytes, events: list[Event]) -> bool:
        said = loads(line)
        if not isinstance(said, dict):
            raise RemoteProtocolError("a line of the stream is not a JSON object")
        fields = cast("dict[str, Any]", said)
        if "children" in fields or ("id" in fields and "role" in fields):
            return self._tree(fields, events)
        if fields.get("error") is not None:
            self._error(fields)
        elif fields.get("type") == "start":  # sent for some months of 2025, before the tree
            self._bind(fields.get("message"))
        elif "type" not in fields and isinstance(content := fields.get("content"), str) and content:
            events.append(content)
        return False

    def _tree(self, top: dict[str, Any], events: list[Event]) -> bool:
        leaf = _assistant(top)
        if not self._begun:
            self._begun = True
            # In a follow-up the top is the user's message, and only ``root`` names the thread.
            self._bind(top.get("root") or top.get("id"))
            if leaf is not None and isinstance(leaf.get("id"), str):
                self.conversation = self.conversation.replace(parent=leaf["id"], started=True)
            return False
        content = leaf.get("content") if leaf else None
        reason = leaf.get("finish_reason") if leaf else None
        self.server_text = content if isinstance(content, str) else None
        events.append(self._finish(self._reason or reason))
        return True

    def _bind(self, root: object) -> None:
        if not isinstance(root, str) or not 0 < len(root) <= 128:
            raise RemoteProtocolError("the server created a thread and did not say its root")
        if self.conversation.id is None:
            self.conversation = self.conversation.replace(id=root)

    def _error(self, fields: dict[str, Any]) -> None:
        reason = str(fields.get("reason") or fields["error"])
        if reason == "length":
            self._reason = "length"
        elif self._failure is None:
            kind = Overloaded if reason == "model overloaded" else ProviderError
            self._failure = kind(shortened(str(fields["error"])), code=shortened(reason, 60))

    def _finish(self, reason: object) -> Finish:
        if self._failure is not None:
            return Finish("error", self._failure)
        if reason is None or isinstance(reason, str):
            known = _REASONS.get(reason)
            if known is not None:
                return Finish(known)
        said = shortened(str(reason), 60)
        kind = Overloaded if said == "model overloaded" else ProviderError
        return Finish("error", kind(f"the model ended: {said}", code=said))


def _assistant(top: dict[str, Any]) -> dict[str, Any] | None:
    """The deepest assistant message of a tree, where the answer is."""
    found = None
    node: object = top
    for _ in range(_DEPTH):
        if not isinstance(node, dict):
            break
        fields = cast("dict[str, Any]", node)
        if fields.get("role") == "assistant":
            found = fields
        children = fields.get("children")
        node = cast("list[object]", children)[-1] if isinstance(children, list) and children else None
    return found
