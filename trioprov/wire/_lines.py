"""Lines out of bytes that arrive cut anywhere."""

from __future__ import annotations

from .._errors import RemoteProtocolError

DEFAULT_MAX = 1024 * 1024
"""How many bytes one line, or one event, may have.

Most have some hundred; the longest repeat a whole reply. Precedents: h11 keeps 16 KiB of one incomplete HTTP event,
asyncio's `readline` 64 KiB, a browser whatever fits into its memory.
"""


class LineSplitter:
    """Cut a stream of bytes into lines.

    A line ends with LF or CRLF and with nothing else. What `str.splitlines` also takes for an end (U+2028, U+2029,
    U+0085, …) may stand unescaped inside a JSON string (RFC 8259 §7), and half a JSON text is of no use.

    Args:
        max_line: how many bytes a line may have, its end not counted.
        bare_cr: whether a CR alone ends a line too, as it does in server-sent events.
    """

    __slots__ = ("_bare_cr", "_ended_with_cr", "_max_line", "_rest")

    def __init__(self, *, max_line: int = DEFAULT_MAX, bare_cr: bool = False) -> None:
        self._max_line = max_line
        self._bare_cr = bare_cr
        self._ended_with_cr = False
        # The line that has no end yet. It is known to hold none: only new bytes are searched, and what they add to a
        # bytearray is not copied again, so that the work stays linear even if every byte comes alone.
        self._rest = bytearray()

    def receive_data(self, data: bytes) -> list[bytes]:
        """Take the next bytes and return the lines they complete, without their ends.

        Raises:
            RemoteProtocolError: a line is longer than ``max_line``. Lines completed by the same bytes are lost with
                it, and the splitter is of no use afterwards.
        """
        lines, tail = self._split_at_any(data) if self._bare_cr else self._split_at_lf(data)
        if lines and self._rest:
            # Only the first line can have begun earlier.
            lines[0] = bytes(self._rest + lines[0])
            self._rest.clear()
        if not self._bare_cr:
            # Here and not before, because the CR may have come earlier than its LF.
            lines = [line.removesuffix(b"\r") for line in lines]
        # The lines after the first lie within these bytes, and need measuring only if these are many.
        measured = lines if len(data) > self._max_line else lines[:1]
        if measured and max(map(len, measured)) > self._max_line:
            raise self._too_long()
        self._keep(tail)
        return lines

    def receive_eof(self) -> bytes:
        """Return what stands after the last end: the start of a line, or ``b""``. A second call returns ``b""``."""
        rest = bytes(self._rest)
        self._rest.clear()
        return rest

    def _split_at_lf(self, data: bytes) -> tuple[list[bytes], bytes]:
        *lines, tail = data.split(b"\n")
        return lines, tail

    def _split_at_any(self, data: bytes) -> tuple[list[bytes], bytes]:
        # "Lines must be separated by either a U+000D CARRIAGE RETURN U+000A LINE FEED (CRLF) character pair, a single
        # U+000A LINE FEED (LF) character, or a single U+000D CARRIAGE RETURN (CR) character" (WHATWG HTML, "Parsing an
        # event stream"). These are the ends `bytes.splitlines` knows; only that of `str` knows more.
        #
        # A CR at the end of a chunk ends its line at once, not when the next byte tells whether it is half a CRLF: the
        # event it completes must not wait for the event after it. The LF, if one follows, is swallowed then.
        if data:
            if self._ended_with_cr:
                data = data.removeprefix(b"\n")
            self._ended_with_cr = data.endswith(b"\r")
        lines = data.splitlines()
        tail = b"" if not lines or data.endswith((b"\n", b"\r")) else lines.pop()
        return lines, tail

    def _keep(self, tail: bytes) -> None:
        self._rest += tail
        # A CR at the end may be half a CRLF, and an end is not counted. (With `bare_cr` no rest ends so.)
        half_an_end = self._rest.endswith(b"\r")
        if len(self._rest) - half_an_end > self._max_line:
            self._rest.clear()
            raise self._too_long()

    def _too_long(self) -> RemoteProtocolError:
        return RemoteProtocolError(f"a line of the reply is longer than the limit of {self._max_line} bytes")
