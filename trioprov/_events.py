"""What a reply is made of: the values that move from a decoder to a subscriber."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Token: TypeAlias = str
"""A piece of the answer, exactly as the service cut it. The tokens of one reply, joined, are its text."""

FinishReason: TypeAlias = Literal["stop", "length", "stop_sequence", "interrupted", "error"]


@dataclass(frozen=True, slots=True)
class Queued:
    """The service has put the request in a queue.

    Attributes:
        position: how many are ahead.
        size: how many wait in all, if the service says.
    """

    position: int
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the service said beside the answer: a plugin's thought, a warning, a title.

    Attributes:
        kind: what it is, in one word.
        text: what it says.
    """

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Lagged:
    """This subscriber missed ``missed`` events here: it fell behind and had asked not to hold the stream back."""

    missed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts as the service reports them; what it does not report is `None`, never 0.

    Attributes:
        input_tokens: tokens of the prompt.
        output_tokens: tokens of the answer.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a reply: exactly one, always the last event.

    Attributes:
        reason: ``stop``, ``length``, ``stop_sequence``, ``interrupted`` (by us) or ``error``.
        error: what went wrong, when the reason is ``error``.
        usage: token counts, where the service gives them.
    """

    reason: FinishReason
    error: Exception | None = None
    usage: Usage | None = None


Event: TypeAlias = Token | Queued | Notice | Lagged | Finish
