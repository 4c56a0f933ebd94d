"""Everything that can go wrong, told by whose fault it is.

::

    TrioprovError
    ├── ProviderError                 the service said no
    │   ├── AuthenticationError       who are you?
    │   ├── RateLimited               not so often
    │   ├── Overloaded                not now
    │   ├── InvalidRequest            not like this
    │   │   └── ModelNotSupported     not that model (also a ValueError)
    │   └── ConversationLost          the conversation cannot be continued
    ├── RemoteProtocolError           the service broke its protocol
    │   └── IncompleteReply           the stream ended before its end
    ├── ConnectionFailed              no connection, or it broke
    ├── DeadlineExceeded              a `Deadlines` limit passed (also a TimeoutError)
    │   ├── FirstTokenTimeout
    │   ├── IdleTimeout
    │   └── TotalTimeout
    ├── CleanupFailed                 a conversation may still be on its server
    ├── JournalError                  the journal cannot be read or written
    └── AllFailed                     no lane of a race won (also an ExceptionGroup)

Misuse raises trio's own errors (`trio.ClosedResourceError`, `trio.BusyResourceError`), a wrong value
`ValueError` or `TypeError`.
"""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._outcomes import CleanupReport

E = TypeVar("E", bound=BaseException)


class TrioprovError(Exception):
    """What every error of this library is.

    Attributes:
        partial: the text of the reply that had arrived when it failed; ``""`` if none had.
    """

    partial: str = ""


class ProviderError(TrioprovError):
    """The service answered, and the answer was no.

    Attributes:
        status: the HTTP status, or `None` when the refusal came inside a stream that began with a 200.
        code: the service's own word for it, if it has one (``"overloaded"``, ``"inappropriate_prompt"``, …).
        message: the service's own sentence, shortened and with credentials blotted out.
        retry_after: seconds the service asked to wait, if it said.
    """

    def __init__(
        self,
        message: str = "",
        *,
        status: int | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        partial: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.retry_after = retry_after
        self.partial = partial

    def __str__(self) -> str:
        said = self.message or "the service gave no reason"
        words = re.findall(r"\w+", said)
        # What the sentence says already is not said again.
        facts = [fact for fact in (str(self.status or ""), self.code or "") if fact and fact not in (*words, said)]
        return f"{said} ({', '.join(facts)})" if facts else said


class AuthenticationError(ProviderError):
    """The service wants credentials, or does not accept the ones it got."""


class RateLimited(ProviderError):
    """Too many requests from this account or address."""


class Overloaded(ProviderError):
    """The service has no capacity at the moment."""


class InvalidRequest(ProviderError):
    """The service refuses this request however often it is sent."""


class ModelNotSupported(InvalidRequest, ValueError):
    """The service has no such model."""


class ConversationLost(ProviderError):
    """The conversation is gone, or in a state in which it cannot be continued."""


class RemoteProtocolError(TrioprovError):
    """The service sent something its protocol does not allow, or too much of it."""

    def __init__(self, message: str = "", *, partial: str = "") -> None:
        super().__init__(message)
        self.partial = partial


class IncompleteReply(RemoteProtocolError):
    """The stream ended before the service said that the reply was complete."""


class ConnectionFailed(TrioprovError):
    """There was no connection, or it broke; the network's own error is the cause."""

    def __init__(self, message: str = "", *, partial: str = "") -> None:
        super().__init__(message)
        self.partial = partial


class DeadlineExceeded(TrioprovError, TimeoutError):
    """A limit of `Deadlines` passed."""

    def __init__(self, message: str = "", *, partial: str = "") -> None:
        super().__init__(message)
        self.partial = partial


class FirstTokenTimeout(DeadlineExceeded):
    """No content came within ``Deadlines.first_token`` seconds."""


class IdleTimeout(DeadlineExceeded):
    """No further content came for ``Deadlines.idle`` seconds."""


class TotalTimeout(DeadlineExceeded):
    """The whole reply took longer than ``Deadlines.total`` seconds."""


class CleanupFailed(TrioprovError):
    """The conversation may still be on its server.

    Attributes:
        report: what was tried, and what came of it.
    """

    def __init__(self, message: str, report: CleanupReport) -> None:
        super().__init__(message, report)
        self.report = report

    def __str__(self) -> str:
        return str(self.args[0])


class JournalError(TrioprovError):
    """The journal cannot be read or written, so nothing was created that it should have known of."""


class AllFailed(ExceptionGroup[Exception], TrioprovError):
    """No lane won; ``exceptions`` holds the error of each, in the order of the lanes."""

    def derive(self, excs: Sequence[Exception], /) -> AllFailed:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Keep the class when the group is split."""
        return AllFailed(self.message, excs)


def another(error: E) -> E:
    """A copy of ``error`` for one more task to raise, with the original as its cause.

    An exception that two tasks raise collects the traceback of both and is changed by each; a copy is not.
    """
    try:
        twin: Any = copy.copy(error)
    except Exception:  # an exception of somebody else's that cannot be made again
        return error
    twin.__traceback__ = None
    twin.__context__ = None
    twin.__cause__ = error
    if hasattr(error, "__notes__"):
        twin.__notes__ = list(error.__notes__)
    return twin
