"""text-generation-inference v0.9.4, as far as a client of chat-ui can see it: checks, and the events of a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Literal, cast

from ._script import Script
from ._server import compact_json

ANSWER = (
    "The", " sky", " is", " blue", " because", " air", " scatters", " the", " short", " waves", " of", " sun", "light",
    " far", " more", " than", " the", " long", " ones", ":", " blue", " reaches", " your", " eyes", " from", " every",
    " side", ",", " red", " mostly", " straight", " from", " the", " sun", ".", "\n\n", "Look", " up", " —", " 🌤", "!",
)  # fmt: skip

EOS = "<|endoftext|>"


@dataclass(frozen=True, kw_only=True)
class H2oScript(Script):
    """What the chat-ui emulator can be told.

    Attributes:
        space_after_data: ``data: {…}`` as text-generation-inference writes from 2.1 (axum 0.7) on, not ``data:{…}``.
        cookie_name: the session cookie (chat-ui's ``COOKIE_NAME``).
        disclaimer: nothing but ``/settings`` may be posted before the welcome modal was accepted (405).
        https_origin: chat-ui takes itself for ``https://`` though it is reached by http, as it does behind no proxy
            and without ``ORIGIN``; every form post is refused then (403).
        models: the model ids it has.
        messages_per_minute: chat-ui's ``RATE_LIMIT``; 0 is none.
        stop_poll: seconds between two looks of chat-ui at the stop requests; the real one looks every second.
        finish: how the tokens end: with an end-of-text token of their own, or with the last of the tokens.
        error_event: ``(error, error_type)`` of an error in the stream…
        error_after: …after so many tokens.
        generated_text: the final text, if it is not the tokens joined.
        max_input_length: tokens (words, here) of a prompt.
        max_total_tokens: the same, with ``max_new_tokens``.
    """

    space_after_data: bool = False
    cookie_name: str = "hf-chat"
    disclaimer: bool = True
    https_origin: bool = False
    models: Sequence[str] = (
        "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-40b-v1",
        "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-7b-v3",
        "h2oai/h2ogpt-gm-oasst1-en-2048-open-llama-13b",
    )
    messages_per_minute: int = 0
    stop_poll: float = 0.0
    finish: Literal["eos_token", "length", "stop_sequence"] = "eos_token"
    error_event: tuple[str, str] | None = None
    error_after: int = 0
    generated_text: str | None = None
    max_input_length: int = 2048
    max_total_tokens: int = 4096


class Unprocessable(Exception):
    """The JSON does not fit the request's type: axum answers 422 in plain text."""


@dataclass(frozen=True)
class Piece:
    """One event of a stream, and when it comes.

    Attributes:
        delay: seconds after the one before.
        value: the JSON value of the event.
        text: what it adds to the answer.
    """

    delay: float
    value: Mapping[str, Any]
    text: str = ""


_EXPECTED: dict[str, tuple[str, type | tuple[type, ...], bool]] = {  # name: (in Rust's words, type, may be null)
    "best_of": ("usize", int, True),
    "temperature": ("f32", (int, float), True),
    "repetition_penalty": ("f32", (int, float), True),
    "top_k": ("i32", int, True),
    "top_p": ("f32", (int, float), True),
    "typical_p": ("f32", (int, float), True),
    "do_sample": ("a boolean", bool, False),
    "max_new_tokens": ("u32", int, False),
    "return_full_text": ("a boolean", bool, True),
    "stop": ("a sequence", list, False),
    "truncate": ("usize", int, True),
    "watermark": ("a boolean", bool, False),
    "details": ("a boolean", bool, False),
    "decoder_input_details": ("a boolean", bool, False),
    "seed": ("u64", int, True),
}


def deserialize(parameters: object) -> dict[str, Any]:
    """The ``parameters`` of a request, checked for their types; what TGI does not know is ignored.

    Raises:
        Unprocessable: one has the wrong type, `None` where that is not allowed included.
    """
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise Unprocessable(_axum("parameters", parameters, "struct GenerateParameters"))
    given = cast("dict[str, Any]", parameters)
    for name, (words, kind, nullable) in _EXPECTED.items():
        if name not in given or (given[name] is None and nullable):
            continue
        value = given[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise Unprocessable(_axum(f"parameters.{name}", value, words))
        if words in ("usize", "u32", "u64") and value < 0:
            raise Unprocessable(_axum(f"parameters.{name}", value, words))
    return given


def _axum(where: str, value: object, expected: str) -> str:
    names = {"dict": "map", "list": "sequence", "NoneType": "null"}
    kind = "string" if isinstance(value, str) else "value"
    found = names.get(type(value).__name__) or f"{kind} {compact_json(value)}"
    return (
        "Failed to deserialize the JSON body into the target type: "
        f"{where}: invalid type: {found}, expected {expected} at line 1 column 1"
    )


def validate(inputs: str, given: Mapping[str, Any], script: H2oScript, *, streaming: bool = True) -> str | None:
    """What TGI's ``validation.rs`` has against a request, in its words; `None` if nothing."""

    def not_positive(name: str) -> bool:
        return given.get(name) is not None and given[name] <= 0

    if streaming and (given.get("best_of") or 1) != 1:
        return "`best_of` != 1 is not supported when streaming tokens"
    for name in ("temperature", "repetition_penalty"):
        if not_positive(name):
            return f"`{name}` must be strictly positive"
    for name in ("top_p", "typical_p"):
        if given.get(name) is not None and not 0 < given[name] < 1:
            return f"`{name}` must be > 0.0 and < 1.0"
    if not_positive("top_k"):
        return "`top_k` must be strictly positive"
    new_tokens: int = given.get("max_new_tokens", 20)
    if new_tokens == 0:
        return "`max_new_tokens` must be strictly positive"
    if len(given.get("stop", ())) > 4:
        return f"`stop` supports up to 4 stop sequences. Given: {len(given['stop'])}"
    if not inputs:
        return "`inputs` cannot be empty"
    truncate: int | None = given.get("truncate")
    if truncate is not None and not 0 < truncate <= script.max_input_length:
        return f"`truncate` must be strictly positive and less than {script.max_input_length}. Given: {truncate}"
    length = len(inputs.split())
    if truncate is not None:
        length = min(length, truncate)
    if length + new_tokens > script.max_total_tokens:
        return (
            f"`inputs` tokens + `max_new_tokens` must be <= {script.max_total_tokens}. "
            f"Given: {length} `inputs` tokens and {new_tokens} `max_new_tokens`"
        )
    if length > script.max_input_length:
        return f"`inputs` must have less than {script.max_input_length} tokens. Given: {length}"
    return None


def generate(script: H2oScript, inputs: str, given: Mapping[str, Any]) -> Iterator[Piece]:
    """The events of one stream, the last one final (or an error), unless the script goes on for ever."""
    complaint = validate(inputs, given, script)
    if complaint is not None:
        yield _error(f"Input validation error: {complaint}", "validation")
        return
    tokens = script.pieces(ANSWER)
    ends_itself = script.finish == "eos_token"
    limit: int = given.get("max_new_tokens", 20)
    finish: str = script.finish
    if not script.forever and len(tokens) + ends_itself > limit:
        tokens, finish, ends_itself = tokens[:limit], "length", False
    text = ""
    stops: list[str] = given.get("stop", [])
    delay = script.first_delay
    for count, token in enumerate(cycle(tokens) if script.forever else tokens, 1):
        if script.error_event is not None and count > script.error_after:
            break
        if not script.forever:
            text += token
        stopped = any(text.endswith(stop) for stop in stops if stop)
        last = stopped or (count == len(tokens) and not ends_itself and not script.forever)
        if last and script.error_event is None:
            reason = "stop_sequence" if stopped else finish
            yield Piece(delay, _token(count, token, _final(script, text, reason, count, given)), token)
            return
        yield Piece(delay, _token(count, token), token)
        delay = script.token_delay
    if script.error_event is not None:
        yield _error(*script.error_event, delay=delay)
        return
    count = len(tokens) + 1
    yield Piece(delay, _token(11, EOS, _final(script, text, "eos_token", count, given), special=True))


def _error(error: str, error_type: str, delay: float = 0.0) -> Piece:
    return Piece(delay, {"error": error, "error_type": error_type})


def _final(script: H2oScript, text: str, reason: str, count: int, given: Mapping[str, Any]) -> dict[str, Any]:
    details = {"finish_reason": reason, "generated_tokens": count, "seed": given.get("seed")}
    return {
        "generated_text": text if script.generated_text is None else script.generated_text,
        "details": details if given.get("details") else None,
    }


def _token(number: int, text: str, final: Mapping[str, Any] | None = None, *, special: bool = False) -> dict[str, Any]:
    token = {"id": number, "text": text, "logprob": -0.015625 * (1 + number % 64), "special": special}
    return {"token": token, **(final or {"generated_text": None, "details": None})}
