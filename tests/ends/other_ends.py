"""Who is at the other end of a connection, for the tests of several rooms."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import trio

from trioprov.testing import Emulator


async def request_of(stream: trio.abc.ReceiveStream) -> bytes:
    """A whole request, for closing a socket that holds unread bytes would be a reset; nothing, if there is none."""
    data = b""
    length = math.inf
    while len(data) < length:
        more = await stream.receive_some(65536)
        if not more:
            return b""
        data += more
        head, found, _ = data.partition(b"\r\n\r\n")
        if found:
            sizes = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            length = len(head) + 4 + sum(sizes)
    return data


@asynccontextmanager
async def proxied(emulator: Emulator[Any]) -> AsyncGenerator[int]:
    """An http proxy in front of the emulator, which passes everything on; its port."""

    async def serve(stream: trio.SocketStream) -> None:
        onward = await trio.open_tcp_stream("127.0.0.1", urlsplit(emulator.url).port or 80)

        async def copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
            try:
                while data := await source.receive_some():
                    await sink.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            nursery.cancel_scope.cancel()

        async with stream, onward, trio.open_nursery() as nursery:
            nursery.start_soon(copy, stream, onward)
            nursery.start_soon(copy, onward, stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()
