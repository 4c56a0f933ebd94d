"""A conversation's handle, in an anyio application."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskStatus

import trioprov as core

from .._conversation import Conversation
from .._outcomes import CleanupReport
from .._transcript import Deadlines
from ..providers import Messages, Provider
from ._client import Client
from ._opening import Opening, WorldFor, call
from ._reply import Reply
from ._world import World


class Session:
    """One conversation on a service, deleted when the session ends. Made by `open_session` or `run_session`.

    A session that nobody refers to any more is closed, when the interpreter notices.

    Attributes:
        provider: who it is with.
    """

    def __init__(self, world: World, session: core.Session) -> None:
        self.provider: Provider = session.provider
        self._world = world
        self._core = session

    @property
    def conversation(self) -> Conversation:
        """The ids on the server and the identity minted for them, as far as they are known; its JSON is a secret."""
        return self._core.conversation

    @property
    def cleanup(self) -> CleanupReport | None:
        """After the end: what became of the conversation."""
        return self._core.cleanup

    def ask(
        self, messages: Messages, *, deadlines: Deadlines | None = None, **parameters: Any
    ) -> AbstractAsyncContextManager[Reply, None]:
        """Ask, and enter without waiting for the service: ``async with session.ask("…") as reply``.

        Leaving the block early stops the generation and waits, shielded and bounded, until the service was told.
        After a failed or stopped ask the session can be asked again, unless the conversation is lost.

        Args:
            messages: a string, or a list of ``{"role": …, "content": …}``. The first ask of a conversation sends all
                of them; a later one the user messages at the end, since the server holds the history.
            deadlines: how long to wait; `None` means ``Deadlines()``.
            **parameters: generation parameters, in the common names (``max_tokens``, ``temperature``, ``top_p``,
                ``stop``) or the service's own. `None` leaves one out.

        Returns:
            A context manager whose value is the `Reply`, through which the service's failures come. Entering it is a
            checkpoint.

        Raises:
            TypeError: a wrong type, or a name that is no parameter.
            ValueError: a wrong value, or no user message at the end of a later list.
            anyio.BusyResourceError: on entering: another reply of this session is open.
            anyio.ClosedResourceError: on entering: the session is closed.
        """
        asking = self._core.ask(messages, deadlines=deadlines, **parameters)
        return Opening(WorldFor(world=self._world), lambda _: asking, lambda world, reply: Reply(world, self, reply))

    def keep(self) -> Conversation:
        """Do not delete the conversation at the end; returns it, to be continued or deleted later.

        On asyncio it keeps the loop waiting for one step of the thread.

        Raises:
            anyio.ClosedResourceError: the session is closed: it is too late.
        """
        return self._world.now(self._core.keep)

    def close(self) -> None:
        """Stop and clean up, in the background; sync, idempotent, from any task. An open reply is interrupted."""
        self._world.soon(self._core.close)

    async def aclose(self) -> None:
        """`close`, then wait for the cleanup, shielded and bounded by the client's budgets. A checkpoint.

        Raises:
            CleanupFailed: the conversation may still be on the server, and nobody was told yet.
        """
        await self._world.settle(self._core.aclose)

    def __repr__(self) -> str:
        return repr(self._core)


def open_session(
    provider: Provider, *, client: Client | None = None, conversation: Mapping[str, Any] | None = None
) -> AbstractAsyncContextManager[Session, None]:
    """A conversation that is deleted on every way out: ``async with open_session(H2o()) as session``.

    Entering creates the conversation, where the service has a create, and is a checkpoint. It has no timeout of its
    own: use `anyio.fail_after`. Leaving closes the session and waits for its cleanup, for as long as its budgets say
    and however often the task is cancelled meanwhile; leaving by a cancellation with a ``client`` does not wait, since
    the client finishes it. Nothing of it is a cancel scope or a task group in your task, so it may stand in a
    generator.

    Args:
        provider: who to speak with.
        client: connections and budgets; without one the session has its own (on asyncio also its own thread).
        conversation: one to continue. It is kept at the end, unless this process opened it.

    Raises:
        ProviderError, ConnectionFailed, RemoteProtocolError: on entering: the conversation could not be created.
        CleanupFailed: on leaving, if nothing else is being raised: the conversation may still be on the server.
        anyio.ClosedResourceError: on entering: the client is closed, or was before the conversation was opened.
        ValueError: on entering: the conversation is another provider's.
    """
    return Opening(
        WorldFor(client), lambda client: core.open_session(provider, client=client, conversation=conversation), Session
    )


async def run_session(  # noqa: ASYNC128 - the core calls started()
    provider: Provider,
    *,
    client: Client | None = None,
    conversation: Mapping[str, Any] | None = None,
    task_status: TaskStatus[Session] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """A session as a task of your own group: ``session = await group.start(run_session, H2o())``.

    For the task groups of anyio and the nurseries of trio. The task ends, after the cleanup, when the session is
    closed, or the group cancelled. A failed cleanup is logged and in ``session.cleanup``, never raised. A task group of
    anyio's keeps the value for as long as the task runs: there, a session that you drop is not noticed, so close it.

    Args:
        provider: who to speak with.
        client: connections and budgets; without one the session has its own (on asyncio also its own thread).
        conversation: one to continue. It is kept at the end, unless this process opened it.
        task_status: set by ``group.start``; the value is the `Session`.

    Raises:
        ProviderError, ConnectionFailed, RemoteProtocolError: the conversation could not be created.
        anyio.ClosedResourceError: the client is closed, or was before the conversation was opened.
    """
    async with WorldFor(client) as world:
        function = partial(core.run_session, provider, client=world.client, conversation=conversation)
        started = partial(_tell, task_status, world)
        del task_status
        running = world.started(function, started)
        del started
        await running


def _tell(task_status: TaskStatus[Session], world: World, session: core.Session) -> None:
    task_status.started(Session(world, session))


async def delete_conversation(
    provider: Provider, conversation: Mapping[str, Any], *, client: Client | None = None
) -> CleanupReport:
    """Delete a conversation that was kept; shielded and bounded by ``cleanup_timeout``. A checkpoint.

    Returns:
        What became of it; ``owed``, with the error, if the service did not confirm.

    Raises:
        ValueError: the conversation is another provider's.
    """
    return await call(client, lambda client: core.delete_conversation(provider, conversation, client=client))
