"""One HTTP client, to whom something is sent."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import anyio
from starlette.types import Receive, Send

from ._held import Held, Reader

# How long a connection on which nobody reads any more is given to end in order, in seconds.
_FAREWELL = 1.0


class Gone(Exception):
    """The client has left, or might as well have."""


class Outlet:
    """What is sent to one client.

    Args:
        send: the server's.
        reader: in whose name.
        stall_after: seconds that the client may leave unread what is sent.

    Attributes:
        begun: whether the status is out.
        refused: whether it is that of an error.
        ended: whether all of it is out.
        held: the reply that waits for the client meanwhile.
        after: the number of the last event of it that the client had before.
        reader: as given.
        watching: cancel it when it does not matter any more whether the client leaves.
    """

    def __init__(self, send: Send, reader: Reader, stall_after: float) -> None:
        self.begun: bool = False
        self.refused: bool = False
        self.ended: bool = False
        self.held: Held | None = None
        self.after: int = 0
        self._send = send
        self.reader: Reader = reader
        self.watching: anyio.CancelScope = anyio.CancelScope()
        self._stall_after = stall_after

    async def begin(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Send the status; once.

        Raises:
            Gone: nobody is there.
        """
        self.begun = True
        self.refused = status >= 400
        await self._message({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, body: bytes, *, more: bool = True) -> None:
        """Send a part of the body.

        Raises:
            Gone: nobody is there.
        """
        if not more:
            self.watching.cancel()  # servers call the end of the answer a disconnect, too
        await self._message({"type": "http.response.body", "body": body, "more_body": more})
        self.ended = not more

    async def farewell(self, status: int) -> None:
        """End in order what nobody reads; shielded, and only for a moment. Middleware insists on an answer."""
        with anyio.move_on_after(_FAREWELL, shield=True), suppress(OSError):
            if not self.begun:
                await self._send({"type": "http.response.start", "status": status, "headers": []})
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _message(self, message: dict[str, Any]) -> None:
        held, reader = self.held, self.reader
        try:
            # hypercorn on trio shields what it sends; but the reply's own task can be told.
            if held is not None:
                held.allow(reader, self._stall_after)
            with anyio.fail_after(self._stall_after):
                await self._send(message)
        except OSError as exc:  # since ASGI 2.4, of a client that has left; a TimeoutError is one as well
            raise Gone from exc
        finally:
            if held is not None:
                held.allow(reader)


async def watch(receive: Receive, outlet: Outlet) -> None:
    """Hear of it when the client leaves. What it still has to say of its request is not for us."""
    with outlet.watching:
        while (await receive())["type"] != "http.disconnect":
            pass
        outlet.reader.dismiss()
