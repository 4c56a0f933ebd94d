"""Plain text: for pipes, for files, and for whoever prefers it."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

import trio

from .. import Event, FanOut, Finish, Lane, Notice, Queued
from ._text import Cleaner, Voice, clean

if TYPE_CHECKING:
    from ..providers import Provider

# What a pipe that is ready takes without blocking.
_PIECE: int = getattr(select, "PIPE_BUF", 512)


class View(Protocol):
    """A way to show the lanes of one question."""

    async def run(self, opened: AbstractAsyncContextManager[FanOut], begin: Callable[[Sequence[Lane]], None]) -> None:
        """Show the answers as they arrive; ``begin`` is called with the lanes when they are there."""
        ...

    def conclude(self) -> None:
        """After the cleanup: show what could not be shown before."""
        ...


class OutputFailed(Exception):
    """Standard output takes no more; the cause says why."""


class Output:
    """Standard output, written to when it can take something, so that a slow reader holds up nothing but the text."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._encoding = sys.stdout.encoding or "utf-8"
        try:
            self._fd = sys.stdout.fileno()
        except (OSError, ValueError):  # captured by a test, or somebody's console
            self._fd = -1

    async def write(self, text: str) -> None:
        """Write all of it. A checkpoint; when cancelled, a part may have been written.

        Raises:
            OutputFailed: nobody reads any more, or the disk is full.
        """
        try:
            if self._fd < 0:
                await trio.lowlevel.checkpoint()
                sys.stdout.write(text)
                return
            data = memoryview(text.encode(self._encoding, "backslashreplace"))
            while data:
                await self._wait()
                data = data[os.write(self._fd, data[:_PIECE]) :]
        except OSError as exc:
            raise OutputFailed from exc

    async def _wait(self) -> None:
        # Files are always ready, and epoll refuses to say so. On Windows only sockets can be waited for.
        if sys.platform == "win32":
            await trio.lowlevel.checkpoint()
            return
        try:
            await trio.lowlevel.wait_writable(self._fd)
        except PermissionError:
            await trio.lowlevel.checkpoint()


def title(provider: Provider) -> str:
    """A provider and its model."""
    return clean(f"{provider.label} ({provider.model})")


class PlainView:
    """One answer as it comes, or several, each whole, as they are complete."""

    def __init__(self, voice: Voice, *, single: bool) -> None:
        self._voice = voice
        self._single = single
        self._out = Output()
        self._cleaner = Cleaner()
        self._shown = 0

    async def run(self, opened: AbstractAsyncContextManager[FanOut], begin: Callable[[Sequence[Lane]], None]) -> None:
        """Show the answers as they arrive.

        Raises:
            OutputFailed: standard output is gone.
        """
        async with opened as fan:
            begin(fan.lanes)
            async for lane, event in fan:
                await self._show(lane, event)

    def conclude(self) -> None:
        """Nothing is left to show."""

    async def _show(self, lane: Lane, event: Event) -> None:
        match event:
            case str() if self._single:
                await self._out.write(self._cleaner.feed(event))
            case Finish() if self._single:
                text = lane.reply.text
                # A newline ends an answer, an empty one too; where there is none at all, stdout stays empty.
                if text or event.reason not in ("error", "interrupted"):
                    await self._out.write(self._cleaner.end() + "\n")
            case Finish():
                text = clean(lane.reply.text)
                if text or event.reason not in ("error", "interrupted"):
                    gap = "\n" if self._shown else ""
                    self._shown += 1
                    await self._out.write(f"{gap}== {title(lane.provider)} ==\n{text}\n")
            case Queued() if self._voice.verbose:
                self._voice.say(f"trioprov: {lane.provider.label}: queued, position {event.position}")
            case Notice() if self._voice.verbose:
                self._voice.say(f"trioprov: {lane.provider.label}: {event.kind}: {event.text}")
            case _:
                pass
