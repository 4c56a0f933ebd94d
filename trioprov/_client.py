"""The client: connections, limits and budgets, and the root tasks in which sessions live when no nursery owns them."""

from __future__ import annotations

import collections
import contextvars
import logging
import math
import os
import ssl
import weakref
from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import trio

from ._errors import JournalError
from ._journal import Journal, Ledger
from ._retry import Retry
from ._sweep import pay_all
from ._transport import Transport

if TYPE_CHECKING:
    from types import TracebackType

    from ._transport import AsyncBaseTransport
    from .providers import Provider

log = logging.getLogger("trioprov")

ENTERED_BEFORE = "this block was entered before; call the function that made it once more"


class Tenant(ABC):
    """What a client hosts: a task that ends by itself soon after `close`, and at once after `abandon`."""

    done: trio.Event

    @abstractmethod
    async def run(self) -> None:
        """Live; lets out nothing but a cancellation."""

    @abstractmethod
    def close(self) -> None:
        """Begin to end."""

    @abstractmethod
    def abandon(self) -> None:
        """End now; what is owed stays owed."""


class Gate:
    """Lets so many through at once, in the order in which they queued; a `trio.CapacityLimiter` has no such order.

    Args:
        limit: how many.
    """

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._queue: collections.deque[trio.Event] = collections.deque()

    def queue(self) -> trio.Event:
        """A ticket, which is set when it is its holder's turn; give it back to `leave`, in any case."""
        ticket = trio.Event()
        self._queue.append(ticket)
        self._admit()
        return ticket

    def leave(self, ticket: trio.Event) -> None:
        """The holder is through, or does not want to be any more."""
        if ticket.is_set():
            self._free += 1
        else:
            self._queue.remove(ticket)
        self._admit()

    def _admit(self) -> None:
        while self._free and self._queue:
            self._free -= 1
            self._queue.popleft().set()


class Client:
    """One connection pool for many sessions, and whoever finishes what outlives them. Made by `open_client`."""

    def __init__(
        self,
        transport: Transport,
        *,
        create_timeout: float = 30.0,
        cleanup_timeout: float = 10.0,
        shutdown_timeout: float = 30.0,
        max_reply_bytes: float = 16 * 1024 * 1024,
        retry: Retry | None = None,
        journal: Journal | None = None,
        private: bool = False,
    ) -> None:
        self.transport = transport
        self.retry = retry
        self.journal = journal
        self.ledger: Ledger | None = None
        self.create_timeout = create_timeout
        self.cleanup_timeout = cleanup_timeout
        self.shutdown_timeout = shutdown_timeout
        self.max_reply_bytes = max_reply_bytes
        self.private = private
        self._tenants: set[Tenant] = set()
        self._closed = False
        # As long as somebody is in a queue, it is there.
        self._queues: weakref.WeakValueDictionary[tuple[str, str, str | None], Gate] = weakref.WeakValueDictionary()

    @property
    def closed(self) -> bool:
        """Whether it takes no more sessions."""
        return self._closed

    @property
    def tenants(self) -> tuple[Tenant, ...]:
        """Whoever lives here now."""
        return tuple(self._tenants)

    def account_queue(self, provider: Provider) -> Gate:
        """The queue of those who ask under the same account of a service that answers one question at a time."""
        account = (provider.name, provider.base_url, provider.credential(provider.new_conversation()))
        return self._queues.setdefault(account, Gate(1))

    def admit(self, tenant: Tenant) -> None:
        """Count a tenant that somebody else runs.

        Raises:
            trio.ClosedResourceError: the client is closed.
            RuntimeError: it lives here already, or has lived.
        """
        if tenant in self._tenants or tenant.done.is_set():
            raise RuntimeError(ENTERED_BEFORE)
        if self._closed:
            raise trio.ClosedResourceError("this client is closed")
        self._tenants.add(tenant)

    async def dismiss(self, tenant: Tenant) -> None:
        """The tenant has ended; the last one of a private client takes the connections with it. Shielded."""
        self._tenants.discard(tenant)
        if self.private and not self._tenants:
            await self.aclose_connections()

    @trio.lowlevel.enable_ki_protection
    def host(self, tenant: Tenant) -> None:
        """Run a tenant in a root task of its own, with the caller's context variables; not a checkpoint.

        A root task is a system task: no cancel scope and no nursery of the caller's encloses it, so that however the
        caller's frame is left, or never left at all, the tenant can finish what it owes. At the end of the run it is
        cancelled like everything else, and the run waits for it.

        Raises:
            trio.ClosedResourceError: the client is closed.
        """
        self.admit(tenant)
        trio.lowlevel.spawn_system_task(
            self._host, tenant, name=f"trioprov {tenant!r}", context=contextvars.copy_context()
        )

    async def _host(self, tenant: Tenant) -> None:
        try:
            await tenant.run()
        except Exception:
            # Nobody could catch it: an exception that leaves a system task takes the whole run down.
            log.exception("a session crashed; this is a bug in trioprov")
        finally:
            await self.dismiss(tenant)  # noqa: ASYNC102 - it shields itself

    def close(self) -> None:
        """Take no more sessions and close those there are; sync, idempotent."""
        self._closed = True
        for tenant in tuple(self._tenants):
            tenant.close()

    @trio.lowlevel.enable_ki_protection
    async def aclose(self) -> None:
        """`close`, wait until all is settled or ``shutdown_timeout`` has passed, and close the connections.

        A Ctrl-C that comes meanwhile is raised after that, for what it would leave is still in use.
        """
        self.close()
        interrupt = await self._settled(trio.current_time() + self.shutdown_timeout)
        for tenant in tuple(self._tenants):
            tenant.abandon()
        interrupt = await self._settled(trio.current_time() + 1.0) or interrupt
        try:
            await self.aclose_connections()
        finally:  # a transport of somebody else's may fail
            if self.ledger is not None:
                self.ledger.close()
            if interrupt is not None:
                raise interrupt

    async def _settled(self, deadline: float) -> KeyboardInterrupt | None:
        """Wait for all tenants; the main task is interrupted even where it is protected, so it waits on."""
        try:
            with trio.CancelScope(shield=True, deadline=deadline):
                for tenant in tuple(self._tenants):
                    await tenant.done.wait()
        except KeyboardInterrupt as interrupt:
            return await self._settled(deadline) or interrupt
        return None

    async def open_journal(self) -> None:
        """Begin to write debts down, and to pay, in the background, those that dead processes left.

        Raises:
            JournalError: the journal cannot be used.
        """
        if self.journal is not None:
            self.ledger = await self.journal.aopen()
            self.host(_Sweeper(self.ledger, self.transport))

    async def aclose_connections(self) -> None:
        """Close the pools, shielded and bounded: a peer that does not answer keeps nobody."""
        with trio.CancelScope(shield=True, relative_deadline=1.0):
            await self.transport.aclose()

    def __repr__(self) -> str:
        return f"<Client: {'closed' if self._closed else 'open'}, {len(self._tenants)} sessions>"


