"""One question on its way to everybody asked, for whoever shows it: a fan-out or a race, which look the same here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Literal, Protocol, TypeAlias

import trio

from .. import AllFailed, Event, FanOut, Lane, Race

Standing: TypeAlias = Literal["won", "beaten", "failed", "not_started", "interrupted"]


class Course:
    """The lanes of one question.

    Attributes:
        lanes: who is asked.
        events: what arrives, as it arrives, each lane's `Finish` the last of it.
        race: what decides who wins, if anything does.
    """

    def __init__(
        self, lanes: Sequence[Lane], events: AsyncIterable[tuple[Lane, Event]], race: Race | None = None
    ) -> None:
        self.lanes = lanes
        self.events = events
        self.race = race

    @property
    def winner(self) -> Lane | None:
        """Who has won the race, if it is one and somebody has."""
        return self.race.winner if self.race else None

    def counts(self, lane: Lane) -> bool:
        """Whether the lane's text is an answer: in a race only the winner's is."""
        return self.race is None or self.race.winner is lane

    def standing(self, lane: Lane) -> Standing:
        """How a lane whose reply has ended came out of the race."""
        if lane is self.winner:
            return "won"
        if lane.error is not None:
            return "failed"
        if lane.duration is None:
            return "not_started"
        return "interrupted" if self.winner is None else "beaten"

    @property
    def answered(self) -> bool:
        """Whether there is what was asked for: every answer whole, or in a race the winner's."""
        wanted = self.lanes if self.race is None else [self.winner]
        ends = [lane.reply.finish if lane else None for lane in wanted]
        return all(end is not None and end.reason not in ("error", "interrupted") for end in ends)


Opened: TypeAlias = AbstractAsyncContextManager[Course, bool | None]


class View(Protocol):
    """A way to show a course.

    Attributes:
        apart: whether every lane has a place of its own, so that in a race the losers' text can be shown too.
    """

    apart: bool

    async def run(self, opened: Opened, begin: Callable[[Course], None]) -> None:
        """Show the answers as they arrive; ``begin`` is called with the course when it is there."""
        ...

    async def conclude(self) -> None:
        """After the cleanup: show what could not be shown before."""
        ...


@asynccontextmanager
async def together(opened: AbstractAsyncContextManager[FanOut]) -> AsyncGenerator[Course]:
    """Everybody's answer."""
    async with opened as fan:
        yield Course(fan.lanes, fan)


@asynccontextmanager
async def racing(race: Race, *, everything: bool) -> AsyncGenerator[Course]:
    """The first one's answer; enters without waiting for a winner.

    Args:
        race: not entered yet.
        everything: tell all tokens at once; else the winner's, from the first on, when it has won, and no others.
    """
    send, receive = trio.open_memory_channel[tuple[Lane, Event]](0)
    shown = trio.Event()
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run, race, shown)
        with send:
            for lane in race.lanes:
                nursery.start_soon(_follow, race, lane, send.clone(), everything)
        try:
            yield Course(race.lanes, receive, race)
        except Exception as exc:  # comes out bare, not as the nursery's group
            failure = exc
            nursery.cancel_scope.cancel()
        shown.set()
    if failure is not None:
        raise failure


async def _run(race: Race, shown: trio.Event) -> None:
    with suppress(AllFailed):  # every lane tells its own error
        async with race:
            await shown.wait()
    for lane in race.lanes:
        await lane.aclose()


async def _follow(race: Race, lane: Lane, send: trio.MemorySendChannel[tuple[Lane, Event]], everything: bool) -> None:
    held: list[Event] = []
    with send, lane.reply.subscribe() as events:
        async for event in events:
            if isinstance(event, str) and not everything and race.winner is not lane:
                held.append(event)
                continue
            if race.winner is lane:
                for earlier in held:
                    await send.send((lane, earlier))
                held.clear()
            await send.send((lane, event))
