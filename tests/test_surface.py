"""What a user can see: every public name, once, documented, and nothing else."""

from __future__ import annotations

import inspect
import types

import pytest

import trioprov
import trioprov.anyio
import trioprov.asgi

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


PACKAGES = pytest.mark.parametrize("package", [trioprov, trioprov.anyio], ids=lambda package: package.__name__)


# What the core's rooms say to each other; no user calls it.
INTERNAL = {
    "Client": {"admit", "aclose", "aclose_connections", "dismiss", "host", "open_journal", "tenants", "account_queue"},
    "FanOut": {"raise_first_error", "start"},
    "Lane": {"aclose", "reject", "skip", "start", "stopper", "wait", "waits"},
}


@PACKAGES
def test_the_public_names_are_exactly_these(package: types.ModuleType) -> None:
    found = {
        name
        for name, value in vars(package).items()
        if not isinstance(value, types.ModuleType)
        and (not name.startswith("_") or name == "__version__")
        and name != "annotations"
    }
    assert found == NAMES


@PACKAGES
@pytest.mark.parametrize("name", sorted(NAMES - {"Event", "Outcome", "PROVIDERS", "Token", "__version__"}))
def test_every_public_class_and_function_is_documented(package: types.ModuleType, name: str) -> None:
    value = getattr(package, name)
    assert (value.__doc__ or "").strip()
    for member, method in inspect.getmembers(value, inspect.isfunction):
        if not member.startswith("_"):
            assert inspect.getdoc(method), f"{name}.{member}"


def test_the_door_for_web_applications_has_four_names() -> None:
    found = {
        name: value for name, value in vars(trioprov.asgi).items() if isinstance(value, (type, types.FunctionType))
    }
    assert found.keys() == {"Replies", "SSEResponse", "TextResponse", "open_replies"}
    assert all(value.__doc__ for value in found.values())


@pytest.mark.parametrize("name", ["Client", "FanOut", "Lane", "Race", "Reply", "Session", "Subscription"])
def test_a_handle_has_the_same_members_in_an_anyio_application(name: str) -> None:
    ours, theirs = (set(dir(getattr(package, name))) for package in (trioprov, trioprov.anyio))
    missing = {member for member in ours - theirs if not member.startswith("_")}
    assert not missing - INTERNAL.get(name, set())


@pytest.mark.parametrize(
    "name", ["ask", "fan_out", "gather", "open_client", "open_reply", "open_session", "race", "sweep"]
)
def test_a_function_has_the_same_parameters_in_an_anyio_application(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(package, name)).parameters for package in (trioprov, trioprov.anyio))
    assert [(one.name, one.kind, one.default) for one in theirs.values()] == [
        (one.name, one.kind, one.default) for one in ours.values()
    ]


def test_events_and_reports_are_made_and_taken_apart_in_the_order_in_which_they_are_documented() -> None:
    match trioprov.CleanupReport("deleted", 1, None):
        case trioprov.CleanupReport(outcome, attempts, error):
            assert (outcome, attempts, error) == ("deleted", 1, None)
    match trioprov.SweepReport(1, 2, 3, 4):
        case trioprov.SweepReport(deleted, already_gone, owed, lost):
            assert (deleted, already_gone, owed, lost) == (1, 2, 3, 4)
    match trioprov.Finish("length", None, trioprov.Usage(output_tokens=3)):
        case trioprov.Finish(reason, failure, usage):
            assert (reason, failure, usage) == ("length", None, trioprov.Usage(output_tokens=3))
    match trioprov.Queued(3, 7), trioprov.Notice("title", "Sky"), trioprov.Lagged(5):
        case trioprov.Queued(position, size), trioprov.Notice(kind, text), trioprov.Lagged(missed):
            assert (position, size, kind, text, missed) == (3, 7, "title", "Sky", 5)


def test_the_providers_are_found_by_name() -> None:
    assert {name: provider.name for name, provider in trioprov.PROVIDERS.items()} == {
        name: name for name in ("h2o", "openassistant", "allenai")
    }
