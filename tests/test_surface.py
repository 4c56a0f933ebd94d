"""What a user can see: every public name, once, documented, and nothing else."""

from __future__ import annotations

import inspect
import types

import pytest

import trioprov

NAMES = {
    "AllFailed",
    "AllenAI",
    "Answer",
    "AuthenticationError",
    "CleanupFailed",
    "CleanupReport",
    "Client",
    "ConnectionFailed",
    "Conversation",
    "ConversationLost",
    "Deadlines",
    "DeadlineExceeded",
    "Event",
    "FanOut",
    "Finish",
    "FirstTokenTimeout",
    "H2o",
    "IdleTimeout",
    "IncompleteReply",
    "InvalidRequest",
    "Journal",
    "JournalEntry",
    "JournalError",
    "Lagged",
    "Lane",
    "ModelNotSupported",
    "Notice",
    "OpenAssistant",
    "Outcome",
    "Overloaded",
    "PROVIDERS",
    "ProviderError",
    "Queued",
    "Race",
    "RateLimited",
    "RemoteProtocolError",
    "Reply",
    "Retry",
    "Session",
    "Subscription",
    "SweepReport",
    "Token",
    "TotalTimeout",
    "TrioprovError",
    "Usage",
    "__version__",
    "ask",
    "delete_conversation",
    "fan_out",
    "gather",
    "open_client",
    "open_reply",
    "open_session",
    "race",
    "run_session",
    "sweep",
}


def test_the_public_names_are_exactly_these() -> None:
    found = {
        name
        for name, value in vars(trioprov).items()
        if not isinstance(value, types.ModuleType)
        and (not name.startswith("_") or name == "__version__")
        and name != "annotations"
    }
    assert found == NAMES


@pytest.mark.parametrize("name", sorted(NAMES - {"Event", "Outcome", "PROVIDERS", "Token", "__version__"}))
def test_every_public_class_and_function_is_documented(name: str) -> None:
    value = getattr(trioprov, name)
    assert (value.__doc__ or "").strip()
    for member, method in inspect.getmembers(value, inspect.isfunction):
        if not member.startswith("_"):
            assert inspect.getdoc(method), f"{name}.{member}"


def test_the_providers_are_found_by_name() -> None:
    assert {name: provider.name for name, provider in trioprov.PROVIDERS.items()} == {
        name: name for name in ("h2o", "openassistant", "allenai")
    }
