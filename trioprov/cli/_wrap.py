"""Text wrapped as it comes, by the cells that it fills on a terminal."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from rich.cells import cell_len, get_character_cell_size

_KEPT_LINES = 500  # more than a terminal shows
_JOINER = "\u200d"


class Wrapper:
    """Wraps text that comes in pieces; what was wrapped stays as it is, so that a column never flickers.

    Attributes:
        count: how many lines there are, also those that were dropped.
    """

    def __init__(self, width: int) -> None:
        self._width = max(width, 2)  # a wide character must fit
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._line = ""
        self._complete = 0

    @property
    def count(self) -> int:
        """Lines so far, the one that is being written included."""
        return self._complete + bool(self._line)

    def feed(self, text: str) -> None:
        """More text, already cleaned."""
        first, *others = text.expandtabs(4).split("\n")
        self._extend(first)
        for line in others:
            self._commit(self._line)
            self._line = ""
            self._extend(line)

    def last(self, most: int) -> list[str]:
        """The last lines."""
        lines = [*self._lines, self._line] if self._line else list(self._lines)
        return lines[-most:] if most > 0 else []

    def _extend(self, text: str) -> None:
        line = self._line + text
        while (cut := self._cut(line)) is not None:
            self._commit(line[:cut].rstrip(" "))
            line = line[cut:].lstrip(" ")
        self._line = line

    def _cut(self, line: str) -> int | None:
        """Where a line is too long: behind its last blank, or in the middle of a word that fills it."""
        cells = after_blank = 0
        word = False
        for index, char in _characters(line):
            if char == " ":
                after_blank = index + 1 if word else 0
                cells += 1  # blanks may stick out
                continue
            size = cell_len(char)
            if cells + size > self._width:
                return after_blank or index or len(char)
            cells += size
            word = True
        return None

    def _commit(self, line: str) -> None:
        self._lines.append(line)
        self._complete += 1


def _characters(line: str) -> Iterator[tuple[int, str]]:
    """Each character with what belongs to it, and where it begins: an accent, a selector, what a joiner joins.

    What stands alone as one cell may be two with its selector, and three emoji joined may be two as well.
    """
    start = 0
    for end in range(1, len(line) + 1):
        if end == len(line) or not (line[end - 1] == _JOINER or get_character_cell_size(line[end]) == 0):
            yield start, line[start:end]
            start = end
