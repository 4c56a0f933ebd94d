"""An error, as an HTTP client hears of it: a status, the error's name and a sentence of ours.

The service's own words stay here: they are about the application's account, addresses and limits, which are none of the
client's business.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .. import anyio as ta


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What a client is told.

    Attributes:
        type: the name of the error's class.
        message: what it means.
        status: the HTTP status, when it is not too late for one.
        retry_after: seconds after which it may be tried again, if the service said.
    """

    type: str
    message: str
    status: int
    retry_after: float | None = None

    @property
    def said(self) -> dict[str, object]:
        """The same in JSON."""
        return {"type": self.type, "message": self.message, "retry_after": self.retry_after}

    @property
    def headers(self) -> dict[str, str]:
        """What an HTTP answer says besides."""
        return {} if self.retry_after is None else {"retry-after": str(math.ceil(self.retry_after))}


# The first that fits. A service that does not let the application in has not refused the client, so no 401; of what
# the client sent, only the messages can be at fault.
_SAID: tuple[tuple[type[Exception], int, str], ...] = (
    (ta.RateLimited, 429, "the service has had too many requests"),
    (ta.Overloaded, 503, "the service has no capacity at the moment"),
    (ta.InvalidRequest, 400, "the service does not accept this request"),
    (ta.DeadlineExceeded, 504, "the service took too long"),
    (ta.ConnectionFailed, 502, "the service could not be reached"),
    (ta.JournalError, 500, "the application failed"),
    (ta.TrioprovError, 502, "the service failed"),
    (Exception, 500, "the application failed"),
)

GONE = Failure(type="ReplyGone", message="this reply is not here any more; ask again", status=410)
"""For a client that comes back too late, or to the wrong place."""


def failure(error: Exception) -> Failure:
    """What a client is told of an error."""
    status, message = next((status, message) for kind, status, message in _SAID if isinstance(error, kind))
    retry_after = getattr(error, "retry_after", None)
    if isinstance(error, ta.AllFailed):
        # One status only if it is true of all; a lane that may be tried again is enough to try again.
        lanes = [failure(lane) for lane in error.exceptions]
        if len({lane.status for lane in lanes}) == 1:
            status, message = lanes[0].status, lanes[0].message
        retry_after = min((lane.retry_after for lane in lanes if lane.retry_after is not None), default=None)
    return Failure(type=type(error).__name__, message=message, status=status, retry_after=retry_after)
