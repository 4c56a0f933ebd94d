"""What a conversation owes its server, and how that is settled: deleted, and the server's word for it waited for."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress

import trio

from ._cleanup import CREATE_TAKES, cleaned, reason, settle
from ._conversation import Conversation
from ._errors import (
    JournalError,
    TrioprovError,
)
from ._journal import Ledger
from ._outcomes import FAILED, CleanupReport, Outcome
from ._retry import GAVE_UP_WAITING, NEVER_REACHED
from ._transport import Transport
from .providers import Provider, Steps

log = logging.getLogger("trioprov")


class Debt:
    """One conversation, and what is owed for it.

    Args:
        provider: whose flows delete it.
        conversation: what is known of it.
        kept: it is not to be deleted.
        ledger: where it is written down, if anywhere.

    Attributes:
        provisional: what was said to somebody who could not wait for the report.
        until: until when, on trio's clock, the settling goes on; ``-inf`` before, ``inf`` while a connection is waited
            for.
        report: how it ended.
    """

    def __init__(
        self,
        provider: Provider,
        conversation: Conversation,
        *,
        kept: bool = False,
        ledger: Ledger | None = None,
    ) -> None:
        self.provider = provider
        self.conversation: Conversation = conversation
        self._kept = kept
        self._ledger = ledger
        self._row: int | None = None
        self._written: Conversation | None = None
        self.until: float = -math.inf
        self._attempts = 0
        self.report: CleanupReport | None = None
        self.provisional: CleanupReport | None = None
        # Creates that may have happened: the last one, whose id may still become known, and those before it.
        self._doubtful = False
        self._lost = False
        self._create_begun = -math.inf
        self._unanswered = False

    def remember(self, conversation: Conversation) -> None:
        """What is known of it changes; an id says what the last create made.

        Raises:
            TypeError: the provider is written wrongly, and made something else of it: what was known stays.
        """
        if not isinstance(conversation, Conversation):  # pyright: ignore[reportUnnecessaryIsInstance]
            name = type(self.provider).__qualname__
            raise TypeError(f"a decoder of {name} must keep a Conversation, and not {type(conversation).__name__}")
        self.conversation = conversation
        if conversation.id is not None:
            self._doubtful = False

    @property
    def uncertain(self) -> bool:
        """Whether a create may have happened whose id is not known."""
        return self._doubtful or self._lost

    @property
    def kept(self) -> bool:
        """Whether it is not to be deleted."""
        return self._kept

    def keep(self) -> None:
        """It is not to be deleted any more, nor by a sweeper."""
        self._kept = True
        if self._ledger is not None and self._row is not None and self._ledger.try_strike(self._row):
            self._row = None

    @property
    def journaled(self) -> bool:
        """Whether somebody else can still pay it, should this process not."""
        if self._ledger is None or self._row is None or not self._ledger.in_place:
            return False
        return self._written is not None or self._recoverable()

    async def create_begins(self) -> None:
        """Another create: write it down before it leaves; whatever the one before it made will never be known.

        Raises:
            JournalError: it could not be written, so it must not leave.
        """
        if self._ledger is not None and self._row is not None and self.uncertain:
            await self._ledger.leave(self._row, "the answer to a create was lost", tried=False)
            self._row = None
        self._lost, self._doubtful = self.uncertain, False
        self._create_begun = trio.current_time()
        if self._ledger is not None and not self._kept and self._row is None:
            seconds = self.provider.expires_after
            expires = None if seconds is None else time.time() + seconds
            self._row = await self._ledger.intend(self.conversation, self.provider.access(), expires)

    async def adopt(self) -> None:
        """Write down a conversation that exists already, and that this session will delete.

        Raises:
            JournalError: it could not be written.
        """
        if self._ledger is not None and not self._kept and self.conversation.id is not None:
            self._row = await self._ledger.intend(self.conversation, self.provider.access(), None)
            self._written = self.conversation

    @property
    def stale(self) -> bool:
        """Whether the journal says to delete what is to be kept."""
        return self._kept and self._row is not None

    async def record(self) -> None:
        """Bring the journal up to date; a checkpoint only if another process holds its lock.

        Never raises: the conversation exists by now, and is deleted whether the journal knows its id or not.
        """
        if self._ledger is None or self._row is None:
            return
        try:
            if self._kept:
                await self._ledger.strike(self._row)
                self._row = None
            elif self._written is not self.conversation and self.conversation.id is not None:
                await self._ledger.bind(self._row, self.conversation)
                self._written = self.conversation
        except JournalError as exc:
            log.warning("%s: %s", self.provider.name, exc)

    async def close_row(self) -> None:
        """The last word in the journal: struck out if nothing is owed, else left to whoever sweeps it."""
        report = self.forecast()
        if self._ledger is None or self._row is None:
            return
        try:
            if report.outcome in FAILED:
                await self._ledger.leave(self._row, reason(report, self.provider, self.conversation))
            else:
                await self._ledger.strike(self._row)
        except JournalError as exc:
            log.warning("%s: %s", self.provider.name, exc)

    def abandon(self) -> None:
        """Nobody here sees to it any more, though this process may live on; not a checkpoint."""
        if self.report is None:
            self._reported(self.forecast("the client was left before the cleanup was confirmed"))
        if self._ledger is None or self._row is None:
            return
        if self._kept:  # whoever takes it would delete what is to be kept
            with suppress(JournalError):
                self.keep()
        else:
            self._ledger.try_release(self._row)

    def create_doubted(self) -> None:
        """The create under way may never be heard of."""
        self._doubtful = True

    def create_ended(self, *, sent: bool, status: int | None, broke: bool = False) -> None:
        """A create was answered (or not: ``status`` is `None`): without an id, it may have happened all the same.

        A redirection or a 4xx created nothing, and what was never sent neither; a 5xx may come from a gateway that
        lost the answer, and a 2xx that names no id created something. A 503 says that nothing was done, and so does a
        gateway that never reached the server: they are believed where doubting them could not help.
        """
        # A gateway that has waited for too long says nothing of whether the server behind it is still at it.
        self._unanswered = sent and (status in GAVE_UP_WAITING or (status is None and not broke))
        if self.conversation.id is None and sent:
            undone = status == 503 or status in NEVER_REACHED
            refused = status is not None and (300 <= status < 500 or (undone and not self._recoverable()))
            self._doubtful = not refused

    def forecast(
        self, why: str = "the cleanup was not confirmed in time; it goes on for a while in the background"
    ) -> CleanupReport:
        """The report; or what it would be, and ``why``, if nobody did anything any more."""
        if self.report is not None:
            return self.report
        if not self._flows():
            return CleanupReport(outcome="kept" if self.conversation.id is not None else "nothing_owed")
        error = TrioprovError(why)
        if self.uncertain and not self._recoverable():
            return self._dated(CleanupReport(outcome="lost", attempts=self._attempts, error=error))
        return CleanupReport(outcome="owed", attempts=self._attempts, error=error)

    async def settle(self, transport: Transport, budget: float, ended_at: float) -> None:
        """Do what is owed and write the report; the caller shields it.

        Args:
            transport: for the connections.
            budget: seconds for all of the cleanup.
            ended_at: when, on trio's clock, the session ended and the budget began.
        """
        flows = self._flows()
        if not flows:
            self.report = self.forecast()
            return
        reports = [await self._settle(flow, transport, budget, ended_at) for flow in flows]
        self._reported(self._dated(next((report for report in reports if report.outcome in FAILED), reports[0])))

    def _tried(self) -> None:
        self._attempts += 1

    def _flows(self) -> list[Callable[[Conversation], Steps[Outcome]]]:
        """What settles it; nothing if nothing is owed."""
        flows: list[Callable[[Conversation], Steps[Outcome]]] = []
        if self.conversation.id is not None and not self.kept:
            flows.append(self.provider.close)
        # "Delete all of this owner" would delete what is kept as well.
        if self.uncertain and not (self.kept and self._recoverable()):
            flows.append(self.provider.recover)
        return flows

    def _reported(self, report: CleanupReport) -> None:
        self.report = report
        if report.error is not None:
            cleaned(report.error, self.provider, self.conversation)
        log.log(
            logging.WARNING if report.outcome in FAILED else logging.DEBUG,
            "%s: conversation %r: %s (%s)",  # an id is what the server says it is, lines of its own too
            self.provider.name,
            self.conversation.id,
            report.outcome,
            report.error,
        )

    async def _settle(
        self,
        flow: Callable[[Conversation], Steps[Outcome]],
        transport: Transport,
        budget: float,
        ended_at: float,
    ) -> CleanupReport:
        # A create that came back late leaves half of the budget.
        until = max(ended_at + budget, trio.current_time() + budget / 2)

        def deadline(waited: float) -> float:
            nonlocal until
            self.until = until = until + waited
            return until

        self.until = math.inf
        return await settle(
            self.provider,
            self.conversation,
            flow,
            transport=transport,
            deadline=deadline,
            budget=budget,
            young=self._young() if flow == self.provider.recover else 0.0,
            tried=self._tried,
        )

    def _young(self) -> float:
        """For how long the server may still be at a create that it never answered."""
        return self._create_begun + CREATE_TAKES - trio.current_time() if self._unanswered else 0.0

    def _recoverable(self) -> bool:
        """Whether the service has a way to delete what a create made whose answer was lost."""
        try:
            steps = self.provider.recover(self.conversation)
            next(steps)
        except Exception:  # it ended without a step, or by a bug in a provider
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
