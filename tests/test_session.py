"""Sessions: every way in and out of one, what is on the server afterwards, and what the caller is told."""

# What raises is the leaving of a block:
# ruff: noqa: PT012, PT017, SIM117
# pyright: reportPossiblyUnboundVariable=false

from __future__ import annotations

import contextvars
import gc
import json
import logging
import math
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import trio
import trio.testing

import trioprov
from trioprov import AllenAI, CleanupFailed, Conversation, Deadlines, Event, H2o, OpenAssistant, TrioprovError
from trioprov.providers import Decoder, NewId, Provider, Steps
from trioprov.testing import Emulator, Fault, assert_no_orphans, open_emulator

CREATE = {"h2o": "create", "openassistant": "create", "allenai": "stream"}
STREAM = {"h2o": "generate", "openassistant": "events", "allenai": "stream"}
FOREVER: dict[str, Any] = {"forever": True, "token_delay": 0.005}
QUESTION = "Why is the sky blue?"


async def said(session: trioprov.Session, question: str = QUESTION, **how: Any) -> trioprov.Answer:
    async with session.ask(question, **how) as reply:
        return await reply.wait()


def sent(provider: Provider) -> dict[str, str]:
    """The cookies that an emulator wants."""
    return {str(name): str(value) for name, value in cast("dict[str, str]", provider.cookies).items()}


def steps(emulator: Emulator[Any]) -> list[str]:
    return [request.step for request in emulator.requests]


async def until_empty(emulator: Emulator[Any]) -> None:
    with trio.fail_after(10):
        while emulator.conversations:  # noqa: ASYNC110 - it happens in an emulator's thread
            await trio.sleep(0.01)


class Oops(Exception):
    pass


# -- Ways out ---------------------------------------------------------------------------------------------------------


async def test_a_normal_exit_deletes_and_says_so(service: type[Provider]) -> None:
    async with open_emulator(service) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            answer = await said(session)
            assert session.cleanup is None
            assert emulator.conversations == (session.conversation.id,)
        assert answer.finish_reason in ("stop", "length")
        assert answer.text
        assert session.cleanup == trioprov.CleanupReport(outcome="deleted", attempts=1)
        assert_no_orphans(emulator)
        assert steps(emulator).count("delete") == 1


async def test_an_exception_in_the_body_comes_out_bare_and_is_the_same_object(service: type[Provider]) -> None:
    oops = Oops("mine")
    async with open_emulator(service, **FOREVER) as emulator:
        if emulator.name == "openassistant":
            emulator.add_fault(Fault(on="events", end_after=20))
        with pytest.raises(Oops) as caught:
            async with (
                trioprov.open_client(cleanup_timeout=2) as client,
                trioprov.open_session(emulator.provider, client=client) as session,
                session.ask(QUESTION) as reply,
            ):
                async for _ in reply:
                    raise oops
        assert caught.value is oops
        assert not hasattr(oops, "__notes__")
        assert oops.__cause__ is None
        assert_no_orphans(emulator)


async def test_a_break_in_the_stream_deletes_and_stops(service: type[Provider]) -> None:
    async with open_emulator(service, token_delay=0.003) as emulator:
        async with trioprov.open_session(emulator.provider) as session, session.ask(QUESTION) as reply:
            async for _ in reply:
                break
        assert session.cleanup is not None
        assert session.cleanup.outcome == "deleted"
        assert_no_orphans(emulator)
        assert emulator.worker_crashes == 0
        if emulator.name == "h2o":
            assert "stop" in steps(emulator)


async def test_the_bodys_own_cancel_scope_leaves_the_session_usable(service: type[Provider]) -> None:
    async with open_emulator(service, first_delay=0.15) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            with trio.move_on_after(0.05) as scope:
                await said(session)
            assert scope.cancelled_caught
            assert (await said(session)).text
        assert_no_orphans(emulator)


async def test_an_outer_scope_that_ends_inside_the_body_is_not_disturbed(service: type[Provider]) -> None:
    async with open_emulator(service) as emulator:
        scope = trio.CancelScope()
        with scope:
            async with trioprov.open_session(emulator.provider) as session:
                await said(session)
                scope.cancel()
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert session.cleanup is not None
        assert session.cleanup.outcome == "deleted"
        assert_no_orphans(emulator)


async def tokens_of(provider: Provider, client: trioprov.Client | None = None) -> AsyncGenerator[str]:
    async with (
        trioprov.open_session(provider, client=client) as session,
        session.ask(QUESTION) as reply,
    ):
        async for token in reply:
            yield token


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_a_generator_abandoned_at_its_yield_cleans_up(service: type[Provider]) -> None:
    async with open_emulator(service, token_delay=0.002) as emulator:
        generator = tokens_of(emulator.provider)
        async for _ in generator:
            break
        assert emulator.conversations
        del generator
        gc.collect()
        await until_empty(emulator)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_two_generators_closed_in_the_wrong_order_clean_up(service: type[Provider]) -> None:
    async with open_emulator(service, token_delay=0.002) as one, open_emulator(service, token_delay=0.002) as two:
        first, second = tokens_of(one.provider), tokens_of(two.provider)
        await first.__anext__()
        await second.__anext__()
        await first.aclose()
        await second.aclose()
        assert_no_orphans(one, two)


async def test_a_generator_closed_by_another_task_cleans_up(service: type[Provider]) -> None:
    async with open_emulator(service, token_delay=0.002) as emulator:
        generator = tokens_of(emulator.provider)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(generator.__anext__)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(generator.aclose)
        assert_no_orphans(emulator)


async def test_a_dropped_handle_is_closed(service: type[Provider]) -> None:
    async with open_emulator(service, token_delay=0.002) as emulator:
        session = await trioprov.open_session(emulator.provider).__aenter__()
        await said(session)
        assert emulator.conversations
        del session
        gc.collect()
        await until_empty(emulator)


async def test_a_dropped_handle_is_closed_also_if_another_thread_collects_it(service: type[Provider]) -> None:
    async with open_emulator(service, token_delay=0.002) as emulator:
        session = await trioprov.open_session(emulator.provider).__aenter__()
        await said(session)
        gc.disable()
        try:
            cycle: list[Any] = [session]
            cycle.append(cycle)
            del session, cycle
            await trio.sleep(0.05)
            assert emulator.conversations
            await trio.to_thread.run_sync(gc.collect)
        finally:
            gc.enable()
        await until_empty(emulator)


async def test_a_reply_a_subscription_and_an_iterator_each_hold_their_session(service: type[Provider]) -> None:
    async with open_emulator(service, first_delay=0.2) as emulator:
        for hold in ("reply", "subscription", "iterator"):
            session = await trioprov.open_session(emulator.provider).__aenter__()
            asking = session.ask(QUESTION)
            reply = await asking.__aenter__()
            held: Any = reply
            if hold != "reply":
                held = reply.subscribe() if hold == "subscription" else aiter(reply)
            del session, asking, reply
            gc.collect()
            await trio.sleep(0.02)
            text = ""
            if hold == "reply":
                text = (await held.wait()).text
            else:
                async for event in held:
                    text += event if isinstance(event, str) else ""
            assert text, hold
            del held
            gc.collect()
            await until_empty(emulator)


async def test_main_may_return_with_sessions_open(service: type[Provider]) -> None:
    handles: list[Any] = []

    async def main(provider: Provider) -> None:
        session = await trioprov.open_session(provider).__aenter__()
        reply = await session.ask(QUESTION).__aenter__()
        await anext(aiter(reply))
        handles.extend((session, reply))

    async with open_emulator(service, token_delay=0.003) as emulator:
        await trio.to_thread.run_sync(trio.run, main, emulator.provider)
        assert_no_orphans(emulator)
        with trio.fail_after(5):
            while emulator.connections:  # noqa: ASYNC110 - it happens in an emulator's thread
                await trio.sleep(0.01)
        assert handles[0].cleanup.outcome == "deleted"
        assert emulator.worker_crashes == 0
    handles.clear()
    gc.collect()  # the finalizers run when their loop is over


