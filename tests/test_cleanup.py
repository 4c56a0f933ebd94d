"""Debts: what is sent when a session ends, how often, for how long, and what an answer counts for."""

# What raises is the leaving of a block:
# ruff: noqa: PT012, SIM117
# pyright: reportPossiblyUnboundVariable=false

from __future__ import annotations

import datetime
import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import trio
import trio.testing

import trioprov
from trioprov import AllenAI, CleanupFailed, H2o, OpenAssistant, TrioprovError
from trioprov.providers import Provider
from trioprov.testing import Emulator, Fault, assert_no_orphans, open_emulator

QUESTION = "Why is the sky blue?"
CREATE = {"h2o": "create", "openassistant": "create", "allenai": "stream"}


async def said(session: trioprov.Session, question: str = QUESTION, **how: Any) -> trioprov.Answer:
    async with session.ask(question, **how) as reply:
        return await reply.wait()


def steps(emulator: Emulator[Any]) -> list[str]:
    return [request.step for request in emulator.requests]


def outcome(session: trioprov.Session) -> str:
    assert session.cleanup is not None
    return session.cleanup.outcome


@contextmanager
def within(seconds: float) -> Generator[None]:
    """`trio.fail_after` would not notice what is shielded."""
    begun = trio.current_time()
    yield
    assert trio.current_time() - begun < seconds


