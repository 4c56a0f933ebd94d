"""What is tried again, when, and what never is."""

# What raises is the leaving of a block:
# pyright: reportPossiblyUnboundVariable=false

from __future__ import annotations

import dataclasses
import datetime
import email.utils
import math
from typing import Any

import httpx
import pytest
import trio

import trioprov
from trioprov import AllenAI, Deadlines, H2o, Notice, OpenAssistant, Retry
from trioprov.providers import Decoder, Provider, Steps
from trioprov.testing import Fault, assert_no_orphans, open_emulator

QUESTION = "Why is the sky blue?"
STREAM = {"h2o": "generate", "openassistant": "assistant", "allenai": "stream"}
QUICK = Retry(delay=0.05)


def notices(events: list[trioprov.Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice) and event.kind == "retry"]


async def answered(provider: Provider, retry: Retry | None = QUICK, **how: Any) -> tuple[trioprov.Answer, list[str]]:
    events: list[trioprov.Event] = []
    async with (
        trioprov.open_client(retry=retry) as client,
        trioprov.open_session(provider, client=client) as session,
        session.ask(QUESTION, **how) as reply,
    ):
        async for event in reply.subscribe():
            events.append(event)
        answer = await reply.wait()
    return answer, notices(events)


# -- What is tried again ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
async def test_a_refusal_before_the_first_token_is_tried_again(service: type[Provider], status: int) -> None:
    fault = Fault(on=STREAM[service.name], status=status, times=2)
    async with open_emulator(service, faults=[fault]) as emulator:
        answer, retried = await answered(emulator.provider)
        assert answer.finish_reason == "stop"
        assert len(retried) == 2
        assert str(status) in retried[0]
        assert_no_orphans(emulator)


async def test_after_the_last_attempt_the_failure_is_raised(service: type[Provider]) -> None:
    fault = Fault(on=STREAM[service.name], status=503, times=math.inf)
    async with open_emulator(service, faults=[fault]) as emulator:
        with pytest.raises(trioprov.Overloaded):
            await answered(emulator.provider, Retry(attempts=3, delay=0.01))
        asked = [request for request in emulator.requests if request.step == STREAM[service.name]]
        assert len(asked) == 3
        assert_no_orphans(emulator)


async def test_without_a_policy_nothing_is_tried_again(service: type[Provider]) -> None:
    async with open_emulator(service, faults=[Fault(on=STREAM[service.name], status=503)]) as emulator:
        with pytest.raises(trioprov.Overloaded):
            await answered(emulator.provider, None)
        assert_no_orphans(emulator)


async def test_an_error_inside_a_stream_is_tried_again_while_it_is_silent() -> None:
    overloaded = b'data:{"error":"Model is overloaded","error_type":"overloaded"}\n\n'
    fault = Fault(on="generate", inject=overloaded, inject_at=0, end_after=1)
    async with open_emulator(H2o, faults=[fault]) as emulator:
        answer, retried = await answered(emulator.provider)
        assert answer.finish_reason == "stop"
        assert len(retried) == 1
        assert "overloaded" in retried[0]
        assert_no_orphans(emulator)


async def test_what_is_tried_again_after_an_error_inside_a_stream_can_be_left_at_once() -> None:
    overloaded = b'data:{"error":"Model is overloaded","error_type":"overloaded"}\n\n'
    faults = [Fault(on="generate", inject=overloaded, inject_at=0, end_after=1), Fault(on="generate", hang=True)]
    async with (
        open_emulator(H2o, faults=faults) as emulator,
        trioprov.open_client(retry=QUICK) as client,
        trioprov.open_session(emulator.provider, client=client) as session,
    ):
        begun = trio.current_time()
        async with session.ask(QUESTION):
            while [request.step for request in emulator.requests].count("generate") < 2:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert trio.current_time() - begun < 5
        assert emulator.requests[-1].step == "stop"


async def test_an_overloaded_model_is_asked_again_in_the_same_thread() -> None:
    async with open_emulator(AllenAI, error_reason="model overloaded") as emulator:
        with pytest.raises(trioprov.Overloaded):
            await answered(emulator.provider, Retry(attempts=2, delay=0.01))
        assert len([request for request in emulator.requests if request.step == "stream"]) == 2
        assert len([request for request in emulator.requests if request.step == "delete"]) == 1
        assert_no_orphans(emulator)