async def test_a_crash_of_main_with_sessions_open_deletes_them(service: type[Provider]) -> None:
    handles: list[Any] = []

    async def main(provider: Provider) -> None:
        handles.append(await trioprov.open_session(provider).__aenter__())
        await said(handles[0])
        raise Oops

    async with open_emulator(service) as emulator:
        with pytest.raises(Oops):
            await trio.to_thread.run_sync(trio.run, main, emulator.provider)
        assert_no_orphans(emulator)
    handles.clear()


async def test_enter_and_exit_may_be_in_different_tasks(service: type[Provider]) -> None:
    async with open_emulator(service, token_delay=0.002) as emulator:
        opening = trioprov.open_session(emulator.provider)
        sessions: list[trioprov.Session] = []

        async def enter() -> None:
            sessions.append(await opening.__aenter__())

        async def leave() -> None:
            await opening.__aexit__(None, None, None)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(enter)
        await said(sessions[0])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)
        assert_no_orphans(emulator)


async def test_sessions_and_scopes_may_be_left_in_any_order(service: type[Provider]) -> None:
    async with open_emulator(service) as emulator:
        first, second = trioprov.open_session(emulator.provider), trioprov.open_session(emulator.provider)
        await first.__aenter__()
        with trio.CancelScope():
            session = await second.__aenter__()
            await first.__aexit__(None, None, None)
        await said(session)
        with trio.CancelScope():
            await second.__aexit__(None, None, None)
        assert_no_orphans(emulator)


# -- Asking ----------------------------------------------------------------------------------------------------------


async def test_a_second_ask_while_a_reply_is_open_is_busy_and_harms_nobody(service: type[Provider]) -> None:
    async with open_emulator(service, token_delay=0.002) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            async with session.ask(QUESTION) as reply:
                with pytest.raises(trio.BusyResourceError):
                    async with session.ask("And the sea?"):
                        raise AssertionError
                assert (await reply.wait()).text
                with pytest.raises(trio.BusyResourceError):  # open means: until its block is left
                    await session.ask("And the sea?").__aenter__()
            assert (await said(session, "And the sea?")).text
        assert_no_orphans(emulator)


async def test_asking_is_a_checkpoint_at_which_nothing_has_been_asked_yet(service: type[Provider]) -> None:
    async with open_emulator(service) as emulator, trioprov.open_session(emulator.provider) as session:
        before = len(emulator.requests)
        with trio.CancelScope() as scope:
            scope.cancel()
            await session.ask("And the mountains?").__aenter__()
        assert scope.cancelled_caught
        asking = session.ask(QUESTION)
        with trio.testing.assert_checkpoints():
            reply = await asking.__aenter__()
        assert (await reply.wait()).text
        await asking.__aexit__(None, None, None)
        assert all(b"mountain" not in request.body for request in emulator.requests[before:])


async def test_asking_a_closed_session_is_refused(service: type[Provider]) -> None:
    async with open_emulator(service) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            session.close()
            with pytest.raises(trio.ClosedResourceError):
                await session.ask(QUESTION).__aenter__()
            with pytest.raises(trio.ClosedResourceError):
                session.keep()
        with pytest.raises(trio.ClosedResourceError):
            await session.ask(QUESTION).__aenter__()
        assert_no_orphans(emulator)


async def test_wrong_values_raise_at_entry_and_send_nothing(service: type[Provider]) -> None:
    async with open_emulator(service) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            before = len(emulator.requests)
            refused: list[dict[str, Any]] = [
                {"temperature": "hot"},
                {"stream": True},
                {"temperature": -1},
                {"max_tokens": 1.5},
                {"deadlines": 30},
                {"deadlines": 0},
            ]
            for wrong in refused:
                with pytest.raises((TypeError, ValueError)):
                    async with session.ask(QUESTION, **wrong):
                        raise AssertionError
            for messages in ([], "", [{"role": "user"}], 7, "\ud800"):
                with pytest.raises((TypeError, ValueError)):
                    async with session.ask(messages):  # pyright: ignore[reportArgumentType]
                        raise AssertionError
            with pytest.raises(TypeError, match="deadlines must be"):
                async with session.ask(QUESTION, deadlines=5):  # pyright: ignore[reportArgumentType]
                    raise AssertionError
            assert len(emulator.requests) == before
            assert (await said(session)).text
        assert_no_orphans(emulator)


@pytest.mark.parametrize("wrong", [H2o, "h2o", None], ids=repr)
async def test_what_is_no_provider_is_a_type_error_wherever_it_is_given(wrong: Any) -> None:
    for enter in (
        lambda: trioprov.open_session(wrong),
        lambda: trioprov.open_reply(QUESTION, wrong),
        lambda: trioprov.fan_out(QUESTION, [wrong]),
        lambda: trioprov.race(QUESTION, [H2o(), wrong]),
    ):
        with pytest.raises(TypeError, match="a provider is an object"):
            enter()
    for call in (
        lambda: trioprov.ask(QUESTION, wrong),
        lambda: trioprov.gather(QUESTION, [wrong]),
        lambda: trioprov.run_session(wrong),
        lambda: trioprov.delete_conversation(wrong, {}),
    ):
        with pytest.raises(TypeError, match="a provider is an object"):
            await call()


@pytest.mark.parametrize(
    "wrong",
    [{"client": trioprov.open_client()}, {"client": 5}, {"deadlines": 5}],
    ids=["unentered", "client", "deadlines"],
)
async def test_what_is_no_client_and_no_deadlines_is_a_type_error_wherever_it_is_given(wrong: dict[str, Any]) -> None:
    for enter in (trioprov.open_reply, trioprov.ask):
        with pytest.raises(TypeError, match=r"(client|deadlines) must be"):
            await cast("Any", enter(QUESTION, H2o(), **wrong))
    for enter in (trioprov.fan_out, trioprov.race, trioprov.gather):
        with pytest.raises(TypeError, match=r"(client|deadlines) must be"):
            await cast("Any", enter(QUESTION, [H2o()], **wrong))


async def test_after_a_failed_ask_the_session_can_be_asked_again(service: type[Provider]) -> None:
    for fault in (Fault(on=STREAM[service.name], end_after=3), Fault(on=STREAM[service.name], reset_after=3)):
        async with open_emulator(service, faults=[fault]) as emulator:
            async with trioprov.open_session(emulator.provider) as session:
                with pytest.raises(TrioprovError) as caught:
                    await said(session)
                assert caught.value.partial
                assert (await said(session)).text
            assert_no_orphans(emulator)


async def test_a_stopped_ask_keeps_the_conversation_and_can_be_asked_again(service: type[Provider]) -> None:
    async with open_emulator(service, token_delay=0.005) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            async with session.ask(QUESTION) as reply:
                async for _ in reply:
                    reply.stop()
                    reply.stop()
                answer = await reply.wait()
                assert answer.finish_reason == "interrupted"
                assert answer.text
                assert answer.error is None
                assert reply.finish == trioprov.Finish("interrupted")
            assert emulator.conversations == (session.conversation.id,)
            if emulator.name == "h2o":
                assert steps(emulator)[-1] == "stop"
            again = await said(session, "And the sea?")
            assert again.finish_reason in ("stop", "length")
        assert_no_orphans(emulator)
        assert emulator.worker_crashes == 0


async def test_a_question_that_comes_too_late_behind_an_answer_that_cannot_be_stopped_says_so() -> None:
    async with open_emulator(OpenAssistant, token_delay=0.02) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            async with session.ask(QUESTION) as reply:
                async for _ in reply:
                    break
            with pytest.raises(trioprov.ConversationLost, match="previous answer"):
                await said(session, "And the sea?", deadlines=Deadlines(first_token=0.1))
        assert_no_orphans(emulator)


async def test_a_question_that_comes_too_late_behind_an_answer_whose_stream_broke_says_so() -> None:
    async with open_emulator(OpenAssistant, token_delay=0.05, faults=[Fault(on="events", end_after=2)]) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            with pytest.raises(trioprov.IncompleteReply):
                await said(session)
            with pytest.raises(trioprov.ConversationLost, match="previous answer"):
                await said(session, "And the sea?", deadlines=Deadlines(first_token=0.2))
        assert_no_orphans(emulator)


