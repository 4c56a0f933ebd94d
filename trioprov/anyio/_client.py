"""The client of an anyio application."""

from __future__ import annotations

import os
import ssl
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import trioprov as core

from .._journal import Journal
from ._opening import Opening, WorldFor
from ._world import World

if TYPE_CHECKING:
    from .._transport import AsyncBaseTransport


class Client:
    """One connection pool for many sessions, and whoever finishes what outlives them. Made by `open_client`.

    On asyncio it is also the thread in which they live, and belongs to the event loop in which it was opened.
    """

    def __init__(self, world: World, client: core.Client) -> None:
        self._world = world.of(client)
        self._core = client

    @property
    def closed(self) -> bool:
        """Whether it takes no more sessions."""
        return self._core.closed

    @property
    def journal(self) -> Journal | None:
        """Where debts are written down."""
        return self._core.journal

    def close(self) -> None:
        """Take no more sessions and close those there are; sync, idempotent."""
        self._world.soon(self._core.close)

    def __repr__(self) -> str:
        return repr(self._core)


def open_client(
    *,
    journal: Journal | str | os.PathLike[str] | None = None,
    max_connections: int | None = None,
    create_timeout: float = 30.0,
    cleanup_timeout: float = 10.0,
    shutdown_timeout: float = 30.0,
    max_reply_bytes: float = 16 * 1024 * 1024,
    retry: core.Retry | None = None,
    transport: AsyncBaseTransport | None = None,
    verify: bool | ssl.SSLContext = True,
    trust_env: bool = True,
) -> AbstractAsyncContextManager[Client, None]:
    """A client for many sessions: ``async with open_client() as client``; see `trioprov.open_client`.

    On asyncio it is a thread, started and joined with the block, and serves the event loop in which it was opened. If
    that loop is closed, or the process ends, with the client open, it closes by itself and settles what is owed.

    Args:
        journal: where debts are written down before they exist.
        max_connections: how many requests and streams may be under way at once; `None`: any number. Waiting for one
            counts for an ask's deadlines.
        create_timeout: seconds to finish a create that nobody waits for any more.
        cleanup_timeout: seconds for the cleanup of one session, from its end.
        shutdown_timeout: seconds that leaving the client may take, in all.
        max_reply_bytes: bytes of text (UTF-8) that one reply may hold.
        retry: how failures before the first token are tried again; `None`: they are not.
        transport: an httpx transport to use for everything; on asyncio it is used in the thread, on trio.
        verify: verify certificates, with the default context or this one.
        trust_env: whether proxies and certificates named in the environment are used.

    Raises:
        JournalError: on entering: the journal cannot be used.
        TypeError: a limit that is not a number.
        ValueError: a limit that is not more than 0.
    """
    opening = core.open_client(
        journal=journal,
        max_connections=max_connections,
        create_timeout=create_timeout,
        cleanup_timeout=cleanup_timeout,
        shutdown_timeout=shutdown_timeout,
        max_reply_bytes=max_reply_bytes,
        retry=retry,
        transport=transport,
        verify=verify,
        trust_env=trust_env,
    )
    return Opening(WorldFor(None, private=False), lambda _: opening, Client)
