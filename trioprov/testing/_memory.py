"""A network in memory, for one `trio.run`: what connects by trio's sockets reaches an emulator without the kernel.

It stands where trio lets a test put its own sockets (`trio.socket.set_custom_socket_factory`), so everything above
them is the real thing: `trio.open_tcp_stream`, the HTTP library and its pools. Connecting takes a moment of the run's
clock, bytes arrive at once, and each operation passes the same checkpoints as on a real socket.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Any

import trio

_CAPACITY = 65536
_CONNECTING = 0.001  # seconds; without it, nothing at all would ever come later than anything else


class MemoryNetwork(trio.abc.SocketFactory):
    """Servers at addresses, and the sockets that connect to them; nothing outside can be reached.

    Attributes:
        servers: by port, what to do with a connection's other end.
    """

    def __init__(self) -> None:
        self.servers: dict[int, Callable[[trio.SocketStream], None]] = {}

    def socket(
        self,
        family: socket.AddressFamily | int = socket.AF_INET,
        type: socket.SocketKind | int = socket.SOCK_STREAM,
        proto: int = 0,
    ) -> trio.socket.SocketType:
        """A new socket, to be connected."""
        return MemorySocket(self)


class _Pipe:
    """Bytes on their way in one direction."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended = False  # nothing more will be sent
        self.broken = False  # … and what was sent is lost
        self.unread = False  # nobody will receive
        self.changed = trio.lowlevel.ParkingLot()

    def room(self) -> int:
        return _CAPACITY - len(self.data)


class MemorySocket(trio.socket.SocketType):
    """One end of a connection in memory; what a `trio.SocketStream` needs of a socket.

    Args:
        network: whom it may connect to.
    """

    def __init__(self, network: MemoryNetwork) -> None:
        super().__init__()
        self._network = network
        self._incoming = _Pipe()
        self._outgoing = _Pipe()
        self._closed = False
        self._abortive = False

    @property
    def type(self) -> socket.SocketKind:
        """A stream, whatever was asked for."""
        return socket.SOCK_STREAM

    @property
    def did_shutdown_SHUT_WR(self) -> bool:
        """Whether this end has said that it will send no more."""
        return self._outgoing.ended

    async def connect(self, address: Any) -> None:
        """Be accepted by the server at this port, or be refused."""
        await trio.lowlevel.checkpoint_if_cancelled()
        serve = self._network.servers.get(address[1])
        if serve is None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise _error(errno.ECONNREFUSED)
        other = MemorySocket(self._network)
        self._incoming, self._outgoing = other._outgoing, other._incoming
        serve(trio.SocketStream(other))
        try:
            await trio.sleep(_CONNECTING)
        except BaseException:
            self.close()
            raise

    async def send(self, data: Any, flags: int = 0, /) -> int:
        """Send as much as there is room for."""
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while True:
            self._check()
            if self._outgoing.unread:
                raise _error(errno.EPIPE)
            if self._outgoing.room() > 0:
                break
            await self._outgoing.changed.park()
            waited = True
        part = bytes(data[: self._outgoing.room()])
        self._outgoing.data += part
        self._outgoing.changed.unpark_all()
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return len(part)

    async def recv(self, buflen: int, flags: int = 0, /) -> bytes:
        """Receive what is there; nothing at the end."""
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while True:
            self._check()
            if self._incoming.broken:
                raise _error(errno.ECONNRESET)
            if self._incoming.data or self._incoming.ended:
                break
            await self._incoming.changed.park()
            waited = True
        data = bytes(self._incoming.data[:buflen])
        del self._incoming.data[:buflen]
        self._incoming.changed.unpark_all()
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return data

    def _check(self) -> None:
        if self._closed:
            raise _error(errno.EBADF)

    def is_readable(self) -> bool:
        """Whether there is something to receive, the end included."""
        return bool(self._incoming.data) or self._incoming.ended

    def shutdown(self, flag: int) -> None:
        """Send no more."""
        self._check()
        self._outgoing.ended = True
        self._outgoing.changed.unpark_all()

    def close(self) -> None:
        """Close; what has arrived and was not read breaks the connection, as on a real one."""
        if not self._closed:
            self._closed = True
            self._outgoing.broken = self._abortive or bool(self._incoming.data)
            self._outgoing.ended = self._incoming.unread = True
            self._incoming.changed.unpark_all()
            self._outgoing.changed.unpark_all()

    def fileno(self) -> int:
        """A number that is no file's; -1 when closed."""
        return -1 if self._closed else 1 << 30

    def setsockopt(self, level: int, optname: int, value: Any, optlen: int | None = None) -> None:
        """Ignored, but for the option with which a close resets the connection."""
        self._abortive = self._abortive or (level, optname) == (socket.SOL_SOCKET, socket.SO_LINGER)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