async def test_a_question_whose_own_answer_comes_too_late_does_not_blame_the_one_before() -> None:
    faults = [Fault(on="events", end_after=2), Fault(on="events", stall_after=0)]
    async with (
        open_emulator(OpenAssistant, faults=faults) as emulator,
        trioprov.open_client(cleanup_timeout=1) as client,
        trioprov.open_session(emulator.provider, client=client) as session,
    ):
        with pytest.raises(trioprov.IncompleteReply):
            await said(session)
        while emulator.generating:  # noqa: ASYNC110 - it happens in an emulator's thread
            await trio.sleep(0.01)
        with pytest.raises(trioprov.FirstTokenTimeout):
            await said(session, "And the sea?", deadlines=Deadlines(first_token=2))
        assert steps(emulator).count("events") == 2


async def test_a_first_question_that_is_answered_too_late_blames_no_answer_before_it() -> None:
    async with open_emulator(OpenAssistant, faults=[Fault(on="assistant", delay_response=0.5)]) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            with pytest.raises(trioprov.FirstTokenTimeout):
                await said(session, deadlines=Deadlines(first_token=0.2))
        assert_no_orphans(emulator)


async def test_stop_tells_h2o_while_the_block_is_still_open() -> None:
    async with open_emulator(H2o, **FOREVER) as emulator:
        async with trioprov.open_session(emulator.provider) as session, session.ask(QUESTION) as reply:
            async for _ in reply:
                break
            assert emulator.generating
            reply.stop()
            with trio.fail_after(5):
                while "stop" not in steps(emulator) or emulator.generating:  # noqa: ASYNC110 - it happens in an emulator's thread
                    await trio.sleep(0.01)
            assert emulator.conversations
        assert_no_orphans(emulator)


async def test_an_answer_that_is_complete_is_not_told_to_stop() -> None:
    told: list[Conversation] = []

    class Counting(H2o):
        def stop(self, conversation: Conversation) -> Steps[Conversation]:
            told.append(conversation)
            return (yield from super().stop(conversation))

    async with open_emulator(H2o) as emulator:
        async with trioprov.open_session(Counting(base_url=emulator.url)) as session:
            await said(session)
            await said(session, "And the sea?")
        assert told == []
        assert_no_orphans(emulator)


async def test_leaving_ask_early_waits_for_the_stop_request() -> None:
    async with open_emulator(H2o, **FOREVER, faults=[Fault(on="stop", delay_response=0.2)]) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            async with session.ask(QUESTION) as reply:
                async for _ in reply:
                    break
                begun = trio.current_time()
            assert 0.2 <= trio.current_time() - begun < 2
            assert steps(emulator)[-1] == "stop"
        assert_no_orphans(emulator)


async def test_leaving_ask_before_its_stream_does_not_wait_for_an_answer_that_cannot_be_stopped() -> None:
    faults = [Fault(on="assistant", delay_response=0.2)]
    async with (
        open_emulator(OpenAssistant, **FOREVER, faults=faults) as emulator,
        trioprov.open_client(cleanup_timeout=2) as client,
        trioprov.open_session(emulator.provider, client=client) as session,
    ):
        async with session.ask(QUESTION):
            while "assistant" not in steps(emulator):  # noqa: ASYNC110 - it happens in an emulator's thread
                await trio.sleep(0.01)
            begun = trio.current_time()
        assert trio.current_time() - begun < 1.5


async def test_leaving_ask_early_is_bounded_when_the_stop_request_hangs() -> None:
    async with open_emulator(H2o, **FOREVER, faults=[Fault(on="stop", hang=True, times=math.inf)]) as emulator:
        async with trioprov.open_client(cleanup_timeout=0.6) as client:
            begun = trio.current_time()
            async with trioprov.open_session(emulator.provider, client=client) as session:
                async with session.ask(QUESTION) as reply:
                    async for _ in reply:
                        break
                assert trio.current_time() - begun < 1.5
        assert trio.current_time() - begun < 2.5
        assert_no_orphans(emulator)


async def test_leaving_ask_early_is_bounded_when_the_thread_has_no_name_yet() -> None:
    async with open_emulator(AllenAI, faults=[Fault(on="stream", delay=1.5)]) as emulator:
        async with trioprov.open_client(cleanup_timeout=0.3) as client:
            session = await trioprov.open_session(emulator.provider, client=client).__aenter__()
            async with session.ask(QUESTION):
                await trio.sleep(0.1)
                begun = trio.current_time()
            assert trio.current_time() - begun < 1
        assert_no_orphans(emulator)


async def test_of_three_asks_at_the_heels_of_each_other_none_waits_for_ever() -> None:
    faults = [Fault(on="stop", delay_response=0.3, times=math.inf)]
    async with open_emulator(H2o, token_delay=0.01, faults=faults) as emulator:
        took: dict[int, float] = {}

        async def ask_and_leave(session: trioprov.Session, number: int) -> None:
            await trio.sleep(0.05 * number)
            begun = trio.current_time()
            async with session.ask(QUESTION) as reply:
                if number == 0:
                    async for _ in reply:
                        break
            took[number] = trio.current_time() - begun

        async with (
            trioprov.open_client(cleanup_timeout=4) as client,
            trioprov.open_session(emulator.provider, client=client) as session,
            trio.open_nursery() as nursery,
        ):
            for number in range(3):
                nursery.start_soon(ask_and_leave, session, number)
        assert max(took.values()) < 2.5, took


async def test_a_follow_up_sends_only_what_the_server_does_not_have(service: type[Provider]) -> None:
    history = [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "Three"},
        {"role": "user", "content": "Four"},
    ]
    before = json.dumps(history)
    async with open_emulator(service) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            async with session.ask(history) as reply:
                await reply.wait()
            async with session.ask(history) as reply:
                await reply.wait()
            with pytest.raises(ValueError, match="assistant"):
                async with session.ask(history[:2]):
                    raise AssertionError
        step = {"h2o": "generate", "openassistant": "prompter", "allenai": "stream"}[service.name]
        asked = [request for request in emulator.requests if request.step == step]
        key = {"h2o": "inputs", "openassistant": "content", "allenai": "content"}[service.name]
        first, second = (dict(r.form)[key] if service is AllenAI else r.json[key] for r in asked)
        assert first == "User: One\nAssistant: Two\nUser: Three\nUser: Four\nAssistant:"
        assert second == "Three\nFour"
        assert json.dumps(history) == before
        if service is AllenAI:
            assert "parent" not in dict(asked[0].form)
            assert dict(asked[1].form)["parent"]
            users = {request.headers["x-anonymous-user-id"] for request in emulator.requests}
            assert len(users) == 1
        if service is OpenAssistant:
            answers = [request for request in emulator.requests if request.step == "events"]
            assert asked[1].json["parent_id"] == answers[0].query["message_id"]
        assert_no_orphans(emulator)


# -- The end ---------------------------------------------------------------------------------------------------------


async def test_close_and_aclose_are_idempotent_from_any_task(service: type[Provider]) -> None:
    async with open_emulator(service) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            await said(session)
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(session.aclose)
                    session.close()
            assert session.cleanup is not None
            assert session.cleanup.outcome == "deleted"
            await session.aclose()
        session.close()
        await session.aclose()
        assert steps(emulator).count("delete") == 1
        assert_no_orphans(emulator)


async def test_close_interrupts_an_open_reply_and_its_readers(service: type[Provider]) -> None:
    async with open_emulator(service, token_delay=0.005) as emulator:
        async with trioprov.open_session(emulator.provider) as session, session.ask(QUESTION) as reply:
            async for _ in reply:
                session.close()
            answer = await reply.wait()
            assert answer.finish_reason == "interrupted"
            assert answer.text
        assert_no_orphans(emulator)


async def test_aclose_is_a_checkpoint_and_cancelling_it_loses_no_cleanup(service: type[Provider]) -> None:
    faults = [Fault(on="delete", delay=0.1)]
    async with open_emulator(service, faults=faults) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            await said(session)
            with trio.move_on_after(0.02) as scope:
                await session.aclose()
            assert scope.cancelled_caught
        assert_no_orphans(emulator)


async def test_nothing_is_owed_where_nothing_was_created() -> None:
    async with open_emulator(AllenAI) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            pass
        assert session.cleanup == trioprov.CleanupReport(outcome="nothing_owed")
        assert emulator.requests == ()


