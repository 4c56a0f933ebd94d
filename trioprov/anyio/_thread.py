"""One trio in a thread of its own, for as long as the application's loop has a use for it.

It is a daemon thread, so that a process which forgot it can end; but before it does, the thread is told to stop, and
waited for, as long as its budgets allow.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import trio

from .._client import Client

log = logging.getLogger("trioprov")

# How often the thread looks whether the loop it works for was closed behind its back, in seconds.
_LOOK = 0.5

# How much longer than its client's `shutdown_timeout` the thread may take to end.
_GRACE = 3.0


class TrioThread:
    """A thread with a trio, in which the core of one client runs.

    Args:
        client: what to close at the end; it may come later.
        deserted: whether the loop is closed, so that nobody can be there any more.
        instruments: they watch the trio.
        begun: called in the thread when it can be spoken to.
        ended: called in the thread as its last act.

    Attributes:
        token: speak to it with that.
        orphaned: whether this is a forked child, in which there is no such thread.
        failure: what it ended of: before it had begun, that is for whoever began it; later it is logged.
    """

    token: trio.lowlevel.TrioToken

    def __init__(
        self,
        client: Client | None,
        *,
        instruments: tuple[trio.abc.Instrument, ...],
        deserted: Callable[[], bool],
        begun: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        self.client = client
        self.orphaned: bool = False
        self.failure: Exception | None = None
        self.ident: int | None = None
        self._instruments = instruments
        self._deserted = deserted
        self._begun = begun
        self._ended = ended
        self._stopping = False
        self._stop = trio.Event()
        self._root: trio.lowlevel.Task | None = None
        self._over = False
        self._running = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="trioprov", daemon=True)

    def start(self) -> None:
        """Let it run."""
        _alive.add(self)
        self._running.acquire()
        try:
            self._thread.start()
        except BaseException:
            _alive.discard(self)
            self._ended()
            raise

    def check(self) -> None:
        """Refuse what a forked child asks for.

        Raises:
            anyio.ClosedResourceError: this is one.
        """
        if self.orphaned:
            raise anyio.ClosedResourceError("this belongs to the process that opened it, not to one forked off")

    def soon(self, function: Callable[..., object], *args: Any) -> bool:
        """Have a state changed there, by something that does not raise; from any thread, not waiting for it.

        Returns:
            Whether it will be done: not when the thread has ended.
        """
        if not self.orphaned:
            with suppress(trio.RunFinishedError):
                self.token.run_sync_soon(function, *args)
                return True
        return False

    def stop(self) -> None:
        """Begin to end: close the client, settle what is owed. From any thread, idempotent."""
        self._stopping = True
        if hasattr(self, "token"):
            self.soon(self._stop.set)

    def join(self) -> None:
        """Wait until it has ended, for as long as its budgets allow; after `stop`."""
        budget = self.client.shutdown_timeout if self.client else 0.0
        if self._thread.ident is None:
            return
        # `Thread.join` cannot be asked to wait: where Ctrl-C interrupts it, it takes a thread that runs for one that
        # has ended (python/cpython#90882), and nobody would wait any more.
        if not self._over and self._running.acquire(timeout=min(_GRACE + budget, threading.TIMEOUT_MAX)):
            self._running.release()
        if self._over:
            self._thread.join()

    def _run(self) -> None:
        self.ident = threading.get_ident()
        try:
            trio.run(self._main, instruments=self._instruments)
        except Exception as exc:
            if hasattr(self, "token"):
                log.exception("the trio of an asyncio client crashed; this is a bug in trioprov")
            self.failure = exc
        finally:
            _alive.discard(self)
            self._ended()
            self._over = True
            self._running.release()

    async def _main(self) -> None:
        self._root = trio.lowlevel.current_root_task()
        self.token = trio.lowlevel.current_trio_token()
        self._begun()
        while not (self._stopping or self._deserted()):
            with trio.move_on_after(_LOOK):
                await self._stop.wait()
        if self.client is not None and not self.client.closed:
            await self.client.aclose()


_alive: set[TrioThread] = set()
_inherited: list[TrioThread] = []


def _end_all() -> None:
    """At the end of the process: nobody is left to close what is still open."""
    threads = tuple(_alive)
    waits = True
    while waits:
        waits = False
        try:
            for thread in threads:
                thread.stop()
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:  # another one; what it should end is ending, and bounded
            waits = True


def _forget_all() -> None:
    """In a forked child: the threads are the parent's, and so is all that they hold."""
    for thread in _alive:
        thread.orphaned = True
    # Nothing of it may be collected here: it would be closed, on the parent's sockets and in the parent's journal.
    _inherited.extend(_alive)
    _alive.clear()


# Twice, since a Ctrl-C may come just before the first one is ready for it.
atexit.register(_end_all)
atexit.register(_end_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