async def test_what_cannot_be_asked_again_fails_for_the_reason_it_failed_for() -> None:
    """After the first try the thread holds these messages, and none of the user's is left at their end."""
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "Because"}]
    async with (
        open_emulator(AllenAI, error_reason="model overloaded") as emulator,
        trioprov.open_client(retry=QUICK) as client,
    ):
        [answer] = await trioprov.gather(messages, [emulator.provider], client=client)
        assert isinstance(answer.error, trioprov.Overloaded)
        assert len([request for request in emulator.requests if request.step == "stream"]) == 1
        assert_no_orphans(emulator)


async def test_a_connection_that_broke_before_the_first_token_is_tried_again() -> None:
    async with open_emulator(H2o, faults=[Fault(on="generate", drop=True)]) as emulator:
        answer, retried = await answered(emulator.provider)
        assert answer.finish_reason == "stop"
        assert len(retried) == 1
        assert_no_orphans(emulator)


async def test_opening_is_tried_again(service: type[Provider]) -> None:
    step = {"h2o": "settings", "openassistant": "create", "allenai": "stream"}[service.name]
    async with open_emulator(service, faults=[Fault(on=step, status=429)]) as emulator:
        answer, _ = await answered(emulator.provider)
        assert answer.text
        assert_no_orphans(emulator)


async def test_a_lane_of_a_fan_out_is_tried_again_before_it_fails(service: type[Provider]) -> None:
    async with (
        open_emulator(service, faults=[Fault(on=STREAM[service.name], status=503)]) as emulator,
        trioprov.open_client(retry=QUICK) as client,
    ):
        [answer] = await trioprov.gather(QUESTION, [emulator.provider], client=client)
        assert answer.error is None
        assert_no_orphans(emulator)


# -- What never is ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "fault"),
    [
        (H2o, Fault(on="create", lose_response=True)),
        (H2o, Fault(on="create", status=502)),
        (OpenAssistant, Fault(on="create", lose_response=True)),
        (OpenAssistant, Fault(on="create", status=500)),
        (OpenAssistant, Fault(on="prompter", lose_response=True)),
        (OpenAssistant, Fault(on="assistant", lose_response=True)),
        (AllenAI, Fault(on="stream", lose_response=True)),
        (AllenAI, Fault(on="stream", status=504)),
    ],
    ids=str,
)
async def test_a_create_that_may_have_happened_is_not_sent_twice(service: type[Provider], fault: Fault) -> None:
    async with open_emulator(service, faults=[fault]) as emulator:
        with pytest.raises(trioprov.TrioprovError):
            await answered(emulator.provider)
        assert len([request for request in emulator.requests if request.step == fault.on]) == 1


@pytest.mark.parametrize("step", ["prompter", "assistant"])
@pytest.mark.parametrize("status", [502, 504, 520, 522, 524, 200])  # of a gateway, and of a server that says no id
async def test_what_may_be_said_only_once_is_not_said_again_if_its_answer_was_lost(step: str, status: int) -> None:
    async with open_emulator(OpenAssistant, faults=[Fault(on=step, status=status)]) as emulator:
        with pytest.raises(trioprov.TrioprovError):
            await answered(emulator.provider)
        assert [request.step for request in emulator.requests].count(step) == 1
        assert_no_orphans(emulator)


@pytest.mark.parametrize("path", ["/api/chat/prompter_message", "/api/chat/assistant_message"])
async def test_what_may_be_said_only_once_is_said_again_if_it_never_left(path: str) -> None:
    class Unreachable(httpx.AsyncHTTPTransport):
        refused = 0

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path == path and not self.refused:
                self.refused += 1
                raise httpx.ConnectError("nobody listens")
            return await super().handle_async_request(request)

    transport = Unreachable()
    async with (
        open_emulator(OpenAssistant) as emulator,
        trioprov.open_client(retry=QUICK, transport=transport) as client,
    ):
        async with trioprov.open_session(emulator.provider, client=client) as session, session.ask(QUESTION) as reply:
            assert (await reply.wait()).finish_reason == "stop"
        assert transport.refused == 1
        assert_no_orphans(emulator)


