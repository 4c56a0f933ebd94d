"""The owner: the one task in which a conversation is created, spoken on, stopped and deleted.

Rule 1: everything that a conversation's server hears is said here, one thing at a time, shielded from the caller.
Rule 2: everybody else changes state, synchronously, and pokes: `close`, `submit`, the end of a transcript. What that
means for the request under way is decided in one place, `Line.break_off`.

A cancellation of the nursery the owner lives in is one more such change: `_supervise`, which is not shielded, hears it
and calls `close`. So there is no checkpoint at which a cancellation could part a create from its DELETE.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeVar

import trio

from . import _flow
from ._cleanup import cleaned
from ._client import Client, Gate, Tenant
from ._conversation import Conversation
from ._debt import Debt
from ._errors import TrioprovError, another
from ._line import Line, Unwanted
from ._opening import opened, process
from ._outcomes import CleanupReport
from ._turn import Turn, late
from .providers import Provider

T = TypeVar("T")

log = logging.getLogger("trioprov")

# How much longer than its budget an owner may take to say that the budget is over.
_GRACE = 0.05


class Owner(Tenant):
    """Owns one conversation and the debt that it is.

    Args:
        provider: what to say.
        client: connections and budgets.
        conversation: one to continue; it is kept at the end, unless this process opened it or ``mine`` says otherwise.
        mine: delete it at the end in any case.
        gate: held while the owner opens and answers its first turn, to limit how many do so at once.
        one_turn: there will be one question, which is waiting already: without it, nothing is opened.

    Attributes:
        debt: what is owed to the server.
        opened: set when there is a conversation to speak on, or none to be had.
        failure: why it could not be opened.
        on_open: called once, when it was opened.
    """

    def __init__(
        self,
        provider: Provider,
        client: Client,
        conversation: Conversation | None = None,
        *,
        mine: bool = False,
        gate: Gate | None = None,
        one_turn: bool = False,
    ) -> None:
        if not isinstance(client, Client):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"client must be what open_client() gives when it is entered, not {type(client).__name__}")
        conversation = conversation or provider.new_conversation()
        theirs = conversation.id is not None and conversation.get("opened_by") != process()
        self.provider = provider
        self.client = client
        self._pid = os.getpid()
        self.debt: Debt = Debt(provider, conversation, kept=theirs and not mine, ledger=client.ledger)
        self.opened: trio.Event = trio.Event()
        self.done: trio.Event = trio.Event()
        self.failure: Exception | None = None
        self.on_open: Callable[[], None] | None = None
        self._line = Line(client, self.debt, self._is_unwanted)
        self._gate = gate
        self._ticket: trio.Event | None = None
        self._turn: Turn | None = None
        self._next: Turn | None = None
        self._ended_at = math.inf
        self._gated = gate is not None
        self._one_turn = one_turn
        self._stopping = False
        self._shield = trio.CancelScope(shield=True)
        self._watch = trio.CancelScope()
        self._changed = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"session with {self.provider.name}"

    # -- What others may do: change state, and poke ------------------------------------------------------------------

    @property
    def closing(self) -> bool:
        """Whether the end has begun."""
        return self._ended_at < math.inf

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Begin to end: whatever is under way is broken off as soon as that loses nothing."""
        if not self.closing:
            self._ended_at = self._line.ended_at = trio.current_time()
            for turn in (self._turn, self._next):
                if turn is not None:
                    turn.transcript.stop()
            self._poke()

    def abandon(self) -> None:
        """End now, whatever is owed."""
        self._shield.cancel(reason="the client's shutdown_timeout has passed")

    def submit(self, turn: Turn) -> None:
        """Ask; the owner begins when it has finished with the turn before."""
        turn.transcript.changed = self._poke
        if self.failure is not None:
            self._refuse(turn)
        else:
            turn.transcript.waits_for_old_answer = self._line.draining
            self._next = turn
            if self._gate is not None and self._ticket is None:
                self._ticket = self._gate.queue()
            self._poke()

    def never(self) -> None:
        """It will not be run: nothing was sent and nothing is owed."""
        self._ended_at = trio.current_time()
        self._end()

    def keep(self) -> None:
        """Do not delete the conversation, nor let a sweeper."""
        self.debt.keep()
        self._watch.cancel()

    def forecast(self) -> CleanupReport:
        """The report; or what it would be if the owner gave up now."""
        self._line.doubt()
        return self.debt.forecast()

    async def aclose(self) -> None:
        """`close`, and wait, shielded, until all is settled or the budget has passed; it may go on after that."""
        self.close()
        while not self.done.is_set():
            deadline = max(self._ended_at + self.client.cleanup_timeout, self.debt.until) + _GRACE
            if deadline <= trio.current_time():
                self.debt.provisional = self.forecast()
                return
            with trio.CancelScope(shield=True, deadline=deadline):
                await self.done.wait()

    def _poke(self) -> None:
        if os.getpid() != self._pid:
            return  # a forked child: what we wait for is watched by an epoll that it shares with its parent
        if self._next is not None and self._next.over:
            self._next.ended.set()  # it was never begun
            self._next = None
        if self._turn is not None and self._turn.over and self._line.draining:
            self._turn.ended.set()  # the service cannot be told to stop, so there is nothing to wait for
        self._line.break_off()
        self._watch.deadline = self._due
        self._changed.unpark_all()

    def _is_unwanted(self) -> bool:
        """Whether what the owner is doing has lost its purpose."""
        if self._stopping:
            return self.closing  # the cleanup begins by saying the same
        return self.closing or (self._turn is not None and self._turn.transcript.finish is not None)

    # -- The task ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Live, from the create to the confirmed DELETE. Lets out nothing but a cancellation of its surroundings."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._supervise)
            with self._shield:
                await self._live()
            if self._shield.cancelled_caught:
                self.debt.abandon()
            self._end()
            nursery.cancel_scope.cancel()

    @trio.lowlevel.enable_ki_protection
    async def _supervise(self) -> None:
        """Hear cancellations, and watch the clock of whichever turn is open."""
        try:
            while True:
                if self.debt.stale:
                    await self.debt.record()
                now = trio.current_time()
                if self._turn_due <= now and (turn := self._next or self._turn) is not None:
                    turn.transcript.fail(late(turn.transcript, turn.transcript.due()[1]))
                if self._account_due <= now:
                    self._line.account_free()  # a server that stalls must not keep all others of the account waiting
                # Who pokes moves the deadline; waking a task at each poke would cost as much as all else about it.
                with trio.CancelScope(deadline=self._due) as self._watch:
                    await trio.sleep_forever()
        finally:
            self.close()

    @property
    def _due(self) -> float:
        """When, on trio's clock, there is something to do about it."""
        return min(self._turn_due, self._account_due)

    @property
    def _turn_due(self) -> float:
        """When the turn that is open will be late."""
        turn = self._next or self._turn
        return math.inf if turn is None or self._gated else turn.transcript.due()[0]

    @property
    def _account_due(self) -> float:
        """When nobody waits any more for us and an answer that is not wanted."""
        return math.inf if self._turn is None else self._line.account_due(self._turn.transcript.ended_at)

    async def _live(self) -> None:
        try:
            await self._begin()
            while (turn := await self._next_turn()) is not None:
                await self._answer(turn)
        except Exception as exc:
            log.exception("%s: a session crashed; this is a bug in trioprov, or in the provider", self.provider.name)
            self.failure = self.failure or exc
        self._refuse_turns()
        self.close()
        if not self.opened.is_set():
            self.failure = self.failure or trio.ClosedResourceError("the client was closed meanwhile")
            self.opened.set()
        if self.debt.kept:
            await self._stop(at_the_end=True)
        await self.debt.settle(self.client.transport, self.client.cleanup_timeout, self._ended_at)
        await self.debt.close_row()

    async def _begin(self) -> None:
        """Open, and answer the first turn if it is waiting already; in the order of the gate, if there is one."""
        try:
            if self._ticket is not None:
                with self._line.busy():
                    await self._ticket.wait()
            self._gated = False
            if self._next is not None:
                self._next.transcript.begin()
                self._poke()
            elif self._one_turn:
                return
            await self._open()
            if self._next is not None and (turn := await self._next_turn()) is not None:
                await self._answer(turn)
        finally:
            if self._gate is not None and self._ticket is not None:
                self._gate.leave(self._ticket)

    def _end(self) -> None:
        self.debt.report = self.forecast()
        self._refuse_turns()
        self.opened.set()
        self.done.set()

    def _refuse_turns(self) -> None:
        for turn in (self._turn, self._next):
            if turn is not None:
                self._refuse(turn)

    def _refuse(self, turn: Turn) -> None:
        if self.failure is not None:
            turn.transcript.fail(another(self.failure))
        turn.transcript.stop()
        turn.ended.set()

    async def _open(self) -> None:
        try:
            await opened(
                self.debt, self._line, lambda: math.inf if self._next is None else self._next.transcript.due()[0]
            )
        except Unwanted:
            return
        except Exception as exc:
            self.failure = cleaned(exc, self.provider, self.debt.conversation)
            return
        if self.closing:
            return
        self.opened.set()
        if self.on_open is not None:
            on_open, self.on_open = self.on_open, None
            on_open()

    async def _next_turn(self) -> Turn | None:
        while not self.closing and self.failure is None:
            if self._next is None:
                await self._changed.park()
            elif not self.opened.is_set():
                await self._open()  # nothing was, since the question before was given up at once
            else:
                self._turn, self._next = self._next, None
                return self._turn
        return None

    async def _answer(self, turn: Turn) -> None:
        again = True
        while again:
            complete = await turn.run(self.debt, self._line)
            await self.debt.record()
            if not complete and not self.closing:
                await self._stop()
            again = turn.pause is not None and await self._line.pause(turn.pause)
        turn.ended.set()
        self._turn = None

    async def _stop(self, *, at_the_end: bool = False) -> None:
        """Tell the server to stop generating; bounded, and no failure of it is the user's.

        The end of the session breaks it off, since the cleanup begins by saying the same.
        """
        self._stopping = True
        interruptible = nullcontext() if at_the_end else self._line.busy()
        with trio.CancelScope(relative_deadline=self.client.cleanup_timeout), interruptible:
            try:
                flow = self.provider.stop(self.debt.conversation)
                remember = self.debt.remember
                remember(await _flow.carry_out(flow, Conversation, self._line.send_cleanup, remember))
            except TrioprovError as exc:
                cleaned(exc, self.provider, self.debt.conversation)
                log.info("%s: the server was not told to stop: %s", self.provider.name, exc)
            except Exception:  # a bug in a provider: the conversation is deleted all the same
                log.exception("%s: telling the server to stop crashed", self.provider.name)
        self._stopping = False
