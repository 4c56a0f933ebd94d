"""What reaches the terminal: no control character that a server sent, and one voice on stderr."""

from __future__ import annotations

import logging
import re
import shutil
import sys
import textwrap
from collections.abc import Callable
from contextlib import suppress

# C0 and C1 controls but for the line feed and the tab, DEL, the embeddings, overrides and isolates that reorder what
# stands beside them, the next column too, and surrogates, which cannot be encoded.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_log = logging.getLogger("trioprov")


def clean(text: str) -> str:
    r"""The text with what could control a terminal written out: ESC becomes ``\x1b``."""
    return _UNSAFE.sub(_escape, text.replace("\r\n", "\n"))


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def one_line(text: str) -> str:
    """What a server may have written, in one line."""
    return " ".join(text.split())


def _wrapped(text: str) -> str:
    """The text with its lines no longer than the terminal's, broken between words."""
    width = shutil.get_terminal_size().columns
    lines = (
        textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        if len(line) > width
        else line
        for line in text.split("\n")
    )
    return "\n".join(lines)


class Cleaner:
    """`clean` for text that comes in pieces: a CR LF may be cut in two."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        """What can be shown now."""
        piece = self._held + piece
        self._held = "\r" if piece.endswith("\r") else ""
        return clean(piece.removesuffix("\r"))

    def end(self) -> str:
        """What was held back."""
        held, self._held = self._held, ""
        return clean(held)


class Voice(logging.Handler):
    """Everything that is said on stderr, the ``trioprov`` logger's records too, above a live view if there is one.

    It is on no other logger: those of the HTTP library write cookies at DEBUG.

    Attributes:
        above: while a live view is drawn: prints a line above it.
        verbose: whether details are wanted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.above: Callable[[str], None] | None = None
        self.verbose = False
        self._before: tuple[int, bool] | None = None

    def say(self, text: str, *, wrap: bool = True) -> None:
        """Print ``text`` on stderr; a stderr that is gone changes nothing.

        Args:
            text: what to say.
            wrap: whether lines may be broken; one that will be copied is not.
        """
        text = clean(text)
        with suppress(OSError):
            if self.above is not None and sys.stderr.isatty():
                self.above(text)
            else:
                print(_wrapped(text) if wrap and sys.stderr.isatty() else text, file=sys.stderr, flush=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Say a log record."""
        self.say(f"trioprov: {self.format(record)}")

    def listen(self, *, verbose: bool) -> None:
        """Hear the ``trioprov`` logger; without ``verbose`` only what is a bug: failed cleanups are said elsewhere."""
        self.verbose = verbose
        self._before = _log.level, _log.propagate
        self.setLevel(logging.DEBUG if verbose else logging.ERROR)
        _log.addHandler(self)
        _log.propagate = False
        if verbose:
            _log.setLevel(logging.DEBUG)

    def stop_listening(self) -> None:
        """Leave the logger as it was."""
        if self._before is not None:
            level, _log.propagate = self._before
            _log.setLevel(level)
            _log.removeHandler(self)
            self._before = None
