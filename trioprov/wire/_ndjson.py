"""JSON texts, one to a line (NDJSON, JSON Lines)."""

from __future__ import annotations

from ._lines import DEFAULT_MAX, LineSplitter

# RFC 8259 §2: "ws = *( %x20 / %x09 / %x0A / %x0D )". `bytes.isspace` knows two more.
_WHITESPACE = b" \t\n\r"


class NDJSONDecoder:
    """Cut a stream of bytes into lines that each hold one JSON text; the text is not looked into.

    Args:
        max_line: how many bytes a line may have, its end not counted.
    """

    __slots__ = ("_lines",)

    def __init__(self, *, max_line: int = DEFAULT_MAX) -> None:
        self._lines = LineSplitter(max_line=max_line)

    def receive_data(self, data: bytes) -> list[bytes]:
        """Take the next bytes and return the lines they complete, without their ends and without blank ones.

        Raises:
            RemoteProtocolError: a line is longer than ``max_line``. The decoder is of no use afterwards.
        """
        return [line for line in self._lines.receive_data(data) if line.strip(_WHITESPACE)]

    def receive_eof(self) -> list[bytes]:
        """Return the last line, if it has no end and is not blank; it may be a whole JSON text or the start of one."""
        rest = self._lines.receive_eof()
        return [rest] if rest.strip(_WHITESPACE) else []
