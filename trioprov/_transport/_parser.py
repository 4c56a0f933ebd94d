"""HTTP/1.1 as bytes: a request written, an answer read; nothing here waits or has a clock.

llhttp knows the grammar, and is strict. What stands around it here is what a client has to decide itself: where an
answer ends (RFC 9112, 6.3), how much of anything may come, and whether the connection can be used again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import httptools

# Bytes of an answer's head, with those of the informational answers before it. Node allows 16 KiB, curl 300.
MAX_HEAD = 64 * 1024
MAX_HEADERS = 256

# Bytes that may come in a row in a chunked body without being body: sizes, extensions, trailers.
MAX_BETWEEN = 16 * 1024

Headers = Sequence[tuple[bytes, bytes]]

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(rb"[!-~]+")
_VALUE = re.compile(rb"[^\x00\r\n]*")

_HEAD_END = re.compile(rb"\n\r?\n")  # a bare LF is found here, for llhttp to refuse it
_FOLD = re.compile(rb"\r\n[ \t]+")
_START = b"HTTP/1."


class BadRequest(ValueError):
    """What was to be sent is not HTTP; nothing of it was."""


class NotHTTP(Exception):
    """What came is not HTTP, or too much of it."""


class Cut(Exception):
    """The connection ended before the answer did."""


def request_bytes(method: bytes, target: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bytes:
    """A request, with the length that its body has, whatever its headers say.

    Raises:
        BadRequest: a part of it would end its line, or is no name.
    """
    names = [method, *[name for name, _ in headers]]
    values = b"".join([value for _, value in headers])
    # All names at once, and all values: one by one, this is a tenth of what a request costs.
    if not (
        all(names) and _TOKEN.fullmatch(b"".join(names)) and _TARGET.fullmatch(target) and _VALUE.fullmatch(values)
    ):
        raise _blame(headers)
    lines = [b"%b %b HTTP/1.1\r\n" % (method, target)]
    counted = bool(body)
    for name, value in headers:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            counted = True
        else:
            lines.append(b"%b: %b\r\n" % (name, value))
    if counted:
        lines.append(b"Content-Length: %d\r\n" % len(body))
    return b"".join([*lines, b"\r\n", body])


def _blame(headers: Sequence[tuple[bytes, bytes]]) -> BadRequest:
    for name, value in headers:
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            return BadRequest(f"the header {name.decode('latin-1')!r} is not one that can be sent")
    return BadRequest("the method or the address is not one that can be sent")


@dataclass(frozen=True)
class Head:
    """What an answer begins with.

    Attributes:
        status: at least 200.
        version: ``HTTP/1.1`` or ``HTTP/1.0``.
        reason: the words after the status.
        headers: names and values as they came.
    """

    status: int
    version: bytes
    reason: bytes
    headers: Headers

    def values(self, name: bytes) -> list[bytes]:
        """All values of a header, given in lower case, without the blanks around them."""
        return [value.strip(b" \t") for key, value in self.headers if key.lower() == name]


class _Sink:
    """What llhttp reports to; without a way back to who feeds it, so that no cycle is left to the collector."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.parts: list[bytes] = []
        self.on_body = self.parts.append
        self.complete = False
        self._begun = False

    def on_message_begin(self) -> None:
        if self._begun:
            raise NotHTTP("an answer that nobody asked for")  # else its body would be read as the first one's
        self._begun = True

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_message_complete(self) -> None:
        self.complete = True


