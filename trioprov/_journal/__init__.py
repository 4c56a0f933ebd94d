"""The ledger of debts: what must be deleted on some server, written down before it exists."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio

from ._file import explained, is_busy
from ._ledger import BUSY_SLEEP, PATIENCE
from ._ledger import Ledger as Ledger
from ._rows import JournalEntry as JournalEntry
from ._rows import Row as Row

T = TypeVar("T")


class Journal:
    """A file in which debts survive the process: ``open_client(journal=Journal("owed.db"))``, or the path itself.

    The file is made at its first use, readable by its owner alone. It holds what a sweeper needs: the ids, and the
    identity that was minted for one conversation, which vanishes with its row. The user's cookies, headers, proxy and
    keys are never in it: a debt that needs them has a keyed fingerprint, and waits for a provider with the same ones.

    Not for network file systems, on which SQLite's WAL does not work.

    Args:
        path: the file.
        durable: survive the loss of power too, for some 250 µs a row.
    """

    def __init__(self, path: str | os.PathLike[str], *, durable: bool = False) -> None:
        self.path: Path = Path(path)
        self.durable: bool = durable

    @property
    def unused(self) -> bool:
        """Whether there is no file yet, though there could be one.

        Raises:
            JournalError: who asks may not look, or cannot.
        """
        with explained(self.path):
            return not self.path.exists() and self.path.parent.is_dir()

    def entries(self) -> list[JournalEntry]:
        """All debts, the oldest first; none, and no file is made, if there is none. Not a checkpoint.

        Raises:
            JournalError: the file cannot be read, or is no journal.
        """
        if self.unused:
            return []
        with self.open() as ledger, explained(self.path):
            return ledger.entries()

    def abandon(self, entry_id: int) -> bool:
        """Strike a debt out unpaid; false if there is none of that number. Not a checkpoint.

        Raises:
            JournalError: the file cannot be written, or is no journal.
        """
        if self.unused:
            return False
        with self.open() as ledger, explained(self.path):
            return _briefly(lambda: ledger.strike_now(entry_id))

    def open(self) -> Ledger:
        """An open journal, for one thread; close it, or use it in a ``with`` block. Not a checkpoint.

        Raises:
            JournalError: the file cannot be used, is no journal, is damaged, or was written by a newer version.
        """
        with explained(self.path):
            return _briefly(lambda: Ledger(self.path, durable=self.durable))

    async def aopen(self) -> Ledger:
        """The same, for a trio task: somebody else's lock stops nobody. A checkpoint only if there is one.

        Raises:
            JournalError: as `open` does.
        """
        with explained(self.path):
            until = trio.current_time() + PATIENCE
            while True:
                try:
                    return Ledger(self.path, durable=self.durable)
                except Exception as exc:
                    if not is_busy(exc) or trio.current_time() > until:
                        raise
                await trio.sleep(BUSY_SLEEP)

    def __repr__(self) -> str:
        return f"Journal({str(self.path)!r})"


def _briefly(use: Callable[[], T]) -> T:
    """Wait a moment for somebody else's lock, which is held for microseconds, where nothing can be awaited."""
    for _ in range(200):
        try:
            return use()
        except Exception as exc:
            if not is_busy(exc):
                raise
        time.sleep(BUSY_SLEEP)
    return use()
