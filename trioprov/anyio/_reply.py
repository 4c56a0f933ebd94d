"""The reading of a reply, in an anyio application."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Generic, Literal, Self, TypeVar

import anyio
import trio
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from anyio.lowlevel import checkpoint
from anyio.streams.memory import MemoryObjectStreamStatistics

import trioprov as core

from .._errors import another
from .._events import Event, Finish, Token
from .._reply import check_buffer
from .._transcript import Answer, Transcript
from ..providers import Provider
from ._errors import MISUSE, translated
from ._world import Channel, World

if TYPE_CHECKING:
    from ._lanes import Lane
    from ._session import Session

T_co = TypeVar("T_co", covariant=True)


class Subscription(ObjectReceiveStream[T_co], Generic[T_co]):
    """One consumer's stream.

    Several tasks may receive from it; each item goes to one of them, as with anyio's own streams. One that nobody
    refers to any more closes itself.
    """

    def __init__(self, channel: Channel[T_co], keep_alive: object) -> None:
        self._channel = channel
        self._keep_alive = keep_alive

    async def receive(self) -> T_co:
        """The next event; a checkpoint when it waits, and at least at every 64th event.

        Raises:
            anyio.EndOfStream: the last event was received.
            anyio.ClosedResourceError: this subscription was closed.
        """
        try:
            return await self._channel.receive()
        except MISUSE as exc:
            raise translated(exc) from None

    async def __anext__(self) -> T_co:
        try:
            return await self._channel.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        except MISUSE as exc:
            raise translated(exc) from None

    def receive_nowait(self) -> T_co:
        """The next event, if it is there.

        Raises:
            anyio.WouldBlock: it is not.
            anyio.EndOfStream: the last event was received.
            anyio.ClosedResourceError: this subscription was closed.
        """
        try:
            return self._channel.receive_nowait()
        except MISUSE as exc:
            raise translated(exc) from None

    def close(self) -> None:
        """Stop receiving: idempotent, and disturbs nobody else."""
        self._channel.close()

    async def aclose(self) -> None:
        """`close`, then a checkpoint."""
        self.close()
        await checkpoint()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def statistics(self) -> MemoryObjectStreamStatistics:
        """How full the buffer is, and who waits; there is always one sender, until the reply has ended."""
        now = self._channel.statistics()
        return MemoryObjectStreamStatistics(
            current_buffer_used=now.current_buffer_used,
            max_buffer_size=now.max_buffer_size,
            open_send_streams=now.open_send_channels,
            open_receive_streams=now.open_receive_channels,
            tasks_waiting_send=now.tasks_waiting_send,
            tasks_waiting_receive=now.tasks_waiting_receive,
        )


class Reply:
    """One answer as it arrives: an async iterable of tokens, with as many readers as you like.

    Each ``async for`` starts at the first token, skips what is not a token, raises the reply's failure at its end, and
    ends normally after `stop`. It never holds the stream back.

    Attributes:
        provider: who answers.
        session: the session it belongs to.
        lanes: what each provider of a race did, the winner among them; empty without a race.
    """

    def __init__(self, world: World, session: Session, reply: core.Reply) -> None:
        self.provider: Provider = reply.provider
        self.session = session
        self.lanes: tuple[Lane, ...] = ()
        self._world = world
        self._core = reply
        self._transcript: Transcript = reply._transcript  # pyright: ignore[reportPrivateUsage] - the same house

    def subscribe(
        self,
        *,
        buffer: float = 256,
        when_full: Literal["wait", "drop_oldest", "detach"] = "wait",
        replay: bool = True,
    ) -> Subscription[Event]:
        """A stream of its own for one more consumer, which gets every event in order; not a checkpoint.

        Args:
            buffer: how many events that arrived after this call may be unread; replayed ones never count.
            when_full: ``wait``: this consumer holds the stream back, down to the socket. ``drop_oldest``: it gets
                `Lagged` where events are missing. ``detach``: it is closed, with `Lagged` as its last event.
            replay: begin with the first event; else with the next one (after the end: with the `Finish`).

        Raises:
            TypeError: a buffer that is no whole number.
            ValueError: a buffer below 0 or an unknown policy.
        """
        check_buffer(buffer, when_full)
        log = self._transcript.log
        cursor = log.subscribe(buffer=buffer, when_full=when_full, replay=replay)
        return Subscription(self._world.follow(log, cursor), self)

    async def forward(self, send_stream: ObjectSendStream[Event]) -> None:
        """Feed every event from the first into an ordinary stream, then close it.

        Clone the stream's receiving end to share the tokens among workers. It holds the stream back as a subscriber
        with a buffer of 256 does. Ends quietly when nobody receives any more. When cancelled, the stream is closed.
        """
        async with send_stream:
            with self.subscribe() as events:
                async for event in events:
                    try:
                        await send_stream.send(event)
                    except anyio.BrokenResourceError:
                        break

    @property
    def text(self) -> str:
        """The text so far, also after a failure or a stop."""
        return self._core.text

    @property
    def finish(self) -> Finish | None:
        """How it ended; `None` while it has not."""
        return self._core.finish

    async def wait(self) -> Answer:
        """The whole answer; after `stop` the answer so far, with the reason ``interrupted``. A checkpoint.

        It reads nothing, so it holds nothing back. Cancelling it leaves the reply as it is.

        Raises:
            TrioprovError: the reply's failure, with the text so far in ``partial``; a copy for each that waits.
        """
        await self._world.ended(self._transcript)
        if self.finish is not None and self.finish.error is not None:
            raise another(self.finish.error)
        return self._transcript.answer(self.provider, self.session.conversation, self.session.cleanup)

    def stop(self) -> None:
        """Stop generating and keep the conversation; sync, idempotent, from any task.

        On asyncio the reply ends as soon as the thread hears of it.
        """
        self._world.soon(self._core.stop)

    def __aiter__(self) -> _Tokens:
        return _Tokens(self, self._world)

    def __repr__(self) -> str:
        return repr(self._core)


class _Tokens:
    """One ``async for`` over a reply."""

    def __init__(self, reply: Reply, world: World) -> None:
        self._reply = reply  # keeps the session alive
        log = reply._transcript.log  # pyright: ignore[reportPrivateUsage] - the same room
        self._channel = world.follow(log, log.subscribe(buffer=math.inf, when_full=None, replay=True))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Token:
        while True:
            try:
                event = await self._channel.receive()
            except trio.EndOfChannel:
                raise StopAsyncIteration from None
            except MISUSE as exc:
                raise translated(exc) from None
            if isinstance(event, str):
                return event
            if isinstance(event, Finish) and event.error is not None:
                raise another(event.error)