async def test_a_question_that_a_server_repeats_may_be_longer_than_any_line_of_an_answer() -> None:
    async with open_emulator(AllenAI, text="Fine.") as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            for _ in range(2):
                assert (await said(session, "я" * 400_000)).text == "Fine."
        assert_no_orphans(emulator)


async def test_what_somebody_else_deleted_is_already_gone(service: type[Provider]) -> None:
    async with open_emulator(service) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            await said(session)
            saved = Conversation.from_json(session.conversation.to_json())
            report = await trioprov.delete_conversation(emulator.provider, saved)
            assert report.outcome == "deleted"
        assert session.cleanup is not None
        assert session.cleanup.outcome == "already_gone"
        assert_no_orphans(emulator)


async def test_a_cleanup_that_fails_is_raised_once(service: type[Provider], caplog: pytest.LogCaptureFixture) -> None:
    async with open_emulator(service, faults=[Fault(on="delete", status=500, times=math.inf)]) as emulator:
        async with trioprov.open_client(cleanup_timeout=0.4) as client:
            with pytest.raises(CleanupFailed) as caught:
                async with trioprov.open_session(emulator.provider, client=client) as session:
                    await said(session)
            report = caught.value.report
            assert report.outcome == "owed"
            assert report.attempts >= 2
            assert isinstance(report.error, trioprov.ProviderError)
            assert session.cleanup == report
            await session.aclose()  # it was told
        assert emulator.conversations
        assert [record.levelname for record in caplog.records if record.name == "trioprov"] == ["WARNING"]


async def test_aclose_raises_the_failed_cleanup_and_the_exit_does_not_repeat_it(service: type[Provider]) -> None:
    async with (
        open_emulator(service, faults=[Fault(on="delete", status=500, times=math.inf)]) as emulator,
        trioprov.open_client(cleanup_timeout=0.3) as client,
        trioprov.open_session(emulator.provider, client=client) as session,
    ):
        await said(session)
        with pytest.raises(CleanupFailed):
            await session.aclose()
        await session.aclose()


async def test_a_failed_cleanup_is_a_note_on_what_is_propagating(service: type[Provider]) -> None:
    async with (
        open_emulator(service, faults=[Fault(on="delete", status=500, times=math.inf)]) as emulator,
        trioprov.open_client(cleanup_timeout=0.3) as client,
    ):
        oops = Oops()
        with pytest.raises(Oops) as caught:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                await said(session)
                raise oops
        assert caught.value is oops
        assert len(oops.__notes__) == 1
        assert "may still be on" in oops.__notes__[0]
        await session.aclose()


async def test_an_answer_is_never_destroyed_by_a_failed_cleanup(service: type[Provider]) -> None:
    async with (
        open_emulator(service, faults=[Fault(on="delete", status=500, times=math.inf)]) as emulator,
        trioprov.open_client(cleanup_timeout=0.3) as client,
    ):
        provider = emulator.provider
        answer = await trioprov.ask(QUESTION, provider, client=client)
        assert answer.text
        assert answer.cleanup is not None
        assert answer.cleanup.outcome == "owed"
        (answer,) = await trioprov.gather(QUESTION, [provider], client=client)
        assert answer.text
        assert answer.cleanup is not None
        assert answer.cleanup.outcome == "owed"
        async with trioprov.fan_out(QUESTION, [provider], client=client) as fan:
            await fan.wait()
        assert fan.lanes[0].cleanup is not None
        assert fan.lanes[0].cleanup.outcome == "owed"
        async with trioprov.open_reply(QUESTION, provider, client=client) as reply:
            await reply.wait()
        async with trio.open_nursery() as nursery:
            session: trioprov.Session = await nursery.start(run, provider, client)
            await said(session)
            session.close()
        assert session.cleanup is not None
        assert session.cleanup.outcome == "owed"


async def test_the_report_is_there_after_the_exit_even_if_a_create_is_still_unanswered() -> None:
    async with open_emulator(AllenAI, faults=[Fault(on="stream", delay=0.8)]) as emulator:
        async with trioprov.open_client(cleanup_timeout=0.2) as client:
            with pytest.raises(CleanupFailed) as caught:
                async with trioprov.open_session(emulator.provider, client=client) as session:
                    async with session.ask(QUESTION):
                        await trio.sleep(0.1)
            assert caught.value.report.outcome in ("lost", "owed")
            assert session.cleanup is not None
        assert_no_orphans(emulator)


# -- Kept conversations ----------------------------------------------------------------------------------------------


async def test_a_kept_conversation_goes_on_in_another_session_through_json(service: type[Provider]) -> None:
    async with open_emulator(service) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            await said(session)
            assert session.keep() == session.conversation
        assert session.cleanup == trioprov.CleanupReport(outcome="kept")
        assert emulator.conversations == (session.conversation.id,)
        saved = json.loads(json.dumps(session.conversation))
        saved["opened_by"] = "a process that is no more"
        creates = steps(emulator).count("create")

        async with trioprov.open_session(emulator.provider, conversation=saved) as session:
            await said(session, "And the sea?")
        assert session.cleanup is not None
        assert session.cleanup.outcome == "kept"
        assert steps(emulator).count("create") == creates
        assert len(emulator.conversations) == 1

        saved = session.conversation
        assert (await trioprov.delete_conversation(emulator.provider, saved)).outcome == "deleted"
        assert_no_orphans(emulator)
        assert (await trioprov.delete_conversation(emulator.provider, saved)).outcome == "already_gone"


async def test_a_continued_conversation_of_this_process_is_deleted_at_exit(service: type[Provider]) -> None:
    async with open_emulator(service) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            await said(session)
            session.keep()
        async with trioprov.open_session(emulator.provider, conversation=session.conversation) as second:
            await said(second)
        assert second.cleanup is not None
        assert second.cleanup.outcome == "deleted"
        assert_no_orphans(emulator)


async def test_an_error_does_not_delete_what_is_to_be_kept(service: type[Provider]) -> None:
    async with open_emulator(service) as emulator:
        with pytest.raises(Oops):
            async with trioprov.open_session(emulator.provider) as session:
                await said(session)
                session.keep()
                raise Oops
        assert emulator.conversations
        report = await trioprov.delete_conversation(emulator.provider, session.conversation)
        assert report.outcome == "deleted"


async def test_delete_conversation_says_owed_and_does_not_raise(service: type[Provider]) -> None:
    async with open_emulator(service, faults=[Fault(on="delete", status=500, times=math.inf)]) as emulator:
        async with trioprov.open_client(cleanup_timeout=0.3) as client:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                await said(session)
                session.keep()
            report = await trioprov.delete_conversation(emulator.provider, session.conversation, client=client)
            assert report.outcome == "owed"
            assert isinstance(report.error, trioprov.ProviderError)


async def test_delete_conversation_is_shielded(service: type[Provider]) -> None:
    async with open_emulator(service, faults=[Fault(on="delete", delay=0.1)]) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            await said(session)
            session.keep()
        with trio.move_on_after(0.02):
            await trioprov.delete_conversation(emulator.provider, session.conversation)
        assert_no_orphans(emulator)


async def test_delete_conversation_is_a_checkpoint_before_anything_is_sent(service: type[Provider]) -> None:
    async with open_emulator(service) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            await said(session)
            saved = session.keep()
        before = len(emulator.requests)
        with trio.CancelScope() as scope:
            scope.cancel()
            await trioprov.delete_conversation(emulator.provider, saved)
        assert scope.cancelled_caught
        assert len(emulator.requests) == before
        await trioprov.delete_conversation(emulator.provider, saved)


async def test_delete_conversation_lets_a_session_that_is_ending_finish_what_it_says() -> None:
    async with (
        open_emulator(H2o, **FOREVER, faults=[Fault(on="stop", delay_response=0.4)]) as emulator,
        trioprov.open_client() as client,
    ):
        with trio.CancelScope() as scope:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                saved = session.keep()
                async with session.ask(QUESTION) as reply:
                    async for _ in reply:
                        scope.cancel()
        assert (await trioprov.delete_conversation(emulator.provider, saved, client=client)).outcome == "deleted"
        stop, delete = (request for request in emulator.requests if request.step in ("stop", "delete"))
        assert delete.time - stop.time > 0.3
        assert_no_orphans(emulator)


