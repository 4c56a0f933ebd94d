"""One prompt, many providers, and no lane knows of the others."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Literal

import trio

from ._broadcast import Broadcast, Cursor, Subscription
from ._client import Client, Gate, private_client
from ._errors import another
from ._events import Event, Finish, Lagged
from ._lane import Lane, new_lanes
from ._transcript import Answer, Deadlines
from .providers import Messages, Provider

if TYPE_CHECKING:
    from types import TracebackType

# How many merged events may be unread before the lanes are held back.
MERGED_BUFFER = 256


class _LaneLog(Broadcast[Event]):
    """A lane's log that also tells the merged one whose turn it is, and waits for its reader.

    The merged log holds only lanes: the events themselves are read from each lane's log, so they are stored once.
    """

    def __init__(self, merge: _Merge, index: int) -> None:
        super().__init__(Lagged)
        self._merge = merge
        self._index = index

    def room(self) -> float:
        return math.inf if self.closed else min(super().room(), self._merge.turns.room())

    async def wait_room(self) -> None:
        while self.room() <= 0:
            await super().wait_room()
            if self.room() <= 0:
                await self._merge.turns.wait_for_readers()

    def publish(self, items: Iterable[Event]) -> None:
        before = len(self)
        super().publish(items)
        self._merge.turns.publish([self._index] * (len(self) - before))

    def close(self, *last: Event) -> None:
        if not self.closed:
            super().close(*last)
            self._merge.turns.publish([self._index] * len(last))
            self._merge.turns.wake_writers()  # ours may be waiting there
            self._merge.lane_ended(last)


class _Merge:
    """What the lanes of a fan-out share. It knows none of their handles, so that those can be dropped.

    Attributes:
        turns: whose event comes next, as an index.
        stops: what interrupts each lane.
        first_error: with ``cancels``, the first lane's error.
    """

    def __init__(self, *, cancels: bool) -> None:
        self.turns: Broadcast[int] = Broadcast(lambda missed: missed)
        self.stops: list[Callable[[], None]] = []
        self.first_error: Exception | None = None
        self._cancels = cancels
        self._ended = 0

    def lane_ended(self, last: Sequence[Event]) -> None:
        """A lane has published its end."""
        error = next((event.error for event in last if isinstance(event, Finish)), None)
        self._ended += 1
        if error is not None and self._cancels:
            self.first_error = error
            for stop in self.stops:
                stop()
        if self._ended == len(self.stops):
            self.turns.close()


class FanOut:
    """One prompt on its way to several providers; iterates ``(Lane, Event)`` as they arrive.

    Each ``async for`` starts at the first event. It holds all lanes back while it has 256 events unread; a lane's own
    subscribers hold back that lane alone. Leaving the loop leaves the lanes running.

    Attributes:
        lanes: one for each provider, in the order given.
    """

    def __init__(
        self,
        messages: Messages,
        providers: Iterable[Provider],
        client: Client | None,
        deadlines: Deadlines | None,
        max_concurrent: int | None,
        on_error: Literal["collect", "cancel"],
        parameters: Mapping[str, Any],
    ) -> None:
        self._merge = _Merge(cancels=on_error == "cancel")
        self._told = False
        self.lanes: tuple[Lane, ...] = new_lanes(
            messages,
            providers,
            client or private_client(),
            deadlines,
            parameters,
            log=lambda index: _LaneLog(self._merge, index),
            gate=None if max_concurrent is None else Gate(max_concurrent),
        )
        self._merge.stops = [lane.stopper() for lane in self.lanes]

    def start(self) -> None:
        """Let all lanes run."""
        for lane in self.lanes:
            lane.start()
        if not self.lanes:
            self._merge.turns.close()

    async def wait(self) -> list[Answer]:
        """All answers, in the order of the lanes, errors as values. A checkpoint; it never waits for a reader.

        Raises:
            TrioprovError: with ``on_error="cancel"``: the first lane's error.
        """
        await trio.lowlevel.checkpoint()
        answers = [await lane.wait() for lane in self.lanes]
        self.raise_first_error()
        return answers

    def raise_first_error(self, *, again: bool = True) -> None:
        """With ``on_error="cancel"``, raise a copy of the first error; with ``again=False`` only if nobody saw it."""
        if self._merge.first_error is not None and (again or not self._told):
            self._told = True
            raise another(self._merge.first_error)

    def __aiter__(self) -> AsyncIterator[tuple[Lane, Event]]:
        return _Merged(self, self._merge.turns)


class _Merged(AsyncIterator[tuple[Lane, Event]]):
    """One ``async for`` over a fan-out."""

    def __init__(self, fan: FanOut, turns: Broadcast[int]) -> None:
        self._fan = fan
        self._turns = Subscription(turns, turns.subscribe(buffer=MERGED_BUFFER, when_full="wait", replay=True))
        self._logs = [lane.reply._transcript.log for lane in fan.lanes]  # pyright: ignore[reportPrivateUsage]
        self._cursors: list[Cursor[Event]] = [
            log.subscribe(buffer=math.inf, when_full=None, replay=True) for log in self._logs
        ]

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> tuple[Lane, Event]:
        try:
            index = await self._turns.receive()
        except trio.EndOfChannel:
            self._fan.raise_first_error(again=False)
            raise StopAsyncIteration from None
        return self._fan.lanes[index], self._logs[index].take(self._cursors[index])


class _OpenFanOut(AbstractAsyncContextManager[FanOut, None]):
    """``async with fan_out(…)``."""

    def __init__(self, fan: FanOut) -> None:
        self._fan = fan

    async def __aenter__(self) -> FanOut:
        await trio.lowlevel.checkpoint()
        self._fan.start()
        return self._fan

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for lane in self._fan.lanes:
            lane.close()
        for lane in self._fan.lanes:
            if lane.waits(exc):
                await lane.aclose()
        if exc is None:
            self._fan.raise_first_error(again=False)


def fan_out(
    messages: Messages,
    providers: Iterable[Provider],
    *,
    client: Client | None = None,
    deadlines: Deadlines | None = None,
    max_concurrent: int | None = None,
    on_error: Literal["collect", "cancel"] = "collect",
    **parameters: Any,
) -> AbstractAsyncContextManager[FanOut, None]:
    """One prompt to several providers at once: ``async with fan_out("…", providers) as fan``.

    Enters without waiting for any service. A lane's failure, also a value that its provider refuses, is that lane's
    ``Finish(reason="error")`` and stops nobody else. Leaving closes every lane and waits, shielded and bounded, for
    their cleanups; leaving by a cancellation with a ``client`` does not wait.

    Args:
        messages: as for `Session.ask`.
        providers: any number; the same one may stand there twice.
        client: connections and budgets; without one the lanes share their own.
        deadlines: for each lane, from its start.
        max_concurrent: how many lanes may open and answer at once; the others wait, with their clocks stopped.
        on_error: ``collect``, or ``cancel``: the first error interrupts the other lanes and is raised.
        **parameters: generation parameters for every lane.

    Raises:
        TypeError, ValueError: messages that nobody can send, or a wrong option.
        TrioprovError: with ``on_error="cancel"``: the first lane's error, from the loop, from ``wait`` or on leaving.
    """
    if max_concurrent is not None:
        if isinstance(max_concurrent, bool) or not isinstance(max_concurrent, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError("max_concurrent must be a whole number or None")
        if max_concurrent < 1:
            raise ValueError(f"max_concurrent must be at least 1, not {max_concurrent}")
    if on_error not in ("collect", "cancel"):
        raise ValueError(f"on_error must be 'collect' or 'cancel', not {on_error!r}")
    return _OpenFanOut(FanOut(messages, providers, client, deadlines, max_concurrent, on_error, parameters))


async def gather(
    messages: Messages,
    providers: Iterable[Provider],
    *,
    client: Client | None = None,
    deadlines: Deadlines | None = None,
    max_concurrent: int | None = None,
    **parameters: Any,
) -> list[Answer]:
    """All answers, in the order of the providers, errors as values in ``Answer.error``. A checkpoint.

    When it returns, every conversation it opened is settled (``Answer.cleanup``). Cancelling it cleans up.

    Raises:
        TypeError, ValueError: messages that nobody can send, or a wrong option.
    """
    opened = fan_out(
        messages, providers, client=client, deadlines=deadlines, max_concurrent=max_concurrent, **parameters
    )
    async with opened as fan:
        answers = await fan.wait()
    return [
        dataclasses.replace(answer, conversation=lane.reply.session.conversation, cleanup=lane.cleanup)
        for answer, lane in zip(answers, fan.lanes, strict=True)
    ]
