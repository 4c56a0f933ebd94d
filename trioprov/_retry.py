"""What is worth another try, and when."""

from __future__ import annotations

import random
from dataclasses import dataclass

from ._errors import (
    AuthenticationError,
    ConnectionFailed,
    ConversationLost,
    InvalidRequest,
    ProviderError,
    RemoteProtocolError,
)

# What a gateway says in the server's place: statuses of RFC 9110 (15.6.3, 15.6.5), and Cloudflare's own (its page
# "Cloudflare 5xx errors": developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/).
GAVE_UP_WAITING = frozenset({504, 522, 524})
"""The server has the request, or may have, and may still be at it."""
ANSWER_LOST = GAVE_UP_WAITING | {502, 520}
"""The same, or it answered with what the gateway could not read."""
NEVER_REACHED = frozenset({521, 523, 525, 526})
"""There was no connection to the server, so nothing can have happened on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How failures are tried again before the first token of a reply: ``open_client(retry=Retry())``.

    Tried again are connections that fail, answers that are no answers, 429 and 5xx, and what a service says inside a
    stream (text-generation-inference's ``overloaded``, say). Never tried again: what cannot succeed (401, an unknown
    model), anything once a token has come, and a create that may have happened, since there would be two. The limits
    of `Deadlines` go on meanwhile; a wait that one of them would not outlast is not begun, and the failure raised.

    Attributes:
        attempts: how many tries there are in all.
        delay: seconds before the second try; doubled for each one after it, with jitter (half of it to all of it).
        max_delay: the longest of these, and the longest ``Retry-After`` that is waited out, in seconds.
    """

    attempts: int = 3
    delay: float = 0.5
    max_delay: float = 20.0

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"attempts must be a whole number, not {type(self.attempts).__name__}")
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, not {self.attempts}")
        for name in ("delay", "max_delay"):
            value: object = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
            if not value >= 0:
                raise ValueError(f"{name} must be 0 or more seconds, not {value!r}")

    def pause(self, error: Exception, attempt: int) -> float | None:
        """Seconds to wait after the ``attempt``-th try has failed with ``error``; `None` if that was the last one."""
        if attempt >= self.attempts or not worth_another_try(error):
            return None
        return backoff(error, attempt, first=self.delay, longest=self.max_delay, longest_asked=self.max_delay)


def worth_another_try(error: Exception) -> bool:
    """Whether the same may succeed the next time."""
    if isinstance(error, (AuthenticationError, InvalidRequest, ConversationLost)):
        return False
    if isinstance(error, ProviderError):
        return error.status is None or error.status in (408, 429) or error.status >= 500
    return isinstance(error, (ConnectionFailed, RemoteProtocolError))


def backoff(error: Exception, attempt: int, *, first: float, longest: float, longest_asked: float) -> float:
    """Seconds to wait: exponential, with jitter, so that many who failed together do not come back together.

    What the service asked for is waited out before that, up to ``longest_asked``.
    """
    asked: float = getattr(error, "retry_after", None) or 0.0
    return min(asked, longest_asked) + min(first * 2.0 ** min(attempt - 1, 30), longest) * random.uniform(0.5, 1.0)
