"""One prompt, several providers, and the first one to give what was asked for."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import trio

from ._broadcast import Broadcast
from ._client import ENTERED_BEFORE, Client, private_client
from ._errors import AllFailed, TrioprovError
from ._events import Event, Finish, Lagged
from ._lane import Lane, new_lanes
from ._reply import Reply
from ._transcript import Deadlines
from .providers import Messages, Provider

if TYPE_CHECKING:
    from types import TracebackType

Until: TypeAlias = Literal["first_token", "finished"] | Callable[[Reply], bool]


class _RaceLog(Broadcast[Event]):
    """A lane's log that lets the contest see what arrives, while there is one."""

    def __init__(self, contest: _Contest, index: int) -> None:
        super().__init__(Lagged)
        self._contest: _Contest | None = contest
        self._index = index

    def room(self) -> float:
        # A predicate sees the reply after each token, so there must not be two at once.
        one_by_one = self._contest is not None and self._contest.one_by_one
        return min(1, super().room()) if one_by_one else super().room()

    def publish(self, items: Iterable[Event]) -> None:
        before = len(self)
        super().publish(items)
        if self._contest is not None:
            self._contest.arrived(self._index, self.items[before:])

    def close(self, *last: Event) -> None:
        if not self.closed:
            super().close(*last)
            if self._contest is not None:
                self._contest.ended(self._index)

    def decided(self) -> None:
        """The contest is over; from here on this is a log like any other, and keeps no other lane alive."""
        self._contest = None


class _Contest:
    """Who wins. It is decided in the instant in which the deciding token is published, and not again.

    Attributes:
        one_by_one: whether it has to see a reply after each single token.
        lanes: all of them, in order.
        winner: who won, if somebody did.
        failed: how many lanes cannot win any more.
        broken: what the predicate raised.
        changed: whoever runs the contest waits here.
    """

    def __init__(self, until: Until) -> None:
        self._until = until
        self.one_by_one: bool = callable(until)
        self._logs: list[_RaceLog] = []
        self._contentful: set[int] = set()
        self.lanes: tuple[Lane, ...] = ()
        self.winner: Lane | None = None
        self.failed = 0
        self.broken: BaseException | None = None
        self.changed = trio.lowlevel.ParkingLot()

    def new_log(self, index: int) -> _RaceLog:
        """The log for a lane."""
        self._logs.append(_RaceLog(self, index))
        return self._logs[-1]

    @property
    def over(self) -> bool:
        """Whether there is a winner, or cannot be one."""
        return self.winner is not None or self.broken is not None or self.failed == len(self.lanes)

    def arrived(self, index: int, events: Sequence[Event]) -> None:
        """A lane has published some events."""
        tokens = [event for event in events if isinstance(event, str)]
        if any(map(str.strip, tokens)):
            self._contentful.add(index)
        if tokens:
            self._look(index)

    def ended(self, index: int) -> None:
        """A lane has published its end, with which it wins now or never."""
        lane = self.lanes[index]
        finish = lane.reply.finish
        assert finish is not None
        if finish.reason not in ("error", "interrupted"):
            self._look(index, finish)
        if not self.over:
            if finish.error is None:
                what = "without content" if index not in self._contentful else f"({finish.reason}) without winning"
                error = TrioprovError(f"{lane.provider.label}: the reply ended {what}")
                error.partial = lane.reply.text
                lane.reject(error)
            self.failed += 1
        self.changed.unpark_all()

    def _look(self, index: int, finish: Finish | None = None) -> None:
        """Whether the lane has won by what has just arrived."""
        reply = self.lanes[index].reply
        try:
            if callable(self._until):
                won = _judged(self._until, reply)
            else:
                won = index in self._contentful and (self._until == "first_token" or finish is not None)
        except BaseException as exc:  # noqa: ASYNC103 - raised where the race is entered
            self.broken = exc
        else:
            if not won:
                return
            self.winner = self.lanes[index]
            self.winner.reject(None)  # a predicate may have ended the reply before it said yes
        self.give_up()

    def give_up(self) -> None:
        """Nothing is decided any more: end every lane but the winner."""
        for log in self._logs:
            log.decided()
        for lane in self.lanes:
            if lane is not self.winner:
                lane.skip()
                lane.close()
        self.changed.unpark_all()

    async def run(self, stagger: float) -> None:
        """Start the lanes, each when it is due or when another one has failed, until it is over; a checkpoint."""
        started = replaced = 0
        due = -math.inf
        while not self.over:
            if started < len(self.lanes) and (trio.current_time() >= due or replaced < self.failed):
                if trio.current_time() < due:
                    replaced += 1
                started += 1
                due = trio.current_time() + stagger
                self.lanes[started - 1].start()
                continue
            with trio.CancelScope(deadline=due if started < len(self.lanes) else math.inf):
                await self.changed.park()


