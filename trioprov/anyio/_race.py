"""One prompt, several providers, and the first one to give what was asked for, in an anyio application."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import trioprov as core

from .._transcript import Deadlines
from ..providers import Messages, Provider
from ._client import Client
from ._lanes import Lane
from ._opening import Opening, WorldFor
from ._reply import Reply
from ._world import World


class Race(Opening[core.Reply, Reply]):
    """``async with race(…)``, which may be entered once. Nobody needs it who only wants the winner."""

    def __init__(self, client: Client | None, race: Callable[[core.Client | None], core.Race]) -> None:
        super().__init__(WorldFor(client), self._begun, self._won)
        self._race = race
        self._core: core.Race | None = None
        self._handles: tuple[Lane, ...] = ()

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """One for each provider, in the order given; from entering on, also when nobody wins."""
        if not self._handles and self._core is not None and self._world is not None:
            world = self._world
            self._handles = tuple(Lane(world, lane) for lane in self._core.lanes)
        return self._handles

    @property
    def winner(self) -> Lane | None:
        """Who has won, from the instant on in which the deciding token or end arrived."""
        winner = None if self._core is None else self._core.winner
        return next((lane for lane in self.lanes if winner is not None and lane.index == winner.index), None)

    def _begun(self, client: core.Client | None) -> core.Race:
        self._core = self._race(client)
        return self._core

    def _won(self, world: World, reply: core.Reply) -> Reply:
        assert self.winner is not None
        won = self.winner.reply
        won.lanes = self.lanes
        return won


def race(
    messages: Messages,
    providers: Iterable[Provider],
    *,
    until: Literal["first_token", "finished"] | Callable[[core.Reply], bool] = "first_token",
    stagger: float = 0.0,
    client: Client | None = None,
    deadlines: Deadlines | None = None,
    **parameters: Any,
) -> Race:
    """One prompt to several providers, of which one wins: ``async with race("…", providers, stagger=2.0) as reply``.

    Enters when a lane has won, with its reply, from the first token on; text of two providers is never mixed. The
    others are closed in that instant and cleaned up: by the ``client``, in the background; without one the exit waits
    for that too, shielded and bounded. A winner that fails later fails as any reply does. What every lane did is in
    ``reply.lanes``.

    Entering is a checkpoint. Cancelled there, it closes all lanes.

    Args:
        messages: as for `Session.ask`.
        providers: at least one; the first is the first to start.
        until: what wins: ``first_token``, the first that is not blank; ``finished``, a complete answer that is not
            blank; or a function of the reply as the core has it (a `trioprov.Reply`), called after each token and at
            the end. On asyncio it is called in the client's thread, and nothing else happens there meanwhile.
        stagger: seconds from one lane's start to the next one's. 0 starts all at once; `math.inf` starts the next one
            only when one has failed (a fallback). In any case a lane that fails brings the next one forward at once.
        client: connections and budgets; without one the lanes share their own.
        deadlines: for each lane, from its start.
        **parameters: generation parameters for every lane; a value that one provider refuses is that lane's failure.

    Raises:
        AllFailed: on entering: no lane won; it holds the error of each.
        TypeError, ValueError: on entering: messages that nobody can send, no providers, or a wrong option.
    """
    return Race(
        client,
        lambda client: core.race(
            messages, providers, until=until, stagger=stagger, client=client, deadlines=deadlines, **parameters
        ),
    )
