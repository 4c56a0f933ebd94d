"""What leaving a block comes to: whether it waits, and what it says."""

from __future__ import annotations

from typing import cast

import trio

from ._errors import CleanupFailed
from ._outcomes import CleanupReport
from ._owner import Owner
from .providers import Provider


def waits(owner: Owner, exc: BaseException | None) -> bool:
    """Whether leaving a block waits for the cleanup: only a cancellation does not, if a client sees to it."""
    return owner.client.private or not is_cancellation(exc)


def is_cancellation(exc: BaseException | None, kind: type[BaseException] = trio.Cancelled) -> bool:
    """Whether a block is being left because of a cancellation (of this kind) and nothing else."""
    if isinstance(exc, BaseExceptionGroup):
        return all(is_cancellation(one, kind) for one in cast("BaseExceptionGroup[BaseException]", exc).exceptions)
    return isinstance(exc, kind)


def cleanup_failed(provider: Provider, report: CleanupReport) -> CleanupFailed:
    """The error that says what may still be on the server; its cause is the last attempt's."""
    until = f"; it expires at {report.expires_at:%Y-%m-%d %H:%M} UTC" if report.expires_at else ""
    why = f": {report.error}" if report.error else ""
    error = CleanupFailed(f"a conversation may still be on {provider.label} ({report.outcome}{until}){why}", report)
    error.__cause__ = report.error
    return error
