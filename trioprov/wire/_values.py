"""Streams whose every event, or line, is one JSON text: from bytes to typed values, a block at a time.

Nearly every block that a server sends is a row of whole, plain events. Such a block is cut in one call and read in
another, without a line, an event or a call in Python for each token; and so this is what a token costs. Whatever else
a block may be, `SSEDecoder` or `NDJSONDecoder` deals with it, by the letter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from ._json import decoder_of, reader
from ._lines import DEFAULT_MAX
from ._ndjson import NDJSONDecoder
from ._sse import SSEDecoder

T = TypeVar("T")

# How much of an event that has only begun is copied again with each block that brings more of it. A longer one goes to
# the decoder that keeps what it is given, so that the work stays linear.
_SHORT = 4096


class _Values(ABC, Generic[T]):
    def __init__(self, type_: type[T], plain: type[T] | None = None) -> None:
        self._decode = decoder_of(plain or type_).decode
        self._read = reader(type_)
        # The event that has begun stands either here, or, once `_inside`, in the decoder that goes by the letter.
        self._held = b""
        self._inside = False

    def receive_data(self, data: bytes) -> Iterable[T]:
        """Take the next bytes and return the values they complete; iterate once.

        Raises:
            RemoteProtocolError: an event or a line is too long; or, when the iteration comes to it, one is no JSON
                text of the type.
        """
        block = self._held + data
        head, end, tail = block.rpartition(self._end(block))
        if self._complete(tail) or len(tail) > _SHORT or (self._inside and not end):
            self._held, self._inside = b"", True
            return self._by_the_letter(block)
        self._held = tail
        if self._inside:
            self._inside = False
        elif not head:
            return ()
        elif len(head) <= DEFAULT_MAX:
            try:
                if (texts := self._texts(head, end)) is not None:
                    return list(map(self._decode, texts))
            except (ValueError, RecursionError):
                pass  # not all of them are what they must be; those before are wanted nevertheless
        return self._by_the_letter(head + end)

    @abstractmethod
    def _end(self, block: bytes) -> bytes:
        """What plain events of this block end with."""

    @abstractmethod
    def _complete(self, tail: bytes) -> bool:
        """Whether there may be something complete in what stands after the last such end."""

    @abstractmethod
    def _texts(self, head: bytes, end: bytes) -> Sequence[bytes | str] | None:
        """The JSON texts of a block of plain events, without its last end; `None` if they are not plain."""

    @abstractmethod
    def _by_the_letter(self, data: bytes) -> Iterable[T]: ...


class SSEValues(_Values[T]):
    """Reads a stream of server-sent events whose ``data`` is a JSON text each; nothing else of them is looked at.

    Args:
        type_: what the texts are, as for `reader`.
    """

    def __init__(self, type_: type[T]) -> None:
        super().__init__(type_)
        self._events = SSEDecoder()
        # A byte order mark may stand at the start of the stream, and nowhere else.
        self._inside = True

    def receive_eof(self) -> Iterable[T]:
        """Discard the event that has not ended, as `SSEDecoder.receive_eof` does."""
        self._held = b""
        self._events.receive_eof()
        return ()

    def _end(self, block: bytes) -> bytes:
        return b"\r\n\r\n" if b"\r" in block else b"\n\n"

    def _complete(self, tail: bytes) -> bool:
        # A complete event is at least a line, and an empty one.
        return len(tail.splitlines()) > 1

    def _texts(self, head: bytes, end: bytes) -> Sequence[bytes | str] | None:
        if not head.startswith(b"data:"):
            return None
        # A space may follow the colon; JSON does not mind it.
        texts = head[5:].split(end + b"data:")
        # The ends between plain events are all the line ends there are. (Where they are LF, the block has no CR.)
        ends = 2 * (len(texts) - 1)
        plain = head.count(b"\n") == ends and (end == b"\n\n" or head.count(b"\r") == ends)
        return texts if plain else None

    def _by_the_letter(self, data: bytes) -> Iterable[T]:
        return map(self._read, [event.data for event in self._events.receive_data(data)])


class NDJSONValues(_Values[T]):
    """Reads a stream of lines that each hold a JSON text.

    Args:
        type_: what the texts are, as for `reader`.
        plain: what nearly all of them are, and cheaper to read; a block with one that is not is read as ``type_``.
        max_line: how many bytes a line may have; no fewer than by default.
    """

    def __init__(self, type_: type[T], plain: type[T] | None = None, *, max_line: int = DEFAULT_MAX) -> None:
        super().__init__(type_, plain)
        self._lines = NDJSONDecoder(max_line=max_line)

    def receive_eof(self) -> Iterable[T]:
        """The value of the last line, if it has no end and is not blank; iterate once.

        Raises:
            RemoteProtocolError: when the iteration comes to it, if that was only the start of a text.
        """
        lines = self._lines.receive_data(self._held) + self._lines.receive_eof()
        self._held = b""
        return map(self._read, lines)

    def _end(self, block: bytes) -> bytes:
        return b"\n"

    def _complete(self, tail: bytes) -> bool:
        return False

    def _texts(self, head: bytes, end: bytes) -> Sequence[bytes | str] | None:
        lines = head.split(b"\n")
        # The decoder does not look at the encoding of what it skips, and `reader` does.
        return lines if head.isascii() else [line if line.isascii() else line.decode() for line in lines]

    def _by_the_letter(self, data: bytes) -> Iterable[T]:
        return map(self._read, self._lines.receive_data(data))