async def test_delete_conversation_neither_ends_an_open_session_nor_waits_for_a_strangers() -> None:
    hangs = Fault(on="delete", delay_response=1.5)
    async with open_emulator(H2o) as emulator, trioprov.open_client() as client:
        async with trioprov.open_session(emulator.provider, client=client) as session:
            saved = session.keep()
        async with (
            trioprov.open_session(emulator.provider, client=client, conversation=saved) as open_one,
            trioprov.open_session(emulator.provider, client=client) as stranger,
        ):
            emulator.add_fault(hangs)
            stranger.close()
            while "delete" not in steps(emulator):  # noqa: ASYNC110 - it happens in an emulator's thread
                await trio.sleep(0.01)
            with trio.fail_after(1):
                report = await trioprov.delete_conversation(emulator.provider, saved, client=client)
            assert report.outcome == "deleted"
            assert stranger.cleanup is None
            async with open_one.ask(QUESTION) as reply:
                with pytest.raises(trioprov.ConversationLost):
                    await reply.wait()
        assert_no_orphans(emulator)


async def test_delete_conversation_does_not_wait_for_the_clients_sweeper(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            saved = session.keep()
        async with trioprov.open_client(journal=path) as client:
            report = await trioprov.delete_conversation(emulator.provider, saved, client=client)
            assert report.outcome == "deleted"
        assert_no_orphans(emulator)


async def test_another_providers_conversation_is_refused(service: type[Provider]) -> None:
    other = AllenAI if service is H2o else H2o
    async with open_emulator(service) as emulator:
        saved = emulator.provider.new_conversation().replace(id="x")
        wrong = other(base_url=emulator.url)
        elsewhere = service(base_url="http://elsewhere.test")
        for provider in (wrong, elsewhere):
            with pytest.raises(ValueError, match="conversation"):
                async with trioprov.open_session(provider, conversation=saved):
                    raise AssertionError
            with pytest.raises(ValueError, match="conversation"):
                await trioprov.delete_conversation(provider, saved)
        assert emulator.requests == ()


async def test_a_conversation_written_by_hand_is_not_swapped_for_a_new_one(service: type[Provider]) -> None:
    async with open_emulator(service) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            await said(session)
            session.keep()
        whole = session.conversation
        by_hand = {key: whole[key] for key in whole if key != "opened_by"}
        creates = steps(emulator).count("create")
        async with trioprov.open_session(emulator.provider, conversation=by_hand) as session:
            await said(session)
            assert session.conversation.id == whole.id
        assert steps(emulator).count("create") == creates
        assert emulator.conversations == (whole.id,)
        await trioprov.delete_conversation(emulator.provider, whole)


async def test_keep_does_not_hide_that_a_create_was_lost() -> None:
    async with open_emulator(AllenAI, faults=[Fault(on="stream", cut_after=0)]) as emulator:
        with pytest.raises(CleanupFailed):
            async with trioprov.open_session(emulator.provider) as session:
                with pytest.raises(TrioprovError):
                    await said(session)
                session.keep()
        assert session.cleanup is not None
        assert session.cleanup.outcome == "lost"


# -- run_session -----------------------------------------------------------------------------------------------------


async def run(
    provider: Provider,
    client: trioprov.Client | None = None,
    task_status: trio.TaskStatus[trioprov.Session] = trio.TASK_STATUS_IGNORED,
) -> None:
    await trioprov.run_session(provider, client=client, task_status=task_status)


async def test_run_session_is_a_task_of_the_nursery_and_ends_after_the_cleanup(service: type[Provider]) -> None:
    async with open_emulator(service) as emulator:
        async with trio.open_nursery() as nursery:
            session: trioprov.Session = await nursery.start(trioprov.run_session, emulator.provider)
            assert len(nursery.child_tasks) == 1
            assert (await said(session)).text
            session.close()
        assert session.cleanup is not None
        assert session.cleanup.outcome == "deleted"
        assert_no_orphans(emulator)


async def test_run_session_is_cleaned_up_when_the_nursery_is_cancelled_or_crashes(service: type[Provider]) -> None:
    async with open_emulator(service, token_delay=0.003) as emulator:
        async with trio.open_nursery() as nursery:
            session: trioprov.Session = await nursery.start(run, emulator.provider)
            async with session.ask(QUESTION) as reply:
                async for _ in reply:
                    nursery.cancel_scope.cancel()
                    break
        assert_no_orphans(emulator)

        with pytest.RaisesGroup(Oops):
            async with trio.open_nursery() as nursery:
                await nursery.start(run, emulator.provider)
                raise Oops
        assert_no_orphans(emulator)
        assert emulator.worker_crashes == 0


@pytest.mark.parametrize("cls", [H2o, OpenAssistant])
async def test_run_session_raises_a_failed_create_bare_from_start(cls: type[Provider]) -> None:
    async with open_emulator(cls, faults=[Fault(on="create", status=429, headers={"Retry-After": "7"})]) as emulator:
        async with trio.open_nursery() as nursery:
            with pytest.raises(trioprov.RateLimited) as caught:
                await nursery.start(run, emulator.provider)
            assert caught.value.retry_after == 7
            assert not nursery.child_tasks
        assert_no_orphans(emulator)


async def test_run_session_whose_session_is_dropped_ends(service: type[Provider]) -> None:
    async with open_emulator(service) as emulator:
        with trio.move_on_after(10) as scope:
            async with trio.open_nursery() as nursery:
                session: trioprov.Session = await nursery.start(trioprov.run_session, emulator.provider)
                await said(session)
                del session
                gc.collect()
        assert_no_orphans(emulator)
        assert not scope.cancelled_caught


# -- Opening ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [H2o, OpenAssistant])
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"status": 401}, trioprov.AuthenticationError),
        ({"status": 403}, trioprov.AuthenticationError),
        ({"status": 404}, trioprov.InvalidRequest),
        ({"status": 429}, trioprov.RateLimited),
        ({"status": 500}, trioprov.ProviderError),
        ({"status": 503}, trioprov.Overloaded),
        ({"drop": True}, trioprov.ConnectionFailed),
        ({"status": 200, "body": "not JSON"}, trioprov.RemoteProtocolError),
        ({"status": 200, "body": "{}"}, trioprov.RemoteProtocolError),
        ({"status": 302, "headers": {"Location": "https://elsewhere.test/"}}, trioprov.ProviderError),
    ],
)
async def test_a_failed_create_raises_from_open_session_bare(
    cls: type[Provider], fault: dict[str, Any], error: type[TrioprovError]
) -> None:
    async with open_emulator(cls, faults=[Fault(on="create", **fault)]) as emulator:
        with pytest.raises(error) as caught:
            async with trioprov.open_session(emulator.provider):
                raise AssertionError
        assert type(caught.value) is error
        assert_no_orphans(emulator)
        # The same through a reply, where the service's failures come out too.
        emulator.add_fault(Fault(on="create", **fault))
        with pytest.raises(error) as caught:
            await trioprov.ask(QUESTION, emulator.provider)
        assert type(caught.value) is error
        assert_no_orphans(emulator)


async def test_a_create_that_is_lost_while_it_is_being_left_is_a_note_on_the_cancellation() -> None:
    notes: list[str] = []
    async with open_emulator(OpenAssistant, faults=[Fault(on="create", delay=0.4, lose_response=True)]) as emulator:
        with trio.move_on_after(0.2):
            try:
                async with trioprov.open_session(emulator.provider):
                    raise AssertionError
            except trio.Cancelled as exc:
                notes = exc.__notes__
                raise
    assert len(notes) == 1
    assert "lost" in notes[0]


async def test_open_assistant_without_cookies_is_refused_when_opened() -> None:
    with pytest.raises(trioprov.AuthenticationError):
        async with trioprov.open_session(OpenAssistant(base_url="http://127.0.0.1:9")):
            raise AssertionError
    (answer,) = await trioprov.gather(QUESTION, [OpenAssistant(base_url="http://127.0.0.1:9")])
    assert isinstance(answer.error, trioprov.AuthenticationError)