@trio.lowlevel.disable_ki_protection
def _judged(predicate: Callable[[Reply], bool], reply: Reply) -> bool:
    # It is the user's code, in a task of ours which Ctrl-C does not reach otherwise.
    return bool(predicate(reply))


class Race(AbstractAsyncContextManager[Reply, None]):
    """``async with race(…)``, which may be entered once. Nobody needs it who only wants the winner."""

    def __init__(
        self,
        messages: Messages,
        providers: Sequence[Provider],
        client: Client | None,
        deadlines: Deadlines | None,
        until: Until,
        stagger: float,
        parameters: Mapping[str, Any],
    ) -> None:
        self._client = client or private_client()
        self._stagger = stagger
        self._entered = False
        self._contest = _Contest(until)
        self._contest.lanes = new_lanes(messages, providers, self._client, deadlines, parameters, self._contest.new_log)

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """One for each provider, in the order given; there before somebody has won, and also when nobody does."""
        return self._contest.lanes

    @property
    def winner(self) -> Lane | None:
        """Who has won, from the instant on in which the deciding token or end arrived."""
        return self._contest.winner

    async def __aenter__(self) -> Reply:
        contest = self._contest
        if self._entered:
            raise RuntimeError(ENTERED_BEFORE)
        self._entered = True
        try:
            await trio.lowlevel.checkpoint()
            await contest.run(self._stagger)
            if contest.broken is not None:
                raise contest.broken
            if contest.winner is None:
                raise AllFailed("no provider answered", [lane.error for lane in contest.lanes if lane.error])
        except BaseException:
            contest.winner = None
            contest.give_up()
            for lane in contest.lanes if self._client.private else ():
                await lane.aclose()
            raise
        reply = contest.winner.reply
        reply.lanes = contest.lanes
        return reply

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        winner = self._contest.winner
        assert winner is not None
        winner.close()
        if winner.waits(exc):
            # Where a client of the user's sees to the losers, nobody waits for them.
            for lane in self._contest.lanes if self._client.private else [winner]:
                await lane.aclose()


def race(
    messages: Messages,
    providers: Iterable[Provider],
    *,
    until: Until = "first_token",
    stagger: float = 0.0,
    client: Client | None = None,
    deadlines: Deadlines | None = None,
    **parameters: Any,
) -> Race:
    """One prompt to several providers, of which one wins: ``async with race("…", providers, stagger=2.0) as reply``.

    Enters when a lane has won, with its reply, from the first token on; text of two providers is never mixed. The
    others are closed in that instant and cleaned up: by the ``client``, in the background; without one the exit waits
    for that too, shielded and bounded. A winner that fails later fails as any reply does. What every lane did is in
    ``reply.lanes``; while nobody has won, or when nobody does, in the ``lanes`` of what this function returns.

    Entering is a checkpoint. Cancelled there, it closes all lanes.

    Args:
        messages: as for `Session.ask`.
        providers: at least one; the first is the first to start.
        until: what wins: ``first_token``, the first that is not blank; ``finished``, a complete answer that is not
            blank; or a function of the `Reply`, which is not async and is called after each token and at the end. A
            lane that ends without it has failed.
        stagger: seconds from one lane's start to the next one's. 0 starts all at once; `math.inf` starts the next one
            only when one has failed (a fallback). In any case a lane that fails brings the next one forward at once.
        client: connections and budgets; without one the lanes share their own.
        deadlines: for each lane, from its start.
        **parameters: generation parameters for every lane; a value that one provider refuses is that lane's failure.

    Raises:
        AllFailed: on entering: no lane won; it holds the error of each.
        TypeError, ValueError: messages that nobody can send, no providers, or a wrong option.
    """
    if isinstance(stagger, bool) or not isinstance(stagger, (int, float)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"stagger must be a number of seconds, not {type(stagger).__name__}")
    if not stagger >= 0:
        raise ValueError(f"stagger must be 0 or more seconds, not {stagger!r}")
    if inspect.iscoroutinefunction(until):
        raise TypeError("until must not be async: it only looks at the reply")
    if not callable(until) and until not in ("first_token", "finished"):
        raise ValueError(f"until must be 'first_token', 'finished' or a function of the reply, not {until!r}")
    providers = list(providers)
    if not providers:
        raise ValueError("a race needs at least one provider")
    return Race(messages, providers, client, deadlines, until, stagger, parameters)
