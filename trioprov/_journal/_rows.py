"""What a ledger holds: a debt as its user sees it, and as whoever pays it needs it."""

from __future__ import annotations

from dataclasses import dataclass

from .._conversation import Conversation


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """One debt in a journal.

    Attributes:
        id: its number, for `Journal.abandon`.
        provider: the provider's name.
        base_url: the server.
        conversation_id: what to delete; `None` if a create was never answered.
        created: seconds since the epoch.
        attempts: how often it could not be paid.
        reason: why not, the last time.
        alive: whether a living process sees to it.
        needs_credentials: whether only a provider with the user's own credentials, headers or proxy may pay it.
    """

    id: int
    provider: str
    base_url: str
    conversation_id: str | None
    created: float
    attempts: int
    reason: str | None
    alive: bool
    needs_credentials: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A debt that somebody may pay."""

    id: int
    provider: str
    base_url: str
    access: str | None
    conversation: Conversation
    attempts: int
    created: float
    expires: float | None
