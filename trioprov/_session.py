"""A session: the handle of one conversation. It enters no scope; what it stands for runs in its owner's task."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import TYPE_CHECKING, Any

import trio

from ._client import ENTERED_BEFORE, Client, private_client
from ._conversation import Conversation
from ._errors import CleanupFailed, another
from ._exits import cleanup_failed, waits
from ._outcomes import FAILED, CleanupReport
from ._owner import Owner
from ._reply import Reply
from ._transcript import Deadlines, Transcript, checked_deadlines
from ._turn import Turn
from .providers import Message, Messages, Provider, checked_messages, checked_provider

if TYPE_CHECKING:
    from types import TracebackType


class Session:
    """One conversation on a service, deleted when the session ends. Made by `open_session` or `run_session`.

    A session that nobody refers to any more is closed, when the interpreter notices.

    Attributes:
        provider: who it is with.
    """

    def __init__(self, owner: Owner, first: Transcript | None = None) -> None:
        self.provider: Provider = owner.provider
        self._owner = owner
        self._first = first  # where the answer goes to a question that was there before the session
        self._asking = False
        self._told = False
        token = trio.lowlevel.current_trio_token()
        collected = weakref.finalize(self, _close_collected, token, os.getpid(), owner)
        collected.atexit = False

    @property
    def conversation(self) -> Conversation:
        """The ids on the server and the identity minted for them, as far as they are known; its JSON is a secret."""
        return self._owner.debt.conversation

    @property
    def cleanup(self) -> CleanupReport | None:
        """After the end: what became of the conversation."""
        return self._owner.debt.report or self._owner.debt.provisional

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
            trio.BusyResourceError: on entering: another reply of this session is open.
            trio.ClosedResourceError: on entering: the session is closed.
        """
        checked = checked_messages(messages)
        self.provider.prompt(self.conversation, checked)
        options = self.provider.options(parameters)
        return _Asking(self, checked, options, checked_deadlines(deadlines))

    def keep(self) -> Conversation:
        """Do not delete the conversation at the end; returns it, to be continued or deleted later.

        Raises:
            trio.ClosedResourceError: the session is closed: it is too late.
        """
        if self._owner.closing:
            raise trio.ClosedResourceError("this session is closed")
        self._owner.keep()
        return self.conversation

    def close(self) -> None:
        """Stop and clean up, in the background; sync, idempotent, from any task. An open reply is interrupted."""
        self._owner.close()

    async def aclose(self) -> None:
        """`close`, then wait for the cleanup, shielded and bounded by the client's budgets. A checkpoint.

        Raises:
            CleanupFailed: the conversation may still be on the server, and nobody was told yet.
        """
        await self._owner.aclose()
        await trio.lowlevel.checkpoint()
        if (failure := self._failure()) is not None:
            raise failure

    def _busy(self) -> bool:
        return self._asking or (self._first is not None and self._first.finish is None)

    def _failure(self) -> CleanupFailed | None:
        """What has to be said about the cleanup, once."""
        report = self.cleanup or self._owner.forecast()
        if report.outcome not in FAILED or self._told:
            return None
        if report.outcome == "owed" and self._owner.debt.journaled:
            return None  # whoever sweeps the journal pays it
        self._told = True
        return cleanup_failed(self.provider, report)

    def __repr__(self) -> str:
        state = "closed" if self._owner.done.is_set() else "closing" if self._owner.closing else "open"
        return f"<Session with {self.provider.name}: {state}>"


@trio.lowlevel.enable_ki_protection
def _close_collected(token: trio.lowlevel.TrioToken, pid: int, owner: Owner) -> None:
    # A collection may run in any thread, and in a forked child, where neither the loop nor the debt is ours.
    if os.getpid() == pid and not owner.closing:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(owner.close)


class _Asking(AbstractAsyncContextManager[Reply, None]):
    """``async with session.ask(…)``."""

    def __init__(self, session: Session, messages: Any, options: Mapping[str, Any], deadlines: Deadlines) -> None:
        self._session = session
        self._messages = messages
        self._options = options
        self._deadlines = deadlines
        self._turn: Turn | None = None

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Reply:
        await trio.lowlevel.checkpoint_if_cancelled()
        session, owner = self._session, self._session._owner  # pyright: ignore[reportPrivateUsage]
        if self._turn is not None:
            raise RuntimeError(ENTERED_BEFORE)
        if owner.closing:
            raise trio.ClosedResourceError("this session is closed")
        if session._busy():  # pyright: ignore[reportPrivateUsage]
            raise trio.BusyResourceError("another reply of this session is open")
        reply, self._turn = asked(session, owner, self._messages, self._options, self._deadlines)
        session._asking = True  # pyright: ignore[reportPrivateUsage]
        await trio.lowlevel.cancel_shielded_checkpoint()  # the other half of a checkpoint, in which the owner begins
        return reply

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        session, turn = self._session, self._turn
        assert turn is not None
        session._asking = False  # pyright: ignore[reportPrivateUsage]
        turn.transcript.stop()
        owner = session._owner  # pyright: ignore[reportPrivateUsage]
        if not turn.ended.is_set() and waits(owner, exc):
            with trio.CancelScope(shield=True, relative_deadline=owner.client.cleanup_timeout):
                await turn.ended.wait()


def asked(
    session: Session,
    owner: Owner,
    messages: Sequence[Message],
    options: Mapping[str, Any],
    deadlines: Deadlines,
) -> tuple[Reply, Turn]:
    """Hand a checked question to the owner; not a checkpoint."""
    transcript = Transcript(deadlines, owner.client.max_reply_bytes)
    turn = Turn(transcript, messages, options)
    owner.submit(turn)
    return Reply(owner.provider, session, transcript), turn


