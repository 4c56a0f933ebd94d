"""Server-sent events, as the WHATWG HTML standard reads them ("Server-sent events", from which the quotations are)."""

from __future__ import annotations

import msgspec

from .._errors import RemoteProtocolError
from ._lines import DEFAULT_MAX, LineSplitter

# Python makes no int of more than 4,300 digits, and 18 are thirty million years of milliseconds.
_MAX_RETRY_DIGITS = 18


# `gc=False`: strings and a number cannot be part of a cycle, and a stream is many small events.
class ServerSentEvent(msgspec.Struct, frozen=True, gc=False):
    """One event of a stream.

    Attributes:
        data: the values of its ``data`` lines, joined with LF.
        event: its type; ``"message"`` if it gave none.
        id: the last event id of the stream as of this event, given by it or before; ``""`` if none was.
        retry: the milliseconds to wait before reconnecting, if they were given with this event.
    """

    data: str
    event: str = "message"
    id: str = ""
    retry: int | None = None


class SSEDecoder:
    """Read a stream of server-sent events from bytes that arrive cut anywhere.

    Args:
        max_event: how many bytes one line, and the ``data`` lines of one event together, may have.

    Attributes:
        retry: the milliseconds to wait before reconnecting that the stream gave last; `None` if it gave none.
        last_event_id: the id to reconnect with: the last one whose event was complete; ``""`` if there was none.
    """

    __slots__ = (
        "_begun",
        "_data",
        "_event",
        "_id",
        "_lines",
        "_max_event",
        "_retry",
        "_size",
        "last_event_id",
        "retry",
    )

    def __init__(self, *, max_event: int = DEFAULT_MAX) -> None:
        self.retry: int | None = None
        self.last_event_id: str = ""
        self._max_event = max_event
        self._lines = LineSplitter(max_line=max_event, bare_cr=True)
        self._begun = False
        # The event whose empty line has not come yet. `_id` outlives it: "the last event ID buffer" is never reset.
        self._data: list[str] = []
        self._size = 0
        self._event = "message"
        self._id = ""
        self._retry: int | None = None

    def receive_data(self, data: bytes) -> list[ServerSentEvent]:
        """Take the next bytes and return the events they complete.

        Raises:
            RemoteProtocolError: a line, or the data of one event, is longer than ``max_event``. Events completed by
                the same bytes are lost with it, and the decoder is of no use afterwards.
        """
        lines = self._lines.receive_data(data)
        if lines and not self._begun:
            # "The UTF-8 decode algorithm strips one leading UTF-8 Byte Order Mark (BOM), if any."
            lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
            self._begun = True
        events: list[ServerSentEvent] = []
        pending = self._data
        # Nearly all lines are a data line or the empty line after it. These two are dealt with here, without a call.
        for line in lines:
            if not line:
                self.last_event_id = self._id
                # "If the data buffer is an empty string, set the data buffer and the event type buffer to the empty
                # string and return." A data line without a value is not that: it has put an LF into the buffer.
                if pending:
                    events.append(ServerSentEvent("\n".join(pending), self._event, self._id, self._retry))
                    pending.clear()
                    self._size = 0
                self._event = "message"
                self._retry = None
            elif line[:5] == b"data:" or line == b"data":
                self._size += len(line)
                if self._size > self._max_event:
                    raise RemoteProtocolError(
                        f"an event of the reply is longer than the limit of {self._max_event} bytes"
                    )
                # "If value starts with a U+0020 SPACE character, remove it from value."
                value = line[6:] if line[5:6] == b" " else line[5:]
                pending.append(value.decode("utf-8", "replace"))
            else:
                self._field(line)
        return events

    def receive_eof(self) -> list[ServerSentEvent]:
        """Discard the event that has not ended, and return the empty list.

        "Once the end of the file is reached, any pending data must be discarded. (If the file ends in the middle of an
        event, before the final empty line, the incomplete event is not dispatched.)"
        """
        self._lines.receive_eof()
        self._data.clear()
        self._size = 0
        return []

    def _field(self, line: bytes) -> None:
        # Lines are decoded whole, "using the UTF-8 decode algorithm". A line end is never part of a longer sequence,
        # so that is the same as decoding the stream.
        name, _, raw = line.partition(b":")
        value = raw.removeprefix(b" ").decode("utf-8", "replace")
        if name == b"event":
            self._event = value or "message"
        elif name == b"id":
            # "If the field value does not contain U+0000 NULL, then set the last event ID buffer to the field value.
            # Otherwise, ignore the field."
            if "\0" not in value:
                self._id = value
        elif name == b"retry" and value.isascii() and value.isdigit() and len(value) <= _MAX_RETRY_DIGITS:
            # "If the field value consists of only ASCII digits, then interpret the field value as an integer in base
            # ten […]. Otherwise, ignore the field." `str.isdigit` alone takes other digits too.
            self.retry = self._retry = int(value)
        # All else "is ignored": unknown fields, and comments, which are fields without a name.
