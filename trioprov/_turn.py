"""One turn of a conversation: a question, and the stream of its answer."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import trio

from ._cleanup import cleaned
from ._debt import Debt
from ._errors import ConversationLost, DeadlineExceeded, IncompleteReply, TrioprovError
from ._events import Event, Finish, Notice, Queued
from ._line import Line, Unwanted
from ._transcript import Transcript
from .providers import Message, Response, Stream

# How long a finished stream is read on, in seconds, for the end of its body, which servers send a moment after the
# last event: then its connection can be reused. A new one takes about as long, where it is encrypted and far away.
_LINGER = 0.1


class Turn:
    """One question and where its answer goes.

    Args:
        transcript: where the answer is written.
        messages: the question.
        options: generation parameters, in the service's names.

    Attributes:
        ended: set when the server has been told all there is to tell about this turn.
        pause: after a failure that is worth another try: seconds until `run` may be called again.
    """

    def __init__(self, transcript: Transcript, messages: Sequence[Message], options: Mapping[str, Any]) -> None:
        self.transcript = transcript
        self.ended: trio.Event = trio.Event()
        self.pause: float | None = None
        self._messages = messages
        self._options = options
        self._attempts = 0
        self._failure: Exception | None = None

    @property
    def over(self) -> bool:
        """Whether nobody waits for more of the answer."""
        return self.transcript.finish is not None

    async def run(self, debt: Debt, line: Line) -> bool:
        """Ask, and write down the answer; a failure becomes the end of the transcript, or sets `pause`.

        Returns:
            Whether the service said that the answer was complete; else it may have to be told to stop.
        """
        if self._attempts:
            self.ended = trio.Event()
            self.transcript.leave_queue()
        self._attempts += 1
        self.pause = None
        earlier, self._failure = self._failure, None
        complete = unsayable = False
        try:
            complete = await self._ask(debt, line)
        except Unwanted:
            pass
        except Exception as exc:
            self._failure = cleaned(exc, debt.provider, debt.conversation)
            if earlier is not None and isinstance(exc, ValueError) and not isinstance(exc, TrioprovError):
                # By now the server holds the messages, and what it has not got is nothing to ask.
                self._failure, unsayable = earlier, True
        finally:
            line.account_free()
        if self._failure is not None and not self.over:
            if self.transcript.first_token_at is None and not unsayable:
                self.pause = line.pause_before_retry(self._failure, self._attempts, self.transcript.due()[0])
            if self.pause is None:
                self.transcript.fail(self._failure)
            else:
                await self.transcript.write([Notice("retry", f"{self._failure}; again in {self.pause:.1f} s")])
        if self.pause is None:
            self.transcript.stop()
        return complete

    async def _ask(self, debt: Debt, line: Line) -> bool:
        transcript, provider, conversation = self.transcript, debt.provider, debt.conversation
        if provider.one_pending_per_account:
            with transcript.held():
                await line.wait_for_account()
        transcript.waits_for_old_answer = provider.drains and bool(conversation.get("pending"))
        stream = await line.carry_out(provider.ask(conversation, self._messages, self._options, new_id), Stream)
        transcript.waits_for_old_answer = False
        await debt.record()
        return await self._stream(stream, debt, line)

    async def _stream(self, stream: Stream, debt: Debt, line: Line) -> bool:
        """Pump the stream into the transcript; true when the service said in it that it was complete."""
        decoder, provider = stream.decoder, debt.provider

        async def receive(data: bytes) -> bool:
            before = debt.conversation
            try:
                events = decoder.receive_data(data)
            finally:
                if decoder.conversation is not before:
                    debt.remember(decoder.conversation)  # what it learnt is owed, also if it crashed after that
            if debt.conversation is not before and before.id is None:
                await debt.record()
                line.break_off()  # what is unwanted had to go on until the id was known
            if provider.one_pending_per_account and not all(isinstance(event, Queued) for event in events):
                line.account_free()
            line.lingering = decoder.finished
            await self.transcript.write(self._to_write(events, debt, line), decoder.server_text)
            if decoder.finished:
                line.draining = False
                self.ended.set()
                line.limit(trio.current_time() + _LINGER)
            return True

        refused: Response | None = None
        failure: TrioprovError | None = None
        # Where the service cannot stop, the stream is read even if nobody wants it any more.
        line.draining = provider.drains
        if self.over and line.draining:
            self.ended.set()
        with line.busy() as scope:
            try:
                refused = await line.stream(stream, receive)
            except TrioprovError as exc:
                failure = exc
        line.draining = False
        if refused is not None:
            raise provider.refusal(refused)
        if decoder.finished or scope.cancelled_caught:
            return decoder.finished
        # The body ended, or broke, without the protocol's own end.
        if failure is None:
            events = await line.carry_out(provider.after_stream(decoder), list)
        else:
            events = decoder.receive_eof()
            last = events[-1]
            # What the service had said of its own failure is the better reason.
            if isinstance(last, Finish) and isinstance(last.error, IncompleteReply):
                events[-1] = Finish("error", failure)
        if line.sent:
            debt.remember(decoder.conversation)
        await self.transcript.write(self._to_write(events, debt, line), decoder.server_text)
        return False

    def _to_write(self, events: list[Event], debt: Debt, line: Line) -> list[Event]:
        """The same, but for a failure at their end that may be worth another try."""
        if events and isinstance(last := events[-1], Finish) and last.error is not None:
            cleaned(last.error, debt.provider, debt.conversation)
            spoken = self.transcript.first_token_at is not None or any(isinstance(event, str) for event in events)
            if line.retries and not spoken:
                self._failure = last.error
                return events[:-1]
        return events


def late(transcript: Transcript, kind: type[DeadlineExceeded]) -> TrioprovError:
    """The error for a deadline that passed."""
    if transcript.waits_for_old_answer:
        return ConversationLost("the service still works on the previous answer, and cannot be asked before it ends")
    limits = transcript.deadlines
    words = {
        "FirstTokenTimeout": f"no content within {limits.first_token} s",
        "IdleTimeout": f"no further content for {limits.idle} s",
        "TotalTimeout": f"not complete within {limits.total} s",
    }
    return kind(words[kind.__name__])


def new_id() -> str:
    """A fresh random UUID."""
    return str(uuid.uuid4())
