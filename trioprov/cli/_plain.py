"""Plain text: for pipes, for files, and for whoever prefers it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .. import Event, Finish, Lane, Notice, Queued
from ._course import Course, Opened
from ._output import Output
from ._text import Cleaner, Voice, clean, one_line

if TYPE_CHECKING:
    from ..providers import Provider


def title(provider: Provider) -> str:
    """A provider and its model."""
    return clean(f"{provider.label} ({provider.model})")


class PlainView:
    """One answer as it comes, or several, each whole, as they are complete.

    Args:
        voice: stderr, for details.
        single: whether there will be one answer at most.
    """

    apart = False

    def __init__(self, voice: Voice, *, single: bool) -> None:
        self._voice = voice
        self._single = single
        self._out = Output()
        self._cleaner = Cleaner()
        self._shown = 0

    async def run(self, opened: Opened, begin: Callable[[Course], None]) -> None:
        """Show the answers as they arrive.

        Raises:
            OutputFailed: standard output is gone.
        """
        async with opened as course:
            begin(course)
            async for lane, event in course.events:
                if course.counts(lane) or not isinstance(event, Finish):
                    await self._show(lane, event)

    async def conclude(self) -> None:
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
                self._voice.say(f"trioprov: {lane.provider.label}: {event.kind}: {one_line(event.text)}")
            case _:
                pass
