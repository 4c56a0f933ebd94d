"""What a conversation owes its server, and how that is settled: deleted, and the server's word for it waited for."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import math
import random
from collections.abc import Callable

import trio

from . import _flow
from ._conversation import Conversation
from ._errors import ConnectionFailed, ProviderError, RemoteProtocolError, TotalTimeout, TrioprovError
from ._outcomes import FAILED, CleanupReport, Outcome
from ._transport import Transport
from .providers import Provider, Request, Response, Steps

log = logging.getLogger("trioprov")

_FIRST_DELAY = 0.1
_LONGEST_DELAY = 2.0


class Debt:
    """One conversation, and what is owed for it.

    Args:
        provider: whose flows delete it.
        conversation: what is known of it.
        kept: it is not to be deleted.

    Attributes:
        provisional: what was said to somebody who could not wait for the report.
        until: until when, on trio's clock, the settling goes on; ``-inf`` before, ``inf`` while a connection is waited
            for.
        report: how it ended.
    """

    def __init__(self, provider: Provider, conversation: Conversation, *, kept: bool = False) -> None:
        self.provider = provider
        self.conversation: Conversation = conversation
        self.kept = kept
        self.until: float = -math.inf
        self.report: CleanupReport | None = None
        self.provisional: CleanupReport | None = None
        # Creates that may have happened: the last one, whose id may still become known, and those before it.
        self._doubtful = False
        self._lost = False

    def remember(self, conversation: Conversation) -> None:
        """What is known of it changes; an id says what the last create made."""
        self.conversation = conversation
        if conversation.id is not None:
            self._doubtful = False

    @property
    def uncertain(self) -> bool:
        """Whether a create may have happened whose id is not known."""
        return self._doubtful or self._lost

    def create_begins(self) -> None:
        """Another create: whatever the one before it made will never be known."""
        self._lost, self._doubtful = self.uncertain, False

    def create_doubted(self) -> None:
        """The create under way may never be heard of."""
        self._doubtful = True

    def create_ended(self, *, sent: bool, status: int | None) -> None:
        """A create was answered (or not: ``status`` is `None`): without an id, it may have happened all the same.

        A redirection or a 4xx created nothing, and what was never sent neither; a 5xx may come from a gateway that
        lost the answer, and a 2xx that names no id created something. A 503 says that nothing was done: it is believed
        where doubting it could not help.
        """
        if self.conversation.id is None and sent:
            refused = status is not None and (300 <= status < 500 or (status == 503 and not self._recoverable()))
            self._doubtful = not refused

    def forecast(self) -> CleanupReport:
        """The report; or what it would be if nobody did anything any more."""
        if self.report is not None:
            return self.report
        if self.conversation.id is None and not self.uncertain:
            return CleanupReport(outcome="nothing_owed")
        error = TrioprovError("the cleanup was not confirmed in time; it goes on for a while in the background")
        if self.uncertain and not self._recoverable():
            return self._dated(CleanupReport(outcome="lost", error=error))
        return CleanupReport(outcome="owed", error=error)

    async def settle(self, transport: Transport, budget: float, ended_at: float) -> None:
        """Do what is owed and write the report; the caller shields it.

        Args:
            transport: for the connections.
            budget: seconds for all of the cleanup.
            ended_at: when, on trio's clock, the session ended and the budget began.
        """
        flows: list[Callable[[Conversation], Steps[Outcome]]] = []
        if self.conversation.id is not None and not self.kept:
            flows.append(self.provider.close)
        # "Delete all of this owner" would delete what is kept as well.
        if self.uncertain and not (self.kept and self._recoverable()):
            flows.append(self.provider.recover)
        if not flows:
            self.report = CleanupReport(outcome="kept" if self.conversation.id is not None else "nothing_owed")
            return
        begun = trio.current_time()

        def deadline() -> float:
            # Waiting for a connection does not count, and a create that came back late leaves half of the budget.
            waited = trio.current_time() - begun
            self.until = max(ended_at + budget, begun + budget / 2) + waited
            return self.until

        self.until = math.inf
        reports = [
            await settle(self.provider, self.conversation, flow, transport=transport, deadline=deadline, budget=budget)
            for flow in flows
        ]
        report = self._dated(next((report for report in reports if report.outcome in FAILED), reports[0]))
        self.report = report
        if report.error is not None:
            cleaned(report.error, self.provider, self.conversation)
        log.log(
            logging.WARNING if report.outcome in FAILED else logging.DEBUG,
            "%s: conversation %s: %s (%s)",
            self.provider.name,
            self.conversation.id,
            report.outcome,
            report.error,
        )

    def _recoverable(self) -> bool:
        """Whether the service has a way to delete what a create made whose answer was lost."""
        steps = self.provider.recover(self.conversation)
        try:
            next(steps)
        except StopIteration:
            return False
        steps.close()
        return True

    def _dated(self, report: CleanupReport) -> CleanupReport:
        """With the time at which the service itself deletes what is lost, if it does."""
        seconds = self.provider.expires_after
        if report.outcome != "lost" or seconds is None:
            return report
        expires_at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
        return dataclasses.replace(report, expires_at=expires_at)


def cleaned(exc: Exception, provider: Provider, conversation: Conversation) -> Exception:
    """The error, and its causes, without any credential that a server may have echoed into it."""
    secrets = provider.secrets(conversation)
    link: BaseException | None = exc
    for _ in range(10):
        if link is None:
            break
        link.args = tuple(_blotted(part, secrets) if isinstance(part, str) else part for part in link.args)
        if isinstance(link, ProviderError):
            link.message = _blotted(link.message, secrets)
            link.code = link.code and _blotted(link.code, secrets)
        link = link.__cause__ or link.__context__
    return exc


def _blotted(text: str, secrets: tuple[str, ...]) -> str:
    """Blot out each secret, and what begins like one, since a long text may have been cut in its middle."""
    for secret in secrets:
        begins = secret[:8]
        while (at := text.find(begins)) >= 0:
            end = next((n for n, char in enumerate(secret) if text[at + n : at + n + 1] != char), len(secret))
            text = f"{text[:at]}***{text[at + end :]}"
    return text


async def settle(
    provider: Provider,
    conversation: Conversation,
    flow: Callable[[Conversation], Steps[Outcome]],
    *,
    transport: Transport,
    deadline: Callable[[], float],
    budget: float,
) -> CleanupReport:
    """Run ``flow`` until the service confirms, refuses for good, or the deadline passes; the caller shields it.

    Retried: broken connections, answers that are no answers,
    429 and 5xx. One try gets at most half of what is left, so that a connection that died silently is not all there is.
    Waiting for a cleanup connection does not count: ``deadline`` is asked for when there is one.

    Args:
        flow: `Provider.close` or `Provider.recover`.
        deadline: gives the time, on trio's clock, by which this must end.
        budget: the whole cleanup budget, in seconds.

    Returns:
        A report whose outcome is the flow's; ``owed`` if it never came to one.
    """
    async with transport.cleanup_slot(provider):
        return await _settle(provider, conversation, flow, transport, deadline(), budget)


async def _settle(
    provider: Provider,
    conversation: Conversation,
    flow: Callable[[Conversation], Steps[Outcome]],
    transport: Transport,
    deadline: float,
    budget: float,
) -> CleanupReport:
    attempts, delay = 0, _FIRST_DELAY
    error: Exception | None = None
    while (left := deadline - trio.current_time()) > 0:
        attempts += 1
        until = trio.current_time() + max(left / 2, budget / 4)
        try:
            with trio.CancelScope(deadline=min(until, deadline)):
                outcome = await _attempt(provider, conversation, flow, transport, deadline - budget / 2)
                return CleanupReport(outcome=outcome, attempts=attempts, error=error if outcome == "lost" else None)
            error = error or TotalTimeout("the server did not answer the cleanup in time")
        except TrioprovError as exc:
            error = exc
        except Exception as exc:  # a bug in a provider or an injected transport: the debt stands all the same
            log.exception("%s: the cleanup of a conversation crashed", provider.name)
            return CleanupReport(outcome="owed", attempts=attempts, error=exc)
        else:
            continue  # the try itself was the wait
        if not _worth_another_try(error):
            break
        asked = getattr(error, "retry_after", None)
        pause = max(delay * random.uniform(0.5, 1.0), min(asked or 0.0, budget / 2))
        await trio.sleep(min(pause, max(0.0, deadline - trio.current_time())))
        delay = min(delay * 2, _LONGEST_DELAY)
    return CleanupReport(outcome="owed", attempts=attempts, error=error)


async def _attempt(
    provider: Provider,
    conversation: Conversation,
    flow: Callable[[Conversation], Steps[Outcome]],
    transport: Transport,
    patience: float,
) -> Outcome:
    async def send(request: Request) -> Response:
        if not request.best_effort:
            return await transport.send_cleanup(provider, request)
        left = trio.current_effective_deadline() - trio.current_time()
        with trio.CancelScope(relative_deadline=left / 4):
            return await transport.send_cleanup(provider, request)
        raise TotalTimeout("the server did not answer in time")

    async def pause(seconds: float) -> None:
        # A service that cannot stop is waited for, for half of the budget, and then deleted from under its worker.
        if trio.current_time() + seconds > patience:
            raise TotalTimeout("the service still works on the answer")
        await trio.sleep(seconds)

    return await _flow.carry_out(flow(conversation), send, lambda _: None, pause)


def _worth_another_try(error: Exception) -> bool:
    if isinstance(error, ProviderError):
        return error.status is None or error.status == 429 or error.status >= 500
    return isinstance(error, (ConnectionFailed, RemoteProtocolError))
