"""The line to one server: what is being said right now, and when it may be broken off without losing anything."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

import trio

from . import _flow
from ._client import Client, Gate
from ._debt import Debt
from ._errors import TrioprovError
from ._retry import ANSWER_LOST
from ._transport import Exchange
from .providers import Request, Response, Steps, Stream

T = TypeVar("T")


class Unwanted(Exception):
    """Nobody wants any more what was about to be said."""


class Line:
    """Says one thing at a time, for one owner.

    Args:
        client: connections and budgets.
        debt: what a create on this line brings about.
        unwanted: tells whether what is being said has lost its purpose.
    """

    def __init__(self, client: Client, debt: Debt, unwanted: Callable[[], bool]) -> None:
        self._client = client
        self._debt = debt
        self._unwanted = unwanted
        self._scope: trio.CancelScope | None = None
        self._request: Request | None = None
        self._exchange = Exchange()
        self._status: int | None = None
        self._lost_answer = False
        self._queue: Gate | None = None
        self._ticket: trio.Event | None = None
        self.draining = False
        """Whether an answer is being read that the service cannot stop giving."""
        self.lingering: bool = False
        """Whether all of an answer is here, and only the end of its body is waited for."""
        self.ended_at: float | None = None
        """When, on trio's clock, the session ended; set before `break_off`."""

    @contextmanager
    def busy(self) -> Generator[trio.CancelScope]:
        """What is done inside may be broken off: by leaving the block, with the scope's ``cancelled_caught``."""
        with trio.CancelScope() as self._scope:
            try:
                self.break_off()
                yield self._scope
            finally:
                self._scope = None
                self.lingering = False

    def break_off(self) -> None:
        """Break off what nobody wants any more, as soon as nothing is lost by it; not a checkpoint."""
        if self._scope is None or self.lingering or not self._unwanted():
            return
        half = self._client.cleanup_timeout / 2
        if self._creating:
            # Its answer is the only way to learn what to delete.
            self.limit(trio.current_time() + self._client.create_timeout)
        elif self.draining or (self._exchange.sent and self._request is not None and self._request.must_answer):
            # The service works on it and cannot stop, nor be deleted from under its worker: go on, for a while.
            if self.ended_at is not None:
                self.limit(self.ended_at + half)
        else:
            self._scope.cancel()

    def limit(self, deadline: float) -> None:
        """Let what is being said take no longer than until ``deadline``."""
        if self._scope is not None:
            self._scope.deadline = min(self._scope.deadline, deadline)

    @property
    def sent(self) -> bool:
        """Whether what was said last may have left."""
        return self._exchange.sent

    @property
    def _creating(self) -> bool:
        """Whether the server may be creating something whose id is not known yet."""
        request = self._request
        return request is not None and request.creates and self._exchange.sent and self._debt.conversation.id is None

    def doubt(self) -> None:
        """Whatever is being created right now may never be heard of: note it."""
        if self._creating:
            self._debt.create_doubted()

    async def carry_out(self, steps: Steps[T], kind: type[object]) -> T:
        """A flow of the provider's, which returns an instance of ``kind``.

        Raises:
            Unwanted: nobody wants its result any more.
        """
        with self.busy():
            return await _flow.carry_out(steps, kind, self.send, self._debt.remember)
        raise Unwanted

    async def send(self, request: Request) -> Response:
        """One request and its answer.

        Raises:
            Unwanted: it was not sent, because nobody wants it.
            ConnectionFailed, RemoteProtocolError: as the transport does.
        """
        if self._unwanted():
            raise Unwanted
        if request.creates:
            await self._debt.create_begins()
        with self._saying(request):
            response = await self._client.transport.send(self._debt.provider, request, self._exchange)
            self._status = response.status
        return response

    async def stream(self, stream: Stream, receive: Callable[[bytes], Awaitable[bool]]) -> Response | None:
        """The stream's body, to ``receive``; or the answer that refused it.

        Until the request may have left, what its decoder knows of the conversation is not true.
        """
        before = self._debt.conversation
        response: Response | None = None
        if stream.request.creates:
            await self._debt.create_begins()
        with self._saying(stream.request):
            self._debt.remember(stream.decoder.conversation)
            try:
                response = await self._client.transport.stream(
                    self._debt.provider, stream.request, self._exchange, receive
                )
            finally:
                refused = response is not None and response.status not in ANSWER_LOST
                if refused or not self._exchange.sent:
                    self._debt.remember(before)
            if response is not None:
                self._status = response.status
        return response

    # -- One after another -------------------------------------------------------------------------------------------

    async def wait_for_account(self) -> None:
        """Wait until no other session of this client has an answer pending on the same account.

        `account_free` ends that, and the wait for it, whether it came to its end or not.

        Raises:
            Unwanted: nobody wants the answer any more.
        """
        self._queue = self._client.account_queue(self._debt.provider)
        self._ticket = self._queue.queue()
        with self.busy():
            await self._ticket.wait()
            return
        raise Unwanted

    def account_due(self, ended_at: float | None) -> float:
        """When, on trio's clock, nobody waits any more for us and an answer that is not wanted since ``ended_at``."""
        return math.inf if ended_at is None or self._ticket is None else ended_at + self._client.cleanup_timeout

    def account_free(self) -> None:
        """Let the next one ask; idempotent, not a checkpoint."""
        if self._queue is not None and self._ticket is not None:
            self._queue.leave(self._ticket)
        self._queue = self._ticket = None

    # -- Again -------------------------------------------------------------------------------------------------------

    @property
    def retries(self) -> bool:
        """Whether anything is ever said again."""
        return self._client.retry is not None

    def pause_before_retry(self, error: Exception, attempt: int, due: float = math.inf) -> float | None:
        """Seconds until what has failed may be said again; `None` if it may not, or not before ``due``.

        What may have had an effect that is not known is not said twice.
        """
        retry = self._client.retry
        if retry is None or self._debt.uncertain or self._lost_answer:
            return None
        pause = retry.pause(error, attempt)
        return None if pause is None or trio.current_time() + pause >= due else pause

    async def pause(self, seconds: float) -> bool:
        """Wait before another try; false if meanwhile it has lost its purpose."""
        with self.busy() as scope:
            await trio.sleep(seconds)
        return not scope.cancelled_caught

    @contextmanager
    def _saying(self, request: Request) -> Generator[None]:
        self._request, self._exchange, self._status = request, Exchange(), None
        broke = False
        try:
            yield
        except TrioprovError:
            broke = True
            raise
        finally:
            # A 2xx is none yet: what is in it may be of no use. If it is, more is said, and that counts then.
            status = self._status
            unheard = self._exchange.sent and (status is None or status < 300 or status in ANSWER_LOST)
            self._lost_answer = unheard and (request.must_answer or request.once)
            if request.creates:
                self._debt.create_ended(sent=self._exchange.sent, status=self._status, broke=broke)
            self._request = None

    async def send_cleanup(self, request: Request) -> Response:
        """One request on the connections for cleaning up."""
        transport, provider = self._client.transport, self._debt.provider
        async with transport.cleanup_slot(provider):
            return await transport.send_cleanup(provider, request)
