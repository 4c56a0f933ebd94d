"""How things get from trio to the loop, and calls from the loop to trio.

Rule 1: nothing that happens on the loop interrupts trio. A task there that is cancelled, however often, cancels its
call here, and waits until the call has ended; how long that takes is the core's to say, and it is bounded.
Rule 2: one wake-up hands over everything that is ready.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar, cast

import anyio
import trio

from .._exits import is_cancellation
from ._errors import translated
from ._pulse import Pulse
from ._thread import TrioThread

T = TypeVar("T")

# How long trio may be at work before what it has for the loop is handed over all the same, in seconds.
_PATIENCE = 0.001

# How often whoever must not be forgotten looks for mail, in seconds: Ctrl-C may come in the instant in which the loop
# begins to deliver it, and then nobody does.
_LOOK = 0.5


class Mailbox(trio.abc.Instrument):
    """What trio has for the loop: collected while trio is at work, and handed over when it would wait.

    Attributes:
        loop: whose it is.
        over: whether nothing will come any more.
        pulse: sees to it that it comes.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.over: bool = False
        self._waiting: set[Callable[[], None]] = set()
        self.pulse: Pulse = Pulse(loop, lambda: bool(self._waiting) and not self.over)
        self._ready: collections.deque[Callable[[], None]] = collections.deque()
        self._since = 0.0
        self._called = False

    # -- In trio -----------------------------------------------------------------------------------------------------

    def post(self, item: Callable[[], None]) -> None:
        """Have something called in the loop, soon."""
        if not self._ready:
            self._since = time.monotonic()
        self._ready.append(item)

    def before_io_wait(self, timeout: float) -> None:
        """Trio has done what there was to do, or has been at it for long enough."""
        if self._ready and not self._called and (timeout > 0 or time.monotonic() - self._since > _PATIENCE):
            self._hand_over()

    def end(self) -> None:
        """Nothing will come any more: whoever waits is told."""
        self.over = True
        self._ready.append(self._tell)
        self._hand_over()

    def _hand_over(self) -> None:
        self._called = True
        try:
            self.loop.call_soon_threadsafe(self.deliver)
        except RuntimeError:  # the loop is closed, and the thread will notice that
            self._ready.clear()

    # -- In the loop -------------------------------------------------------------------------------------------------

    def is_here(self) -> bool:
        """Whether the caller runs in the loop."""
        try:
            return asyncio.get_running_loop() is self.loop
        except RuntimeError:
            return False

    def check(self) -> None:
        """Refuse whoever would wait here and can never be told.

        Raises:
            RuntimeError: the caller runs in another loop.
        """
        if not self.is_here():
            raise RuntimeError("this belongs to another event loop")

    def deliver(self) -> None:
        """Do what was posted."""
        self._called = False
        try:
            while self._ready:
                self._ready[0]()
                self._ready.popleft()
        except BaseException:  # Ctrl-C, and the loop may go on to clean up: nobody is forgotten
            self.loop.call_soon(self.deliver)
            raise

    def _tell(self) -> None:
        for waiting in tuple(self._waiting):
            waiting()

    def expect(self, tell: Callable[[], None]) -> None:
        """Somebody waits, and wants to be told if nothing will come any more."""
        self._waiting.add(tell)
        self.pulse.start()

    def forget(self, tell: Callable[[], None]) -> None:
        """Nobody waits there any more."""
        self._waiting.discard(tell)


async def absorbed(mailbox: Mailbox, future: asyncio.Future[None]) -> asyncio.CancelledError | None:
    """Wait for a future that comes by mail, whatever happens to the task that waits.

    Returns:
        The first cancellation that came meanwhile: raise it, or let one pass that came before. `Task.cancelling` still
        counts them all, so that whoever sent them recognises its own; only anyio looks for an exception of its own, and
        none of these comes here.
    """
    pierced: asyncio.CancelledError | None = None
    # Without the shield, anyio would cancel again in every turn of the loop.
    with anyio.CancelScope(shield=True):
        while not future.done():
            try:
                await asyncio.wait({future}, timeout=_LOOK)
                mailbox.deliver()
            except asyncio.CancelledError as exc:  # noqa: ASYNC103 - whoever called raises it, afterwards
                pierced = pierced or exc
    return pierced


class Call(Generic[T]):
    """One call of something async in the core; made in the loop.

    Attributes:
        value: what it returned; `None` until it has.
        done: whether it has ended, as a future of the loop.
    """

    def __init__(self, mailbox: Mailbox, thread: TrioThread, function: Callable[[], Awaitable[T]]) -> None:
        self.value: T | None = None
        self.done: asyncio.Future[None] = mailbox.loop.create_future()
        self._mailbox = mailbox
        self._thread = thread
        self._function: Callable[[], Awaitable[T]] | None = function
        self._context = contextvars.copy_context()
        self._scope = trio.CancelScope()
        self._error: BaseException | None = trio.ClosedResourceError("the client that this belongs to is closed")
        mailbox.expect(self._end)
        if mailbox.over or not thread.soon(self._start):
            self._end()

    def cancel(self) -> None:
        """Cancel it there; sync, idempotent."""
        self._thread.soon(self._scope.cancel)

    async def ended(self, or_else: asyncio.Future[None] | None = None) -> asyncio.CancelledError | None:
        """Wait for its end (or for something else); a cancellation is passed on to the call, whose end is waited for.

        Returns:
            The cancellation, if there was one; raise it.
        """
        pierced: asyncio.CancelledError | None = None
        try:
            awaited = {self.done} if or_else is None else {self.done, or_else}
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError as exc:  # noqa: ASYNC103 - whoever called raises it, afterwards
            pierced = exc
        if pierced is not None:
            self.cancel()
            await absorbed(self._mailbox, self.done)
        return pierced

    async def outcome(self) -> T:
        """Wait for its end, and return what it returned, or raise what it raised; or one cancellation."""
        pierced = await self.ended()
        if pierced is not None:
            try:
                raise pierced
            finally:
                del pierced
        return self.result()

    def result(self) -> T:
        """What it returned, or raise what it raised; after its end."""
        error, self._error = self._error, None
        self._function = None
        if error is not None:
            try:
                raise translated(error)
            finally:
                del error
        return cast("T", self.value)

    # -- In trio -----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        function, self._function = self._function, None
        assert function is not None
        try:
            trio.lowlevel.spawn_system_task(self._run, function, name=f"trioprov {function}", context=self._context)
        except RuntimeError:  # the run is ending
            self._mailbox.post(self._end)

    async def _run(self, function: Callable[[], Awaitable[T]]) -> None:
        try:
            with self._scope:
                try:
                    self.value = await function()
                    self._error = None
                except BaseException as exc:  # noqa: ASYNC103 - what is raised again is what cancels
                    if is_cancellation(exc):
                        raise
                    self._error = exc  # anything that a user's function raises is for the caller, not for trio
        finally:
            del function
            self._mailbox.post(self._end)

    # -- In the loop -------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        self._mailbox.forget(self._end)
        if not self.done.done():
            self.done.set_result(None)