async def test_a_session_that_is_entered_in_a_cancelled_scope_sends_nothing(service: type[Provider]) -> None:
    async with open_emulator(service) as emulator:
        with trio.CancelScope() as scope:
            scope.cancel()
            async with trioprov.open_session(emulator.provider):
                raise AssertionError
        assert scope.cancelled_caught
        assert emulator.requests == ()


async def test_a_conversation_that_was_to_be_continued_in_a_cancelled_scope_is_left_alone(
    service: type[Provider],
) -> None:
    async with open_emulator(service) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            await said(session)
            saved = session.keep()
        with trio.CancelScope() as scope:
            scope.cancel()
            async with trioprov.open_session(emulator.provider, conversation=saved):
                raise AssertionError
        assert emulator.conversations == (saved.id,)
        await trioprov.delete_conversation(emulator.provider, saved)


async def test_the_session_runs_with_the_callers_context_variables() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    seen: list[str] = []

    async def handler(request: httpx.Request) -> httpx.Response:
        seen.append(variable.get("nothing"))
        return httpx.Response(200, json={"type": "success", "conversationId": "c" * 24})

    variable.set("mine")
    async with trioprov.open_client(transport=httpx.MockTransport(handler)) as client:
        variable.set("the session's")
        async with trioprov.open_session(H2o(base_url="http://h2o.test"), client=client):
            variable.set("later")
    assert seen == ["the session's"] * 3


async def test_a_flow_that_is_broken_off_is_over_before_its_error_arrives() -> None:
    """A provider of somebody else's may hold something that it gives back in the end."""
    over: list[bool] = []

    class Careful(H2o):
        def open(self, conversation: Conversation, new_id: NewId) -> Steps[Conversation]:
            try:
                return (yield from super().open(conversation, new_id))
            finally:
                over.append(True)

    class Broken(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            raise ZeroDivisionError

    async with trioprov.open_client(transport=Broken()) as client:
        with pytest.raises(ZeroDivisionError) as caught:
            async with trioprov.open_session(Careful(), client=client):
                raise AssertionError
        assert over == [True], caught  # which still holds on to every frame


async def test_a_reply_ends_even_if_a_provider_says_nothing_of_its_end() -> None:
    class Silent(H2o):
        def after_stream(self, decoder: Decoder) -> Steps[list[Event]]:
            yield from ()
            return []

    async with open_emulator(H2o, faults=[Fault(on="generate", end_after=3)]) as emulator:
        with trio.fail_after(5):
            async with trioprov.open_session(Silent(base_url=emulator.url)) as session:
                assert (await said(session)).finish_reason == "interrupted"
        assert_no_orphans(emulator)


# -- Ctrl-C, and interpreters that complain ---------------------------------------------------------------------------

INTERRUPTED = """
    import os, signal, sys, threading, time
    import trio, trioprov
    from trioprov.testing import Fault, open_emulator

    def step(coroutine):
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("it waits")

    async def main(provider, begun):
        begun.set()
        async with trioprov.open_session(provider) as session:
            async with session.ask("x") as reply:
                async for _ in reply:
                    pass

    service, instants, times = getattr(trioprov, sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    create = "stream" if service.name == "allenai" else "create"
    faults = [Fault(on=name, delay_response=0.02, times=10**9) for name in {create, "delete"}]
    running = open_emulator(service, token_delay=0.001, faults=faults)
    emulator = step(running.__aenter__())
    trio.run(main, emulator.provider, threading.Event())  # everything is imported
    start = time.monotonic()
    trio.run(main, emulator.provider, threading.Event())
    life = time.monotonic() - start

    def interrupt(begun, after):
        begun.wait()
        time.sleep(after)
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.005)

    interrupted = 0
    for instant in range(instants):
        begun = threading.Event()
        thread = threading.Thread(target=interrupt, args=(begun, life * instant / instants))
        thread.start()
        try:
            trio.run(main, emulator.provider, begun)
        except KeyboardInterrupt:
            interrupted += 1
        while thread.is_alive():
            try:
                time.sleep(0.005)
            except KeyboardInterrupt:
                pass
        assert not emulator.conversations, (instant, emulator.conversations)
    print("interrupted", interrupted, "crashes", emulator.worker_crashes)
    step(running.__aexit__(None, None, None))
"""


async def in_a_subprocess(script: str, *arguments: str, options: tuple[str, ...] = ()) -> tuple[int, str]:
    command = [sys.executable, *options, "-c", textwrap.dedent(script), *arguments]
    with trio.fail_after(60):
        done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.STDOUT, check=False)
    return done.returncode, done.stdout.decode()


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
async def test_ctrl_c_at_any_instant_leaves_nothing_on_the_server(service: type[Provider], times: int) -> None:
    status, output = await in_a_subprocess(INTERRUPTED, service.__name__, "14", str(times))
    assert status == 0, output
    assert "crashes 0" in output
    assert "Traceback" not in output
    assert int(output.split("interrupted ")[1].split()[0]) >= 6


CONNECTING = """
    import signal, sys
    import trio, trioprov
    from trioprov.testing import open_emulator

    connect = trio._socket._SocketType.connect
    armed = False

    async def interrupted_connect(self, address):
        global armed
        if armed:
            armed = False
            signal.raise_signal(signal.SIGINT)
        return await connect(self, address)

    trio._socket._SocketType.connect = interrupted_connect

    async def main():
        global armed
        async with trioprov.open_session(emulator.provider) as session:
            async with session.ask("x") as reply:
                await reply.wait()
            await trio.sleep(0.8)  # until no connection is left that could be used again
            armed = True

    def step(coroutine):
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value

    running = open_emulator(getattr(trioprov, sys.argv[1]), keep_alive=0.4)
    emulator = step(running.__aenter__())
    try:
        trio.run(main)
    except KeyboardInterrupt:
        print("interrupted")
    assert not armed, "it did not connect"
    assert not emulator.conversations, emulator.conversations
    step(running.__aexit__(None, None, None))
"""


async def test_ctrl_c_while_the_cleanup_connects_neither_breaks_it_nor_trio(service: type[Provider]) -> None:
    status, output = await in_a_subprocess(CONNECTING, service.__name__)
    assert (status, output) == (0, "interrupted\n"), output


LEAVING = """
    import signal, sys, threading, time
    import trio, trioprov
    from trioprov.testing import Fault, open_emulator

    async def main():
        async with trioprov.open_client(journal=sys.argv[1]) as client:
            with trio.CancelScope() as scope:
                async with trioprov.open_session(emulator.provider, client=client):
                    scope.cancel()
                    await trio.sleep(0)
            threading.Thread(target=interrupt).start()

    def interrupt():
        for _ in range(2):
            time.sleep(0.1)
            signal.raise_signal(signal.SIGINT)

    def step(coroutine):
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value

    running = open_emulator(trioprov.H2o, faults=[Fault(on="delete", delay=0.5)])
    emulator = step(running.__aenter__())
    try:
        trio.run(main)
    except KeyboardInterrupt:
        print("interrupted", emulator.conversations)
    print(len(trioprov.Journal(sys.argv[1]).entries()))
    step(running.__aexit__(None, None, None))
"""


async def test_ctrl_c_while_a_client_is_left_lets_it_close_its_sessions_connections_and_journal(tmp_path: Path) -> None:
    status, output = await in_a_subprocess(LEAVING, str(tmp_path / "owed.db"), options=("-X", "dev", "-W", "error"))
    assert (status, output) == (0, "interrupted ()\n0\n"), output


