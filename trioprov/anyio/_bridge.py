"""The loop's side of a trio in a thread: the world of asyncio and uvloop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import anyio
import trio
from anyio.lowlevel import checkpoint

from .._broadcast import Broadcast, Cursor
from .._client import Client
from .._exits import is_cancellation
from .._transcript import Transcript
from ._crossing import Call, Mailbox, absorbed
from ._errors import MISUSE, translated
from ._feed import Feed
from ._thread import TrioThread
from ._world import Status, World

if TYPE_CHECKING:
    from types import AsyncGeneratorType, TracebackType

T = TypeVar("T")

# How long a state change whose outcome the caller wants may keep the loop waiting, in seconds. It takes one step of
# trio, so that this is only to be sure.
_PATIENCE = 10.0


class Bridge(World):
    """A trio in a thread, for one loop. Its thread ends when it is left, or when nobody refers to it any more.

    Args:
        client: the core's client; `None`: `of` will say.
    """

    def __init__(self, client: Client | None) -> None:
        loop = asyncio.get_running_loop()
        self.client = client
        self._loop = loop
        self._mailbox = mailbox = Mailbox(loop)
        self._begun: asyncio.Future[None] = loop.create_future()
        self._thread = TrioThread(
            client,
            instruments=(mailbox, mailbox.pulse),
            deserted=loop.is_closed,
            begun=partial(mailbox.post, partial(_set, self._begun)),
            ended=mailbox.end,
        )
        self._watch = cast("AsyncGeneratorType[None, None]", _watch(mailbox, self._thread))
        weakref.finalize(self, self._thread.stop).atexit = False

    async def __aenter__(self) -> Bridge:
        begun = partial(_set, self._begun)
        self._mailbox.expect(begun)  # it may end without having begun
        await anext(self._watch)
        try:
            self._thread.start()
        except BaseException:
            await self._end()  # noqa: ASYNC102 - nothing interrupts it, and there is no thread to wait for
            raise
        pierced = await absorbed(self._mailbox, self._begun)
        self._mailbox.forget(begun)
        failure = pierced or self._thread.failure
        if failure is not None:
            await self._end()
            raise failure
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        pierced = await self._end()  # noqa: ASYNC102 - nothing interrupts it, and the thread has its budgets
        if pierced is not None and not is_cancellation(exc, asyncio.CancelledError):
            raise pierced

    async def _end(self) -> asyncio.CancelledError | None:
        self._thread.stop()
        if not self._mailbox.is_here():
            return None
        pierced = await _ended(self._mailbox, self._thread)
        if not self._watch.ag_running:  # else the loop ends, and closes it at the moment
            await self._watch.aclose()
        return pierced

    def of(self, client: Client) -> World:
        self.client = self._thread.client = client
        return self

    # -- Calls -------------------------------------------------------------------------------------------------------

    def _call(self, function: Callable[[], Awaitable[T]]) -> Call[T]:
        self._thread.check()
        self._mailbox.check()
        return Call(self._mailbox, self._thread, function)

    async def run(self, function: Callable[[], Awaitable[T]]) -> T:
        return await self._call(function).outcome()

    async def settle(self, function: Callable[[], Awaitable[None]]) -> None:
        call = self._call(function)
        with suppress(anyio.ClosedResourceError):  # the thread has ended, and has settled everything
            await call.outcome()

    async def enter(
        self, opening: Callable[[Client | None], AbstractAsyncContextManager[T]]
    ) -> tuple[AbstractAsyncContextManager[T], T]:
        call = self._call(partial(_entered, opening, self.client))
        pierced = await call.ended()
        if pierced is None:
            return call.result()
        if call.value is not None:  # it was entered before it could hear of that
            await self.leave(call.value[0], pierced)
        raise pierced

    async def leave(self, opened: AbstractAsyncContextManager[Any], exc: BaseException | None) -> None:
        if self._thread.orphaned:
            if exc is None:
                self._thread.check()
            return
        cancelled = is_cancellation(exc, asyncio.CancelledError)
        function = _left_by_cancellation if cancelled else _left
        call = Call(self._mailbox, self._thread, partial(function, opened, exc))
        if not self._mailbox.is_here():
            return  # the block is not left but collected, and there is no loop to wait on
        if cancelled:
            await absorbed(self._mailbox, call.done)  # not by anyio, which would look in vain for its own afterwards
        else:
            pierced = await call.ended()
            if pierced is not None:
                raise pierced
            with suppress(anyio.ClosedResourceError):  # the client was closed before, and has settled everything
                call.result()

    async def started(self, run: Callable[..., Awaitable[None]], started: Callable[[Any], None]) -> None:
        values: list[Any] = []
        told: asyncio.Future[None] = self._loop.create_future()

        def tell(value: Any) -> None:
            values.append(value)
            self._mailbox.post(partial(_set, told))

        call = self._call(partial(run, task_status=Status(tell)))
        pierced = await call.ended(or_else=told)
        if pierced is not None:
            raise pierced
        if values:
            try:
                started(values.pop())
            except BaseException:
                call.cancel()
                raise
        del started
        await call.outcome()

    def soon(self, function: Callable[[], object]) -> None:
        self._thread.check()
        self._thread.soon(function)

    def now(self, function: Callable[[], T]) -> T:
        self._thread.check()
        done: concurrent.futures.Future[T] = concurrent.futures.Future()
        if self._thread.ident == threading.get_ident() or not self._thread.soon(_done, done, function):
            _done(done, function)  # trio is here, or nowhere any more
        try:
            return done.result(_PATIENCE)
        except MISUSE as exc:
            raise translated(exc) from exc

    # -- Streams -----------------------------------------------------------------------------------------------------

    def follow(self, log: Broadcast[T], cursor: Cursor[T]) -> Feed[T]:
        self._thread.check()
        return Feed(self._mailbox, self._thread, log, cursor)

    async def ended(self, transcript: Transcript) -> None:
        self._thread.check()
        if transcript.finished.is_set():  # which is the last to be set
            await checkpoint()
        else:
            await self.run(transcript.finished.wait)


async def _watch(mailbox: Mailbox, thread: TrioThread) -> AsyncGenerator[None, None]:  # noqa: ASYNC900 - its use
    """Hears of the end of the loop: `asyncio.run` closes every asynchronous generator, and waits until it has."""
    try:
        yield
    finally:
        thread.stop()
        await _ended(mailbox, thread)  # noqa: ASYNC102 - as above


async def _ended(mailbox: Mailbox, thread: TrioThread) -> asyncio.CancelledError | None:
    """Wait until the thread has ended, and a cancellation that came meanwhile."""
    over: asyncio.Future[None] = mailbox.loop.create_future()
    mailbox.expect(partial(_set, over))
    if mailbox.over or thread.orphaned:
        _set(over)
    pierced = await absorbed(mailbox, over)
    if not thread.orphaned:
        thread.join()
    return pierced


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _done(done: concurrent.futures.Future[T], function: Callable[[], T]) -> None:
    try:
        done.set_result(function())
    except Exception as exc:
        done.set_exception(exc)


# -- In trio -----------------------------------------------------------------------------------------------------------


async def _entered(
    opening: Callable[[Client | None], AbstractAsyncContextManager[T]], client: Client | None
) -> tuple[AbstractAsyncContextManager[T], T]:
    opened = opening(client)
    return opened, await opened.__aenter__()


async def _left(opened: AbstractAsyncContextManager[Any], exc: BaseException | None) -> None:
    await opened.__aexit__(None if exc is None else type(exc), exc, None if exc is None else exc.__traceback__)


async def _left_by_cancellation(opened: AbstractAsyncContextManager[Any], exc: BaseException) -> None:
    """The core's block is left by a cancellation of trio's own."""
    inside = _Inside(opened)
    with trio.CancelScope() as scope:
        scope.cancel()
        async with inside:
            await trio.lowlevel.checkpoint()
    for note in inside.notes:
        exc.add_note(note)


class _Inside(AbstractAsyncContextManager[None]):
    """A block that was entered before."""

    def __init__(self, opened: AbstractAsyncContextManager[Any]) -> None:
        self._opened = opened
        self.notes: list[str] = []

    async def __aenter__(self) -> None:
        """Nothing to do."""

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opened.__aexit__(kind, exc, trace)  # noqa: ASYNC102 - the core has its own shields
        self.notes = getattr(exc, "__notes__", [])
