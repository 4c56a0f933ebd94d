"""Where the core runs: in the caller's own trio, or beside the caller's loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import trio

from .._broadcast import Broadcast, Cursor
from .._broadcast import Subscription as CoreSubscription
from .._client import Client
from .._transcript import Transcript
from ._errors import MISUSE, translated

if TYPE_CHECKING:
    from types import TracebackType

T = TypeVar("T")
V_co = TypeVar("V_co", covariant=True)


class Channel(Protocol[V_co]):
    """What a subscriber reads from; it speaks of misuse in trio's words."""

    async def receive(self) -> V_co:
        """The next item, waited for."""
        ...

    def receive_nowait(self) -> V_co:
        """The next item, if it is there."""
        ...

    def close(self) -> None:
        """Stop receiving."""
        ...

    def statistics(self) -> trio.MemoryChannelStatistics:
        """How full it is, and who waits."""
        ...


class Status:
    """A task status for the core, which forgets at once whom it told: the handle must be droppable."""

    def __init__(self, started: Callable[[Any], None]) -> None:
        self._started: Callable[[Any], None] | None = started

    def started(self, value: Any = None) -> None:
        """Pass it on."""
        started, self._started = self._started, None
        if started is not None:
            started(value)


class World(ABC):
    """Where the core runs, as the handles see it. Errors come out of it in anyio's words.

    Attributes:
        client: the core's client for what is called from here; `None`: each call has its own.
    """

    client: Client | None

    @abstractmethod
    async def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Call something async in the core; cancelling the caller cancels it."""

    @abstractmethod
    async def settle(self, function: Callable[[], Awaitable[None]]) -> None:
        """The same with a call that has nothing left to do where the client is closed."""

    @abstractmethod
    async def enter(
        self, opening: Callable[[Client | None], AbstractAsyncContextManager[T]]
    ) -> tuple[AbstractAsyncContextManager[T], T]:
        """Make a context manager of the core, and enter it."""

    @abstractmethod
    async def leave(self, opened: AbstractAsyncContextManager[Any], exc: BaseException | None) -> None:
        """Leave it, as it would be left by whatever leaves the caller's block."""

    @abstractmethod
    async def started(self, run: Callable[..., Awaitable[None]], started: Callable[[Any], None]) -> None:
        """Call something async in the core that has a ``task_status``, for whose value ``started`` is called here."""

    @abstractmethod
    def soon(self, function: Callable[[], object]) -> None:
        """Have a state changed in the core."""

    @abstractmethod
    def now(self, function: Callable[[], T]) -> T:
        """The same, where the caller must know what came of it."""

    @abstractmethod
    def follow(self, log: Broadcast[T], cursor: Cursor[T]) -> Channel[T]:
        """A channel for a cursor."""

    @abstractmethod
    async def ended(self, transcript: Transcript) -> None:
        """Wait until a reply has ended."""

    @abstractmethod
    def of(self, client: Client) -> World:
        """The same place, with a client."""

    async def __aenter__(self) -> World:
        return self

    @abstractmethod
    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave it; what is owed has been settled."""


class Here(World):
    """In the caller's own trio: a call is a call."""

    def __init__(self, client: Client | None = None) -> None:
        self.client = client

    async def run(self, function: Callable[[], Awaitable[T]]) -> T:
        try:
            return await function()
        except MISUSE as exc:
            raise translated(exc) from exc

    async def settle(self, function: Callable[[], Awaitable[None]]) -> None:
        await self.run(function)

    async def enter(
        self, opening: Callable[[Client | None], AbstractAsyncContextManager[T]]
    ) -> tuple[AbstractAsyncContextManager[T], T]:
        opened = opening(self.client)
        return opened, await self.run(opened.__aenter__)

    async def leave(self, opened: AbstractAsyncContextManager[Any], exc: BaseException | None) -> None:
        await opened.__aexit__(None if exc is None else type(exc), exc, None if exc is None else exc.__traceback__)

    async def started(self, run: Callable[..., Awaitable[None]], started: Callable[[Any], None]) -> None:
        status = Status(started)
        del started
        coroutine = run(task_status=status)
        del status
        try:
            await coroutine
        except MISUSE as exc:
            raise translated(exc) from exc

    def soon(self, function: Callable[[], object]) -> None:
        function()

    def now(self, function: Callable[[], T]) -> T:
        try:
            return function()
        except MISUSE as exc:
            raise translated(exc) from exc

    def follow(self, log: Broadcast[T], cursor: Cursor[T]) -> Channel[T]:
        return CoreSubscription(log, cursor)

    async def ended(self, transcript: Transcript) -> None:
        await transcript.finished.wait()

    def of(self, client: Client) -> World:
        return Here(client)

    async def __aexit__(self, *exc_info: object) -> None:
        """It stays."""