FORKED = """
    import gc, os, warnings
    import trio, trioprov
    from trioprov.testing import open_emulator

    warnings.simplefilter("ignore")

    async def main():
        async with open_emulator(trioprov.H2o) as emulator:
            session = await trioprov.open_session(emulator.provider).__aenter__()
            pid = os.fork()
            if pid == 0:
                os.closerange(3, 256)  # as a daemon does
                del session
                gc.collect()
                os._exit(0)
            os.waitpid(pid, 0)
            await trio.sleep(0.1)
            assert emulator.conversations == (session.conversation.id,)
            await session.aclose()
            print(emulator.conversations)

    trio.run(main)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
async def test_a_session_that_a_forked_child_collects_is_the_parents() -> None:
    status, output = await in_a_subprocess(FORKED)
    assert (status, output) == (0, "()\n"), output


FORKED_AND_USED = """
    import os
    import trio, trioprov
    from trioprov.testing import open_emulator

    async def main():
        async with open_emulator(trioprov.H2o, token_delay=0.01) as emulator:
            async with trioprov.open_session(emulator.provider) as session, session.ask("x") as reply:
                await anext(aiter(reply))
                pid = os.fork()
                if pid == 0:
                    reply.stop()
                    session.close()
                    os._exit(0)
                os.waitpid(pid, 0)
                print((await reply.wait()).finish_reason)
            print(emulator.conversations)

    trio.run(main)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
async def test_a_session_that_a_forked_child_closes_is_the_parents() -> None:
    status, output = await in_a_subprocess(FORKED_AND_USED)
    assert (status, output) == (0, "stop\n()\n"), output


SILENT = """
    import gc, sys, warnings
    import trio, trioprov
    from trioprov.testing import assert_no_orphans, open_emulator

    async def body(provider, how):
        async with trioprov.open_session(provider) as session:
            async with session.ask("x") as reply:
                async for _ in reply:
                    if how == "break":
                        break
                    if how == "raise":
                        raise RuntimeError(how)
                    if how == "cancel":
                        await trio.sleep_forever()

    async def tokens(provider):
        async with trioprov.open_session(provider) as session, session.ask("x") as reply:
            async for token in reply:
                yield token

    async def main():
        service = getattr(trioprov, sys.argv[1])
        async with open_emulator(service, token_delay=0.002) as emulator:
            for how in ("all", "break", "raise", "cancel"):
                try:
                    with trio.move_on_after(0.1 if how == "cancel" else 30):
                        await body(emulator.provider, how)
                except RuntimeError as exc:
                    assert str(exc) == how
                assert_no_orphans(emulator)
                gc.collect()
            if sys.argv[2] == "abandon":
                async for token in tokens(emulator.provider):
                    break
                gc.collect()
                with trio.fail_after(10):
                    while emulator.conversations:
                        await trio.sleep(0.01)
        gc.collect()

    trio.run(main)
    gc.collect()
"""


@pytest.mark.parametrize("mode", ["leave", "abandon"])
async def test_under_error_on_warnings_and_dev_mode_nothing_is_said(service: type[Provider], mode: str) -> None:
    options = ("-W", "error", "-X", "dev")
    status, output = await in_a_subprocess(SILENT, service.__name__, mode, options=options)
    if mode == "abandon":  # trio's own word for an abandoned generator is the only one
        assert output.count("ResourceWarning") == output.count("was garbage collected") <= 1, output
    else:
        assert output == ""
    assert status == 0, output


# -- Errors -----------------------------------------------------------------------------------------------------------

P = trioprov
errors: list[tuple[type[Provider], dict[str, Any], dict[str, Any], type[TrioprovError], bool]] = [
    (H2o, {}, {"on": "generate", "status": 401}, P.AuthenticationError, False),
    (H2o, {}, {"on": "generate", "status": 429}, P.RateLimited, False),
    (H2o, {}, {"on": "generate", "status": 503}, P.Overloaded, False),
    (H2o, {}, {"on": "generate", "status": 422}, P.InvalidRequest, False),
    (H2o, {}, {"on": "generate", "status": 500}, P.ProviderError, False),
    (
        H2o,
        {},
        {"on": "generate", "status": 404, "body": '{"message":"Conversation not found"}'},
        P.ConversationLost,
        False,
    ),
    (H2o, {}, {"on": "generate", "drop": True}, P.ConnectionFailed, False),
    (H2o, {"error_event": ("busy", "overloaded"), "error_after": 3}, {}, P.Overloaded, True),
    (H2o, {"error_event": ("bad", "validation")}, {}, P.InvalidRequest, False),
    (H2o, {"error_event": ("broke", "generation"), "error_after": 3}, {}, P.ProviderError, True),
    (OpenAssistant, {}, {"on": "assistant", "status": 403}, P.AuthenticationError, False),
    (OpenAssistant, {"rate_limited": True}, {}, P.RateLimited, False),
    (OpenAssistant, {"queue_full": True}, {}, P.Overloaded, False),
    (OpenAssistant, {"max_content": 3}, {}, P.InvalidRequest, False),
    (OpenAssistant, {"models": ["other"]}, {}, P.ModelNotSupported, False),
    (OpenAssistant, {"error_event": "broke", "error_after": 3}, {}, P.ProviderError, True),
    (OpenAssistant, {}, {"on": "prompter", "drop": True}, P.ConnectionFailed, False),
    (AllenAI, {}, {"on": "stream", "status": 401}, P.AuthenticationError, False),
    (AllenAI, {}, {"on": "stream", "status": 429}, P.RateLimited, False),
    (AllenAI, {}, {"on": "stream", "status": 404}, P.ConversationLost, False),
    (AllenAI, {"models": {}}, {}, P.ModelNotSupported, False),
    (AllenAI, {"inappropriate": ["sky"]}, {}, P.InvalidRequest, False),
    (AllenAI, {"error_reason": "model overloaded"}, {}, P.Overloaded, False),
    (AllenAI, {"error_reason": "aborted", "error_after": 3}, {}, P.ProviderError, True),
    (AllenAI, {"error_reason": "finalization failure"}, {}, P.ProviderError, True),
]
for _cls in (H2o, OpenAssistant, AllenAI):
    _on = STREAM[_cls.name]
    _garbage = b"\n\ndata: {nonsense\n\n" if _cls is not AllenAI else b"{nonsense\n"
    errors += [
        (_cls, {}, {"on": _on, "inject": _garbage, "inject_at": 4}, P.RemoteProtocolError, True),
        (_cls, {}, {"on": _on, "end_after": 4}, P.IncompleteReply, True),
        (_cls, {}, {"on": _on, "cut_after": 4}, P.IncompleteReply, True),
        (_cls, {}, {"on": _on, "reset_after": 4}, P.ConnectionFailed, True),
        (_cls, {"first_delay": 0.6}, {}, P.FirstTokenTimeout, False),
        (_cls, {}, {"on": _on, "stall_after": 4}, P.IdleTimeout, True),
        (_cls, {"token_delay": 0.05}, {}, P.TotalTimeout, True),
    ]


@pytest.mark.parametrize(("cls", "script", "fault", "error", "some"), errors)
async def test_each_failure_has_its_class_and_keeps_what_had_arrived(
    cls: type[Provider], script: dict[str, Any], fault: dict[str, Any], error: type[TrioprovError], some: bool
) -> None:
    total = 0.4 if error is P.TotalTimeout else None
    first = 0.25 if error is P.FirstTokenTimeout else 10.0
    deadlines = Deadlines(first_token=first, idle=0.3 if error is P.IdleTimeout else 10.0, total=total)
    async with open_emulator(cls, **script, faults=[Fault(**fault)] if fault else []) as emulator:
        try:
            async with (
                trioprov.open_client(cleanup_timeout=2) as client,
                trioprov.open_session(emulator.provider, client=client) as session,
                session.ask(QUESTION, deadlines=deadlines) as reply,
            ):
                with pytest.raises(TrioprovError) as caught, trio.fail_after(5):
                    await reply.wait()
                assert type(caught.value) is error
                with pytest.raises(error) as again:
                    async for _ in reply:
                        pass
                assert again.value is not caught.value
                assert again.value.__cause__ is caught.value.__cause__
                assert caught.value.partial == again.value.partial == reply.text
                assert bool(reply.text) is some
                assert reply.finish is not None
                assert reply.finish.reason == "error"
                assert isinstance(caught.value, TimeoutError) is issubclass(error, P.DeadlineExceeded)
        except CleanupFailed as failed:
            assert failed.report.outcome == "lost"
            assert cls is AllenAI
        assert_no_orphans(emulator)


