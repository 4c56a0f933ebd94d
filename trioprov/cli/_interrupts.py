"""Ctrl-C and its relatives: the first one ends in good order, the second at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import trio

from ._text import clean

# Shells, `timeout` and runners like to send a signal to a process and to its group: that is one signal, not two.
_SAME_SIGNAL = 0.2
# How long the last words may take on a terminal that takes none.
_LAST_WORDS = 0.5

_SHOW_CURSOR = b"\x1b[0m\x1b[?25h\r\n"


class Interrupts:
    """Listens for SIGINT, SIGTERM and SIGHUP while entered, but for those that our parent told us to ignore.

    These are plain signal handlers, not a task that receives: Python runs them also while the loop hangs in a write to
    a terminal that is stopped, where no task could hear the second Ctrl-C.

    Attributes:
        received: the first signal, once there was one.
        owed: tells what leaving at once may leave on a server, a line for each.
        drawing: whether the cursor is hidden.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.owed: Callable[[], list[str]] = list
        self.drawing = False
        self._heard_at = 0.0
        self._scope: trio.CancelScope | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._before: dict[int, Any] = {}

    @property
    def status(self) -> int:
        """The exit status that the first signal means."""
        return 128 + (self.received or 0)

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    @contextmanager
    def cancelling(self) -> Generator[None]:
        """The first signal cancels this block; outside of it, where nothing is owed, it leaves at once."""
        self._token = trio.lowlevel.current_trio_token()
        try:
            with trio.CancelScope() as self._scope:
                yield
        finally:
            self._scope = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None and self._scope is not None and self._token is not None:
            self.received, self._heard_at = number, now
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._scope.cancel)
        elif self.received is None or now - self._heard_at > _SAME_SIGNAL:
            self._leave(self.received or number)

    def _leave(self, number: int) -> None:
        """Restore the terminal, say what may be left, and be gone. Nothing here may wait for the loop or for a lock."""
        status = 128 + number
        threading.Thread(target=_exit_after, args=(_LAST_WORDS, status), daemon=True).start()
        with suppress(OSError, ValueError):
            if self.drawing:
                os.write(sys.__stdout__.fileno() if sys.__stdout__ else 1, _SHOW_CURSOR)
        with suppress(Exception):
            lines = self.owed()
            if lines:
                text = clean("\n".join(["trioprov: left without waiting; this may still be on a server:", *lines, ""]))
                os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text.encode("utf-8", "backslashreplace"))
        os._exit(status)


def _exit_after(seconds: float, status: int) -> None:
    time.sleep(seconds)
    os._exit(status)
