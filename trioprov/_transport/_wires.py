"""Bytes to a server and back: over a socket, and over TLS on top of it.

A live token is a read of its own, so reading is done by hand: waiting for the socket and then taking what is there
saves half of what `trio.SocketStream` costs, and two memory BIOs cost a tenth of `trio.SSLStream`. The two are apart,
so that who waits does so in trio's coroutines and in none of ours: a thousand streams make those anew for each token,
and the garbage collector looks at them all. With the same done for readers, that saves a tenth of what a token costs.
"""

from __future__ import annotations

import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from contextlib import suppress

import trio

_READ = 65536

# How long sending may stand still before somebody looks whether the server has answered already, in seconds.
_GLANCE = 0.25


class Wire(ABC):
    """A connection.

    Attributes:
        clean: whether its end, when it comes, can be taken for the end of what was said.
        peer: the address at the other end, where it is known.
    """

    clean: bool = True
    peer: str | None = None

    @abstractmethod
    def readable(self) -> Awaitable[None]:
        """Await it at once: a checkpoint, until there may be something to `take`. Cancelled, it has lost nothing.

        Raises:
            OSError: the connection broke.
            trio.ClosedResourceError: it was closed here.
        """

    @abstractmethod
    def take(self) -> bytes | None:
        """What has come, at most 64 KiB of it or a little more; nothing at the end; `None` if nothing has, after all.

        Raises:
            OSError: the connection broke.
        """

    async def receive(self) -> bytes:
        """Both: what comes next."""
        while True:
            await self.readable()
            if (data := self.take()) is not None:
                return data

    @abstractmethod
    async def send(self, data: memoryview) -> int:
        """Send some of ``data``; not a checkpoint, when there is room.

        Returns:
            How much; 0 if there was no room, and something to receive.

        Raises:
            OSError, trio.ClosedResourceError: as above.
        """

    @abstractmethod
    def is_quiet(self) -> bool:
        """Whether it is open, as far as one can see, and nothing has come."""

    @abstractmethod
    def say(self, data: bytes) -> None:
        """Send what can be sent at once, or nothing; before `close`."""

    @abstractmethod
    def close(self) -> None:
        """Close at once; who waits for it is woken by an error."""