async def test_a_retry_after_that_no_calendar_has_is_ignored(service: type[Provider]) -> None:
    for value in ("Mon, 01 Jan 99999999999 00:00:00 GMT", "soon", "-1", "99999999999999999999"):
        fault = Fault(on=CREATE[service.name], status=429, headers={"Retry-After": value})
        async with open_emulator(service, faults=[fault]) as emulator:
            with pytest.raises(trioprov.RateLimited) as caught:
                async with trioprov.open_session(emulator.provider) as session:
                    await said(session)
            assert caught.value.retry_after is None


async def test_an_estimated_time_that_no_float_holds_is_ignored() -> None:
    body = '{"error":"loading","estimated_time":1' + "0" * 400 + "}"
    async with open_emulator(H2o, faults=[Fault(on="generate", status=503, body=body)]) as emulator:
        with pytest.raises(trioprov.Overloaded):
            await trioprov.ask(QUESTION, emulator.provider)
        assert_no_orphans(emulator)


# -- Secrets ----------------------------------------------------------------------------------------------------------

COOKIE = "a-secret-that-nobody-may-see-0123456789"


def everything_about(error: BaseException | None) -> str:
    found = ""
    while error is not None:
        found += f"{error!s} {error!r} {getattr(error, '__notes__', '')} {getattr(error, 'code', '')}"
        error = error.__cause__ or error.__context__
    return found


async def shout(stream: trio.SocketStream) -> None:
    """A server that answers with the credentials it was sent, and not in HTTP."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive_some(65536)
    for line in data.split(b"\r\n"):
        if line.lower().startswith((b"cookie:", b"x-anonymous-user-id:")):
            await stream.send_all(line.split(b": ")[1] + b"\r\n\r\n")
    await stream.aclose()


async def serve(
    handler: Callable[[trio.SocketStream], Awaitable[None]],
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    await trio.serve_tcp(handler, 0, host="127.0.0.1", task_status=task_status)


async def test_secrets_that_the_server_shouts_instead_of_http_are_not_repeated(
    service: type[Provider], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trioprov")
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(serve, shout)
        port = listeners[0].socket.getsockname()[1]
        provider = service(base_url=f"http://127.0.0.1:{port}", cookies={"token": COOKIE})
        identities: list[str] = []
        with pytest.raises(TrioprovError) as caught:
            async with trioprov.open_session(provider) as session, session.ask(QUESTION) as reply:
                await trio.sleep(0.05)
                identities += session.conversation.identity.values()
                await reply.wait()
        seen = everything_about(caught.value) + caplog.text
        for secret in (COOKIE, *identities):
            assert secret not in seen
        nursery.cancel_scope.cancel()


ECHOES: list[tuple[type[Provider], dict[str, Any]]] = [
    (H2o, {"on": "settings", "status": 403, "body": json.dumps({"message": f"no {COOKIE}"})}),
    (H2o, {"on": "create", "status": 403, "body": COOKIE}),
    (H2o, {"on": "generate", "status": 400, "body": json.dumps({"error": "bad", "error_type": COOKIE})}),
    (H2o, {"on": "generate", "inject_at": 0, "inject": f"data:{COOKIE}\n\n".encode()}),
    (
        H2o,
        {
            "on": "generate",
            "inject_at": 0,
            "inject": f'data:{{"generated_text":"x","details":{{"finish_reason":"{COOKIE}"}}}}\n\n'.encode(),
        },
    ),
    (H2o, {"on": "generate", "inject_at": 0, "inject": f'data:{{"error":"{COOKIE}"}}\n\n'.encode()}),
    (OpenAssistant, {"on": "create", "status": 500, "body": f"<title>{COOKIE}</title>"}),
    (OpenAssistant, {"on": "assistant", "status": 422, "body": json.dumps({"message": [{"msg": COOKIE}]})}),
    (OpenAssistant, {"on": "events", "inject_at": 0, "inject": f"data: {COOKIE}\r\n\r\n".encode()}),
    (AllenAI, {"on": "stream", "status": 400, "body": json.dumps({"error": {"message": COOKIE}})}),
    (AllenAI, {"on": "stream", "inject_at": 1, "inject": f"{COOKIE}\n".encode()}),
    (AllenAI, {"on": "delete", "status": 400, "body": json.dumps({"error": {"message": COOKIE}})}),
    (H2o, {"on": "delete", "status": 401, "body": json.dumps({"message": COOKIE})}),
]


@pytest.mark.parametrize(("cls", "fault"), ECHOES)
async def test_secrets_that_the_server_echoes_are_not_repeated(
    cls: type[Provider], fault: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trioprov")
    async with open_emulator(cls, faults=[Fault(**fault)]) as emulator:
        provider = cls(base_url=emulator.url, cookies={**sent(emulator.provider), "token": COOKIE})
        with pytest.raises(TrioprovError) as caught:
            async with trioprov.open_session(provider) as session:
                await said(session)
        assert COOKIE not in everything_about(caught.value) + caplog.text


async def test_a_secret_too_long_for_a_message_does_not_show_its_beginning() -> None:
    token = "eyJhbGciOiJkaXIi" + "Zq7" * 200
    fault = Fault(on="create", status=401, body=json.dumps({"message": f"no such token: {token}"}))
    async with open_emulator(OpenAssistant, accounts=[token], faults=[fault]) as emulator:
        with pytest.raises(trioprov.AuthenticationError) as caught:
            async with trioprov.open_session(emulator.provider):
                raise AssertionError
    assert "Zq7Zq7" not in everything_about(caught.value)


async def test_no_repr_shows_a_secret(service: type[Provider]) -> None:
    async with open_emulator(service) as emulator:
        provider = service(
            base_url=emulator.url,
            cookies={**sent(emulator.provider), "token": COOKIE},
            headers={"X-Whatever": f"header-{COOKIE}"},
        )
        async with trioprov.open_client() as client, trioprov.open_session(provider, client=client) as session:
            async with session.ask(QUESTION) as reply:
                answer = await reply.wait()
                shown = f"{session!r} {reply!r} {answer!r} {client!r} {provider!r} {session.conversation!r}"
                shown += f"{session.conversation} {provider} {vars(session)!r}"
            assert COOKIE not in shown
            for secret in session.conversation.identity.values():
                assert secret not in shown


async def test_a_closed_session_cannot_be_kept_any_more(service: type[Provider]) -> None:
    async with open_emulator(service) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            await said(session)
        with pytest.raises(trio.ClosedResourceError):
            session.keep()
        assert_no_orphans(emulator)


async def test_leaving_ask_by_cancellation_waits_for_the_stop_request_where_the_session_has_its_own_client() -> None:
    async with open_emulator(H2o, **FOREVER, faults=[Fault(on="stop", delay_response=0.4)]) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            with trio.CancelScope() as scope:
                async with session.ask(QUESTION) as reply:
                    async for _ in reply:
                        begun = trio.current_time()
                        scope.cancel()
            assert trio.current_time() - begun > 0.3
        assert_no_orphans(emulator)


async def test_leaving_ask_by_cancellation_with_a_client_does_not_wait_for_the_stop_request() -> None:
    async with (
        open_emulator(H2o, **FOREVER, faults=[Fault(on="stop", hang=True)]) as emulator,
        trioprov.open_client(cleanup_timeout=4) as client,
        trioprov.open_session(emulator.provider, client=client) as session,
    ):
        with trio.CancelScope() as scope:
            async with session.ask(QUESTION) as reply:
                async for _ in reply:
                    begun = trio.current_time()
                    scope.cancel()
        assert trio.current_time() - begun < 2


async def test_entering_is_left_by_cancellation_at_once_where_a_client_finishes_the_create() -> None:
    async with (
        open_emulator(H2o, faults=[Fault(on="create", delay=2)]) as emulator,
        trioprov.open_client() as client,
    ):
        begun = trio.current_time()
        held: list[BaseException] = []  # and with it whatever the frames of the entering hold
        with trio.move_on_after(0.2):
            try:
                async with trioprov.open_session(emulator.provider, client=client):
                    raise AssertionError
            except trio.Cancelled as exc:
                held.append(exc)
                raise
        assert trio.current_time() - begun < 1.5
        with trio.fail_after(10):
            while client.tenants:
                await trio.sleep(0.01)
        assert_no_orphans(emulator)
        held.clear()