@pytest.mark.parametrize("status", [400, 401, 404, 422])
async def test_what_cannot_succeed_is_not_tried_again(service: type[Provider], status: int) -> None:
    async with open_emulator(service, faults=[Fault(on=STREAM[service.name], status=status)]) as emulator:
        with pytest.raises(trioprov.ProviderError):
            await answered(emulator.provider)
        assert len([request for request in emulator.requests if request.step == STREAM[service.name]]) == 1
        assert_no_orphans(emulator)


async def test_nothing_is_tried_again_once_a_token_has_come(service: type[Provider]) -> None:
    step = "events" if service is OpenAssistant else STREAM[service.name]
    async with open_emulator(service, faults=[Fault(on=step, end_after=3)]) as emulator:
        with pytest.raises(trioprov.IncompleteReply) as caught:
            await answered(emulator.provider)
        assert caught.value.partial
        assert len([request for request in emulator.requests if request.step == step]) == 1
        assert_no_orphans(emulator)


async def test_what_breaks_after_a_token_is_not_tried_again_in_a_later_try_either() -> None:
    class Broken(H2o):
        def after_stream(self, decoder: Decoder) -> Steps[list[trioprov.Event]]:
            yield from ()
            raise trioprov.ConnectionFailed("what came of it cannot be asked for")

    faults = [Fault(on="generate", status=503), Fault(on="generate", end_after=3)]
    async with open_emulator(H2o, faults=faults) as emulator:
        with pytest.raises(trioprov.ConnectionFailed) as caught:
            await answered(Broken(base_url=emulator.url), Retry(attempts=9, delay=0.01))
        assert caught.value.partial
        assert [request.step for request in emulator.requests].count("generate") == 2
        assert_no_orphans(emulator)


# -- When -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_waited_out(form: str) -> None:
    then = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=2)
    value = "1" if form == "seconds" else email.utils.format_datetime(then, usegmt=True)
    async with open_emulator(
        H2o, faults=[Fault(on="generate", status=429, headers={"Retry-After": value})]
    ) as emulator:
        begun = trio.current_time()
        await answered(emulator.provider, Retry(delay=0))
        assert 0.9 <= trio.current_time() - begun < 4


async def test_a_retry_after_of_days_is_capped() -> None:
    async with open_emulator(
        H2o, faults=[Fault(on="generate", status=429, headers={"Retry-After": "1382400"})]
    ) as emulator:
        with trio.fail_after(5):
            answer, _ = await answered(emulator.provider, Retry(max_delay=0.2))
        assert answer.text


async def test_a_wait_that_the_deadline_would_not_outlast_is_not_begun() -> None:
    async with open_emulator(H2o, faults=[Fault(on="generate", status=429, headers={"Retry-After": "10"})]) as emulator:
        with trio.fail_after(2), pytest.raises(trioprov.RateLimited) as caught:
            await answered(emulator.provider, deadlines=Deadlines(first_token=5))
        assert caught.value.retry_after == 10
        assert_no_orphans(emulator)


async def test_the_deadline_goes_on_through_the_attempts() -> None:
    fault = Fault(on="generate", status=503, times=math.inf, delay=0.2)
    async with open_emulator(H2o, faults=[fault]) as emulator:
        begun = trio.current_time()
        with pytest.raises((trioprov.Overloaded, trioprov.FirstTokenTimeout)):
            await answered(emulator.provider, Retry(attempts=1000, delay=0.01), deadlines=Deadlines(first_token=1))
        assert trio.current_time() - begun < 2
        assert_no_orphans(emulator)


async def test_stopping_and_closing_end_a_wait_at_once(service: type[Provider]) -> None:
    fault = Fault(on=STREAM[service.name], status=503, times=math.inf)
    async with open_emulator(service, faults=[fault]) as emulator:
        for how in ("stop", "close"):
            async with (
                trioprov.open_client(retry=Retry(attempts=99, delay=30)) as client,
                trioprov.open_session(emulator.provider, client=client) as session,
            ):
                with trio.fail_after(3):
                    async with session.ask(QUESTION, deadlines=Deadlines(first_token=None)) as reply:
                        with reply.subscribe() as events:
                            async for event in events:
                                if isinstance(event, Notice):
                                    break
                        if how == "stop":
                            reply.stop()
                        else:
                            session.close()
                    await session.aclose()
        assert_no_orphans(emulator)


