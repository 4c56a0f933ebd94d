"""A session for one question: alone, or as one lane of many."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import trio

from ._broadcast import Broadcast
from ._client import ENTERED_BEFORE, Client, Gate, private_client
from ._events import Event
from ._exits import waits
from ._outcomes import CleanupReport
from ._owner import Owner
from ._reply import Reply
from ._session import Session
from ._transcript import Answer, Deadlines, Transcript, checked_deadlines
from ._turn import Turn
from .providers import Message, Messages, Provider, checked_messages, checked_provider

if TYPE_CHECKING:
    from types import TracebackType


class Lane:
    """One provider's part in a fan-out or a race.

    Attributes:
        index: its place in the list of providers.
        provider: who answers.
        reply: its answer, there from the start.
    """

    def __init__(
        self,
        index: int,
        provider: Provider,
        client: Client,
        deadlines: Deadlines | None,
        messages: Sequence[Message],
        options: Mapping[str, Any] | Exception,
        *,
        log: Broadcast[Event] | None = None,
        gate: Gate | None = None,
    ) -> None:
        self.index = index
        self.provider = provider
        self._owner = Owner(provider, client, gate=gate, one_turn=True)
        self._transcript = Transcript(checked_deadlines(deadlines), client.max_reply_bytes, log)
        # What one provider refuses is that lane's error, so it stands where an answer would.
        self._refused = options if isinstance(options, Exception) else None
        self._rejected: Exception | None = None
        self._started = False
        self._turn = Turn(self._transcript, messages, {} if isinstance(options, Exception) else options)
        self.reply: Reply = Reply(provider, Session(self._owner, self._transcript), self._transcript)

    @property
    def error(self) -> Exception | None:
        """Why this lane failed, if it did: its reply's failure, or that its answer is not what the race asked for."""
        ended = self._transcript.finish.error if self._transcript.finish else None
        return ended or self._rejected

    @property
    def tokens(self) -> int:
        """How many tokens have arrived."""
        return sum(isinstance(event, str) for event in self._transcript.log.items)

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds from the lane's start to its first token, if there was one."""
        first = self._transcript.first_token_at
        return None if first is None else first - self._transcript.asked_at

    @property
    def duration(self) -> float | None:
        """Seconds from the lane's start to the end of its reply, or until now; `None` if it was not started."""
        if not self._started:
            return None
        ended = self._transcript.ended_at
        return (trio.current_time() if ended is None else ended) - self._transcript.asked_at

    @property
    def cleanup(self) -> CleanupReport | None:
        """What became of its conversation, once that is known."""
        return self.reply.session.cleanup

    def close(self) -> None:
        """Leave this lane alone: its reply ends ``interrupted``, its conversation is deleted. Sync, idempotent."""
        self._owner.close()

    def start(self) -> None:
        """Let it run, in a root task of the client.

        Raises:
            trio.ClosedResourceError: the client is closed.
            RuntimeError: it was started before, or will never be.
        """
        if self._started or self._owner.done.is_set():
            raise RuntimeError(ENTERED_BEFORE)
        if self._refused is not None:
            self._transcript.fail(self._refused)
        if self._transcript.finish is not None:
            self._owner.never()
        else:
            self._owner.submit(self._turn)
            self._owner.client.host(self._owner)
            self._started = True

    def skip(self) -> None:
        """It will not be started, unless it was."""
        if not self._started:
            self._transcript.stop()
            self._owner.never()

    def reject(self, error: Exception | None) -> None:
        """Its reply ended well, but is not what was asked for; `None`: it is, after all."""
        self._rejected = error

    async def aclose(self) -> None:
        """`close`, then wait for the cleanup, shielded and bounded by the client's budgets."""
        await self._owner.aclose()

    def waits(self, exc: BaseException | None) -> bool:
        """Whether leaving the block that the lane belongs to waits for its cleanup."""
        return waits(self._owner, exc)

    async def wait(self) -> Answer:
        """The lane's answer, with its error as a value."""
        await self._transcript.finished.wait()
        return self._transcript.answer(self.provider, self._owner.debt.conversation, self.cleanup)

    def stopper(self) -> Callable[[], None]:
        """Ends the reply as ``interrupted``, if it has not ended; does not keep the lane alive."""
        return self._transcript.stop

    def __repr__(self) -> str:
        return f"<Lane {self.index}: {self.reply!r}>"


def new_lanes(
    messages: Messages,
    providers: Iterable[Provider],
    client: Client,
    deadlines: Deadlines | None,
    parameters: Mapping[str, Any],
    log: Callable[[int], Broadcast[Event]],
    gate: Gate | None = None,
) -> tuple[Lane, ...]:
    """A lane for each provider; what only one of them refuses is its lane's error.

    Raises:
        TypeError, ValueError: messages that nobody can send, or what is no provider.
    """
    checked = checked_messages(messages)
    lanes: list[Lane] = []
    for index, provider in enumerate(providers):
        checked_provider(provider)
        options: Mapping[str, Any] | Exception
        try:
            provider.prompt(provider.new_conversation(), checked)
            options = provider.options(parameters)
        except Exception as exc:  # a TypeError or ValueError, or a bug in a provider, which is no other's either
            options = exc
        lanes.append(Lane(index, provider, client, deadlines, checked, options, log=log(index), gate=gate))
    return tuple(lanes)


async def ask(
    messages: Messages,
    provider: Provider,
    *,
    client: Client | None = None,
    deadlines: Deadlines | None = None,
    **parameters: Any,
) -> Answer:
    """One question, one answer, and the conversation is gone. A checkpoint; cancelling it cleans up.

    The clock of ``deadlines`` starts here, so it also covers creating the conversation. What became of the cleanup is
    in ``Answer.cleanup``; an answer is never lost to a cleanup that failed.

    Raises:
        TrioprovError: the service's failure, with the text so far in ``partial``.
        TypeError, ValueError: messages or parameters that cannot be sent.
    """
    async with open_reply(messages, provider, client=client, deadlines=deadlines, **parameters) as reply:
        answer = await reply.wait()
    session = reply.session
    return dataclasses.replace(answer, conversation=session.conversation, cleanup=session.cleanup)


class _OpenReply(AbstractAsyncContextManager[Reply, None]):
    """``async with open_reply(…)``."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    async def __aenter__(self) -> Reply:
        await trio.lowlevel.checkpoint()
        self._lane.start()
        return self._lane.reply

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lane.close()
        if self._lane.waits(exc):
            await self._lane.aclose()


def open_reply(
    messages: Messages,
    provider: Provider,
    *,
    client: Client | None = None,
    deadlines: Deadlines | None = None,
    **parameters: Any,
) -> AbstractAsyncContextManager[Reply, None]:
    """A session for one question: ``async with open_reply("…", H2o()) as reply``.

    Enters without waiting for the service, whose failures come through the reply. Leaving deletes the conversation and
    waits for that, shielded and bounded; by a cancellation with a ``client`` it does not wait. A failed cleanup is
    logged and in ``reply.session.cleanup``, never raised.

    Raises:
        TypeError, ValueError: messages or parameters that cannot be sent.
    """
    checked = checked_messages(messages)
    checked_provider(provider).prompt(provider.new_conversation(), checked)
    options = provider.options(parameters)
    return _OpenReply(Lane(0, provider, client or private_client(), deadlines, checked, options))