class SocketWire(Wire):
    """A socket of the system's.

    Args:
        sock: connected; it is the wire's from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._full = False

    def readable(self) -> Awaitable[None]:
        if self._full:  # then there is more, most likely; but others shall have their turn
            return trio.lowlevel.checkpoint()  # noqa: ASYNC105 - it is awaited by who calls this
        return trio.lowlevel.wait_readable(self._sock)  # noqa: ASYNC105

    def take(self) -> bytes | None:
        try:
            data = self._sock.recv(_READ)
        except BlockingIOError:
            self._full = False
            return None
        self._full = len(data) == _READ
        return data

    async def send(self, data: memoryview) -> int:
        while True:
            try:
                return self._sock.send(data)
            except BlockingIOError:
                with trio.move_on_after(_GLANCE):
                    await trio.lowlevel.wait_writable(self._sock)
                    continue
            except OSError:  # as below
                self.clean = False
                raise
            if not self.is_quiet():
                return 0

    def is_quiet(self) -> bool:
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:  # a reset is told once; who reads on sees an end
            self.clean = False
        return False

    def say(self, data: bytes) -> None:
        with suppress(OSError):
            self._sock.send(data)

    def close(self) -> None:
        if self._sock.fileno() != -1:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()
            self._full = True  # whoever still asks is told so by the socket; trio would wait for a socket -1


class TrioWire(Wire):
    """A socket of somebody's `trio.abc.SocketFactory`, which need not be one of the system's.

    Args:
        sock: connected; it is the wire's from now on.
    """

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._sock = sock
        self._data: bytes | None = None

    async def readable(self) -> None:
        self._data = await self._sock.recv(_READ)

    def take(self) -> bytes | None:
        data, self._data = self._data, None
        return data

    async def send(self, data: memoryview) -> int:
        return await self._sock.send(data)

    def is_quiet(self) -> bool:
        return not self._sock.is_readable()

    def say(self, data: bytes) -> None:
        pass  # there is no way that does not wait

    def close(self) -> None:
        self._sock.close()


class TLSWire(Wire):
    """TLS over another wire.

    Args:
        wire: it is this one's from now on.
        context: trust and certificates.
        host: who the server has to be.
    """

    def __init__(self, wire: Wire, context: ssl.SSLContext, host: str) -> None:
        self.clean = False  # until a close_notify has come
        self.peer = wire.peer
        self._wire = wire
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context.set_alpn_protocols(["http/1.1"])  # as httpx does with a context that it is given
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._plain = b""  # what has come
        self._cipher = b""  # what is to be sent
        self._taken = 0  # how much of what was given to `send` is in it
        self._failure: ssl.SSLError | None = None  # what is wrong with what came after `_plain`
        self._up = False  # until then, what comes is the handshake's

    async def handshake(self) -> None:
        """Raises `ssl.SSLError`, or as `receive` does."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._pull()
            else:
                break
        await self._flush()
        if self._tls.selected_alpn_protocol() not in (None, "http/1.1"):
            raise ssl.SSLError("the server wants to speak another protocol than HTTP/1.1")
        self._up = True
        self._decipher()

    def readable(self) -> Awaitable[None]:
        if self._plain or self.clean or self._failure is not None:
            return trio.lowlevel.checkpoint()  # noqa: ASYNC105 - it is awaited by who calls this
        if self._outgoing.pending and not self._taken:  # TLS has something to say of its own
            return self._said()
        return self._wire.readable()

    def take(self) -> bytes | None:
        if not self._plain and not self.clean:
            if self._failure is not None:
                raise self._failure
            data = self._wire.take()
            if not data:
                return data
            self._incoming.write(data)
            self._decipher()
            if not self._plain and not self.clean:
                return None  # half a record, or one of TLS's own
        data, self._plain = self._plain, b""
        return data

    async def send(self, data: memoryview) -> int:
        while not self._taken:
            try:
                self._taken = self._tls.write(data[:_READ])
            except ssl.SSLWantReadError:  # a renegotiation
                await self._flush()
                await self._pull()
        if not await self._flush():
            return 0
        taken, self._taken = self._taken, 0
        return taken

    def is_quiet(self) -> bool:
        return not self._plain and not self.clean and self._failure is None and self._wire.is_quiet()

    def say(self, data: bytes) -> None:
        pass  # nobody says anything over TLS that is not waited for

    def close(self) -> None:
        # RFC 9112, 9.8: a client says that it closes; there is no need to hear the same from the server.
        with suppress(ssl.SSLError):
            self._tls.unwrap()
        self._wire.say(self._outgoing.read())
        self._wire.close()

    async def _said(self) -> None:
        await self._flush()
        await self.readable()

    async def _flush(self) -> bool:
        """Send what TLS has to send; false when something came that has to be received first."""
        self._cipher += self._outgoing.read()
        while self._cipher:
            sent = await self._wire.send(memoryview(self._cipher))
            self._cipher = self._cipher[sent:]
            if not sent:
                await self._pull()
                if self._plain or self.clean:
                    return False
        return True

    async def _pull(self) -> None:
        data = await self._wire.receive()
        if not data:
            raise ConnectionAbortedError("the server closed the connection")
        self._incoming.write(data)
        self._decipher()

    def _decipher(self) -> None:
        """Decipher all that has come; records are at most 16 KiB, so that each read takes one and nothing is left."""
        parts: list[bytes] = [self._plain] if self._plain else []
        try:
            while self._up and self._incoming.pending and not self.clean:
                part = self._tls.read(_READ)
                if part:
                    parts.append(part)
                else:
                    self.clean = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.clean = True
        except ssl.SSLError as exc:
            if not parts:
                raise
            self._failure = exc
        self._plain = parts[0] if len(parts) == 1 else b"".join(parts)


async def connect(host: str, port: int, context: ssl.SSLContext | None, known: str | None = None) -> Wire:
    """Connect, by TLS if there is a context; cancelled or failed, it leaves nothing open.

    Args:
        known: an address of the host's, from before. It is used while all of trio's threads are busy: looking up a
            name takes one, and a cleanup must not wait for what the program does in them.

    Raises:
        OSError: there is no connection; `ssl.SSLError` is one too.
    """
    busy = not trio.to_thread.current_default_thread_limiter().available_tokens
    stream = await trio.open_tcp_stream(known if known is not None and busy else host, port)
    wire: Wire
    try:
        of = stream.socket
        sock = socket.socket(of.family, of.type, of.proto, fileno=of.detach())
    except NotImplementedError:
        wire = TrioWire(stream.socket)
    else:
        wire = SocketWire(sock)
        with suppress(OSError):  # it may be gone already
            wire.peer = sock.getpeername()[0]
    if context is None:
        return wire
    try:
        secure = TLSWire(wire, context, host)
        await secure.handshake()
    except BaseException:
        wire.close()
        raise
    return secure
