"""Real servers, and HTTP clients that do what they like with their sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import trio

from trioprov.testing import Emulator

KINDS = ["uvicorn", "uvicorn-uvloop", "hypercorn-asyncio", "hypercorn-trio"]
ROOT = Path(__file__).parent.parent.parent
SCRIPT = Path(__file__).with_name("server.py")


class Server:
    """A server that is running.

    Attributes:
        kind: which.
        port: where it listens, on loopback.
    """

    def __init__(self, kind: str, port: int, process: subprocess.Popen[bytes], errors: Path) -> None:
        self.kind = kind
        self.port = port
        self.process = process
        self._errors = errors

    @property
    def errors(self) -> str:
        """What it has written to stderr."""
        return self._errors.read_text()

    def stop(self) -> int:
        """Ask it to end, and wait until it has."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def forget_errors(self) -> None:
        """Those so far were expected."""
        os.truncate(self._errors, 0)


@contextmanager
def running(kind: str, grace: float = 1, script: Path = SCRIPT, **environment: str) -> Generator[Server, None, None]:
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    with listener, tempfile.NamedTemporaryFile() as file, open(file.name, "ab") as errors:
        os.set_inheritable(listener.fileno(), True)
        process = subprocess.Popen(
            [sys.executable, "-W", "default", str(script), kind, str(listener.fileno()), str(grace)],
            pass_fds=[listener.fileno()],
            stderr=errors,
            stdout=subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )
        port = listener.getsockname()[1]
        listener.close()  # what comes before the server listens waits in the queue
        try:
            yield Server(kind, port, process, Path(errors.name))
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="session", params=KINDS)
def one_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param) as server:
        yield server


@pytest.fixture
def server(one_server: Server) -> Iterator[Server]:
    """A server, which is to say nothing on stderr."""
    one_server.forget_errors()
    yield one_server
    assert not one_server.errors


class Client:
    """One request on one connection, read as it comes.

    Attributes:
        stream: the socket.
        status: of the answer, once `head` has read it.
        headers: of the answer, likewise.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.status = 0
        self.headers: dict[str, str] = {}
        self._raw = b""
        self.body = b""
        self.complete = False

    async def head(self) -> None:
        while b"\r\n\r\n" not in self._raw:
            self._raw += await self._more()
        head, _, self._raw = self._raw.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.status = int(first.split(" ")[1])
        self.headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}

    async def _more(self) -> bytes:
        data = await self.stream.receive_some()
        if not data:
            raise EOFError
        return data

    async def chunk(self) -> bytes:
        """The next chunk of a chunked body; ``b""`` at its end."""
        while b"\r\n" not in self._raw:
            self._raw += await self._more()
        size, _, rest = self._raw.partition(b"\r\n")
        length = int(size, 16)
        while len(rest) < length + 2:
            rest += await self._more()
        self._raw = rest[length + 2 :]
        self.body += rest[:length]
        self.complete = not length
        return rest[:length]

    async def read(self) -> bytes:
        """The whole body. `complete` says whether the server said that it is."""
        if self.headers.get("transfer-encoding") == "chunked":
            try:
                while not self.complete:
                    await self.chunk()
            except (EOFError, trio.BrokenResourceError):
                pass
        else:
            while len(self._raw) < int(self.headers.get("content-length", 0)):
                self._raw += await self._more()
            self.body, self.complete = self._raw, True
        return self.body

    async def tokens(self, count: int) -> None:
        """Read until there are so many token events."""
        while self.body.count(b"event: token\n") < count:
            await self.chunk()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def reset(self) -> None:
        """Leave with an RST."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()

    @property
    def last_event_id(self) -> str:
        return self.body.rpartition(b"\nid: ")[2].split(b"\n")[0].decode()


@asynccontextmanager
async def get(
    server: Server,
    path: str,
    emulator: Emulator[Any] | None = None,
    *,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    receive_buffer: int | None = None,
    **query: object,
) -> AsyncGenerator[Client, None]:
    if emulator is not None:
        query["base_url"] = emulator.url
    with trio.fail_after(60), trio.socket.socket() as raw:
        if receive_buffer is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await raw.connect(("127.0.0.1", server.port))
        lines = [f"{method} {path}?{urlencode(query)} HTTP/1.1", "Host: localhost"]
        lines += [f"{key}: {value}" for key, value in (headers or {}).items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        stream = trio.SocketStream(raw)
        await stream.send_all("\r\n".join([*lines, "", ""]).encode() + body)
        yield Client(stream)


async def fetch(server: Server, path: str, emulator: Emulator[Any] | None = None, **options: Any) -> Client:
    """The whole answer."""
    async with get(server, path, emulator, **options) as client:
        await client.head()
        await client.read()
        return client


def events(body: bytes) -> list[tuple[str, str, Any]]:
    """The blocks of an event stream: id, event, data."""
    found: list[tuple[str, str, Any]] = []
    for block in body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if "data" in fields:
            found.append((fields["id"], fields["event"], json.loads(fields["data"])))
    return found


def text(body: bytes) -> str:
    return "".join(data for _, event, data in events(body) if event == "token")


async def gone(emulator: Emulator[Any], within: float = 20.0) -> None:
    """Wait until no conversation is left on the provider's server."""
    with trio.fail_after(within):
        while emulator.conversations or not emulator.requests:
            await trio.sleep(0.01)


class BreakingNetwork:
    """Passes everything on, and cuts each of the first connections after some bytes."""

    def __init__(self, port: int, cuts: list[int]) -> None:
        self.port = port
        self.cuts = cuts
        self.connections = 0

    async def serve(self, stream: trio.SocketStream, begun: bytes = b"") -> None:
        """One connection, of which so much was read already."""
        self.connections += 1
        left = self.cuts.pop(0) if self.cuts else 1 << 30
        onward = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream, onward, trio.open_nursery() as nursery:
            await onward.send_all(begun)
            nursery.start_soon(self._pass, stream, onward, 1 << 30)
            await self._pass(onward, stream, left)
            nursery.cancel_scope.cancel()

    async def _pass(self, source: trio.SocketStream, sink: trio.SocketStream, left: int) -> None:
        try:
            while left > 0 and (data := await source.receive_some()):
                await sink.send_all(data[:left])
                left -= len(data)
        except trio.BrokenResourceError:
            pass
