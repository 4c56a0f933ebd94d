"""The floor: the least that trio, a C parser of HTTP and a typed decoder of JSON can do it for.

Nothing here is fit for use. There is no error handling, no deadline, no way to stop; there is one reader, and it takes
its tokens by the block. It is what is left when everything a library does for its user is taken away.
"""

# A peer, which only the benchmark's own environment has.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import os
import socket
import ssl
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import _on_trio as loop  # noqa: F401 - for the measurement
import msgspec
import trio
from _measure import Report, for_each_number, main
from _protocol import FLOWS, Ask
from httptools import HttpResponseParser


class Piece(msgspec.Struct, gc=False):
    """A token as text-generation-inference sends it."""

    text: str
    special: bool


class Message(msgspec.Struct, gc=False):
    """An event of its stream."""

    token: Piece


class Event(msgspec.Struct, gc=False):
    """An event of Open Assistant's stream."""

    event_type: str
    text: str | None = None


class Line(msgspec.Struct, gc=False):
    """A line of olmo's stream."""

    content: str
    children: list[object] | None = None


_read_message = msgspec.json.Decoder(Message).decode
_read_event = msgspec.json.Decoder(Event).decode
_read_line = msgspec.json.Decoder(Line).decode


def _tgi(lines: list[bytes], tokens: list[str]) -> None:
    decode = _read_message
    for line in lines:
        if line:
            token = decode(line[5:]).token
            if not token.special:
                tokens.append(token.text)


def _oasst(lines: list[bytes], tokens: list[str]) -> None:
    decode = _read_event
    for line in lines:
        if len(line) > 1:
            event = decode(line[5:])
            if event.event_type == "token":
                tokens.append(event.text or "")


def _olmo(lines: list[bytes], tokens: list[str]) -> None:
    decode = _read_line
    for line in lines:
        said = decode(line)
        if said.children is None:
            tokens.append(said.content)


_BLOCKS = {"tgi": _tgi, "oasst": _oasst, "olmo": _olmo}


class Connection:
    """One keep-alive connection, one request at a time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname, parts.port)
        self._host = parts.netloc
        self._socket = socket.socket()
        self._blocks: list[bytes] = []
        self._complete = False
        self._tls = None
        if parts.scheme == "https":
            self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
            context = ssl.create_default_context(cafile=os.environ["BENCHMARK_CA"])
            self._tls = context.wrap_bio(self._received, self._to_send, server_hostname=parts.hostname)

    async def connect(self) -> None:
        """Open it."""
        self._socket.setblocking(False)
        try:
            self._socket.connect(self._address)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(self._socket)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while self._tls is not None:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._socket.send(self._to_send.read())
                await trio.lowlevel.wait_readable(self._socket)
                self._received.write(self._socket.recv(65536))
        if self._tls is not None:
            self._socket.send(self._to_send.read())

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def send(self, ask: Ask) -> HttpResponseParser:
        """Send a request, which fits into the buffer of any socket; returns what parses the answer."""
        head = [f"{ask.method} {ask.path} HTTP/1.1", f"Host: {self._host}", f"Content-Length: {len(ask.body)}"]
        if ask.kind:
            head.append(f"Content-Type: {ask.kind}")
        data = "\r\n".join([*head, "", ask.body]).encode()
        if self._tls is not None:
            self._tls.write(data)
            data = self._to_send.read()
        self._socket.send(data)
        self._complete = False
        return HttpResponseParser(self)

    async def receive(self, parser: HttpResponseParser) -> bytes:
        """The part of the body that the next read brings; ``b""`` at the end."""
        while not self._complete:
            await trio.lowlevel.wait_readable(self._socket)
            data = self._socket.recv(65536)
            parser.feed_data(data if self._tls is None else self._decrypted(data))
            if self._blocks:
                block = b"".join(self._blocks)
                self._blocks.clear()
                return block
        return b""

    def _decrypted(self, data: bytes) -> bytes:
        self._received.write(data)
        assert self._tls is not None
        parts = []
        try:
            while part := self._tls.read(65536):
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        return b"".join(parts)

    async def request(self, ask: Ask) -> bytes:
        """A request and its whole answer."""
        parser = self.send(ask)
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


class Conversation:
    """One conversation, on a connection of its own."""

    def __init__(self, connection: Connection, shape: str, question: Ask) -> None:
        self._connection, self._question = connection, question
        self._tokens_of = _BLOCKS[shape]

    async def blocks(self) -> AsyncGenerator[list[str]]:
        """The answer, as it comes."""
        parser = self._connection.send(self._question)
        rest = b""
        while block := await self._connection.receive(parser):
            *lines, rest = (rest + block).split(b"\n")
            tokens: list[str] = []
            self._tokens_of(lines, tokens)
            yield tokens
        assert parser.get_status_code() == 200


@asynccontextmanager
async def open_client(url: str) -> AsyncGenerator[str]:
    """There is no pool."""
    yield url


@asynccontextmanager
async def open_conversation(url: str, shape: str, model: str) -> AsyncGenerator[Conversation]:
    """Created and, if all goes well, deleted."""
    connection = Connection(url)
    await connection.connect()
    flow = FLOWS[shape](model)
    answer = None
    try:
        while True:
            answer = await connection.request(flow.send(answer))
    except StopIteration as stop:
        question, delete = stop.value
    yield Conversation(connection, shape, question)
    await connection.request(delete)
    connection.close()


@asynccontextmanager
async def ask(conversation: Conversation) -> AsyncGenerator[AsyncGenerator[str]]:
    """Token by token, for who wants to look at each."""
    yield (token async for block in conversation.blocks() for token in block)


async def read(conversation: Conversation) -> list[str]:
    """Block by block."""
    tokens: list[str] = []
    async for block in conversation.blocks():
        tokens += block
    return tokens


async def readers(client: object, url: str, count: str, period: str, *numbers: str) -> Report:
    """A memory channel for each reader, fed token by token."""

    async def read(number: int, model: str) -> int:
        came = 0

        async def reader(channel: trio.MemoryReceiveChannel) -> None:
            nonlocal came
            async for _ in channel:
                came += 1

        async with open_conversation(url, "tgi", model) as conversation, trio.open_nursery() as nursery:
            channels = []
            for _ in range(number):
                send, receive = trio.open_memory_channel(256)
                channels.append(send)
                nursery.start_soon(reader, receive)
            async for block in conversation.blocks():
                for token in block:
                    for send in channels:
                        await send.send(token)
            for send in channels:
                send.close()
        return came

    return await for_each_number([int(number) for number in numbers], int(count), read, period)


if __name__ == "__main__":
    main(sys.modules[__name__])
