"""The reading of a reply: as many consumers as you like, each in its own time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, Self

import trio

from ._broadcast import Subscription
from ._errors import another
from ._events import Event, Finish, Token
from ._transcript import Answer, Transcript

if TYPE_CHECKING:
    from ._lane import Lane
    from ._session import Session
    from .providers import Provider


class Reply:
    """One answer as it arrives: an async iterable of tokens, with as many readers as you like.

    Each ``async for`` starts at the first token, skips what is not a token, raises the reply's failure at its end, and
    ends normally after `stop`. It never holds the stream back.

    Attributes:
        provider: who answers.
        session: the session it belongs to.
        lanes: what each provider of a race did, the winner among them; empty without a race.
    """

    def __init__(self, provider: Provider, session: Session, transcript: Transcript) -> None:
        self.provider = provider
        self.session = session
        self.lanes: tuple[Lane, ...] = ()
        self._transcript = transcript

    def subscribe(
        self,
        *,
        buffer: float = 256,
        when_full: Literal["wait", "drop_oldest", "detach"] = "wait",
        replay: bool = True,
    ) -> Subscription[Event]:
        """A channel of its own for one more consumer, which gets every event in order; not a checkpoint.

        Args:
            buffer: how many events that arrived after this call may be unread; replayed ones never count.
            when_full: ``wait``: this consumer holds the stream back, down to the socket. ``drop_oldest``: it gets
                `Lagged` where events are missing. ``detach``: it is closed, with `Lagged` as its last event.
            replay: begin with the first event; else with the next one (after the end: with the `Finish`).

        Raises:
            TypeError: a buffer that is no whole number.
            ValueError: a buffer below 0 or an unknown policy.
        """
        check_buffer(buffer, when_full)
        log = self._transcript.log
        return Subscription(log, log.subscribe(buffer=buffer, when_full=when_full, replay=replay), self)

    async def forward(self, send_channel: trio.abc.SendChannel[Event]) -> None:
        """Feed every event from the first into an ordinary channel, then close it.

        Clone the channel's receiving end to share the tokens among workers. It holds the stream back as a subscriber
        with a buffer of 256 does. Ends quietly when nobody receives any more. When cancelled, the channel is closed.
        """
        async with send_channel:
            with self.subscribe() as events:
                async for event in events:
                    try:
                        await send_channel.send(event)
                    except trio.BrokenResourceError:
                        break

    @property
    def text(self) -> str:
        """The text so far, also after a failure or a stop."""
        return self._transcript.text

    @property
    def finish(self) -> Finish | None:
        """How it ended; `None` while it has not."""
        return self._transcript.finish

    async def wait(self) -> Answer:
        """The whole answer; after `stop` the answer so far, with the reason ``interrupted``. A checkpoint.

        It reads nothing, so it holds nothing back. Cancelling it leaves the reply as it is.

        Raises:
            TrioprovError: the reply's failure, with the text so far in ``partial``; a copy for each that waits.
        """
        await self._transcript.finished.wait()
        if self.finish is not None and self.finish.error is not None:
            raise another(self.finish.error)
        return self._transcript.answer(self.provider, self.session.conversation, self.session.cleanup)

    def stop(self) -> None:
        """Stop generating and keep the conversation; sync, idempotent, from any task.

        The reply ends at once, with the reason ``interrupted``; what the server must be told follows in the background.
        """
        self._transcript.stop()

    def __aiter__(self) -> _Tokens:
        return _Tokens(self)

    def __repr__(self) -> str:
        state = self.finish.reason if self.finish else "running"
        return f"<Reply of {self.provider.name}: {state}, {len(self.text)} characters>"


def check_buffer(buffer: object, when_full: object) -> None:
    """Refuse what no subscriber can have.

    Raises:
        TypeError: a buffer that is no whole number.
        ValueError: a buffer below 0 or an unknown policy.
    """
    if isinstance(buffer, bool) or not (isinstance(buffer, int) or buffer == math.inf):
        raise TypeError("buffer must be a whole number or math.inf")
    if isinstance(buffer, int) and buffer < 0:
        raise ValueError(f"buffer must be at least 0, not {buffer}")
    if when_full not in ("wait", "drop_oldest", "detach"):
        raise ValueError(f"when_full must be 'wait', 'drop_oldest' or 'detach', not {when_full!r}")


class _Tokens:
    """One ``async for`` over a reply."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply  # keeps the session alive
        self._log = reply._transcript.log  # pyright: ignore[reportPrivateUsage] - the same room
        self._cursor = self._log.subscribe(buffer=math.inf, when_full=None, replay=True)
        self._here: Iterator[Event] = iter(())

    def __aiter__(self) -> Self:
        return self

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> Token:
        while True:
            for event in self._here:  # goes on where the last call left it
                if isinstance(event, str):
                    return event
                if isinstance(event, Finish) and event.error is not None:
                    raise another(event.error)
            if events := self._log.here(self._cursor):
                self._here = iter(events)
                continue
            try:
                await self._log.more(self._cursor)
            except trio.EndOfChannel:
                raise StopAsyncIteration from None
