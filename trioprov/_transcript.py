"""The writing of a reply: its log, its clock, and what it amounts to at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import trio

from ._broadcast import Broadcast
from ._errors import (
    DeadlineExceeded,
    FirstTokenTimeout,
    IdleTimeout,
    RemoteProtocolError,
    TotalTimeout,
    TrioprovError,
)
from ._events import Event, Finish, FinishReason, Lagged, Queued, Token, Usage

if TYPE_CHECKING:
    from ._conversation import Conversation
    from ._outcomes import CleanupReport
    from .providers import Provider

# What an event that is not text counts for in `max_reply_bytes`, so that queue notices cannot fill the memory.
_EVENT_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long to wait for a reply, in seconds; `None` means no limit.

    Only content restarts a clock: heartbeats, pings and queue notices do not.

    Attributes:
        first_token: from asking to the first token. Time in which the queue position reported by the service was
            falling does not count.
        idle: from one token to the next. Time in which our own readers held the stream back does not count.
        total: from asking to the end.
    """

    first_token: float | None = 60.0
    idle: float | None = 60.0
    total: float | None = None

    def __post_init__(self) -> None:
        for name in ("first_token", "idle", "total"):
            value: object = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number of seconds or None, not {type(value).__name__}")
            if not value > 0:
                raise ValueError(f"{name} must be more than 0 seconds, not {value!r}")


