"""Pay what dead processes left, from an anyio application."""

from __future__ import annotations

import os
from collections.abc import Iterable

import trioprov as core

from .._journal import Journal
from ..providers import Provider
from ._opening import call


async def sweep(journal: Journal | str | os.PathLike[str], providers: Iterable[Provider] = ()) -> core.SweepReport:
    """Delete the conversations that dead processes left behind; those of living ones are not touched. A checkpoint.

    Any number of sweepers may be at it: each debt is claimed by one. Cancelling it leaves what was not confirmed in the
    journal, for the next.

    Args:
        journal: the journal, or its path.
        providers: who may pay debts that need the user's credentials, headers or proxy; such a debt is paid by the
            provider that has the very same ones, and by nobody else. All other debts need none of these.

    Raises:
        JournalError: the file cannot be used, or is no journal.
    """
    return await call(None, lambda _: core.sweep(journal, providers))
