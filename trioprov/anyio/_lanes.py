"""One prompt, one provider or many, in an anyio application."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal

import trio

import trioprov as core

from .._events import Event
from .._fanout import MERGED_BUFFER
from .._outcomes import CleanupReport
from .._transcript import Answer, Deadlines
from ..providers import Messages, Provider
from ._client import Client
from ._errors import MISUSE, translated
from ._opening import Opening, WorldFor, call
from ._reply import Reply
from ._session import Session
from ._world import World


class Lane:
    """One provider's part in a fan-out or a race.

    Attributes:
        index: its place in the list of providers.
        provider: who answers.
        reply: its answer, there from the start.
    """

    def __init__(self, world: World, lane: core.Lane) -> None:
        self.index: int = lane.index
        self.provider: Provider = lane.provider
        self.reply: Reply = _reply(world, lane.reply)
        self._world = world
        self._core = lane

    @property
    def error(self) -> Exception | None:
        """Why this lane failed, if it did."""
        return self._core.error

    @property
    def tokens(self) -> int:
        """How many tokens have arrived."""
        return self._core.tokens

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds from the lane's start to its first token, if there was one."""
        return self._core.time_to_first_token

    @property
    def duration(self) -> float | None:
        """Seconds from the lane's start to the end of its reply; `None` if it was not started, or goes on."""
        return self._core.duration if self._core.reply.finish else None

    @property
    def cleanup(self) -> CleanupReport | None:
        """What became of its conversation, once that is known."""
        return self._core.cleanup

    def close(self) -> None:
        """Leave this lane alone: its reply ends ``interrupted``, its conversation is deleted. Sync, idempotent."""
        self._world.soon(self._core.close)

    def __repr__(self) -> str:
        return repr(self._core)


class FanOut:
    """One prompt on its way to several providers; iterates ``(Lane, Event)`` as they arrive.

    Each ``async for`` starts at the first event. It holds all lanes back while it has 256 events unread; a lane's own
    subscribers hold back that lane alone. Leaving the loop leaves the lanes running.

    Attributes:
        lanes: one for each provider, in the order given.
    """

    def __init__(self, world: World, fan: core.FanOut) -> None:
        self.lanes: tuple[Lane, ...] = tuple(Lane(world, lane) for lane in fan.lanes)
        self._world = world
        self._core = fan

    async def wait(self) -> list[Answer]:
        """All answers, in the order of the lanes, errors as values. A checkpoint; it never waits for a reader.

        Raises:
            TrioprovError: with ``on_error="cancel"``: the first lane's error.
        """
        answers: list[Answer] = []
        for lane in self.lanes:
            transcript = lane.reply._transcript  # pyright: ignore[reportPrivateUsage] - the same room
            await self._world.ended(transcript)
            answers.append(transcript.answer(lane.provider, lane.reply.session.conversation, lane.cleanup))
        self._core.raise_first_error()
        return answers

    def __aiter__(self) -> AsyncIterator[tuple[Lane, Event]]:
        return _Merged(self, self._world, self._core)


class _Merged(AsyncIterator[tuple[Lane, Event]]):
    """One ``async for`` over a fan-out."""

    def __init__(self, fan: FanOut, world: World, inner: core.FanOut) -> None:
        turns = inner._merge.turns  # pyright: ignore[reportPrivateUsage] - the same house
        self._fan = fan
        self._core = inner
        self._turns = world.follow(turns, turns.subscribe(buffer=MERGED_BUFFER, when_full="wait", replay=True))
        self._logs = [lane.reply._transcript.log for lane in fan.lanes]  # pyright: ignore[reportPrivateUsage]
        self._cursors = [log.subscribe(buffer=math.inf, when_full=None, replay=True) for log in self._logs]

    async def __anext__(self) -> tuple[Lane, Event]:
        try:
            index = await self._turns.receive()
        except trio.EndOfChannel:
            self._core.raise_first_error(again=False)
            raise StopAsyncIteration from None
        except MISUSE as exc:
            raise translated(exc) from None
        return self._fan.lanes[index], self._logs[index].pick(self._cursors[index])


def _reply(world: World, reply: core.Reply) -> Reply:
    return Reply(world, Session(world, reply.session), reply)


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
        TypeError, ValueError: on entering: messages or parameters that cannot be sent.
    """
    return Opening(
        WorldFor(client),
        lambda client: core.open_reply(messages, provider, client=client, deadlines=deadlines, **parameters),
        _reply,
    )


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
    return await call(
        client, lambda client: core.ask(messages, provider, client=client, deadlines=deadlines, **parameters)
    )


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
        TypeError, ValueError: on entering: messages that nobody can send, or a wrong option.
        TrioprovError: with ``on_error="cancel"``: the first lane's error, from the loop, from ``wait`` or on leaving.
    """
    return Opening(
        WorldFor(client),
        lambda client: core.fan_out(
            messages,
            providers,
            client=client,
            deadlines=deadlines,
            max_concurrent=max_concurrent,
            on_error=on_error,
            **parameters,
        ),
        FanOut,
    )


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
    return await call(
        client,
        lambda client: core.gather(
            messages, providers, client=client, deadlines=deadlines, max_concurrent=max_concurrent, **parameters
        ),
    )
