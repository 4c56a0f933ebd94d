"""olmo-api's form: its fields and their limits, in pydantic's words, and the script of its emulator.

Written from allenai/olmo-api, ``src/message/create_message_request.py`` and ``src/dao/message``, at 2025-03.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ._script import Script

ANSWER = (
    "Sunlight", " looks", " white", ",", " but", " it", " holds", " every", " color", ".", "\n\n", "-", " ", "**Blue**",
    " travels", " in", " short", " waves", " and", " bounces", " off", " the", " air", " everywhere", ".", "\n", "-",
    " ", "**Red**", " passes", " through", " —", " which", " is", " why", " sunsets", " glow", ".", "  ", "☀️",
)  # fmt: skip

HOSTS = {
    "tulu3-405b": "inferd",
    "OLMo-2-1124-13B-Instruct": "modal",
    "tulu-3-1-8b": "modal",
    "Llama-3-1-Tulu-3-70B": "modal",
    "olmoe-0125": "modal",
    "olmo-2-0325-32b-instruct": "modal",
    "mm-olmo-uber-model-v4-synthetic": "modal",
}

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class AllenAIScript(Script):
    """What the olmo-api emulator can be told. It has no heartbeat.

    Attributes:
        models: the models and each one's host.
        system_prompt: the models have a system prompt, so a thread begins with its message.
        finish_reason: of the final line. By default ``stop`` from the host ``inferd``, which also reports a length,
            and none from any other host, as none of them ever has one.
        error_reason: the reason of an error line before the final one. ``finalization failure`` has no final line:
            the body is cut.
        error_after: after how many tokens it comes; by default after all, or after none if the model is overloaded.
        final_content: the content of the finished answer, if it is not the tokens joined.
        start_line: begin with ``{"type": "start"}`` and end with ``{"type": "end"}``, as from 2025-08 on.
        inappropriate: prompts with one of these words are refused.
        bearer_tokens: who may log in instead of choosing an anonymous id.
    """

    models: Mapping[str, str] = field(default_factory=lambda: dict(HOSTS))
    system_prompt: bool = False
    finish_reason: str | None = AUTO
    error_reason: str | None = None
    error_after: int | None = None
    final_content: str | None = None
    start_line: bool = False
    inappropriate: Sequence[str] = ()
    bearer_tokens: Sequence[str] = ()


ERRORS = {
    "unclosed stream": "inference failed for an unknown reason: sometimes this happens when the prompt is too long",
    "length": "the conversation is too large for the model to process, please shorten the conversation and try again",
    "aborted": "inference aborted for an unknown reason",
    "model overloaded": "model overloaded",
    "grpc inference failed": "inference failed: <_InactiveRpcError of RPC that terminated>",
}
UNREPORTED = ("grpc inference failed", "finalization failure")  # reasons of error lines that are no finish reasons


@dataclass(frozen=True, kw_only=True)
class Form:
    """A request to stream, checked."""

    content: str
    model: str
    host: str
    parent: str | None
    role: str
    private: bool
    original: str | None
    template: str | None
    opts: Mapping[str, Any]


_NUMBERS: dict[str, tuple[type[int] | type[float], float, float, float, float | None]] = {
    "max_tokens": (int, 1, 2048, 1, 2048),  # type, least, most, step, default
    "temperature": (float, 0.0, 1.0, 0.01, 0.7),
    "n": (int, 1, 1, 1, 1),
    "top_p": (float, 0.01, 1.0, 0.01, 1.0),
    "logprobs": (int, 0, 10, 1, None),
}
_TRUTH = {
    **dict.fromkeys(("true", "1", "yes", "on", "t", "y"), True),
    **dict.fromkeys(("false", "0", "no", "off", "f", "n"), False),
}


def check_form(fields: Sequence[tuple[str, str]]) -> Form | list[dict[str, Any]]:
    """The form, or pydantic's list of what is wrong with it; unknown fields are ignored."""
    given: dict[str, str] = {}
    for name, value in fields:
        given.setdefault(name, value)
    problems: list[dict[str, Any]] = []

    def problem(name: str, message: str, kind: str) -> None:
        problems.append({"type": kind, "loc": [name] if name else [], "msg": message, "input": given.get(name)})

    for name in ("model", "host", "content"):
        if name not in given:
            problem(name, "Field required", "missing")
    if given.get("content") == "":
        problem("content", "String should have at least 1 character", "string_too_short")
    role = given.get("role", "user")
    if role not in ("user", "assistant", "system"):
        problem("role", "Input should be 'user', 'assistant' or 'system'", "enum")
    private = _TRUTH.get(given.get("private", "false").lower())
    if private is None:
        problem("private", "Input should be a valid boolean, unable to interpret input", "bool_parsing")
    opts: dict[str, Any] = {}
    for name, (kind, least, most, step, default) in _NUMBERS.items():
        opts[name] = default
        if name not in given:
            continue
        try:
            number = kind(given[name])
        except ValueError:
            words = "integer" if kind is int else "number"
            problem(name, f"Input should be a valid {words}, unable to parse string", f"{kind.__name__}_parsing")
            continue
        opts[name] = number
        remainder = abs(number) % step
        if not number >= least:
            problem(name, f"Input should be greater than or equal to {least}", "greater_than_equal")
        elif not number <= most:
            problem(name, f"Input should be less than or equal to {most}", "less_than_equal")
        elif min(remainder, step - remainder) > abs(number) / 1e9:
            problem(name, f"Input should be a multiple of {step}", "multiple_of")
    opts["stop"] = [value for name, value in fields if name == "stop"] or None
    parent, original = given.get("parent"), given.get("original")
    if not problems and original is not None and original == parent:
        problem("", "Value error, The original message cannot also be the parent", "value_error")
    if not problems and role == "assistant" and parent is None:
        problem("", "Value error, Assistant messages must have a parent", "value_error")
    if problems:
        return problems
    return Form(
        content=given["content"],
        model=given["model"],
        host=given["host"],
        parent=parent,
        role=role,
        private=bool(private),
        original=original,
        template=given.get("template"),
        opts=opts,
    )