def private_client() -> Client:
    """A client for sessions that were given none; its connections close when the last of them has ended."""
    return Client(Transport(), private=True)


class _Sweeper(Tenant):
    """Pays what dead processes left, until the client closes."""

    def __init__(self, ledger: Ledger, transport: Transport) -> None:
        self.done: trio.Event = trio.Event()
        self._ledger = ledger
        self._transport = transport
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        try:
            with self._scope:
                await pay_all(self._ledger, (), self._transport, due_only=True)
        except JournalError as exc:
            log.warning("the journal could not be swept: %s", exc)
        finally:
            self.done.set()

    def close(self) -> None:
        self._scope.cancel()

    def abandon(self) -> None:
        self._scope.cancel()

    def __repr__(self) -> str:
        return "sweeper"


class _OpenClient(AbstractAsyncContextManager[Client, None]):
    def __init__(self, client: Client) -> None:
        self._client = client
        self._entered = False

    async def __aenter__(self) -> Client:
        await trio.lowlevel.checkpoint()
        if self._entered:
            raise RuntimeError(ENTERED_BEFORE)
        self._entered = True
        await self._client.open_journal()
        return self._client

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()


def open_client(
    *,
    journal: Journal | str | os.PathLike[str] | None = None,
    max_connections: int | None = None,
    create_timeout: float = 30.0,
    cleanup_timeout: float = 10.0,
    shutdown_timeout: float = 30.0,
    max_reply_bytes: float = 16 * 1024 * 1024,
    retry: Retry | None = None,
    transport: AsyncBaseTransport | None = None,
    verify: bool | ssl.SSLContext = True,
    trust_env: bool = True,
) -> AbstractAsyncContextManager[Client, None]:
    """A client for many sessions: ``async with open_client() as client``.

    Leaving it closes its sessions and waits, shielded, until their cleanups are settled or ``shutdown_timeout`` has
    passed; then it closes the connections. Certificates are read once per process, at the first https connection.

    Args:
        journal: a journal, or its path: debts are written there before they exist, so that they survive the process;
            what dead processes left in it is paid in the background.
        max_connections: how many requests and streams may be under way at once; `None`: any number. Waiting for one
            counts for an ask's deadlines. What cleans up is not counted, and waits for none of them.
        create_timeout: seconds to finish a create that nobody waits for any more.
        cleanup_timeout: seconds for the cleanup of one session, from its end: the rest of a create, reading on where
            the service cannot stop, stop, DELETE, confirmation. Waiting for a cleanup connection does not count.
        shutdown_timeout: seconds that leaving the client may take, in all.
        max_reply_bytes: bytes of text (UTF-8) that one reply may hold.
        retry: how failures before the first token are tried again; `None`: they are not.
        transport: an httpx transport to use for everything, instead of ours, or of httpx's own where there is a proxy.
        verify: verify certificates, with the default context or this one.
        trust_env: whether proxies and certificates named in the environment are used.

    Raises:
        JournalError: on entering: the journal cannot be used.
        TypeError: a limit that is not a number, or a transport that is none.
        ValueError: a limit that is not more than 0.
    """
    if retry is not None and not isinstance(retry, Retry):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"retry must be a Retry or None, not {type(retry).__name__}")
    limits = {
        "create_timeout": create_timeout,
        "cleanup_timeout": cleanup_timeout,
        "shutdown_timeout": shutdown_timeout,
        "max_reply_bytes": max_reply_bytes,
    }
    if max_connections is not None:
        limits["max_connections"] = max_connections
    for name, value in limits.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"{name} must be a number, not {type(value).__name__}")
        if not value > 0 or math.isnan(value):
            raise ValueError(f"{name} must be more than 0, not {value!r}")
    if max_connections is not None and not isinstance(max_connections, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError("max_connections must be a whole number")
    return _OpenClient(
        Client(
            Transport(max_connections=max_connections, transport=transport, verify=verify, trust_env=trust_env),
            create_timeout=create_timeout,
            cleanup_timeout=cleanup_timeout,
            shutdown_timeout=shutdown_timeout,
            max_reply_bytes=max_reply_bytes,
            retry=retry,
            journal=journal if journal is None or isinstance(journal, Journal) else Journal(journal),
        )
    )
