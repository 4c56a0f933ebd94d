"""The floor: the least that trio, a C parser of HTTP and a typed decoder of JSON can do it for.

Nothing here is fit for use. There is no error handling, no deadline, no way to stop; there is one reader, and it takes
its tokens by the block. It is what is left when everything a library does for its user is taken away.
"""

# A peer, which only the benchmark's own environment has.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import json
import socket
from urllib.parse import urlencode, urlsplit

import msgspec
import trio
from _measure import main
from _protocol import question, settings
from httptools import HttpResponseParser


class Piece(msgspec.Struct, gc=False):
    """A token as text-generation-inference sends it."""

    text: str
    special: bool


class Message(msgspec.Struct, gc=False):
    """An event of the stream."""

    token: Piece


class Connection:
    """One keep-alive connection, one request at a time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname, parts.port)
        self._host = parts.netloc
        self._socket = socket.socket()
        self._blocks: list[bytes] = []
        self._complete = False

    async def connect(self) -> None:
        """Open it."""
        self._socket.setblocking(False)
        try:
            self._socket.connect(self._address)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(self._socket)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def send(self, method: str, path: str, kind: str = "", body: str = "") -> HttpResponseParser:
        """Send a request, which fits into the buffer of any socket; returns what parses the answer."""
        head = [f"{method} {path} HTTP/1.1", f"Host: {self._host}", f"Content-Length: {len(body)}"]
        if kind:
            head.append(f"Content-Type: {kind}")
        self._socket.send("\r\n".join([*head, "", body]).encode())
        self._complete = False
        return HttpResponseParser(self)

    async def receive(self, parser: HttpResponseParser) -> bytes:
        """The part of the body that the next read brings; ``b""`` at the end."""
        while not self._complete:
            await trio.lowlevel.wait_readable(self._socket)
            parser.feed_data(self._socket.recv(65536))
            if self._blocks:
                block = b"".join(self._blocks)
                self._blocks.clear()
                return block
        return b""

    async def request(self, method: str, path: str, kind: str = "", body: str = "") -> bytes:
        """A request and its whole answer."""
        parser = self.send(method, path, kind, body)
        answer = b""
        while block := await self.receive(parser):
            answer += block
        assert parser.get_status_code() == 200
        return answer

    # -- What the parser calls ---------------------------------------------------------------------------------------

    def on_body(self, data: bytes) -> None:
        """A chunk, or a part of one."""
        self._blocks.append(data)

    def on_message_complete(self) -> None:
        """The end of the body."""
        self._complete = True


async def session(url: str, model: str, count: int) -> list[str]:
    """The whole session, on one connection."""
    tokens: list[str] = []
    decode = msgspec.json.Decoder(Message).decode
    connection = Connection(url)
    await connection.connect()
    await connection.request("POST", "/settings", "application/x-www-form-urlencoded", urlencode(settings(model)))
    created = await connection.request("POST", "/conversation", "application/json", json.dumps({"model": model}))
    path = f"/conversation/{json.loads(created)['conversationId']}"
    parser = connection.send("POST", path, "application/json", json.dumps(question(count)))
    rest = b""
    while block := await connection.receive(parser):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            if line:
                token = decode(line[5:]).token
                if not token.special:
                    tokens.append(token.text)
    assert parser.get_status_code() == 200
    await connection.request("DELETE", path)
    connection.close()
    return tokens


if __name__ == "__main__":
    main(trio.run, session)
