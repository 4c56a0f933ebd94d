"""How the cleanup of a conversation can end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    import datetime

Outcome: TypeAlias = Literal["deleted", "already_gone", "nothing_owed", "kept", "unsupported", "owed", "lost"]
"""``deleted`` · ``already_gone`` · ``nothing_owed`` (nothing was created) · ``kept`` (on request) ·
``unsupported`` (the service documents no cleanup) · ``owed`` (not confirmed: it may still be there) ·
``lost`` (a create may have happened, and the service gives no way to find what it made)."""

FAILED: frozenset[Outcome] = frozenset({"owed", "lost"})
"""The outcomes after which something may still be on the server."""


@dataclass(frozen=True, slots=True)
class CleanupReport:
    """What became of one conversation on its server."""

    outcome: Outcome
    attempts: int = 0
    """How often the cleanup was sent."""
    error: Exception | None = None
    """Why the last attempt failed, if it did."""
    expires_at: datetime.datetime | None = None
    """When the service itself will delete what is left, if it does (UTC)."""
