"""Pay what dead processes left in a journal."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

import trio

from ._cleanup import CREATE_TAKES, reason, settle
from ._journal import Journal, Ledger, Row
from ._outcomes import FAILED, CleanupReport
from ._transport import Transport
from .providers import PROVIDERS, Provider, checked_provider

log = logging.getLogger("trioprov")

# What paying one debt may take, in seconds, and how many are paid at once.
_BUDGET = 10.0
_AT_ONCE = 16

# How long a cancelled sweep may wait for somebody else's lock, to say that it is over, in seconds.
_RELEASE = 1.0


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What a sweep came to, in numbers of conversations.

    Attributes:
        deleted: confirmed by the server, now.
        already_gone: the server does not have it any more, or it has expired there.
        owed: could not be paid; it stays in the journal, with the reason.
        lost: a create was never answered, and the service gives no way to find what it made; stays as well.
    """

    deleted: int = 0
    already_gone: int = 0
    owed: int = 0
    lost: int = 0


async def sweep(journal: Journal | str | os.PathLike[str], providers: Iterable[Provider] = ()) -> SweepReport:
    """Delete the conversations that dead processes left behind; those of living ones are not touched. A checkpoint.

    Any number of sweepers may be at it: each debt is claimed by one. Cancelling it leaves what was not confirmed in the
    journal, for the next.

    Args:
        journal: the journal, or its path.
        providers: who may pay debts that need the user's credentials, headers or proxy; such a debt is paid by the
            provider that has the very same ones, and by nobody else. All other debts need none of these.

    Raises:
        JournalError: the file cannot be used, or is no journal.
        TypeError: what is no provider.
    """
    payers = tuple(map(checked_provider, providers))
    await trio.lowlevel.checkpoint()
    journal = journal if isinstance(journal, Journal) else Journal(journal)
    if journal.unused:
        return SweepReport()
    transport = Transport()
    with await journal.aopen() as ledger:
        try:
            return await pay_all(ledger, payers, transport)
        finally:
            with trio.CancelScope(shield=True, relative_deadline=1.0):
                await transport.aclose()


async def pay_all(
    ledger: Ledger, providers: tuple[Provider, ...], transport: Transport, *, due_only: bool = False
) -> SweepReport:
    """Claim what nobody alive owns, and pay it.

    Args:
        due_only: leave out what failed not long ago.
    """
    reports: list[CleanupReport] = []
    limit = trio.CapacityLimiter(_AT_ONCE)

    async def pay(row: int, owner: int | None) -> None:
        async with limit:
            report = await _claimed_and_paid(row, owner, ledger, providers, transport)
        if report is not None:
            reports.append(report)

    unowned = await ledger.unowned(due_only=due_only)
    async with trio.open_nursery() as nursery:
        for row, owner in unowned:
            nursery.start_soon(pay, row, owner)
    outcomes = [report.outcome for report in reports]
    report = SweepReport(
        deleted=outcomes.count("deleted"),
        already_gone=outcomes.count("already_gone"),
        owed=outcomes.count("owed"),
        lost=outcomes.count("lost"),
    )
    if outcomes:
        log.info("swept a journal: %s", report)
    return report


async def _claimed_and_paid(
    number: int, owner: int | None, ledger: Ledger, providers: tuple[Provider, ...], transport: Transport
) -> CleanupReport | None:
    """One debt, whose trouble is no other's; `None` if another sweeper was faster."""
    try:
        row = await ledger.claim(number, owner)
        if row is None:
            return None
        try:
            return await _pay(row, ledger, providers, transport)
        finally:
            with trio.CancelScope(shield=True, relative_deadline=_RELEASE):
                await ledger.release(number)  # what was paid is gone by now, and what was left is nobody's
    except Exception as exc:
        log.warning("a debt could not be paid: %s", exc)
        return CleanupReport(outcome="owed", error=exc)


async def _pay(row: Row, ledger: Ledger, providers: tuple[Provider, ...], transport: Transport) -> CleanupReport:
    # It is asked for all the same, if it has a name: the clock may have been wrong, when this was written or now.
    expired = row.expires is not None and row.expires < time.time()
    if expired and row.conversation.id is None:
        await ledger.strike(row.id)
        return CleanupReport(outcome="already_gone")
    try:
        provider = _payer(row, ledger, providers)
    except Exception as exc:  # also whatever an installed provider does when it is imported or made
        if expired:
            await ledger.strike(row.id)
            return CleanupReport(outcome="already_gone")
        await ledger.leave(row.id, str(exc), tried=False)
        return CleanupReport(outcome="owed", error=exc)
    # Whoever has the same access speaks as whoever created it, so "not found" means gone.
    conversation = row.conversation.replace(credential=provider.credential(row.conversation))
    lost = conversation.id is None
    # Its client may have died just now, with the server still at it.
    young = min(max(row.created + CREATE_TAKES - time.time(), 0.0), CREATE_TAKES) if lost else 0.0
    report = await settle(
        provider,
        conversation,
        provider.recover if lost else provider.close,
        transport=transport,
        deadline=lambda _: trio.current_time() + _BUDGET + young,
        budget=_BUDGET,
        young=young,
    )
    if expired and report.outcome in FAILED:
        report = CleanupReport(outcome="already_gone")
    if report.outcome in FAILED:
        await ledger.leave(row.id, reason(report, provider, conversation))
    else:
        await ledger.strike(row.id)
    return report


def _payer(row: Row, ledger: Ledger, providers: tuple[Provider, ...]) -> Provider:
    """Who may pay a debt.

    Raises:
        LookupError: nobody here.
    """
    for provider in providers:
        same_place = (provider.name, provider.base_url) == (row.provider, row.base_url)
        if same_place and ledger.fingerprint(provider.access()) == row.access:
            return provider
    if row.access is not None:
        raise LookupError(
            f"it needs {row.provider} at {row.base_url} with the cookies, headers and proxy it was created with"
        )
    if row.provider not in PROVIDERS:
        raise LookupError(f"there is no provider {row.provider!r} here")
    return PROVIDERS[row.provider](base_url=row.base_url)
