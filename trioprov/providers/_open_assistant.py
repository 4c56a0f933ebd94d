"""OpenAssistant: the website's chat API, and through it the inference server.

What the servers do is read from LAION-AI/Open-Assistant (``website/src/pages/api/chat/``, a proxy without error
handling, and ``inference/server/oasst_inference_server/``); the site itself closed in 2023, and the code is final.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

from .._conversation import Conversation
from .._errors import (
    AuthenticationError,
    ConversationLost,
    ModelNotSupported,
    ProviderError,
    RateLimited,
    RemoteProtocolError,
    TrioprovError,
)
from .._events import Event
from .._outcomes import Outcome
from ._base import Provider
from ._decoder import Decoder, Stream
from ._messages import Message, inst, roles
from ._oasst import OpenAssistantDecoder, settled
from ._parameters import integer, number, refused, text
from ._refusal import by_gateway, parsed, refusal, shortened
from ._steps import NewId, Pause, Response, Steps

# How often a message that somebody else reads, or nobody any more, is looked at, in seconds.
_POLL = 1.0

# Fields of the message itself; everything else goes into ``sampling_parameters``.
_TOP_LEVEL = ("system_prompt", "user_profile", "user_response_instructions", "plugins")


@dataclass(frozen=True, repr=False, kw_only=True)
class OpenAssistant(Provider):
    """Open Assistant: open-assistant.io as it was, or a website of your own.

    A session needs the cookies of a login. It creates a chat, and for each turn a prompt message, an answer message
    and a stream of events; it deletes the chat. There is no way to stop an answer, and deleting a chat under a working
    worker makes the worker drop everybody's answers: so a stream that nobody wants any more is read to its end, for at
    most half of the cleanup budget, before the chat is deleted.

    Declined from earlier clients of this service:

    - reading the cookies of a browser: the user's credentials are the user's to give.
    - the Llama-2 wrapper around every prompt, which the models here were not trained on: only with
      ``prompt_style="inst"``.
    - keyword arguments that slipped into the sampling parameters (``stream``, ``proxy``, …): a `TypeError`.

    Args:
        prompt_style: how the first ask writes its messages: ``"roles"`` (``User: …`` lines) or ``"inst"`` (the same
            inside ``<s>[INST]`` and ``[/INST]``).
    """

    base_url: str = "https://open-assistant.io"
    prompt_style: Literal["roles", "inst"] = "roles"

    name: ClassVar[str] = "openassistant"
    label: ClassVar[str] = "Open Assistant"
    url: ClassVar[str] = "https://open-assistant.io"
    default_base_url: ClassVar[str] = "https://open-assistant.io"
    default_model: ClassVar[str] = "OA_SFT_Llama_30B_6"
    models: ClassVar[tuple[str, ...]] = (
        "OA_SFT_Pythia_12B",
        "OA_SFT_Pythia_12Bq",
        "OA_SFT_Pythia_12B_4",
        "OA_SFT_Pythia_12Bq_4",
        "OA_SFT_Llama_7B",
        "OA_SFT_Llama_13B",
        "OA_SFT_Llama_13Bq",
        "OA_SFT_Llama_30B",
        "OA_SFT_Llama_30Bq",
        "OA_SFT_Llama_30B_2",
        "OA_SFT_Llama_30Bq_2",
        "OA_SFT_Llama_30B_5",
        "OA_SFT_Llama_30Bq_5",
        "OA_SFT_Llama_30B_6",
        "OA_SFT_Llama_30Bq_6",
        "OA_SFT_Llama_30B_7",
        "OA_SFT_Llama_30Bq_7",
        "OA_SFT_Llama_30B_7e3",
        "OA_RLHF_Llama_30B_2_7k",
        "Carper_RLHF_13B_1",
        "Carper_RLHF_13Bq_1",
        "OA_SFT_Llama2_70B_10",
        "OA_SFT_CodeLlama_13B_10",
    )
    needs_auth: ClassVar[bool] = True
    working: ClassVar[bool | None] = False
    cleanup_documented: ClassVar[bool] = True
    drains: ClassVar[bool] = True
    one_pending_per_account: ClassVar[bool] = True

    default_parameters: ClassVar[Mapping[str, Any]] = {
        "top_k": 50,
        "top_p": None,
        "typical_p": None,
        "temperature": 0.35,
        "repetition_penalty": 1.1111111111111112,
        "max_new_tokens": 1024,
    }
    parameter_rules: ClassVar[Mapping[str, Any]] = {
        "top_k": integer(0),
        "top_p": number(0, 1),
        "typical_p": number(0, 1),
        "temperature": number(0),
        "repetition_penalty": number(0),
        "max_new_tokens": integer(0),
        "system_prompt": text,
        "user_profile": text,
        "user_response_instructions": text,
        "stop": refused("Open Assistant has no stop sequences of the caller's"),
    }
    parameter_aliases: ClassVar[Mapping[str, str]] = {"max_tokens": "max_new_tokens"}
    reserved_parameters: ClassVar[frozenset[str]] = frozenset(
        {"chat_id", "parent_id", "model_config_name", "sampling_parameters", "content", "message_id"}
    )
    supported_parameters: ClassVar[tuple[str, ...]] = (
        "max_tokens",
        *(name for name in parameter_rules if name != "stop"),
    )

    def __post_init__(self) -> None:
        if self.prompt_style not in ("roles", "inst"):
            raise ValueError(f"prompt_style must be 'roles' or 'inst', not {self.prompt_style!r}")
        super().__post_init__()

    def options(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """All parameters; the two that the earlier clients sent as null are, unless they are given or taken out."""
        given = {**self.parameters, **parameters}
        options = dict(super().options(parameters))
        nulls = {name: None for name, value in self.default_parameters.items() if value is None and name not in given}
        return {**nulls, **options}

    def first_prompt(self, messages: Sequence[Message]) -> str:
        return inst(messages) if self.prompt_style == "inst" else roles(messages)

    def open(self, conversation: Conversation, new_id: NewId) -> Steps[Conversation]:
        """Create a chat, in the name of whoever the cookies say."""
        if not self._jar:
            raise AuthenticationError("Open Assistant needs the cookies of a login: OpenAssistant(cookies={…})")
        response = yield self.request(conversation, "POST", "/api/chat", creates=True)
        assert response is not None
        if not response.ok:
            raise self.refusal(response)
        return conversation.replace(id=response.id())

    def ask(
        self,
        conversation: Conversation,
        messages: Sequence[Message],
        options: Mapping[str, Any],
        new_id: NewId,
    ) -> Steps[Stream]:
        """The prompt as one message, the answer as another, and the events of that."""
        if conversation.id is None:
            raise ConversationLost("the conversation was never created")
        if conversation.get("pending"):
            conversation = yield from self._previous_answer(conversation)
            yield conversation
        prompt = self.prompt(conversation, messages)
        conversation = yield from self._prompter_message(conversation, prompt)
        yield conversation

        top = {name: options[name] for name in _TOP_LEVEL if name in options}
        body: dict[str, Any] = {
            "chat_id": conversation.id,
            "parent_id": conversation["unanswered"],
            "model_config_name": self.model,
            "sampling_parameters": {name: value for name, value in options.items() if name not in _TOP_LEVEL},
            "plugins": [],
            **top,
        }
        # From here on a worker may be at it, and only the answer to this says which message to wait for.
        response = yield self.request(conversation, "POST", "/api/chat/assistant_message", json=body, must_answer=True)
        assert response is not None
        if not response.ok:
            raise self._assistant_refusal(response)
        pending = conversation.replace(pending=response.id())
        yield pending
        query = {"chat_id": conversation.id or "", "message_id": pending["pending"]}
        return Stream(self.request(pending, "POST", "/api/chat/events", query=query), OpenAssistantDecoder(pending))

    def _prompter_message(self, conversation: Conversation, prompt: str) -> Steps[Conversation]:
        """Store the prompt; unless it is there, from an ask that failed after it."""
        digest = hashlib.sha256(prompt.encode()).hexdigest()
        if conversation.get("unanswered") and conversation.get("unanswered_prompt") == digest:
            return conversation
        if conversation.get("unanswered") and not conversation.get("parent"):
            # A chat's first message must be its only one without a parent, and any other needs a complete answer.
            raise ConversationLost(
                "the chat holds a prompt without an answer, so only the same prompt can be asked again; "
                "open a new session to ask something else"
            )
        body = {"chat_id": conversation.id, "content": prompt, "parent_id": conversation.get("parent")}
        response = yield self.request(conversation, "POST", "/api/chat/prompter_message", json=body, once=True)
        assert response is not None
        if response.status == 500 and (yield from self._gone(conversation)):
            raise ConversationLost("the chat does not exist any more", status=500)
        if not response.ok:
            error = self.refusal(response)
            if response.status == 400 and "non-empty chat" in error.message:
                raise ConversationLost(
                    "the chat holds a prompt whose id was lost with the server's answer; open a new session", status=400
                )
            raise error
        return conversation.replace(unanswered=response.id(), unanswered_prompt=digest)

    def _previous_answer(self, conversation: Conversation) -> Steps[Conversation]:
        """Wait for an answer that was left before its end: its message is the parent of whatever comes next."""
        while True:
            message = yield from self._message(conversation)
            if message["state"] not in ("pending", "in_progress"):
                return settled(conversation, message["state"])
            yield Pause(_POLL)

    def _message(self, conversation: Conversation) -> Steps[dict[str, Any]]:
        query = {"chat_id": conversation.id or "", "message_id": conversation["pending"]}
        response = yield self.request(conversation, "GET", "/api/chat/message", query=query, best_effort=True)
        assert response is not None
        if not response.ok:
            raise self.refusal(response)
        message = parsed(response)
        if not isinstance(message.get("state"), str):
            raise RemoteProtocolError("the server did not say what became of the answer")
        return message

    def after_stream(self, decoder: Decoder) -> Steps[list[Event]]:
        """A stream without any event: the message was complete before it was subscribed to, so it is read itself."""
        if not isinstance(decoder, OpenAssistantDecoder) or decoder.heard:
            return decoder.receive_eof()
        message = yield from self._message(decoder.conversation)
        return decoder.read(message)

    def close(self, conversation: Conversation) -> Steps[Outcome]:
        """DELETE; the proxy answers 500 also when the chat is gone already, so then the chat is asked for."""
        if conversation.id is None:
            return "nothing_owed"
        if conversation.get("pending"):
            with suppress(TrioprovError):  # it cannot be waited for, or not for as long as it takes
                yield Pause(0)  # no time is left for it, if the stream was read on for all of it
                yield from self._previous_answer(conversation)
        response = yield self.request(conversation, "DELETE", "/api/chat", query={"chat_id": conversation.id})
        assert response is not None
        if response.ok and not by_gateway(response):
            return "deleted"
        # Another account's chat is "not found" as well, so that proves nothing unless the account is the same.
        if response.status >= 500 and (yield from self._gone(conversation)) and self.owns(conversation):
            return "already_gone"
        raise self.refusal(response)

    def _gone(self, conversation: Conversation) -> Steps[bool]:
        query = {"chat_id": conversation.id or ""}
        response = yield self.request(conversation, "GET", "/api/chat", query=query)
        assert response is not None
        return response.status == 404 and not by_gateway(response)

    def refusal(self, response: Response) -> ProviderError:
        """A 403 has no body here, and means that nobody is logged in, or somebody banned."""
        code, message = self.reason(response)
        if response.status == 403 and not message:
            message = "not logged in: the cookies are missing, expired or another server's"
        if response.status == 422 and message.startswith("Model "):
            return ModelNotSupported(message, status=422)
        return refusal(response, code=code, message=message)

    def _assistant_refusal(self, response: Response) -> ProviderError:
        """The rate limiter's 429 gets lost: upstream raises it wrongly, and 500 "Something went wrong" is left."""
        error = self.refusal(response)
        if response.status == 500 and error.message == "Something went wrong":
            return RateLimited("rate limit or internal error", status=500, retry_after=error.retry_after)
        return error

    def reason(self, response: Response) -> tuple[str | None, str]:
        """``{"message": …}``, where pydantic's complaints come as a list."""
        message = parsed(response).get("message")
        if isinstance(message, list):
            return None, shortened("; ".join(_complaint(item) for item in cast("list[object]", message)))
        if message:
            return None, shortened(message)
        return super().reason(response)


def _complaint(item: object) -> str:
    if not isinstance(item, dict):
        return shortened(item)
    fields = cast("dict[str, Any]", item)
    where = fields.get("loc")
    place = ".".join(shortened(step) for step in cast("list[object]", where)) if isinstance(where, list) else ""
    said = shortened(fields.get("msg", fields))
    return f"{place}: {said}" if place else said
