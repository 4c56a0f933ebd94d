"""A journal: what dead processes left in it is paid, and what stays is shown."""

from __future__ import annotations

import datetime
import logging
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import trio

from .. import Journal, JournalEntry, JournalError, SweepReport, sweep
from ._interrupts import Interrupts
from ._text import Voice, clean, one_line
from ._usage import UsageError

if TYPE_CHECKING:
    from ..providers import Provider


class Sweeping:
    """Pays, strikes out or only shows what is in a journal.

    Args:
        journal: which.
        payers: who may pay debts that need the user's credentials.
        voice: stderr.
    """

    def __init__(self, journal: Journal, payers: Sequence[Provider], voice: Voice) -> None:
        self._journal = journal
        self._payers = payers
        self._voice = voice

    def show(self) -> int:
        """Show what is in the journal.

        Returns:
            The exit status.

        Raises:
            UsageError: there is no such journal, or it cannot be used.
        """
        return self._tell([], self._entries(), "In the journal:")

    def abandon(self, numbers: Sequence[int]) -> int:
        """Strike entries out unpaid: all of them, or none if one is unknown. Shows what stays.

        Returns:
            The exit status.

        Raises:
            UsageError: there is no such entry or journal, or it cannot be used.
        """
        entries = self._entries()
        known = {entry.id for entry in entries}
        for number in numbers:
            if number not in known:
                there_are = f"there are {', '.join(map(str, sorted(known)))}" if known else "it has none"
                raise UsageError(f"--abandon: the journal has no entry {number}; {there_are}")
        struck = 0
        for number in dict.fromkeys(numbers):
            try:
                struck += self._journal.abandon(number)
            except JournalError as exc:
                raise UsageError(f"--abandon: {exc}") from exc
        return self._tell([f"abandoned: {struck}"], self._entries())

    def pay(self) -> int:
        """Pay what nobody alive sees to. Shows what became of it, and what stays.

        Returns:
            The exit status.

        Raises:
            UsageError: there is no such journal, or it cannot be used.
        """
        # A debt that the journal itself kept from being paid is told nowhere else.
        self._voice.setLevel(min(self._voice.level, logging.WARNING))
        debts = sum(not entry.alive for entry in self._entries())
        with Interrupts() as interrupts:
            if debts:
                self._voice.say(f"trioprov: conversations to delete: {debts}")
            try:
                report = trio.run(self._sweep, interrupts)
            except JournalError as exc:
                raise UsageError(f"--journal: {exc}") from exc
        if report is None:
            self._voice.say("trioprov: stopped; what was not confirmed stays in the journal")
            return interrupts.status
        outcomes = {
            "deleted": report.deleted,
            "already gone": report.already_gone,
            "owed": report.owed,
            "lost": report.lost,
        }
        return self._tell([f"{outcome}: {count}" for outcome, count in outcomes.items()], self._entries())

    async def _sweep(self, interrupts: Interrupts) -> SweepReport | None:
        """The report, or nothing after a signal."""
        with interrupts.cancelling():
            return await sweep(self._journal, self._payers)
        return None

    def _entries(self) -> list[JournalEntry]:
        try:
            # Opening one that is not there would make it.
            if not os.path.exists(self._journal.path):
                raise UsageError(f"--journal: {self._journal.path}: there is no such file")
            return self._journal.entries()
        except JournalError as exc:
            raise UsageError(f"--journal: {exc}") from exc

    def _tell(
        self, lines: Sequence[str], entries: Sequence[JournalEntry], heading: str = "Still in the journal:"
    ) -> int:
        """Print it all; the exit status says whether something is owed that nobody alive sees to."""
        text = [*lines, ""] if lines and entries else [*lines]
        text.append(heading if entries else "Nothing is in the journal.")
        for entry in entries:
            text.append(f"{entry.id}: {entry.provider}, {entry.base_url}")
            text += [f"  {field:<12}  {value}" for field, value in _facts(entry)]
        status = int(any(not entry.alive for entry in entries))
        try:
            print("\n".join(clean(line) for line in text), flush=True)
        except BrokenPipeError:  # somebody has seen enough
            pass
        except OSError as exc:
            self._voice.say(f"trioprov: what is in the journal could not be written: {exc}")
            status = 1
        return status


def _facts(entry: JournalEntry) -> Iterator[tuple[str, str]]:
    since = datetime.datetime.fromtimestamp(entry.created, datetime.UTC)
    yield "conversation", one_line(entry.conversation_id) if entry.conversation_id else "its id is not known"
    yield "since", f"{since:%Y-%m-%d %H:%M} UTC"
    yield "tried", {0: "never", 1: "once"}.get(entry.attempts, f"{entry.attempts} times")
    if entry.reason:
        yield "why not", one_line(entry.reason)
    yield "seen to by", "a living process" if entry.alive else "nobody"
    if entry.needs_credentials:
        again = f"-p {entry.provider} --base-url {entry.provider}={entry.base_url}"
        yield "needs", f"what it was created with: {again} --cookies FILE, or --proxy URL"