@pytest.mark.parametrize(
    ("fault", "deletes"),
    [
        ({"status": 500}, 2),
        ({"status": 502, "body": "<title>Bad gateway</title>"}, 2),
        ({"status": 503}, 2),
        ({"status": 503, "times": 3}, 4),
        ({"status": 429}, 2),
        ({"drop": True}, 2),
        ({"lose_response": True}, 2),
        ({"status": 408, "headers": {"Connection": "close"}}, 2),  # what a gateway says of a connection it gives up
        ({"drop": True, "times": 2}, 3),
        ({"status": 503, "headers": {"Retry-After": "Mon, 01 Jan 99999999999 00:00:00 GMT"}}, 2),
        ({"status": 503, "headers": {"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}}, 2),
    ],
)
async def test_a_cleanup_that_may_succeed_is_tried_again(
    service: type[Provider], fault: dict[str, Any], deletes: int
) -> None:
    async with open_emulator(service, faults=[Fault(on="delete", **fault)]) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            await said(session)
        assert steps(emulator).count("delete") == deletes
        # Where the answer was lost, or a 500 is what a chat that is gone gets, the second try finds nothing.
        assert outcome(session) == ("already_gone" if fault.get("lose_response") else "deleted")
        assert session.cleanup is not None
        assert session.cleanup.attempts == deletes
        assert session.cleanup.error is None
        assert_no_orphans(emulator)


async def test_retry_after_is_waited_for(service: type[Provider]) -> None:
    fault = Fault(on="delete", status=429, headers={"Retry-After": "1"})
    async with open_emulator(service, faults=[fault]) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            await said(session)
        first, second = (request.time for request in emulator.requests if request.step == "delete")
        assert 0.95 < second - first < 3
        assert_no_orphans(emulator)


async def test_a_retry_after_beyond_the_budget_does_not_prevent_a_second_try(service: type[Provider]) -> None:
    fault = Fault(on="delete", status=429, headers={"Retry-After": "3600"})
    async with open_emulator(service, faults=[fault]) as emulator:
        async with trioprov.open_client(cleanup_timeout=1) as client:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                await said(session)
        assert outcome(session) == "deleted"
        assert_no_orphans(emulator)


CANNOT = [(H2o, 401), (H2o, 405), (H2o, 403), (OpenAssistant, 403), (AllenAI, 401), (AllenAI, 403), (AllenAI, 400)]


@pytest.mark.parametrize(("cls", "status"), CANNOT)
async def test_what_cannot_succeed_is_sent_once(cls: type[Provider], status: int) -> None:
    async with open_emulator(cls, faults=[Fault(on="delete", status=status, times=math.inf)]) as emulator:
        begun = trio.current_time()
        with pytest.raises(CleanupFailed) as caught:
            async with trioprov.open_session(emulator.provider) as session:
                await said(session)
        assert trio.current_time() - begun < 3
        assert caught.value.report.outcome == "owed"
        assert caught.value.report.attempts == steps(emulator).count("delete") == 1
        assert isinstance(caught.value.__cause__, trioprov.ProviderError)
        assert caught.value.__cause__.status == status


GATEWAYS: list[dict[str, Any]] = [
    {
        "status": 200,
        "body": "<!doctype html><title>Sign in</title>",
    },  # a login, where the session of another one is over
    {"status": 200, "body": "<html></html>"},
    {"status": 404, "body": "404 page not found\n"},  # Traefik's, while the server behind it is down
    {"status": 404, "body": "<html><title>404 Not Found</title></html>"},
]


@pytest.mark.parametrize("fault", GATEWAYS)
async def test_what_a_gateway_says_in_a_servers_place_confirms_nothing(
    service: type[Provider], fault: dict[str, Any]
) -> None:
    async with open_emulator(service, faults=[Fault(on="delete", **fault)]) as emulator:
        (answer,) = await trioprov.gather(QUESTION, [emulator.provider])
        assert answer.text
        assert answer.cleanup is not None
        assert answer.cleanup.outcome == "owed"
        assert isinstance(answer.cleanup.error, trioprov.ProviderError)
        assert ("a page instead of an answer" in str(answer.cleanup.error)) == (fault["status"] == 200)
        assert len(emulator.conversations) == 1


async def test_oa_a_gateways_404_does_not_say_that_a_chat_is_gone() -> None:
    faults = [Fault(on="delete", status=502), Fault(on="chat", status=404, body="404 page not found\n")]
    async with open_emulator(OpenAssistant, faults=faults) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            await said(session)
        assert steps(emulator)[-3:] == ["delete", "chat", "delete"]
        assert outcome(session) == "deleted"


async def test_h2o_a_login_page_does_not_say_that_a_lost_create_was_recovered() -> None:
    page = Fault(on="delete_all", status=200, body="<!doctype html><title>Sign in</title>")
    faults = [Fault(on="create", lose_response=True), page]
    async with open_emulator(H2o, faults=faults) as emulator:
        (answer,) = await trioprov.gather(QUESTION, [emulator.provider])
        assert answer.cleanup is not None
        assert answer.cleanup.outcome == "owed"
        assert len(emulator.conversations) == 1


# -- H2o --------------------------------------------------------------------------------------------------------------


async def kept(emulator: Emulator[Any]) -> trioprov.Conversation:
    async with trioprov.open_session(emulator.provider) as session:
        await said(session)
        return session.keep()


async def test_h2o_a_404_means_gone_only_with_the_cookie_that_created_it() -> None:
    async with open_emulator(H2o, disclaimer=False) as emulator:
        saved = await kept(emulator)
        elsewhere = {**saved, "opened_by": "another process"}
        others: list[dict[str, Any]] = [
            {**elsewhere, "identity": {}},
            {key: elsewhere[key] for key in elsewhere if key != "identity"},
            {**elsewhere, "identity": {"hf-chat": "somebody-else"}},
            {key: saved[key] for key in ("provider", "base_url", "id")},
        ]
        wrong = H2o(base_url=emulator.url, cookies={"hf-chat": "a-user's-own"})
        found: list[str] = []
        for provider, conversation in [(emulator.provider, other) for other in others] + [(wrong, others[1])]:
            report = await trioprov.delete_conversation(provider, conversation)
            found.append(report.outcome)
            assert emulator.conversations == (saved.id,)
        # A wrong cookie inside the saved JSON cannot be told from the right one.
        del found[2]
        assert found == ["owed"] * 4
        assert (await trioprov.delete_conversation(emulator.provider, saved)).outcome == "deleted"
        assert (await trioprov.delete_conversation(emulator.provider, saved)).outcome == "already_gone"


async def test_h2o_a_users_own_cookie_works_and_owns() -> None:
    async with open_emulator(H2o) as emulator:
        provider = H2o(base_url=emulator.url, cookies={"hf-chat": "a-user's-own"})
        async with trioprov.open_session(provider) as session:
            await said(session)
            assert (await trioprov.delete_conversation(provider, session.conversation)).outcome == "deleted"
        assert outcome(session) == "already_gone"
        assert {request.cookies["hf-chat"] for request in emulator.requests} == {"a-user's-own"}
        assert_no_orphans(emulator)


@pytest.mark.parametrize(
    "fault", [{"lose_response": True}, {"delay_response": 0.0, "status": None, "lose_response": True}]
)
async def test_h2o_a_lost_create_is_recovered_by_deleting_all_of_this_session(fault: dict[str, Any]) -> None:
    async with open_emulator(H2o) as emulator:
        bystander = await kept(emulator)
        emulator.add_fault(Fault(on="create", **fault))
        with pytest.raises(trioprov.ConnectionFailed) as caught:
            async with trioprov.open_session(emulator.provider):
                raise AssertionError
        assert not hasattr(caught.value, "__notes__")
        last = emulator.requests[-1]
        assert (last.method, last.path, dict(last.query)) == ("POST", "/conversations", {"/delete": ""})
        assert emulator.conversations == (bystander.id,)  # another session's is not touched
        await trioprov.delete_conversation(emulator.provider, bystander)


async def test_h2o_a_lost_create_under_the_users_own_cookie_is_lost_and_nothing_else_is_deleted() -> None:
    async with open_emulator(H2o) as emulator:
        provider = H2o(base_url=emulator.url, cookies={"hf-chat": "a-user's-own"})
        async with trioprov.open_session(provider) as session:
            saved = session.keep()
        emulator.add_fault(Fault(on="create", lose_response=True))
        with pytest.raises(trioprov.ConnectionFailed) as caught:
            async with trioprov.open_session(provider):
                raise AssertionError
        assert "lost" in caught.value.__notes__[0]
        assert "delete_all" not in steps(emulator)
        assert saved.id in emulator.conversations


@pytest.mark.parametrize("body", ["nonsense", "{}", '{"conversationId":7}', "[]", '{"conversationId":""}', "\x00"])
async def test_h2o_a_create_answered_with_nonsense_is_recovered(body: str) -> None:
    async with open_emulator(H2o, faults=[Fault(on="create", status=200, body=body)]) as emulator:
        with pytest.raises(trioprov.RemoteProtocolError):
            async with trioprov.open_session(emulator.provider):
                raise AssertionError
        assert steps(emulator)[-1] == "delete_all"
        assert_no_orphans(emulator)


async def test_h2o_a_refused_create_owes_nothing() -> None:
    for status in (302, 400, 401, 403, 404, 405, 429):
        async with open_emulator(H2o, faults=[Fault(on="create", status=status)]) as emulator:
            with pytest.raises(trioprov.ProviderError):
                async with trioprov.open_session(emulator.provider):
                    raise AssertionError
            assert steps(emulator) == ["settings", "create"]


async def test_h2o_that_a_lost_create_was_recovered_is_told_to_the_caller_of_gather() -> None:
    async with open_emulator(H2o, faults=[Fault(on="create", lose_response=True)]) as emulator:
        (answer,) = await trioprov.gather(QUESTION, [emulator.provider])
        assert isinstance(answer.error, trioprov.ConnectionFailed)
        assert answer.cleanup is not None
        assert answer.cleanup.outcome == "deleted"
        assert_no_orphans(emulator)


async def test_h2o_the_recovery_is_tried_again_too() -> None:
    faults = [Fault(on="create", lose_response=True), Fault(on="delete_all", status=503, times=2)]
    async with open_emulator(H2o, faults=faults) as emulator:
        with pytest.raises(trioprov.ConnectionFailed):
            async with trioprov.open_session(emulator.provider):
                raise AssertionError
        assert steps(emulator).count("delete_all") == 3
        assert_no_orphans(emulator)


async def test_h2o_a_stop_that_hangs_leaves_time_for_the_delete() -> None:
    faults = [Fault(on="stop", hang=True, times=math.inf)]
    async with open_emulator(H2o, forever=True, token_delay=0.002, faults=faults) as emulator:
        async with trioprov.open_client(cleanup_timeout=1) as client:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                async with session.ask(QUESTION) as reply:
                    async for _ in reply:
                        session.close()
        assert session.cleanup is not None
        assert (session.cleanup.outcome, session.cleanup.attempts) == ("deleted", 1)
        assert_no_orphans(emulator)


# -- Open Assistant ---------------------------------------------------------------------------------------------------


async def test_oa_a_500_on_delete_is_checked_by_asking_for_the_chat() -> None:
    async with open_emulator(OpenAssistant) as emulator:
        saved = await kept(emulator)
        assert (await trioprov.delete_conversation(emulator.provider, saved)).outcome == "deleted"
        before = len(emulator.requests)
        assert (await trioprov.delete_conversation(emulator.provider, saved)).outcome == "already_gone"
        assert steps(emulator)[before:] == ["delete", "chat"]


async def test_oa_another_accounts_404_proves_nothing() -> None:
    async with open_emulator(OpenAssistant, accounts=["one", "two"]) as emulator:
        saved = await kept(emulator)
        other = OpenAssistant(base_url=emulator.url, cookies={"next-auth.session-token": "two"})
        async with trioprov.open_client(cleanup_timeout=0.5) as client:
            report = await trioprov.delete_conversation(other, saved, client=client)
        assert report.outcome == "owed"
        assert emulator.conversations == (saved.id,)
        await trioprov.delete_conversation(emulator.provider, saved)


async def test_oa_a_lost_create_is_lost_and_has_no_date() -> None:
    async with open_emulator(OpenAssistant, faults=[Fault(on="create", lose_response=True)]) as emulator:
        with pytest.raises(trioprov.ConnectionFailed) as caught:
            async with trioprov.open_session(emulator.provider):
                raise AssertionError
        assert len(caught.value.__notes__) == 1
        assert "lost" in caught.value.__notes__[0]
        assert steps(emulator) == ["create"]


async def test_oa_a_message_that_pends_for_ever_is_waited_for_during_half_of_the_budget() -> None:
    script = {"pending": math.inf, "pending_interval": 0.05}
    async with open_emulator(OpenAssistant, **script) as emulator:
        async with trioprov.open_client(cleanup_timeout=1) as client:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                async with session.ask(QUESTION):
                    await trio.sleep(0.2)
                    session.close()
                    begun = trio.current_time()
            assert 0.4 < trio.current_time() - begun < 1.0
            assert outcome(session) == "deleted"
        assert_no_orphans(emulator)


async def test_oa_a_stalled_stream_is_waited_for_during_half_of_the_budget() -> None:
    faults = [Fault(on="events", stall_after=3)]
    async with open_emulator(OpenAssistant, forever=True, token_delay=0.01, faults=faults) as emulator:
        async with trioprov.open_client(cleanup_timeout=1) as client:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                async with session.ask(QUESTION) as reply:
                    async for _ in reply:
                        session.close()
                        break
                    begun = trio.current_time()
            assert 0.4 < trio.current_time() - begun < 1.05
            assert outcome(session) == "deleted"
            assert "message" not in steps(emulator)  # there is no time left to ask what became of the answer
        assert_no_orphans(emulator)


async def test_oa_an_answer_that_cannot_be_asked_for_leaves_time_for_the_delete() -> None:
    faults = [Fault(on="events", cut_after=2), Fault(on="message", hang=True, times=math.inf)]
    async with open_emulator(OpenAssistant, token_delay=0.01, faults=faults) as emulator:
        async with trioprov.open_client(cleanup_timeout=1) as client:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                with pytest.raises(TrioprovError):
                    await said(session)
        assert session.cleanup is not None
        assert (session.cleanup.outcome, session.cleanup.attempts) == ("deleted", 1)
        assert steps(emulator).count("message") == 1
        assert_no_orphans(emulator)


async def test_oa_a_running_answer_is_read_to_its_end_before_the_delete() -> None:
    async with open_emulator(OpenAssistant, token_delay=0.01) as emulator:
        async with trioprov.open_session(emulator.provider) as session, session.ask(QUESTION) as reply:
            async for _ in reply:
                session.close()
        assert emulator.worker_crashes == 0
        assert_no_orphans(emulator)


@pytest.mark.parametrize(
    "damage", [{"cut_after": 2}, {"reset_after": 2}, {"end_after": 2}, {"status": 502}, {"drop": True}]
)
async def test_oa_an_answer_whose_stream_broke_is_waited_for_too(damage: dict[str, Any]) -> None:
    async with open_emulator(OpenAssistant, token_delay=0.02, faults=[Fault(on="events", **damage)]) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            with pytest.raises(TrioprovError):
                await said(session)
        assert emulator.worker_crashes == 0
        assert outcome(session) == "deleted"
        assert_no_orphans(emulator)
        assert 1 <= steps(emulator).count("message") < 20  # and not asked for all the time


async def test_oa_an_answer_that_cannot_be_asked_for_is_not_waited_for() -> None:
    faults = [Fault(on="events", cut_after=2), Fault(on="message", hang=True, times=math.inf)]
    async with open_emulator(OpenAssistant, faults=faults) as emulator:
        async with trioprov.open_client(cleanup_timeout=1) as client:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                with pytest.raises(TrioprovError):
                    await said(session)
        assert outcome(session) == "deleted"
        assert_no_orphans(emulator)


async def test_oa_a_kept_chat_that_is_being_answered_is_waited_for_before_it_is_deleted() -> None:
    async with open_emulator(OpenAssistant, token_delay=0.02, faults=[Fault(on="events", cut_after=2)]) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            with pytest.raises(TrioprovError):
                await said(session)
            session.keep()
        report = await trioprov.delete_conversation(emulator.provider, session.conversation)
        assert report.outcome == "deleted"
        assert emulator.worker_crashes == 0


async def test_oa_leaving_by_cancellation_from_a_message_that_pends_for_ever_takes_one_budget() -> None:
    async with open_emulator(OpenAssistant, pending=math.inf, pending_interval=0.05) as emulator:
        async with trioprov.open_client(cleanup_timeout=1) as client:
            begun = trio.current_time()
            with trio.move_on_after(0.2):
                async with trioprov.open_session(emulator.provider, client=client) as session:
                    await said(session)
            assert trio.current_time() - begun < 0.6
        assert trio.current_time() - begun < 2.0
        assert_no_orphans(emulator)


# -- AllenAI ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [{"cut_after": 0}, {"reset_after": 0}, {"end_after": 0}, {"lose_response": True}])
async def test_allenai_a_thread_lost_before_its_first_line_is_lost_and_dated(damage: dict[str, Any]) -> None:
    async with open_emulator(AllenAI, faults=[Fault(on="stream", **damage)]) as emulator:
        with pytest.raises(CleanupFailed) as caught:
            async with trioprov.open_session(emulator.provider) as session:
                with pytest.raises(TrioprovError):
                    await said(session)
        report = caught.value.report
        assert report.outcome == "lost"
        assert report.expires_at is not None
        left = report.expires_at - datetime.datetime.now(datetime.UTC)
        assert datetime.timedelta(hours=23, minutes=59) < left < datetime.timedelta(hours=24, minutes=1)
        assert outcome(session) == "lost"
        assert len(emulator.conversations) == 1
        assert steps(emulator) == ["stream"]


async def test_allenai_a_lost_thread_is_not_forgotten_when_the_next_ask_makes_another() -> None:
    async with open_emulator(AllenAI, faults=[Fault(on="stream", cut_after=0)]) as emulator:
        with pytest.raises(CleanupFailed) as caught:
            async with trioprov.open_session(emulator.provider) as session:
                with pytest.raises(TrioprovError):
                    await said(session)
                assert (await said(session)).text
        assert caught.value.report.outcome == "lost"
        assert caught.value.report.expires_at is not None
        assert steps(emulator)[-1] == "delete"  # the one that is known
        assert len(emulator.conversations) == 1


async def test_allenai_a_refused_first_ask_owes_nothing() -> None:
    for status in (400, 401, 404, 429):
        async with open_emulator(AllenAI, faults=[Fault(on="stream", status=status)]) as emulator:
            async with trioprov.open_session(emulator.provider) as session:
                with pytest.raises(trioprov.ProviderError):
                    await said(session)
            assert outcome(session) == "nothing_owed"
            assert steps(emulator) == ["stream"]


async def test_allenai_without_a_server_nothing_is_owed() -> None:
    async with trioprov.open_session(AllenAI(base_url="http://127.0.0.1:9")) as session:
        with pytest.raises(trioprov.ConnectionFailed):
            await said(session)
    assert outcome(session) == "nothing_owed"


async def test_allenai_a_cancelled_first_ask_is_read_until_the_thread_has_a_name() -> None:
    async with open_emulator(AllenAI, faults=[Fault(on="stream", delay_response=0.3)]) as emulator:
        with trio.move_on_after(0.1):
            await trioprov.ask(QUESTION, emulator.provider)
        assert steps(emulator) == ["stream", "delete"]
        assert_no_orphans(emulator)


# -- A create nobody waits for ----------------------------------------------------------------------------------------


async def test_create_timeout_bounds_a_create_that_nobody_waits_for_any_more(service: type[Provider]) -> None:
    faults = [Fault(on=CREATE[service.name], hang=True)]
    async with open_emulator(service, faults=faults) as emulator:
        async with trioprov.open_client(create_timeout=0.3, cleanup_timeout=5) as client:
            begun = trio.current_time()
            with trio.move_on_after(0.2):
                await trioprov.ask(QUESTION, emulator.provider, client=client)
        # H2o's is deleted once more after a while, since the server may still have been at it.
        assert 0.4 < trio.current_time() - begun < (5 if service is H2o else 2)
        assert_no_orphans(emulator)
        if service is H2o:
            assert steps(emulator)[-1] == "delete_all"


async def test_a_debt_is_told_to_the_caller_of_gather_even_while_the_create_hangs(service: type[Provider]) -> None:
    faults = [Fault(on=CREATE[service.name], delay=0.8)]
    async with open_emulator(service, faults=faults) as emulator:
        async with trioprov.open_client(cleanup_timeout=0.2) as client:
            deadlines = trioprov.Deadlines(first_token=0.1)
            (answer,) = await trioprov.gather(QUESTION, [emulator.provider], client=client, deadlines=deadlines)
            assert isinstance(answer.error, trioprov.FirstTokenTimeout)
            assert answer.cleanup is not None
            assert answer.cleanup.outcome == ("owed" if service is H2o else "lost")
        assert_no_orphans(emulator)


@pytest.mark.parametrize("status", [502, 503])  # a 503 is not believed where it costs nothing to make sure
async def test_h2o_a_create_that_a_gateway_answered_with_an_error_is_recovered(status: int) -> None:
    async with open_emulator(H2o, faults=[Fault(on="create", status=status)]) as emulator:
        with pytest.raises(trioprov.ProviderError):
            async with trioprov.open_session(emulator.provider):
                raise AssertionError
        assert steps(emulator) == ["settings", "create", "delete_all"]


@pytest.mark.parametrize("status", [503, 521, 523, 525, 526])
@pytest.mark.parametrize("cls", [OpenAssistant, AllenAI])
async def test_a_create_that_by_its_gateways_word_never_reached_the_server_owes_nothing(
    cls: type[Provider], status: int
) -> None:
    async with open_emulator(cls, faults=[Fault(on=CREATE[cls.name], status=status)]) as emulator:
        (answer,) = await trioprov.gather(QUESTION, [emulator.provider])
        assert isinstance(answer.error, trioprov.ProviderError)
        assert answer.cleanup is not None
        assert answer.cleanup.outcome == "nothing_owed"


@pytest.mark.parametrize("status", [500, 502, 504, 520, 522, 524])
@pytest.mark.parametrize("cls", [OpenAssistant, AllenAI])
async def test_a_create_whose_answer_a_gateway_has_lost_is_lost(cls: type[Provider], status: int) -> None:
    async with open_emulator(cls, faults=[Fault(on=CREATE[cls.name], status=status)]) as emulator:
        (answer,) = await trioprov.gather(QUESTION, [emulator.provider])
        assert isinstance(answer.error, trioprov.ProviderError)
        assert answer.cleanup is not None
        assert answer.cleanup.outcome == "lost"


async def test_h2o_what_precedes_the_create_is_not_waited_for() -> None:
    async with open_emulator(H2o, faults=[Fault(on="settings", hang=True)]) as emulator:
        with within(5):
            with trio.move_on_after(0.2):
                async with trioprov.open_session(emulator.provider):
                    raise AssertionError
        assert steps(emulator) == ["settings"]


async def test_h2o_what_was_told_to_stop_is_not_told_again() -> None:
    async with open_emulator(H2o, forever=True, token_delay=0.002) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            async with session.ask(QUESTION) as reply:
                async for _ in reply:
                    break
        assert steps(emulator)[-2:] == ["stop", "delete"]
        assert steps(emulator).count("stop") == 1


async def test_h2o_a_generation_that_was_refused_is_not_told_to_stop() -> None:
    async with open_emulator(H2o, faults=[Fault(on="generate", status=429)]) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            with pytest.raises(trioprov.RateLimited):
                await said(session)
        assert steps(emulator) == ["settings", "create", "generate", "delete"]


@pytest.mark.parametrize("status", [502, 504, 520, 522, 524])
async def test_h2o_a_generation_whose_answer_a_gateway_has_lost_is_told_to_stop(status: int) -> None:
    async with open_emulator(H2o, faults=[Fault(on="generate", status=status)]) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            with pytest.raises(trioprov.ProviderError):
                await said(session)
        assert steps(emulator) == ["settings", "create", "generate", "stop", "delete"]


async def test_h2o_a_generation_that_was_never_asked_for_is_not_told_to_stop() -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/conversation/c1" and request.method == "POST":
            raise httpx.ConnectError("no", request=request)
        seen.append(f"{request.method} {request.url.path}")
        return httpx.Response(200, json={"conversationId": "c1"})

    async with trioprov.open_client(transport=httpx.MockTransport(handler)) as client:
        (answer,) = await trioprov.gather(QUESTION, [H2o(base_url="http://mock.test")], client=client)
    assert isinstance(answer.error, trioprov.ConnectionFailed)
    assert seen == ["POST /settings", "POST /conversation", "DELETE /conversation/c1"]


async def test_h2o_a_generation_that_has_not_said_a_word_is_told_to_stop() -> None:
    async with open_emulator(H2o, first_delay=60) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            async with session.ask(QUESTION):
                while "generate" not in steps(emulator):
                    await trio.sleep(0.01)
            assert steps(emulator)[-1] == "stop"


@pytest.mark.parametrize("damage", [{"cut_after": 2}, {"end_after": 2}])
async def test_h2o_a_generation_whose_stream_broke_is_told_to_stop_though_the_session_goes_on(
    damage: dict[str, Any],
) -> None:
    script: dict[str, Any] = {"forever": True, "token_delay": 0.01}
    async with open_emulator(H2o, faults=[Fault(on="generate", **damage)], **script) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            with pytest.raises(trioprov.IncompleteReply):
                await said(session)
            assert steps(emulator) == ["settings", "create", "generate", "stop"]


async def test_h2o_a_stop_that_hangs_is_broken_off_by_the_end_of_the_session() -> None:
    async with open_emulator(H2o, forever=True, token_delay=0.002, faults=[Fault(on="stop", hang=True)]) as emulator:
        async with trioprov.open_client() as client:
            with within(5):
                async with trioprov.open_session(emulator.provider, client=client) as session:
                    async with session.ask(QUESTION) as reply:
                        async for _ in reply:
                            break
                        reply.stop()
                        await trio.sleep(0.2)
                        session.close()
        assert steps(emulator)[-3:] == ["stop", "stop", "delete"]
        assert_no_orphans(emulator)


async def test_h2o_a_kept_conversation_is_told_to_stop_at_the_end() -> None:
    async with open_emulator(H2o, forever=True, token_delay=0.002) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            session.keep()
            async with session.ask(QUESTION) as reply:
                async for _ in reply:
                    session.close()
        assert outcome(session) == "kept"
        assert steps(emulator)[-1] == "stop"


async def test_h2o_a_kept_conversation_that_cannot_be_stopped_is_left_after_the_budget() -> None:
    faults = [Fault(on="stop", hang=True, times=math.inf)]
    async with open_emulator(H2o, forever=True, token_delay=0.002, faults=faults) as emulator:
        async with trioprov.open_client(cleanup_timeout=0.5) as client:
            with within(5):
                async with trio.open_nursery() as nursery:
                    session: trioprov.Session = await nursery.start(run_kept, emulator.provider, client)
                    async with session.ask(QUESTION) as reply:
                        async for _ in reply:
                            session.close()
        assert outcome(session) == "kept"


async def run_kept(  # noqa: ASYNC128 - passed on
    provider: Provider, client: trioprov.Client, *, task_status: trio.TaskStatus[trioprov.Session]
) -> None:
    class Kept:
        def started(self, session: trioprov.Session) -> None:
            session.keep()
            task_status.started(session)

    await trioprov.run_session(provider, client=client, task_status=Kept())  # pyright: ignore[reportArgumentType]


async def test_h2o_a_failed_create_that_cannot_be_recovered_ends_its_task_after_the_budget() -> None:
    faults = [Fault(on="create", lose_response=True), Fault(on="delete_all", status=503, times=math.inf)]
    async with open_emulator(H2o, faults=faults) as emulator:
        async with trioprov.open_client(cleanup_timeout=0.5) as client:
            with within(5), pytest.raises(trioprov.ConnectionFailed):
                await trioprov.run_session(emulator.provider, client=client)


async def test_oa_a_stream_that_stalls_and_that_nobody_ever_wanted_takes_half_of_the_budget() -> None:
    faults = [Fault(on="assistant", delay_response=0.2), Fault(on="events", stall_after=0)]
    async with open_emulator(OpenAssistant, forever=True, token_delay=0.01, faults=faults) as emulator:
        async with trioprov.open_client(cleanup_timeout=2) as client:
            begun = trio.current_time()
            async with trioprov.open_session(emulator.provider, client=client) as session:
                async with session.ask(QUESTION):
                    while "assistant" not in steps(emulator):
                        await trio.sleep(0.01)
                    session.close()
            assert trio.current_time() - begun < 1.9
        assert outcome(session) == "deleted"
        assert_no_orphans(emulator)


@pytest.mark.parametrize("when", ["assistant", "token"])
async def test_oa_leaving_an_ask_does_not_wait_for_an_answer_that_cannot_be_stopped(when: str) -> None:
    faults = [Fault(on="assistant", delay_response=0.2)]
    async with open_emulator(OpenAssistant, forever=True, token_delay=0.01, faults=faults) as emulator:
        async with trioprov.open_client(cleanup_timeout=4) as client:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                with within(2):
                    async with session.ask(QUESTION) as reply:
                        if when == "token":
                            await anext(aiter(reply))
                        while "assistant" not in steps(emulator):
                            await trio.sleep(0.01)
        assert_no_orphans(emulator)


async def test_allenai_a_cancelled_first_ask_is_read_no_longer_than_until_the_thread_has_a_name() -> None:
    faults = [Fault(on="stream", delay_response=0.3)]
    async with open_emulator(AllenAI, forever=True, token_delay=0.01, faults=faults) as emulator:
        with within(5):
            with trio.move_on_after(0.1):
                await trioprov.ask(QUESTION, emulator.provider)
        assert steps(emulator) == ["stream", "delete"]
        assert_no_orphans(emulator)


async def test_h2o_a_conversation_that_was_to_be_kept_is_not_deleted_with_a_lost_create() -> None:
    async with open_emulator(H2o, faults=[Fault(on="create", lose_response=True)]) as emulator:
        async with trioprov.open_reply(QUESTION, emulator.provider) as reply:
            reply.session.keep()
            with pytest.raises(trioprov.ConnectionFailed):
                await reply.wait()
        assert steps(emulator) == ["settings", "create"]
        assert len(emulator.conversations) == 1


async def test_one_server_is_sent_so_many_deletes_at_once_and_no_more() -> None:
    async with open_emulator(AllenAI, faults=[Fault(on="delete", delay=0.3, times=math.inf)]) as emulator:
        answers = await trioprov.gather(QUESTION, [emulator.provider] * 20)
        assert [answer.cleanup and answer.cleanup.outcome for answer in answers] == ["deleted"] * 20
        deletes = sorted(request.time for request in emulator.requests if request.step == "delete")
        assert deletes[16] - deletes[0] > 0.25


async def test_one_server_is_told_to_stop_so_many_times_at_once_and_no_more() -> None:
    faults = [Fault(on="stop", delay=0.3, times=math.inf)]
    async with open_emulator(H2o, forever=True, token_delay=0.01, faults=faults) as emulator:
        async with (
            trioprov.open_client() as client,
            trioprov.fan_out(QUESTION, [emulator.provider] * 20, client=client) as fan,
        ):
            for lane in fan.lanes:
                await anext(aiter(lane.reply))
            for lane in fan.lanes:
                lane.reply.stop()
            with trio.fail_after(10):
                while steps(emulator).count("stop") < 20:  # noqa: ASYNC110 - it happens in an emulator's thread
                    await trio.sleep(0.01)
        stops = sorted(request.time for request in emulator.requests if request.step == "stop")
        assert stops[16] - stops[0] > 0.25
        assert_no_orphans(emulator)


@pytest.mark.parametrize(
    ("create_timeout", "cleanup_timeout", "at"),
    [(0.2, 1.0, [0.4, 0.8]), (4.5, 10.0, [4.7, 5.0]), (5.5, 10.0, [5.7])],
    ids=["half of the budget that is left", "until it is five seconds old", "it is older than that"],
)
async def test_h2o_what_a_server_may_still_be_creating_is_deleted_once_more_after_a_while(
    create_timeout: float, cleanup_timeout: float, at: list[float], autojump_clock: trio.testing.MockClock
) -> None:
    deleted: list[float] = []

    async def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/conversation":
            await trio.sleep_forever()
        if request.url.path == "/conversations":
            deleted.append(trio.current_time() - begun)
        return httpx.Response(200, json={"type": "success"})

    begun = trio.current_time()
    async with trioprov.open_client(
        transport=httpx.MockTransport(handler), create_timeout=create_timeout, cleanup_timeout=cleanup_timeout
    ) as client:
        with trio.move_on_after(0.2):
            async with trioprov.open_session(H2o(base_url="http://mock.test"), client=client):
                raise AssertionError
    assert deleted == pytest.approx(at)


async def test_open_assistant_what_nobody_wants_any_more_is_not_sent_when_a_connection_becomes_free() -> None:
    faults = [Fault(on="prompter", delay_response=0.3)]
    async with (
        open_emulator(H2o, token_delay=0.02) as other,
        open_emulator(OpenAssistant, faults=faults) as emulator,
        trioprov.open_client(max_connections=1) as client,
        trioprov.open_session(other.provider, client=client) as holder,
        trioprov.open_session(emulator.provider, client=client) as session,
    ):
        async with session.ask("Why is the sky blue?"):
            while "prompter" not in steps(emulator):  # noqa: ASYNC110 - it happens in an emulator's thread
                await trio.sleep(0.01)
            async with holder.ask("Why is the sky blue?") as reply:
                await anext(aiter(reply))  # it was next in the queue, and has the only connection
                session.close()
                await reply.wait()
            await session.aclose()
        assert "assistant" not in steps(emulator)
        assert_no_orphans(emulator)


@pytest.mark.parametrize("status", [504, 522, 524])  # RFC 9110's, and those of Cloudflare
async def test_h2o_what_a_gateway_has_not_waited_for_is_deleted_once_more_after_a_while(
    status: int,
    autojump_clock: trio.testing.MockClock,
) -> None:
    alive: list[float] = []

    async def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/conversation":
            alive.append(trio.current_time() + 1)
            return httpx.Response(status, text="upstream timed out")
        if request.url.path == "/conversations":
            alive[:] = [since for since in alive if since > trio.current_time()]
        return httpx.Response(200, json={"type": "success"})

    async with trioprov.open_client(transport=httpx.MockTransport(handler)) as client:
        with pytest.raises(trioprov.ProviderError):
            async with trioprov.open_session(H2o(base_url="http://mock.test"), client=client):
                raise AssertionError
    assert alive == []


async def test_open_assistant_an_answer_whose_begin_was_not_heard_of_yet_is_not_deleted_from_under_its_worker() -> None:
    faults = [Fault(on="assistant", delay_response=0.3)]
    async with open_emulator(OpenAssistant, token_delay=0.03, faults=faults) as emulator:
        async with trioprov.open_session(emulator.provider) as session, session.ask("Why is the sky blue?"):
            while "assistant" not in [request.step for request in emulator.requests]:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert emulator.worker_crashes == 0
        assert_no_orphans(emulator)


async def test_h2o_a_create_that_the_server_may_still_be_at_costs_no_more_than_the_budget(
    autojump_clock: trio.testing.MockClock,
) -> None:
    deletes: list[float] = []

    async def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/conversation":
            await trio.sleep_forever()
        if request.url.path == "/conversations":
            deletes.append(trio.current_time())
            if len(deletes) > 1:
                await trio.sleep_forever()
        return httpx.Response(200)

    connections = httpx.MockTransport(handler)
    async with trioprov.open_client(transport=connections, create_timeout=0.5, cleanup_timeout=4) as client:
        with trio.move_on_after(1):
            await trioprov.open_session(H2o(base_url="http://mock.test"), client=client).__aenter__()
        begun = trio.current_time()
    assert len(deletes) > 1
    assert trio.current_time() - begun == pytest.approx(4, abs=0.1)