def new_owner(
    provider: Provider, client: Client | None, conversation: Mapping[str, Any] | None = None, **how: Any
) -> Owner:
    """An owner that is not running yet.

    Raises:
        TypeError: what is no provider.
        ValueError: the conversation is another provider's or another server's.
    """
    checked_provider(provider)
    saved = None if conversation is None else Conversation(conversation)
    if saved is not None and (saved.provider, saved.base_url) != (provider.name, provider.base_url):
        raise ValueError(
            f"the conversation is one with {saved.provider or '?'} at {saved.base_url or '?'}, "
            f"not with {provider.name} at {provider.base_url}"
        )
    return Owner(provider, client or private_client(), saved, **how)


class _OpenSession(AbstractAsyncContextManager[Session, None]):
    """``async with open_session(…)``."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._session: Session | None = None

    async def __aenter__(self) -> Session:
        owner = self._owner
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._session is not None:  # another handle would close, when it is collected, what is this one's
            raise RuntimeError(ENTERED_BEFORE)
        session = self._session = Session(owner)
        owner.client.host(owner)
        try:
            await owner.opened.wait()
        except BaseException as exc:
            # Whatever comes, the owner finishes the create it has begun, and deletes what it made.
            owner.close()
            if waits(owner, exc):
                await owner.aclose()
                self._tell(session, exc)
            raise
        if owner.failure is not None:
            failure = another(owner.failure)
            await owner.aclose()
            self._tell(session, failure)
            raise failure
        return session

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        self._owner.close()
        if waits(self._owner, exc):
            await self._owner.aclose()
            self._tell(self._session, exc)

    def _tell(self, session: Session, exc: BaseException | None) -> None:
        """Say what there is to say about the cleanup: to nobody in particular, or to whoever gets ``exc``."""
        failure = session._failure()  # pyright: ignore[reportPrivateUsage]
        if failure is None:
            return
        if exc is None:
            raise failure
        exc.add_note(str(failure))


def open_session(
    provider: Provider, *, client: Client | None = None, conversation: Mapping[str, Any] | None = None
) -> AbstractAsyncContextManager[Session, None]:
    """A conversation that is deleted on every way out: ``async with open_session(H2o()) as session``.

    Entering creates the conversation, where the service has a create, and is a checkpoint. It has no timeout of its
    own: use `trio.fail_after`. Leaving closes the session and waits, shielded and bounded, for its cleanup; leaving by
    a cancellation with a ``client`` does not wait, since the client finishes it. Nothing of it is a cancel scope or a
    nursery in your task, so it may stand in a generator.

    Args:
        provider: who to speak with.
        client: connections and budgets; without one the session has its own.
        conversation: one to continue. It is kept at the end, unless this process opened it.

    Raises:
        ProviderError, ConnectionFailed, RemoteProtocolError: on entering: the conversation could not be created.
        CleanupFailed: on leaving, if nothing else is being raised: the conversation may still be on the server.
        trio.ClosedResourceError: on entering: the client is closed, or was before the conversation was opened.
        ValueError: the conversation is another provider's.
    """
    return _OpenSession(new_owner(provider, client, conversation))


@trio.lowlevel.enable_ki_protection
async def run_session(  # noqa: ASYNC128 - the owner calls started()
    provider: Provider,
    *,
    client: Client | None = None,
    conversation: Mapping[str, Any] | None = None,
    task_status: trio.TaskStatus[Session] = trio.TASK_STATUS_IGNORED,
) -> None:
    """A session as a task of your nursery: ``session = await nursery.start(run_session, H2o())``.

    The task ends, after the cleanup, when the session is closed or the nursery is cancelled; the cleanup is shielded
    from that, and bounded. A failed cleanup is logged and in ``session.cleanup``, never raised.

    Args:
        provider: who to speak with.
        client: connections and budgets; without one the session has its own.
        conversation: one to continue. It is kept at the end, unless this process opened it.
        task_status: set by ``nursery.start``; the value is the `Session`.

    Raises:
        ProviderError, ConnectionFailed, RemoteProtocolError: the conversation could not be created.
        trio.ClosedResourceError: the client is closed, or was before the conversation was opened.
    """
    owner = new_owner(provider, client, conversation)
    handle = [Session(owner)]
    # The owner must not keep the handle alive, or nobody could drop it.
    owner.on_open = _started(task_status, handle)
    del task_status
    owner.client.admit(owner)
    try:
        await owner.run()
    finally:
        await owner.client.dismiss(owner)  # noqa: ASYNC102 - it shields itself
    if owner.failure is not None:
        raise owner.failure


def _started(task_status: trio.TaskStatus[Session], handle: list[Session]) -> Callable[[], None]:
    # trio's task status remembers its value, so nobody may remember the task status.
    return lambda: task_status.started(handle.pop())


async def delete_conversation(
    provider: Provider, conversation: Mapping[str, Any], *, client: Client | None = None
) -> CleanupReport:
    """Delete a conversation that was kept; shielded and bounded by ``cleanup_timeout``. A checkpoint.

    Returns:
        What became of it; ``owed``, with the error, if the service did not confirm.

    Raises:
        ValueError: the conversation is another provider's.
    """
    owner = new_owner(provider, client, conversation, mine=True)
    await trio.lowlevel.checkpoint()
    if client is not None:
        # A session of it that has ended for its user may still be speaking, to say what it left.
        for other in client.tenants:
            if isinstance(other, Owner) and other.closing and other.debt.conversation.id == owner.debt.conversation.id:
                await other.aclose()
    owner.close()
    owner.client.host(owner)
    await owner.aclose()
    return owner.forecast()