class ResponseParser:
    """Reads one answer, cut anywhere; afterwards it is used up.

    Args:
        method: what it answers; the answer to a HEAD has no body.

    Attributes:
        head: once it is known.
        complete: whether all of the answer has come.
        failure: what is wrong with the bytes after those that were returned last.
    """

    def __init__(self, method: str) -> None:
        self.head: Head | None = None
        self.complete: bool = False
        self.failure: NotHTTP | None = None
        self._bodiless = method == "HEAD"
        self._buffer = bytearray()
        self._searched = 0
        self._room = MAX_HEAD
        self._sink = _Sink()
        self._chunks: httptools.HttpResponseParser | None = None
        self._left: int | None = None  # of a body with a length; None: until the connection ends
        self._between = 0
        self._tail = b""
        self._last = False

    @property
    def reusable(self) -> bool:
        """Whether the connection is as it was before the request."""
        return self.complete and not self._last

    def receive_data(self, data: bytes) -> bytes:
        """Take what came.

        Returns:
            What there is of the body in it, in one piece.

        Raises:
            NotHTTP: what came is not, and there is nothing of the body before it.
        """
        if self._chunks is not None and not self.complete:
            return self._unchunked(self._chunks, data)
        if self.head is None:
            data = self._after_head(data)
            return self.receive_data(data) if data else b""
        if self.complete:
            self._last = self._last or bool(data)  # nobody asked for that
            return b""
        if self._left is None:
            return data
        if len(data) >= self._left:
            self.complete = True
            self._last = self._last or len(data) > self._left
            return data[: self._left]
        self._left -= len(data)
        return data

    def receive_eof(self, *, clean: bool = True) -> bytes:
        """The connection ended.

        Args:
            clean: whether the other side said so, as far as one can know.

        Returns:
            Nothing: there is no more of the body.

        Raises:
            Cut: before the answer did.
        """
        if self.head is None:
            raise Cut("the server disconnected " + ("in the middle of a head" if self._buffer else "without an answer"))
        if self._chunks is not None or self._left is not None or not clean:
            raise Cut("the peer closed connection before the end of the body")
        self.complete = True
        return b""

    def _after_head(self, data: bytes) -> bytes:
        """Read heads until there is the answer's own; what came after it."""
        buffer = self._buffer
        buffer += data
        while self.head is None:
            if not (buffer.startswith(_START) or _START.startswith(buffer)):
                raise NotHTTP("what came does not begin like an answer")
            found = _HEAD_END.search(buffer, self._searched)
            if (found.end() if found else len(buffer)) > self._room:
                raise NotHTTP(f"the head of the answer is larger than {MAX_HEAD} bytes")
            if found is None:
                self._searched = max(0, len(buffer) - 2)
                return b""
            raw = bytes(buffer[: found.end()])
            del buffer[: found.end()]
            self._searched = 0
            self._room -= len(raw)
            self._read_head(raw)
        rest = bytes(buffer)
        buffer.clear()
        return rest

    def _read_head(self, raw: bytes) -> None:
        line, _, fields = raw.partition(b"\r\n")
        if fields[:1] in (b" ", b"\t"):
            raise NotHTTP("there are blanks before the first header")
        # RFC 9112, 5.2: a user agent replaces folds by blanks, before anything else.
        raw = line + b"\r\n" + _FOLD.sub(b" ", fields)
        sink = _Sink()
        parser = httptools.HttpResponseParser(sink)
        try:
            parser.feed_data(raw)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            raise NotHTTP(str(exc) if isinstance(exc, httptools.HttpParserError) else "unasked: an upgrade") from exc
        status, version = parser.get_status_code(), parser.get_http_version()
        if version not in ("1.0", "1.1") or status < 100 or status == 101:
            raise NotHTTP(f"an answer of HTTP/{version} with status {status} was not asked for")
        if len(sink.headers) > MAX_HEADERS:
            raise NotHTTP(f"the answer has more than {MAX_HEADERS} headers")
        if status < 200:
            return
        reason = line.split(b" ", 2)[2] if line.count(b" ") > 1 else b""
        self.head = head = Head(status, f"HTTP/{version}".encode(), reason, tuple(sink.headers))
        options = b",".join(head.values(b"connection")).lower().split(b",")
        self._last = version == "1.0" or b"close" in [option.strip(b" \t") for option in options]
        coded, lengths = head.values(b"transfer-encoding"), head.values(b"content-length")
        # RFC 9112, 6.3; what it lets one guess is an error, since somebody on the way may guess otherwise. llhttp has
        # seen to it that there is at most one length, that it is a number, and that it is not beside a coding.
        if coded and ([one.lower() for one in coded] != [b"chunked"] or version == "1.0"):
            raise NotHTTP("the framing of the body can be read in more than one way")
        if self._bodiless or status in (204, 304):
            self.complete = True
            # A 204 that says it has a body may be sent with one, which would be read as the next answer.
            self._last = self._last or (status == 204 and any([*coded, *map(int, lengths)]))
        elif coded:
            self._chunks, self._sink = parser, sink
        elif lengths:
            self._left = int(lengths[0])
            self.complete = not self._left
        else:
            self._last = True

    def _unchunked(self, chunks: httptools.HttpResponseParser, data: bytes) -> bytes:
        parts = self._sink.parts
        try:
            chunks.feed_data(data)
        except httptools.HttpParserError as exc:
            self._last = True
            if not self._sink.complete:
                self.failure = NotHTTP(str(exc))
        self.complete = self._sink.complete
        self._tail = (data if len(data) > 4 else self._tail + data)[-5:]
        if self.complete and self._tail[:1] in (b"\r", b"\n"):
            self._last = True  # more line ends than the answer's own, which llhttp passes over
        if parts:
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            self._between = 0
            return body
        self._between += len(data)
        if self._between > MAX_BETWEEN:
            self.failure = NotHTTP(f"more than {MAX_BETWEEN} bytes between two chunks of the body, or after the last")
        if self.failure is not None:
            raise self.failure
        return b""
