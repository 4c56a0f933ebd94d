"""The side-by-side view, drawn by rich: a column for each lane; where columns have no room, one below the other.

What a server sent is drawn as it is: cleaned of control characters, and never read as rich's markup.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import trio
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from .. import Event, Finish, Lane, Notice, Queued
from ._advice import described
from ._course import Course, Opened
from ._interrupts import Interrupts
from ._plain import title
from ._text import Cleaner, Voice, clean
from ._wrap import Wrapper

_NARROWEST = 24  # columns of a lane, border included
_FRAME = 4  # of these, the border and the blank beside it
_PERIOD = 0.08  # seconds from one frame to the next
_KEPT_TEXT = 64 * 1024  # more than a terminal shows

_SIGNS = {"wait": "○", "queue": "◔", "stream": "●", "done": "✓", "stop": "■", "fail": "✗"}
_ASCII_SIGNS = {"wait": ".", "queue": "~", "stream": ">", "done": "=", "stop": "#", "fail": "!"}
_STOPPED = {"beaten": "lost", "not_started": "not started"}
_STYLES = {"wait": "dim", "queue": "yellow", "stream": "cyan", "done": "green", "stop": "magenta", "fail": "red"}


@dataclass
class _Cell:
    """What is shown of one lane."""

    lane: Lane
    course: Course
    width: int = 0
    fed: int = 0
    cleaner: Cleaner = field(default_factory=Cleaner)
    wrapper: Wrapper = field(default_factory=lambda: Wrapper(2))
    error: Wrapper = field(default_factory=lambda: Wrapper(2))
    queued: Queued | None = None
    notice: str = ""

    def feed(self, event: Event) -> None:
        """Take in an event."""
        match event:
            case str():
                self.fed += len(event)
                self.wrapper.feed(self.cleaner.feed(event))
            case Queued():
                self.queued = event
            case Notice():
                self.notice = " ".join(clean(f"{event.kind}: {event.text}").split())
            case Finish():
                self.wrapper.feed(self.cleaner.end())
                self._write_error()
            case _:
                pass

    def fit(self, width: int) -> None:
        """Wrap for this width from now on."""
        if width != self.width:
            self.width = width
            self.wrapper, self.cleaner = Wrapper(width), Cleaner()
            self.wrapper.feed(self.cleaner.feed(self.lane.reply.text[: self.fed][-_KEPT_TEXT:]))
            self._write_error()

    def _write_error(self) -> None:
        self.error = Wrapper(self.width)
        if self.lane.error is not None:
            self.error.feed(clean(described(self.lane.error)))

    @property
    def height(self) -> int:
        """How many lines there are to show."""
        return self.wrapper.count + self.error.count

    @property
    def state(self) -> tuple[str, str]:
        """A key of the signs and styles, and words."""
        lane, course = self.lane, self.course
        finish, cleanup, waited = lane.reply.finish, lane.cleanup, lane.duration
        gone = f" · {cleanup.outcome.replace('_', ' ')}" if finish and cleanup else ""
        won = lane is course.winner
        if finish is not None and lane.error is not None:
            return "fail", type(lane.error).__name__ + gone
        if finish is not None and finish.reason == "interrupted":
            return "stop", _STOPPED.get(course.standing(lane), "stopped") + gone
        if finish is not None:
            return "done", f"{'won' if won else 'done'}: {finish.reason}{gone}"
        if lane.time_to_first_token is not None:
            return "stream", "won, streaming" if won else "streaming"
        if self.queued is not None:
            size = f" of {self.queued.size}" if self.queued.size else ""
            return "queue", f"queued {self.queued.position}{size}"
        if waited is None:
            return "wait", "not started yet"
        return "wait", self.notice or f"waiting {waited:.0f} s"

    @property
    def timing(self) -> str:
        """Time to first token, and to the end if there is room for it."""
        first_token, end = self.lane.time_to_first_token, self.lane.duration
        if first_token is None or end is None:
            return ""
        first = f"first token {first_token:.2f} s"
        if self.lane.reply.finish is None:
            return first
        both = f"{first}, end {end:.2f} s"
        return both if len(both) <= self.width - 2 else first


class LiveView:
    """Draws the lanes of one question on a terminal.

    Args:
        voice: stderr, which speaks above the view while it is drawn.
        interrupts: must know when the cursor is hidden.
    """

    apart = True

    def __init__(self, voice: Voice, interrupts: Interrupts, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, markup=False, emoji=False)
        self._voice = voice
        self._interrupts = interrupts
        self._cells: list[_Cell] = []
        self._changed = True
        self._over = False
        self._whole = True
        self._body = 3  # lines of text in each cell; only grows, so that nothing jumps
        self._size = (0, 0)

    async def run(self, opened: Opened, begin: Callable[[Course], None]) -> None:
        """Draw until every lane has ended and its conversation is deleted."""
        # Redirecting would move stderr to stdout, and refreshing by itself would take a thread.
        live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._voice.above = lambda text: self._console.print(Text(text), soft_wrap=True)
        self._interrupts.drawing = True
        try:
            async with trio.open_nursery() as nursery:
                async with opened as course:
                    begin(course)
                    self._cells = [_Cell(lane, course) for lane in course.lanes]
                    self._draw(live)
                    live.start()
                    nursery.start_soon(self._keep_drawing, live)
                    async for lane, event in course.events:
                        self._cells[lane.index].feed(event)
                        self._changed = True
                nursery.cancel_scope.cancel()
        finally:
            # A terminal that is gone must not get in the way of the cleanup.
            with suppress(OSError):
                if live.is_started:
                    self._end(live)
            self._voice.above = None
            self._interrupts.drawing = False

    async def conclude(self) -> None:
        """Print the answers of which the view could show only a part."""
        if self._whole:
            return
        for cell in self._answers():
            text = clean(cell.lane.reply.text)
            if text:
                self._console.print(Text(f"== {title(cell.lane.provider)} ==", style="bold"))
                self._console.print(Text(text, overflow="fold"), end="\n\n")

    async def _keep_drawing(self, live: Live) -> None:
        told = 0.0
        while True:
            now = trio.current_time()
            if self._changed or self._console.size != self._size or now - told >= 1.0:
                told = now
                try:
                    self._draw(live)
                except OSError:  # the terminal was closed: a signal is on its way
                    return
            await trio.sleep(_PERIOD)

    def _draw(self, live: Live) -> None:
        self._changed = False
        self._size = self._console.size
        live.update(self._frame(), refresh=live.is_started)

    def _end(self, live: Live) -> None:
        """Leave the last frame where it is if it shows everything, else take it away."""
        self._over = True
        self._draw(live)
        self._whole = all(cell.height <= self._room(len(self._cells))[2] for cell in self._answers())
        live.transient = not self._whole
        live.stop()

    def _answers(self) -> list[_Cell]:
        return [cell for cell in self._cells if cell.course.counts(cell.lane)]

    # -- One frame ---------------------------------------------------------------------------------------------------

    def _room(self, lanes: int) -> tuple[int, int, int]:
        """How many cells stand side by side, how high a cell may be, and how many lines of text that leaves it."""
        across = max(1, min(lanes, self._console.width // _NARROWEST))
        down = math.ceil(lanes / across)
        # Below the cells stand a line of help and the cursor.
        high = (self._console.height - 2) // max(down, 1)
        return across, high, high - 2 - self._heading(high)

    @staticmethod
    def _heading(high: int) -> int:
        """Lines above the text: the model and the state; in a low cell the model goes into the border."""
        return 2 if high >= 9 else 1

    def _frame(self) -> RenderableType:
        across, high, body = self._room(len(self._cells))
        if body < 1:
            return self._list()
        widths = [self._console.width // across + (index < self._console.width % across) for index in range(across)]
        for index, cell in enumerate(self._cells):
            cell.fit(widths[index % across] - _FRAME)
        self._body = min(body, max(self._body, *(cell.height for cell in self._cells)))
        grid = Table.grid(padding=0)
        for width in widths:
            grid.add_column(width=width)
        for start in range(0, len(self._cells), across):
            row = enumerate(self._cells[start : start + across])
            grid.add_row(*(self._panel(cell, widths[index], high) for index, cell in row))
        return grid if self._over else Group(grid, self._footer())

    def _panel(self, cell: _Cell, width: int, high: int) -> Panel:
        heading = self._heading(high)
        key, words = cell.state
        parts = [Text(f"{self._sign(key)} {words}", style=_STYLES[key], no_wrap=True, overflow="ellipsis")]
        name = clean(cell.lane.provider.label)
        if heading == 2:
            parts.insert(0, Text(clean(cell.lane.provider.model), style="dim", no_wrap=True, overflow="ellipsis"))
        else:
            name = title(cell.lane.provider)
        errors = cell.error.last(self._body)
        lines = cell.wrapper.last(self._body - len(errors))
        parts += [Text(line, no_wrap=True, overflow="crop") for line in lines]
        parts += [Text(line, style="red", no_wrap=True, overflow="crop") for line in errors]
        label = Text(name, style="bold")
        label.truncate(width - 6, overflow="ellipsis")
        return Panel(
            Group(*parts),
            title=label,
            subtitle=Text(cell.timing, style="dim") if cell.timing else None,
            width=width,
            height=2 + heading + self._body,
            border_style=_STYLES[key],
        )

    def _list(self) -> RenderableType:
        """A line for each lane, where there is no room for more."""
        room = max(1, self._console.height - 3)
        shown = self._cells[:room]
        lines = [
            Text.assemble(
                (f"{self._sign(cell.state[0])} ", _STYLES[cell.state[0]]),
                (f"{clean(cell.lane.provider.label)}: ", "bold"),
                f"{cell.state[1]}, {len(cell.lane.reply.text)} characters",
                no_wrap=True,
                overflow="ellipsis",
            )
            for cell in shown
        ]
        if len(shown) < len(self._cells):
            lines[-1:] = [Text(f"and {len(self._cells) - len(shown) + 1} more", style="dim")]
        return Group(*lines) if self._over else Group(*lines, self._footer())

    def _footer(self) -> Text:
        answering = sum(cell.lane.reply.finish is None for cell in self._cells)
        deleting = sum(cell.lane.cleanup is None for cell in self._cells)
        if answering:
            words = f"{answering} of {len(self._cells)} answering. Ctrl-C stops, and deletes the conversations."
        else:
            words = "Deleting the conversations." if deleting else ""
        return Text(words, style="dim", no_wrap=True, overflow="ellipsis")

    def _sign(self, key: str) -> str:
        return (_ASCII_SIGNS if self._console.options.ascii_only else _SIGNS)[key]
