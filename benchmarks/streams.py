"""What the load server streams, serialised before anybody asks: the shapes of four services.

A stream is asked for by its model's name: ``COUNT-PERIOD``, so many tokens, so many microseconds apart (0: as fast as
the client reads), or ``COUNT-PERIOD-stamped``, whose tokens say on the machine's clock when they were sent.
"""

from __future__ import annotations

import functools
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# A tokenizer's pieces of an answer. One in ten is escaped in JSON or is not ASCII, as in prose.
PIECES = (
    "The", " sky", " is", " blue", " because", " air", " scatters", " the", " short", " waves", " of", " sun", "light",
    " far", " more", " than", " the", " long", " ones", ":", " blue", " reaches", " your", " eyes", " from", " every",
    " side", ",", ' "', "red", '"', " mostly", " straight", " from", " the", " sun", ".", "\n\n", " —", " 🌤",
)  # fmt: skip

# Where a stamp goes: seconds, of the same width for some centuries.
_STAMP = "#" * 17


def text(count: int) -> str:
    """What a stream of so many tokens says, if they are not stamped."""
    return "".join(itertools.islice(itertools.cycle(PIECES), count))


@dataclass(frozen=True)
class Stream:
    """One answer.

    Attributes:
        shape: in whose words.
        count: how many tokens it has.
        period: seconds from one token to the next.
        stamped: whether its tokens say when they were sent.
    """

    shape: str
    count: int
    period: float
    stamped: bool

    @classmethod
    def named(cls, shape: str, model: str) -> Stream:
        """The stream that a model's name asks for."""
        count, period, *stamped = model.split("-")
        return cls(shape, int(count), int(period) / 1e6, bool(stamped))

    @property
    def content_type(self) -> bytes:
        """Of the answer."""
        return b"application/jsonl" if self.shape == "olmo" else b"text/event-stream"

    def start(self) -> bytes:
        """What precedes the tokens."""
        return _chunk(_olmo_tree(None)) if self.shape == "olmo" else b""

    def token(self, at: int) -> bytes:
        """The token of this number."""
        if self.stamped:
            before, after = _around_stamp(self.shape)
            return b"%s%017.6f%s" % (before, time.monotonic(), after)
        return _chunks(self.shape)[at % len(PIECES)]

    def end(self) -> bytes:
        """What follows the tokens."""
        return _chunk(_ENDS[self.shape]()) + b"0\r\n\r\n"

    def whole(self) -> bytes:
        """All of it, in one piece."""
        return _whole(self)


@functools.lru_cache(maxsize=16)
def _whole(stream: Stream) -> bytes:
    tokens = itertools.islice(itertools.cycle(_chunks(stream.shape)), stream.count)
    return b"".join([stream.start(), *tokens, stream.end()])


@functools.cache
def _chunks(shape: str) -> list[bytes]:
    return [_chunk(_TOKENS[shape](at, piece)) for at, piece in enumerate(PIECES)]


@functools.cache
def _around_stamp(shape: str) -> tuple[bytes, bytes]:
    before, _, after = _chunk(_TOKENS[shape](0, _STAMP)).partition(_STAMP.encode())
    return before, after


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _json(value: object) -> bytes:
    """As programs in Rust write it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


# text-generation-inference, behind chat-ui. A real server repeats the whole text at the end. It is left empty because
# no real reply is as long as these: in one line, theirs would be more than some clients take.


def _tgi(at: int, piece: str) -> bytes:
    token = {"id": 1000 + 37 * at, "text": piece, "logprob": -0.00390625 * (3 + 2 * at), "special": False}
    return b"data:%s\n\n" % _json({"token": token, "generated_text": None, "details": None})


def _tgi_end() -> bytes:
    token = {"id": 11, "text": "<|endoftext|>", "logprob": -0.5, "special": True}
    return b"data:%s\n\n" % _json({"token": token, "generated_text": "", "details": None})


# Open Assistant's inference server: sse-starlette, and Python's own JSON. Its end repeats the text too.


def _oasst(at: int, piece: str) -> bytes:
    return b"data: %s\r\n\r\n" % json.dumps({"event_type": "token", "text": piece}).encode()


def _oasst_end() -> bytes:
    message = {"id": "0", "role": "assistant", "state": "complete", "content": "", "score": 0}
    return b"data: %s\r\n\r\n" % json.dumps({"event_type": "message", "message": message}).encode()


# olmo-api: lines, Python's JSON. Its end repeats the text too.


def _olmo(at: int, piece: str) -> bytes:
    return json.dumps({"message": "msg_A1B2C3D4E5", "content": piece, "logprobs": []}).encode() + b"\n"


def _olmo_tree(finish: str | None) -> bytes:
    answer: dict[str, Any] = {"id": "msg_A1B2C3D4E5", "role": "assistant", "content": "", "finish_reason": finish}
    answer |= {"root": "msg_F6G7H8I9J0", "parent": "msg_F6G7H8I9J0", "children": None, "final": finish is not None}
    top = {"id": "msg_F6G7H8I9J0", "role": "user", "content": "", "root": "msg_F6G7H8I9J0", "children": [answer]}
    return json.dumps(top).encode() + b"\n"


# OpenAI, for its SDK and for whatever else speaks that.


def _openai(at: int, piece: str | None, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": piece} if piece else {}, "logprobs": None, "finish_reason": finish}
    value = {"id": "chatcmpl-9XyZ0123456789abcdefghij", "object": "chat.completion.chunk", "created": 1763640000}
    return b"data: %s\n\n" % _json(value | {"model": "gpt", "system_fingerprint": "fp_44709d6fcb", "choices": [choice]})


_TOKENS: dict[str, Callable[[int, str], bytes]] = {"tgi": _tgi, "oasst": _oasst, "olmo": _olmo, "openai": _openai}

_ENDS: dict[str, Callable[[], bytes]] = {
    "tgi": _tgi_end,
    "oasst": _oasst_end,
    "olmo": lambda: _olmo_tree("stop"),
    "openai": lambda: _openai(0, None, "stop") + b"data: [DONE]\n\n",
}
