"""The owner: the one task in which a conversation is created, spoken on, stopped and deleted.

Rule 1: everything that a conversation's server hears is said here, one thing at a time, shielded from the caller.
Rule 2: everybody else changes state, synchronously, and pokes: `close`, `submit`, the end of a transcript. What that
means for the request under way is decided in one place, `Line.break_off`.

A cancellation of the nursery the owner lives in is one more such change: `_supervise`, which is not shielded, hears it
and calls `close`. So there is no checkpoint at which a cancellation could part a create from its DELETE.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import trio

from . import _flow
from ._cleanup import Debt, cleaned
from ._client import Client, Tenant
from ._conversation import Conversation
from ._errors import ConversationLost, IncompleteReply, TrioprovError, another
from ._events import Event, Finish
from ._line import Line, Unwanted
from ._outcomes import CleanupReport
from ._reply import Transcript
from .providers import Provider, Response, Steps, Stream

T = TypeVar("T")

log = logging.getLogger("trioprov")

# How long a finished stream is read on, in the background, for the end of its body: then its connection can be reused.
_LINGER = 0.25


class Turn:
    """One question and where its answer goes."""

    def __init__(self, transcript: Transcript, messages: Sequence[Any], options: Mapping[str, Any]) -> None:
        self.transcript = transcript
        self.messages = messages
        self.options = options
        self.ended = trio.Event()
        """Set when the server has been told all there is to tell about this turn."""


class Owner(Tenant):
    """Owns one conversation and the debt that it is.

    Args:
        provider: what to say.
        client: connections and budgets.
        conversation: one to continue; it is kept at the end, unless this process opened it or ``mine`` says otherwise.
        mine: delete it at the end in any case.
        gate: held while the owner opens and answers its first turn, to limit how many do so at once.

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
        gate: trio.CapacityLimiter | None = None,
    ) -> None:
        conversation = conversation or provider.new_conversation()
        theirs = conversation.id is not None and conversation.get("opened_by") != process()
        self.provider = provider
        self.client = client
        self.debt = Debt(provider, conversation, kept=theirs and not mine)
        self.opened = trio.Event()
        self.done = trio.Event()
        self.failure: Exception | None = None
        self.on_open: Callable[[], None] | None = None
        self._line = Line(client, self.debt, lambda: self._unwanted)
        self._gate = gate
        self._turn: Turn | None = None
        self._next: Turn | None = None
        self._ended_at = math.inf
        self._stopping = False
        self._shield = trio.CancelScope(shield=True)
        self._changed = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"session with {self.provider.name}"

    # -- What others may do: change state, and poke ------------------------------------------------------------------

    @property
    def closing(self) -> bool:
        """Whether the end has begun."""
        return self._ended_at < math.inf

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
        self.close()
        self._shield.cancel(reason="the client's shutdown_timeout has passed")

    def submit(self, turn: Turn) -> None:
        """Ask; the owner begins when it has finished with the turn before."""
        turn.transcript.changed = self._poke
        if self.closing or self.failure is not None:
            self._refuse(turn)
        else:
            turn.transcript.waits_for_old_answer = self._line.draining
            self._next = turn
            self._poke()

    def never(self) -> None:
        """It will not be run: nothing was sent and nothing is owed."""
        self._ended_at = trio.current_time()
        self.debt.report = CleanupReport(outcome="nothing_owed")
        self.opened.set()
        self.done.set()

    def patience(self) -> float:
        """Until when, on trio's clock, it is worth waiting for the end; the owner may still go on after that."""
        return max(self._ended_at + self.client.cleanup_timeout, self.debt.until)

    def forecast(self) -> CleanupReport:
        """The report; or what it would be if the owner gave up now."""
        self._line.doubt()
        return self.debt.forecast()

    def _poke(self) -> None:
        self._line.break_off()
        self._changed.unpark_all()

    @property
    def _unwanted(self) -> bool:
        """Whether what the owner is doing has lost its purpose."""
        if self._stopping:
            return self.closing  # the cleanup begins by saying the same
        return self.closing or (self._turn is not None and self._turn.transcript.finish is not None)

    # -- The task ----------------------------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Live, from the create to the confirmed DELETE. Lets out nothing but a cancellation of its surroundings."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._supervise)
            with self._shield:
                await self._live()
            self._end()
            nursery.cancel_scope.cancel()

    @trio.lowlevel.enable_ki_protection
    async def _supervise(self) -> None:
        """Hear cancellations, and watch the clock of whichever turn is open."""
        try:
            while True:
                turn = self._next or self._turn
                due = math.inf
                if turn is not None and turn.transcript.finish is None:
                    due, kind = turn.transcript.due()
                    if due <= trio.current_time():
                        turn.transcript.fail(_late(turn.transcript, kind))
                        continue
                with trio.CancelScope(deadline=due):
                    await self._changed.park()
        finally:
            self.close()

    async def _live(self) -> None:
        try:
            if self._gate is None:
                await self._begin()
            else:
                with self._line.busy():
                    await self._gate.acquire_on_behalf_of(self)
                try:
                    await self._begin()
                finally:
                    if self in self._gate.statistics().borrowers:
                        self._gate.release_on_behalf_of(self)
            while (turn := await self._next_turn()) is not None:
                await self._answer(turn)
        except Exception as exc:
            log.exception("%s: a session crashed; this is a bug in trioprov", self.provider.name)
            self.failure = self.failure or exc
        self.close()
        self.opened.set()
        if self.debt.kept:
            await self._stop(at_the_end=True)
        await self.debt.settle(self.client.transport, self.client.cleanup_timeout, self._ended_at)

    async def _begin(self) -> None:
        """Open, and answer the first turn if it is waiting already."""
        if self._next is not None and self._next.transcript.finish is None:
            self._next.transcript.begin()
        await self._open()
        if self._next is not None:
            turn = await self._next_turn()
            if turn is not None:
                await self._answer(turn)

    def _end(self) -> None:
        self.debt.report = self.forecast()
        for turn in (self._turn, self._next):
            if turn is not None:
                self._refuse(turn)
        self.opened.set()
        self.done.set()

    def _refuse(self, turn: Turn) -> None:
        if self.failure is not None:
            turn.transcript.fail(another(self.failure))
        turn.transcript.stop()
        turn.ended.set()

    async def _open(self) -> None:
        provider, conversation = self.provider, self.debt.conversation
        if conversation.get("opened_by") is None:
            conversation = conversation.replace(
                identity={**provider.mint(_new_id), **conversation.identity},
                credential=provider.credential(),
                opened_by=process(),
            )
            self.debt.remember(conversation)
            try:
                self.debt.remember(await self._carry_out(provider.open(conversation, _new_id)))
            except Unwanted:
                return
            except Exception as exc:
                self.failure = self._cleaned(exc)
                return
        self.opened.set()
        if self.on_open is not None:
            on_open, self.on_open = self.on_open, None
            on_open()

    async def _next_turn(self) -> Turn | None:
        while not self.closing and self.failure is None:
            if self._next is not None:
                self._turn, self._next = self._next, None
                return self._turn
            await self._changed.park()
        return None

    # -- One turn ----------------------------------------------------------------------------------------------------

    async def _answer(self, turn: Turn) -> None:
        transcript, conversation = turn.transcript, self.debt.conversation
        complete = False
        try:
            transcript.waits_for_old_answer = self.provider.drains and bool(conversation.get("pending"))
            stream = await self._carry_out(self.provider.ask(conversation, turn.messages, turn.options, _new_id))
            transcript.waits_for_old_answer = False
            complete = await self._stream(stream, turn)
        except Unwanted:
            pass
        except Exception as exc:
            transcript.fail(self._cleaned(exc))
        if not complete and not self.closing:
            await self._stop()
        transcript.stop()
        turn.ended.set()
        self._turn = None

    async def _stream(self, stream: Stream, turn: Turn) -> bool:
        """Pump the stream into the turn's transcript; true when the service said that it was complete."""
        decoder, transcript, line = stream.decoder, turn.transcript, self._line
        if self._unwanted and not self.provider.drains:
            raise Unwanted

        async def receive(data: bytes) -> bool:
            events = decoder.receive_data(data)
            known = self.debt.conversation.id is not None
            self.debt.remember(decoder.conversation)
            if not known:
                line.break_off()  # what is unwanted had to go on until the id was known
            if decoder.finished:
                self._clean(events[-1])
            await transcript.write(events, decoder.server_text)
            if decoder.finished:
                line.draining = False
                turn.ended.set()
                line.break_off()
                line.limit(trio.current_time() + _LINGER)
            return True

        refused: Response | None = None
        failure: TrioprovError | None = None
        line.draining = self.provider.drains
        with line.busy() as scope:
            try:
                refused = await line.stream(stream, receive)
            except TrioprovError as exc:
                failure = exc
        line.draining = False
        if refused is not None:
            raise self.provider.refusal(refused)
        if decoder.finished or scope.cancelled_caught:
            return decoder.finished
        await self._end_of_stream(stream, turn, failure)
        return decoder.finished and failure is None

    async def _end_of_stream(self, stream: Stream, turn: Turn, failure: TrioprovError | None) -> None:
        """The body ended, or broke, without the protocol's end marker."""
        decoder = stream.decoder
        if failure is None:
            events = await self._carry_out(self.provider.after_stream(decoder))
        else:
            # What the service had said of its own failure is the better reason.
            events = decoder.receive_eof()
            last = events[-1]
            if isinstance(last, Finish) and isinstance(last.error, IncompleteReply):
                events[-1] = Finish("error", failure)
        self.debt.remember(decoder.conversation)
        self._clean(events[-1])
        await turn.transcript.write(events, decoder.server_text)

    async def _stop(self, *, at_the_end: bool = False) -> None:
        """Tell the server to stop generating; bounded, and no failure of it is the user's.

        The end of the session breaks it off, since the cleanup begins by saying the same.
        """
        self._stopping = True
        interruptible = nullcontext() if at_the_end else self._line.busy()
        with trio.CancelScope(relative_deadline=self.client.cleanup_timeout), interruptible:
            try:
                flow = self.provider.stop(self.debt.conversation)
                self.debt.remember(await _flow.carry_out(flow, self._line.send_cleanup, self.debt.remember))
            except TrioprovError as exc:
                log.info("%s: the server was not told to stop: %s", self.provider.name, self._cleaned(exc))
        self._stopping = False

    async def _carry_out(self, steps: Steps[T]) -> T:
        """A flow of the provider's.

        Raises:
            Unwanted: nobody wants its result any more.
        """
        with self._line.busy():
            return await _flow.carry_out(steps, self._line.send, self.debt.remember)
        raise Unwanted

    def _clean(self, event: Event) -> None:
        if isinstance(event, Finish) and event.error is not None:
            self._cleaned(event.error)

    def _cleaned(self, exc: Exception) -> Exception:
        return cleaned(exc, self.provider, self.debt.conversation)


def _late(transcript: Transcript, kind: type[Any]) -> Exception:
    if transcript.waits_for_old_answer:
        return ConversationLost("the service still works on the previous answer, and cannot be asked before it ends")
    limits = transcript.deadlines
    words = {
        "FirstTokenTimeout": f"no content within {limits.first_token} s",
        "IdleTimeout": f"no further content for {limits.idle} s",
        "TotalTimeout": f"not complete within {limits.total} s",
    }
    return kind(words[kind.__name__])


def _new_id() -> str:
    return str(uuid.uuid4())


@functools.cache
def _process(pid: int) -> str:
    return f"{pid}-{uuid.uuid4().hex}"


def process() -> str:
    """A name for this process that no other has, not even one with the same pid after it."""
    return _process(os.getpid())