def test_a_wrong_policy_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="attempts"):
        Retry(attempts=0)
    with pytest.raises(TypeError, match="attempts"):
        Retry(attempts=1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="attempts"):
        Retry(attempts=True)
    with pytest.raises(TypeError, match="delay"):
        Retry(delay="1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="max_delay"):
        Retry(max_delay=True)
    with pytest.raises(ValueError, match="delay"):
        Retry(delay=-1)
    with pytest.raises(ValueError, match="max_delay"):
        Retry(max_delay=math.nan)
    with pytest.raises(TypeError, match="Retry"):
        trioprov.open_client(retry=3)  # type: ignore[arg-type]


# -- One pending answer per account -----------------------------------------------------------------------------------


async def test_sessions_of_one_account_ask_one_after_another_until_an_answer_begins() -> None:
    # The real server cancels every other pending answer of the account, whose stream then never ends.
    async with (
        open_emulator(OpenAssistant, first_delay=0.3, token_delay=0.01) as emulator,
        trioprov.open_client() as client,
    ):
        begun = trio.current_time()
        answers = await trioprov.gather(QUESTION, [emulator.provider] * 4, client=client)
        assert [answer.finish_reason for answer in answers] == ["stop"] * 4
        assert trio.current_time() - begun > 1.0
        assert_no_orphans(emulator)


async def test_a_place_in_the_services_queue_is_no_beginning_of_an_answer() -> None:
    async with (
        open_emulator(OpenAssistant, pending=range(6, 0, -1), pending_interval=0.1) as emulator,
        trioprov.open_client() as client,
    ):
        with trio.fail_after(5):
            answers = await trioprov.gather(QUESTION, [emulator.provider] * 2, client=client)
        assert [answer.finish_reason for answer in answers] == ["stop"] * 2
        first, second = (request.time for request in emulator.requests if request.step == "assistant")
        assert second - first > 0.5
        assert_no_orphans(emulator)


async def test_the_wait_for_ones_own_account_does_not_count_for_the_first_token() -> None:
    async with open_emulator(OpenAssistant, first_delay=0.5) as emulator:
        deadlines = Deadlines(first_token=1.2)
        answers = await trioprov.gather(QUESTION, [emulator.provider] * 4, deadlines=deadlines)
        assert [answer.error for answer in answers] == [None] * 4


async def test_who_leaves_while_waiting_for_the_account_holds_nobody_up() -> None:
    async with open_emulator(OpenAssistant, first_delay=0.4) as emulator, trioprov.open_client() as client:
        async with trioprov.fan_out(QUESTION, [emulator.provider] * 3, client=client) as fan:
            await trio.sleep(0.2)
            fan.lanes[1].close()
            with trio.fail_after(5):
                answers = await fan.wait()
        assert [answer.finish_reason for answer in answers] == ["stop", "interrupted", "stop"]
    assert_no_orphans(emulator)


@pytest.mark.parametrize("stalls", ["assistant", "events"])
@pytest.mark.parametrize("left", ["stopped", "late"])
async def test_an_unwanted_answer_that_never_comes_does_not_keep_the_account(left: str, stalls: str) -> None:
    how: dict[str, Any] = {"hang": True} if stalls == "assistant" else {"stall_after": 0}
    async with open_emulator(OpenAssistant, worker_wait=0.1, faults=[Fault(on=stalls, **how)]) as emulator:
        async with (
            trioprov.open_client(cleanup_timeout=1) as client,
            trioprov.open_session(emulator.provider, client=client) as session,
        ):
            async with session.ask(QUESTION, deadlines=Deadlines(first_token=0.3)) as reply:
                if left == "stopped":
                    await trio.sleep(0.2)
                else:
                    with pytest.raises(trioprov.FirstTokenTimeout):
                        await reply.wait()
            # The session stays open, and the server still owes it the answer.
            with trio.fail_after(10):
                answer = await trioprov.ask(QUESTION, emulator.provider, client=client)
            assert answer.finish_reason == "stop"
        assert_no_orphans(emulator)


async def test_two_accounts_do_not_wait_for_each_other() -> None:
    async with open_emulator(OpenAssistant, accounts=["a", "b"], first_delay=1.0) as emulator:
        (cookie,) = emulator.provider.cookies
        providers = [dataclasses.replace(emulator.provider, cookies={cookie: account}) for account in "ab"]
        async with trioprov.open_client() as client, trioprov.fan_out(QUESTION, providers, client=client) as fan:
            with trio.fail_after(10):
                while sum(request.step == "assistant" for request in emulator.requests) < 2:
                    assert not any(lane.tokens for lane in fan.lanes)
                    await trio.sleep(0.01)
        assert_no_orphans(emulator)


@pytest.mark.parametrize("service", [H2o, AllenAI])
async def test_where_an_account_may_have_many_answers_at_once_nobody_waits(service: type[Provider]) -> None:
    async with (
        open_emulator(service, forever=True, token_delay=0.005) as emulator,
        trioprov.open_client() as client,
        trioprov.open_session(emulator.provider, client=client) as one,
        trioprov.open_session(emulator.provider, client=client) as other,
        one.ask(QUESTION) as first,
        other.ask(QUESTION) as second,
    ):
        with trio.fail_after(5):
            for reply in (first, second):
                async for _ in reply:
                    break


async def test_a_place_in_the_queue_may_fall_again_in_the_next_try() -> None:
    places = range(8, 0, -1)
    async with open_emulator(
        OpenAssistant, pending=places, pending_interval=0.1, error_event="Timeout", error_after=0
    ) as emulator:
        with pytest.raises(trioprov.Overloaded):  # and not FirstTokenTimeout
            await answered(emulator.provider, Retry(attempts=2, delay=0.01), deadlines=Deadlines(first_token=0.6))
        assert_no_orphans(emulator)


async def test_who_fails_lets_the_next_one_of_the_account_ask() -> None:
    async with (
        open_emulator(OpenAssistant, faults=[Fault(on="prompter", status=400)]) as emulator,
        trioprov.open_client() as client,
    ):
        with trio.fail_after(5):
            answers = await trioprov.gather(QUESTION, [emulator.provider] * 2, client=client)
        assert sorted(answer.error is None for answer in answers) == [False, True]


async def test_the_next_one_of_the_account_asks_while_the_answer_of_the_one_before_still_comes() -> None:
    async with (
        open_emulator(OpenAssistant, forever=True, token_delay=0.01) as emulator,
        trioprov.open_client(cleanup_timeout=2) as client,
        trioprov.fan_out(QUESTION, [emulator.provider] * 2, client=client) as fan,
    ):
        with trio.fail_after(5):
            for lane in fan.lanes:
                await anext(aiter(lane.reply))
        assert [lane.reply.finish for lane in fan.lanes] == [None, None]


@pytest.mark.parametrize("status", [None, 404, 500])
def test_a_conversation_that_is_lost_stays_lost(status: int | None) -> None:
    assert QUICK.pause(trioprov.ConversationLost("gone", status=status), 1) is None


@pytest.mark.parametrize(
    ("kind", "status", "worth"),
    [
        *((trioprov.ProviderError, status, True) for status in (None, 408, 429, 500, 502, 599)),
        *((trioprov.ProviderError, status, False) for status in (302, 400, 404, 409, 410, 499)),
        *((kind, 500, False) for kind in (trioprov.AuthenticationError, trioprov.InvalidRequest)),
        (trioprov.Overloaded, 503, True),
        (trioprov.RateLimited, None, True),
    ],
)
def test_whether_a_refusal_is_worth_another_try_is_a_matter_of_its_kind_and_status(
    kind: type[trioprov.ProviderError], status: int | None, worth: bool
) -> None:
    assert (QUICK.pause(kind("no", status=status), 1) is not None) == worth


@pytest.mark.parametrize(
    ("error", "worth"),
    [
        (trioprov.ConnectionFailed("no"), True),
        (trioprov.RemoteProtocolError("no"), True),
        (trioprov.FirstTokenTimeout("no"), False),
        (trioprov.JournalError("no"), False),
        (OSError("no"), False),
    ],
)
def test_of_other_failures_only_those_of_connections_are_worth_another_try(error: Exception, worth: bool) -> None:
    assert (QUICK.pause(error, 1) is not None) == worth
    assert QUICK.pause(error, QUICK.attempts) is None