def checked_deadlines(deadlines: Deadlines | None) -> Deadlines:
    """What was given, or the default.

    Raises:
        TypeError: something else was given.
    """
    if deadlines is None:
        return Deadlines()
    if not isinstance(deadlines, Deadlines):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"deadlines must be a Deadlines or None, not {type(deadlines).__name__}")
    return deadlines


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole reply as a value.

    Attributes:
        provider: who answered.
        text: the tokens, joined.
        server_text: the service's own final text, if it sent one; usually the same.
        finish_reason: why it ended.
        usage: token counts, where the service gives them.
        error: what went wrong, if something did (only where errors are values: `gather`, `FanOut.wait`).
        time_to_first_token: seconds from asking to the first token, if there was one.
        duration: seconds from asking to the end.
        conversation: the conversation, to be continued if it was kept.
        cleanup: what became of it on the server, once that is known.
    """

    provider: Provider
    text: str
    server_text: str | None = None
    finish_reason: FinishReason
    usage: Usage | None = None
    error: Exception | None = None
    time_to_first_token: float | None = None
    duration: float
    conversation: Conversation | None = None
    cleanup: CleanupReport | None = None


class Transcript:
    """The writer's side of a reply: what has arrived, when, and when it must have arrived.

    State changes here are synchronous; whoever must act on one (the session's owner) is told through ``changed``.

    Args:
        deadlines: the limits.
        max_bytes: how much text it may hold (UTF-8).
        log: where it publishes.
    """

    def __init__(self, deadlines: Deadlines, max_bytes: float, log: Broadcast[Event] | None = None) -> None:
        self.log: Broadcast[Event] = Broadcast[Event](Lagged) if log is None else log
        self.deadlines = deadlines
        self.finish: Finish | None = None
        self.finished: trio.Event = trio.Event()
        self.server_text: str | None = None
        self.changed: Callable[[], None] = lambda: None
        self.waits_for_old_answer = False
        self._joined = "", 0  # the tokens among the first so many events
        self._length = 0  # of all tokens, in characters
        self._size = 0
        self._max_bytes = max_bytes
        self._position = math.inf
        self._clock_at_queueing = 0.0
        self._held_since: float | None = None
        self.begin()

    def begin(self) -> None:
        """Start the clock; again, if the question had to wait for its turn."""
        self.asked_at: float = trio.current_time()
        self._restarted_at = self.asked_at
        self.first_token_at: float | None = None
        self.ended_at: float | None = None

    @property
    def text(self) -> str:
        """All tokens, joined; for any thread."""
        text, count = self._joined
        events = self.log.items
        end = len(events)
        if count < end:
            text += "".join([event for event in events[count:end] if isinstance(event, str)])
            self._joined = text, end
        return text

    # -- Writing -----------------------------------------------------------------------------------------------------

    async def write(self, events: Sequence[Event], server_text: str | None = None) -> None:
        """Publish what a decoder returned, as fast as the readers who may hold the stream back allow.

        A checkpoint only when it waits for a reader.
        """
        if not events or self.finish is not None:
            return
        last = events[-1]
        finish = last if isinstance(last, Finish) else None
        content = events[:-1] if finish else events
        if server_text is not None and finish is not None:
            content = [*content, *self._tail(content, server_text)]
        self._mark(content)
        start = 0
        while start < len(content) and self.finish is None:
            room = self.log.room()
            if room > 0:
                piece = content[start:] if room >= len(content) - start else content[start : start + int(room)]
                self._publish(piece)
                start += len(piece)
                continue
            with self.held():
                await self.log.wait_room()
        if finish is not None and self.finish is None:
            self.server_text = server_text
            self.end(finish)

    @contextmanager
    def held(self) -> Generator[None]:
        """Time in here is ours and not the service's: it counts for ``total`` only."""
        self._held_since = trio.current_time()
        try:
            yield
        finally:
            self._restarted_at += trio.current_time() - self._held_since
            self._held_since = None
            self.changed()

    def leave_queue(self) -> None:
        """The next place in a queue is the first one of another try, from which it may fall again."""
        self._position = math.inf

    def _tail(self, content: Sequence[Event], server_text: str) -> list[Event]:
        """What the service's own final text has beyond the tokens, if it begins with them."""
        more = [event for event in content if isinstance(event, str)]
        if len(server_text) <= self._length + sum(map(len, more)):  # nearly always, so nothing is joined
            return []
        text = "".join([self.text, *more])
        return [server_text[len(text) :]] if server_text.startswith(text) else []

    def _mark(self, events: Sequence[Event]) -> None:
        """Let the clock see what arrived."""
        for event in reversed(events):
            if isinstance(event, str):
                self._restarted_at = trio.current_time()
                if self.first_token_at is None:
                    self.first_token_at = self._restarted_at
                    self.changed()
                return
            if isinstance(event, Queued) and self.first_token_at is None and event.position < self._position:
                # Somebody who moves forward in a queue is being served, only not yet: put the clock back.
                now = trio.current_time()
                if self._position == math.inf:
                    self._clock_at_queueing = now - self._restarted_at
                self._restarted_at = now - self._clock_at_queueing
                self._position = event.position

    def _publish(self, events: Sequence[Event]) -> None:
        try:
            text, others = "".join(cast("Sequence[Token]", events)), 0
        except TypeError:  # for once, not all of them are tokens
            tokens = [event for event in events if isinstance(event, str)]
            text, others = "".join(tokens), len(events) - len(tokens)
        size = len(text if text.isascii() else text.encode("utf-8", "replace")) + _EVENT_BYTES * others
        if self._size + size > self._max_bytes:
            self._publish_what_fits(events)
            return
        self._size += size
        self._length += len(text)
        self.log.publish(events)

    def _publish_what_fits(self, events: Sequence[Event]) -> None:
        for count, event in enumerate(events):
            self._size += len(event.encode("utf-8", "replace")) if isinstance(event, str) else _EVENT_BYTES
            if self._size > self._max_bytes:
                self.log.publish(events[:count])
                self.fail(RemoteProtocolError(f"the reply is longer than max_reply_bytes ({self._max_bytes} bytes)"))
                return

    @trio.lowlevel.enable_ki_protection
    def end(self, finish: Finish) -> None:
        """The reply is over; idempotent, the first end counts."""
        if self.finish is None:
            if isinstance(finish.error, TrioprovError):
                finish.error.partial = self.text
            self.ended_at = trio.current_time()  # another thread may look: what has a `finish` also has this
            self.finish = finish
            self.log.close(finish)
            self.finished.set()
            self.changed()

    def fail(self, error: Exception) -> None:
        """End with an error."""
        self.end(Finish("error", error))

    def stop(self) -> None:
        """End because nobody wants more."""
        self.end(Finish("interrupted"))

    # -- The clock ---------------------------------------------------------------------------------------------------

    def due(self) -> tuple[float, type[DeadlineExceeded]]:
        """When, on trio's clock, it is late if nothing more happens, and what that is called."""
        limits = self.deadlines
        due: float = math.inf
        kind: type[DeadlineExceeded] = TotalTimeout
        if self.finish is not None:
            return due, kind
        if limits.total is not None:
            due = self.asked_at + limits.total
        if self._held_since is None:
            waiting = self.first_token_at is None
            limit = limits.first_token if waiting else limits.idle
            if limit is not None and self._restarted_at + limit < due:
                due, kind = self._restarted_at + limit, FirstTokenTimeout if waiting else IdleTimeout
        return due, kind

    def answer(
        self, provider: Provider, conversation: Conversation | None = None, cleanup: CleanupReport | None = None
    ) -> Answer:
        """The reply as a value; call it at the end."""
        finish = self.finish or Finish("interrupted")
        first = self.first_token_at
        ended = trio.current_time() if self.ended_at is None else self.ended_at
        return Answer(
            provider=provider,
            text=self.text,
            server_text=self.server_text,
            finish_reason=finish.reason,
            usage=finish.usage,
            error=finish.error,
            time_to_first_token=None if first is None else first - self.asked_at,
            duration=ended - self.asked_at,
            conversation=conversation,
            cleanup=cleanup,
        )
