"""The core's context managers, entered and left from an anyio application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import trio

from .._client import ENTERED_BEFORE, Client, private_client
from ._bridge import Bridge
from ._world import Here, World

if TYPE_CHECKING:
    from types import TracebackType

T = TypeVar("T")
Core = TypeVar("Core")


class HasWorld(Protocol):
    """A client of this package."""

    _world: World


class WorldFor(AbstractAsyncContextManager[World, None]):
    """The client's world; or, without one, a world for as long as the block lasts.

    Args:
        client: the client, if there is one.
        world: the world itself.
        private: whether a thread of its own comes with a client of the core.
    """

    def __init__(self, client: HasWorld | None = None, *, world: World | None = None, private: bool = True) -> None:
        self._given = getattr(client, "_world", None) if client is not None else world
        if client is not None and not isinstance(self._given, World):
            kind = type(client).__name__
            raise TypeError(f"client must be what trioprov.anyio.open_client() gives when it is entered, not {kind}")
        self._private = private
        self._own: World | None = None

    async def __aenter__(self) -> World:
        if self._given is not None:
            return self._given
        if trio.lowlevel.in_trio_task():
            return Here()
        self._own = Bridge(private_client() if self._private else None)
        return await self._own.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._own is not None:
            await self._own.__aexit__(kind, exc, trace)  # noqa: ASYNC102 - a world is not left by halves


async def call(client: HasWorld | None, function: Callable[[Client | None], Awaitable[T]]) -> T:
    """Call something async in the core, from its beginning to its end."""
    async with WorldFor(client) as world:
        return await world.run(lambda: function(world.client))


class Opening(AbstractAsyncContextManager[T, None], Generic[Core, T]):
    """``async with`` something of the core.

    Args:
        world: where.
        opening: makes the core's context manager, there.
        handle: makes the handle for what it gives.
    """

    def __init__(
        self,
        world: WorldFor,
        opening: Callable[[Client | None], AbstractAsyncContextManager[Core]],
        handle: Callable[[World, Core], T],
    ) -> None:
        self._there = world
        self._opening = opening
        self._handle = handle
        self._entered = False
        self._world: World | None = None
        self._opened: AbstractAsyncContextManager[Core] | None = None

    async def __aenter__(self) -> T:
        if self._entered:
            raise RuntimeError(ENTERED_BEFORE)
        self._entered = True
        world = self._world = await self._there.__aenter__()
        try:
            self._opened, value = await world.enter(self._opening)
        except BaseException as exc:
            await self._leave(exc)  # noqa: ASYNC102 - a world is not left by halves
            raise
        return self._handle(world, value)

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._world is not None
        assert self._opened is not None
        try:
            await self._world.leave(self._opened, exc)  # noqa: ASYNC102 - the core has its own shields
        except BaseException as failure:
            await self._leave(failure)  # noqa: ASYNC102
            raise
        await self._leave(exc)  # noqa: ASYNC102

    async def _leave(self, exc: BaseException | None) -> None:
        await self._there.__aexit__(None if exc is None else type(exc), exc, None)
