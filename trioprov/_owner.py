"""The owner: the one task in which a conversation is created, spoken on, stopped and deleted.

Rule 1: everything that a conversation's server hears is said here, one thing at a time, shielded from the caller.
Rule 2: everybody else changes state, synchronously, and pokes: `close`, `submit`, the end of a transcript. What that
means for the request under way is decided in one place, `_interrupt`.

A cancellation of the nursery the owner lives in is one more such change: `_supervise`, which is not shielded, hears it
and calls `close`. So there is no checkpoint at which a cancellation could part a create from its DELETE.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import logging
import math
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import trio

from . import _flow
from ._cleanup import settle
from ._client import Client, Tenant
from ._conversation import Conversation
from ._errors import ConversationLost, IncompleteReply, ProviderError, TrioprovError, another
from ._events import Event, Finish
from ._outcomes import FAILED, CleanupReport
from ._reply import Transcript
from ._transport import Exchange
from .providers import Provider, Request, Response, Steps, Stream

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


class _Unwanted(Exception):
    """Nobody wants what the owner was about to do."""


class Owner(Tenant):
    """Owns one conversation and the debt that it is.

    Args:
        provider: what to say.
        client: connections and budgets.
        conversation: one to continue; it is kept at the end, unless this process opened it or ``mine`` says otherwise.
        mine: delete it at the end in any case.
        gate: held while the owner opens and answers its first turn, to limit how many do so at once.
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
        self.provider = provider
        self.client = client
        self.conversation = conversation or provider.new_conversation()
        self.kept = not mine and self.conversation.id is not None and self.conversation.get("opened_by") != process()
        self.opened = trio.Event()
        self.done = trio.Event()
        self.failure: Exception | None = None
        self.report: CleanupReport | None = None
        self.on_open: Callable[[], None] | None = None
        self._gate = gate
        self._turn: Turn | None = None
        self._next: Turn | None = None
        self._closed_at = math.inf
        self._settling_until = -math.inf
        self._shield = trio.CancelScope(shield=True)
        self._changed = trio.lowlevel.ParkingLot()
        # The request under way, for `_interrupt`.
        self._io: trio.CancelScope | None = None
        self._exchange = Exchange()
        self._creating = False
        self._must_answer = False
        self._stopping = False
        self._draining = False
        # Whether a create may have happened whose id is not known.
        self._uncertain = False

    def __repr__(self) -> str:
        return f"session with {self.provider.name}"

    # -- What others may do: change state, and poke ------------------------------------------------------------------

    @property
    def closing(self) -> bool:
        """Whether the end has begun."""
        return self._closed_at < math.inf

    def close(self) -> None:
        """Begin to end: whatever is under way is broken off as soon as that loses nothing."""
        if not self.closing:
            self._closed_at = trio.current_time()
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
            turn.transcript.waits_for_old_answer = self._draining
            self._next = turn
            self._poke()

    def never(self) -> None:
        """It will not be run: nothing was sent and nothing is owed."""
        self._closed_at = trio.current_time()
        self.report = CleanupReport(outcome="nothing_owed")
        self.opened.set()
        self.done.set()

    def patience(self) -> float:
        """Until when, on trio's clock, it is worth waiting for the end; the owner may still go on after that."""
        return max(self._closed_at + self.client.cleanup_timeout, self._settling_until)

    def forecast(self) -> CleanupReport:
        """What the report would be if the owner gave up now."""
        if self.report is not None:
            return self.report
        if self.conversation.id is None and not (self._uncertain or (self._creating and self._exchange.sent)):
            return CleanupReport(outcome="nothing_owed")
        error = TrioprovError("the cleanup was not confirmed in time; it goes on for a while in the background")
        if self.conversation.id is None and not self._recoverable():
            return self._dated(CleanupReport(outcome="lost", error=error))
        return CleanupReport(outcome="owed", error=error)

    def _recoverable(self) -> bool:
        """Whether the service has a way to delete what a create made whose answer was lost."""
        steps = self.provider.recover(self.conversation)
        try:
            next(steps)
        except StopIteration:
            return False
        steps.close()
        return True

    def _dated(self, report: CleanupReport) -> CleanupReport:
        """With the time at which the service itself deletes what is lost, if it does."""
        seconds = self.provider.expires_after
        if report.outcome != "lost" or seconds is None:
            return report
        expires_at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
        return dataclasses.replace(report, expires_at=expires_at)

    def _poke(self) -> None:
        self._interrupt()
        self._changed.unpark_all()

    @property
    def _unwanted(self) -> bool:
        """Whether what the owner is doing has lost its purpose."""
        return self.closing or (self._turn is not None and self._turn.transcript.finish is not None)

    def _interrupt(self) -> None:
        """Break off the request under way, if nobody wants it and nothing is lost by it."""
        if self._io is None or not self._unwanted or (self._stopping and not self.closing):
            return
        if self._exchange.sent and self._creating:
            # Its answer is the only way to learn what to delete.
            self._limit_io(trio.current_time() + self.client.create_timeout)
        elif self._draining or (self._must_answer and self._exchange.sent):
            # The service works on it and cannot stop, nor be deleted from under its worker: go on, for a while.
            if self.closing:
                self._limit_io(self._closed_at + self.client.cleanup_timeout / 2)
        else:
            self._io.cancel()

    def _limit_io(self, deadline: float) -> None:
        assert self._io is not None
        self._io.deadline = min(self._io.deadline, deadline)

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
                with trio.CancelScope() as self._io:
                    self._interrupt()
                    await self._gate.acquire_on_behalf_of(self)
                self._io = None
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
        await self._settle()

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
        if self.report is None:
            self.report = self.forecast()
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
        if self.conversation.get("opened_by") is None:
            provider = self.provider
            self.conversation = self.conversation.replace(
                identity={**provider.mint(_new_id), **self.conversation.identity},
                credential=provider.credential(),
                opened_by=process(),
            )
            try:
                self.conversation = await self._carry_out(provider.open(self.conversation, _new_id))
                self._uncertain = False
            except _Unwanted:
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
        transcript = turn.transcript
        finished = False
        try:
            transcript.waits_for_old_answer = bool(self.provider.drains and self.conversation.get("pending"))
            flow = self.provider.ask(self.conversation, turn.messages, turn.options, _new_id)
            stream = await self._carry_out(flow)
            transcript.waits_for_old_answer = False
            finished = await self._stream(stream, turn)
        except _Unwanted:
            pass
        except Exception as exc:
            transcript.fail(self._cleaned(exc))
        if not finished and not self.closing:
            await self._stop()
        transcript.stop()
        turn.ended.set()
        self._turn = None

    async def _stream(self, stream: Stream, turn: Turn) -> bool:
        """Pump the stream into the turn's transcript; true when the service said that it was complete."""
        decoder, transcript, before = stream.decoder, turn.transcript, self.conversation
        if not self.provider.drains:
            self._check_wanted()

        async def receive(data: bytes) -> bool:
            events = decoder.receive_data(data)
            self.conversation = decoder.conversation
            if self._creating and self.conversation.id is not None:
                self._creating = self._uncertain = False
                self._interrupt()
            if decoder.finished:
                self._clean(events[-1:])
            await transcript.write(events, decoder.server_text)
            if decoder.finished:
                self._draining = False
                turn.ended.set()
                self._interrupt()
                self._limit_io(trio.current_time() + _LINGER)
            return True

        refused: Response | None = None
        failure: TrioprovError | None = None
        self._creating, self._exchange = stream.request.creates, Exchange()
        self._draining = self.provider.drains
        with trio.CancelScope() as self._io:
            self._interrupt()
            self.conversation = decoder.conversation
            try:
                refused = await self.client.transport.stream(self.provider, stream.request, self._exchange, receive)
            except TrioprovError as exc:
                failure = exc
        interrupted = self._io.cancelled_caught
        self._io, self._draining = None, False
        if not self._exchange.sent or refused is not None:
            self.conversation = before
        self._created(stream.request, refused)
        if refused is not None:
            raise self.provider.refusal(refused)
        if interrupted or decoder.finished:
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
        self.conversation = decoder.conversation
        self._clean(events)
        await turn.transcript.write(events, decoder.server_text)

    async def _stop(self) -> None:
        """Tell the server to stop generating; bounded, and no failure of it is the user's.

        The end of the session breaks it off, since the cleanup begins by saying the same.
        """
        self._stopping = True
        with trio.CancelScope(relative_deadline=self.client.cleanup_timeout) as self._io:
            try:
                flow = self.provider.stop(self.conversation)
                self.conversation = await _flow.carry_out(flow, self._send_cleanup, self._remember)
            except TrioprovError as exc:
                log.info("%s: the server was not told to stop: %s", self.provider.name, self._cleaned(exc))
        self._stopping, self._io = False, None

    # -- Requests ----------------------------------------------------------------------------------------------------

    async def _carry_out(self, steps: Steps[T]) -> T:
        self._check_wanted()
        with trio.CancelScope() as self._io:
            self._interrupt()
            try:
                return await _flow.carry_out(steps, self._send, self._remember)
            finally:
                self._io = None
        raise _Unwanted

    def _remember(self, conversation: Conversation) -> None:
        self.conversation = conversation

    def _check_wanted(self) -> None:
        if self._unwanted:
            raise _Unwanted

    async def _send(self, request: Request) -> Response:
        self._check_wanted()
        self._creating, self._must_answer, self._exchange = request.creates, request.must_answer, Exchange()
        try:
            response = await self.client.transport.send(self.provider, request, self._exchange)
        except BaseException:
            self._created(request, None)
            raise
        self._created(request, response)
        return response

    async def _send_cleanup(self, request: Request) -> Response:
        async with self.client.transport.cleanup_slot(self.provider):
            return await self.client.transport.send_cleanup(self.provider, request)

    def _created(self, request: Request, response: Response | None) -> None:
        """Note what the end of a create leaves open: a 4xx created nothing, and what was never sent neither."""
        self._creating = self._must_answer = False
        if request.creates and self.conversation.id is None:
            refused = response is not None and 300 <= response.status < 500
            self._uncertain = self._exchange.sent and not refused

    # -- The end -----------------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        conversation, provider, budget = self.conversation, self.provider, self.client.cleanup_timeout
        if self.kept:
            await self._stop()
            self.report = CleanupReport(outcome="kept" if conversation.id is not None else "nothing_owed")
            return
        flow: Callable[[Conversation], Steps[Any]]
        if conversation.id is not None:
            flow = provider.close
        elif self._uncertain:
            flow = provider.recover
        else:
            self.report = CleanupReport(outcome="nothing_owed")
            return

        begun = trio.current_time()

        def deadline() -> float:
            # Waiting for a connection does not count, and a create that came back late leaves half of the budget.
            waited = trio.current_time() - begun
            self._settling_until = max(self._closed_at + budget, begun + budget / 2) + waited
            return self._settling_until

        self._settling_until = math.inf  # whoever waits, waits for the connection too
        report = await settle(
            provider, conversation, flow, transport=self.client.transport, deadline=deadline, budget=budget
        )
        if report.error is not None:
            self._cleaned(report.error)
        self.report = report = self._dated(report)
        level = logging.WARNING if report.outcome in FAILED else logging.DEBUG
        log.log(level, "%s: conversation %s: %s (%s)", provider.name, conversation.id, report.outcome, report.error)

    def _clean(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Finish) and event.error is not None:
                self._cleaned(event.error)

    def _cleaned(self, exc: Exception) -> Exception:
        """The error without any credential that a server may have echoed into it."""
        if isinstance(exc, ProviderError):
            for secret in self.provider.secrets(self.conversation):
                exc.message = exc.message.replace(secret, "***")
            exc.args = (exc.message,)
        return exc


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
