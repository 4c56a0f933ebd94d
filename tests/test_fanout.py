"""One prompt, many providers: order, errors as values, and lanes that know nothing of each other."""

# What raises is the leaving of a block:
# ruff: noqa: PT012
# pyright: reportPossiblyUnboundVariable=false

from __future__ import annotations

import gc
import itertools
import math
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
import trio.testing

import trioprov
from trioprov import AllenAI, Deadlines, Finish, H2o, OpenAssistant
from trioprov.providers import Provider
from trioprov.testing import Emulator, Fault, assert_no_orphans, open_emulator

QUESTION = "Why is the sky blue?"
CREATE = {"h2o": "create", "openassistant": "create", "allenai": "stream"}
STREAM = {"h2o": "generate", "openassistant": "events", "allenai": "stream"}
CLASSES: tuple[type[Provider], ...] = (H2o, OpenAssistant, AllenAI)


class Emulators:
    """One emulator of each service."""

    def __init__(self, **script: Any) -> None:
        self._script = script
        self._stack = AsyncExitStack()
        self.all: list[Emulator[Any]] = []

    @property
    def providers(self) -> list[Provider]:
        return [emulator.provider for emulator in self.all]

    async def __aenter__(self) -> Emulators:
        for cls in CLASSES:
            self.all.append(await self._stack.enter_async_context(open_emulator(cls, **self._script)))
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self._stack.__aexit__(*exc_info)


def names(found: list[trioprov.Answer]) -> list[str]:
    return [answer.provider.name for answer in found]


# -- ask and open_reply -----------------------------------------------------------------------------------------------


async def test_ask_is_an_answer_with_its_cleanup(service: type[Provider]) -> None:
    async with open_emulator(service) as emulator:
        answer = await trioprov.ask(QUESTION, emulator.provider, temperature=0.5)
        assert answer.provider == emulator.provider
        assert answer.text
        assert answer.error is None
        assert answer.cleanup == trioprov.CleanupReport(outcome="deleted", attempts=1)
        assert answer.conversation is not None
        assert answer.conversation.id
        assert answer.time_to_first_token is not None
        assert 0 < answer.time_to_first_token <= answer.duration
        assert_no_orphans(emulator)


async def test_ask_raises_a_failure_bare_and_a_wrong_value_before_anything_is_sent(service: type[Provider]) -> None:
    async with open_emulator(service, faults=[Fault(on=STREAM[service.name], end_after=3)]) as emulator:
        with pytest.raises((TypeError, ValueError)):
            await trioprov.ask(QUESTION, emulator.provider, temperature="hot")
        with pytest.raises(ValueError, match="empty"):
            await trioprov.ask([], emulator.provider)
        assert emulator.requests == ()
        with pytest.raises(trioprov.IncompleteReply) as caught:
            await trioprov.ask(QUESTION, emulator.provider)
        assert caught.value.partial
        assert_no_orphans(emulator)


async def test_the_clock_of_ask_covers_the_create(service: type[Provider]) -> None:
    async with open_emulator(service, faults=[Fault(on=CREATE[service.name], delay=0.6)]) as emulator:
        with pytest.raises(trioprov.FirstTokenTimeout):
            await trioprov.ask(QUESTION, emulator.provider, deadlines=Deadlines(first_token=0.2))
        assert_no_orphans(emulator)


async def test_open_reply_enters_without_waiting_for_the_service(service: type[Provider]) -> None:
    async with open_emulator(service, faults=[Fault(on=CREATE[service.name], delay=1.0)]) as emulator:
        begun = trio.current_time()
        async with trioprov.open_reply(QUESTION, emulator.provider) as reply:
            assert trio.current_time() - begun < 0.8
            assert (await reply.wait()).text
            assert reply.provider == emulator.provider
        assert reply.session.cleanup is not None
        assert reply.session.cleanup.outcome == "deleted"
        assert_no_orphans(emulator)


async def test_leaving_open_reply_at_once_leaves_nothing(service: type[Provider]) -> None:
    async with open_emulator(service, token_delay=0.001) as emulator:
        async with trioprov.open_reply(QUESTION, emulator.provider) as reply:
            pass
        assert reply.finish == Finish("interrupted")
        assert_no_orphans(emulator)


async def test_a_reply_that_is_open_takes_no_other_question_and_keeps_its_deadlines(service: type[Provider]) -> None:
    async with open_emulator(service, first_delay=1.0) as emulator:
        deadlines = Deadlines(first_token=0.3)
        with trio.fail_after(10):
            async with trioprov.open_reply(QUESTION, emulator.provider, deadlines=deadlines) as reply:
                with pytest.raises(trio.BusyResourceError):
                    async with reply.session.ask("And at night?"):
                        raise AssertionError
                with pytest.raises(trioprov.FirstTokenTimeout):
                    await reply.wait()
        assert_no_orphans(emulator)


async def test_after_a_reply_that_was_stopped_before_it_began_the_session_can_be_asked(service: type[Provider]) -> None:
    async with open_emulator(service) as emulator:
        async with trioprov.open_reply(QUESTION, emulator.provider) as reply:
            reply.stop()
            await trio.testing.wait_all_tasks_blocked()
            async with reply.session.ask("And at night?") as second:
                assert (await second.wait()).finish_reason == "stop"
        assert_no_orphans(emulator)


async def test_a_dropped_reply_is_collected(service: type[Provider]) -> None:
    async with open_emulator(service, token_delay=0.01) as emulator:
        reply = await trioprov.open_reply(QUESTION, emulator.provider).__aenter__()
        async for _ in reply:
            break
        del reply
        gc.collect()
        with trio.fail_after(10):
            while emulator.conversations:  # noqa: ASYNC110 - it happens in an emulator's thread
                await trio.sleep(0.01)


# -- gather -----------------------------------------------------------------------------------------------------------


async def test_gather_answers_in_the_order_given() -> None:
    async with Emulators() as emulators:
        for providers in (emulators.providers, emulators.providers[::-1]):
            answers = await trioprov.gather(QUESTION, providers)
            assert names(answers) == [provider.name for provider in providers]
            assert all(answer.text and answer.error is None for answer in answers)
            assert all(answer.cleanup and answer.cleanup.outcome == "deleted" for answer in answers)
        assert_no_orphans(emulators.all)


async def test_gather_of_nobody_is_empty() -> None:
    assert await trioprov.gather(QUESTION, []) == []
    async with trioprov.fan_out(QUESTION, []) as fan:
        assert fan.lanes == ()
        assert await fan.wait() == []
        assert [pair async for pair in fan] == []


async def test_entering_and_waiting_are_checkpoints_also_where_there_is_nothing_to_wait_for() -> None:
    async with trioprov.fan_out(QUESTION, []) as fan:
        with trio.testing.assert_checkpoints():
            await fan.wait()
    for opened in (trioprov.fan_out(QUESTION, []), trioprov.open_reply(QUESTION, H2o())):
        with trio.CancelScope() as scope:
            scope.cancel()
            async with opened:
                raise AssertionError
        assert scope.cancelled_caught


async def test_providers_may_be_any_iterable_and_the_same_one_twice() -> None:
    async with open_emulator(AllenAI) as emulator:
        answers = await trioprov.gather(QUESTION, (emulator.provider for _ in range(3)))
        assert len(answers) == 3
        assert len({answer.text for answer in answers}) == 1
        assert len({answer.conversation.id for answer in answers if answer.conversation}) == 3
        assert_no_orphans(emulator)


async def test_errors_are_values_and_stop_nobody() -> None:
    async with Emulators() as emulators:
        for dying in emulators.all:
            dying.add_fault(Fault(on=STREAM[dying.name], end_after=3))
            answers = await trioprov.gather(QUESTION, emulators.providers)
            for answer in answers:
                if answer.provider == dying.provider:
                    assert isinstance(answer.error, trioprov.IncompleteReply)
                    assert answer.finish_reason == "error"
                    assert answer.text
                else:
                    assert answer.error is None
                    assert answer.text
        assert_no_orphans(emulators.all)


async def test_an_open_that_fails_is_that_lanes_error() -> None:
    async with Emulators() as emulators:
        nobody: list[Provider] = [H2o(base_url="http://127.0.0.1:9"), OpenAssistant(base_url="http://127.0.0.1:9")]
        providers = [*emulators.providers, *nobody]
        answers = await trioprov.gather(QUESTION, providers)
        assert [answer.error is None for answer in answers] == [True, True, True, False, False]
        assert isinstance(answers[3].error, trioprov.ConnectionFailed)
        assert isinstance(answers[4].error, trioprov.AuthenticationError)
        assert all(answer.cleanup and answer.cleanup.outcome == "nothing_owed" for answer in answers[3:])
        assert_no_orphans(emulators.all)


async def test_a_value_that_one_provider_refuses_is_that_lanes_error() -> None:
    async with Emulators() as emulators:
        answers = await trioprov.gather(QUESTION, emulators.providers, stop=["never"])
        h2o, open_assistant, allenai = answers
        assert h2o.error is None
        assert allenai.error is None
        assert isinstance(open_assistant.error, (TypeError, ValueError))
        assert open_assistant.cleanup is not None
        assert open_assistant.cleanup.outcome == "nothing_owed"
        assert emulators.all[1].requests == ()
        answers = await trioprov.gather(QUESTION, emulators.providers, temperature=1.5)
        assert [isinstance(answer.error, ValueError) for answer in answers] == [False, False, True]
        assert_no_orphans(emulators.all)


async def test_what_nobody_can_send_is_raised_and_nothing_is_sent() -> None:
    async with Emulators() as emulators:
        wrong: list[Any] = ["", [], 7, [{"role": "user"}]]
        for messages in wrong[1:]:
            with pytest.raises((TypeError, ValueError)):
                await trioprov.gather(messages, emulators.providers)
        for options in ({"max_concurrent": 0}, {"max_concurrent": 1.5}, {"max_concurrent": True}):
            with pytest.raises((TypeError, ValueError), match="max_concurrent"):
                await trioprov.gather(QUESTION, emulators.providers, **options)  # pyright: ignore
        with pytest.raises(ValueError, match="on_error"):
            trioprov.fan_out(QUESTION, emulators.providers, on_error="stop")  # pyright: ignore[reportArgumentType]
        for deadlines in (30, 0, {"total": 30}):
            with pytest.raises(TypeError, match="deadlines"):
                await trioprov.gather(QUESTION, emulators.providers, deadlines=deadlines)  # pyright: ignore
        with pytest.raises(TypeError):
            await trioprov.gather(QUESTION, ["h2o"])  # pyright: ignore[reportArgumentType]
        assert all(emulator.requests == () for emulator in emulators.all)


async def test_a_prompt_in_which_there_is_nothing_opens_no_conversation() -> None:
    async with open_emulator(H2o) as emulator:
        with pytest.raises(ValueError, match="empty"):
            trioprov.open_reply(" ", emulator.provider)
        (answer,) = await trioprov.gather(" ", [emulator.provider])
        assert isinstance(answer.error, ValueError)
        assert emulator.requests == ()


async def test_a_lane_that_hangs_delays_only_itself() -> None:
    async with Emulators() as emulators:
        hanging = emulators.all[0]
        hanging.add_fault(Fault(on="generate", stall_after=2))
        async with trioprov.fan_out(QUESTION, emulators.providers, deadlines=Deadlines(idle=2.0)) as fan:
            with trio.fail_after(1.8):
                await fan.lanes[1].reply.wait()
                await fan.lanes[2].reply.wait()
            assert fan.lanes[0].reply.finish is None
            answers = await fan.wait()
        assert isinstance(answers[0].error, trioprov.IdleTimeout)
        assert answers[0].text
        assert fan.lanes[0].error is not None
        assert fan.lanes[1].error is None
        assert_no_orphans(emulators.all)


async def test_max_concurrent_limits_how_many_answer_at_once() -> None:
    async with open_emulator(AllenAI, first_delay=0.05, token_delay=0.001) as emulator:
        most = 0
        async with trioprov.fan_out(QUESTION, [emulator.provider] * 6, max_concurrent=2) as fan:
            async for _ in fan:
                most = max(most, len(emulator.generating))
            answers = await fan.wait()
        assert most == 2
        assert all(answer.text and answer.error is None for answer in answers)
        assert_no_orphans(emulator)


async def test_the_clock_of_a_lane_stands_still_while_it_waits_for_its_turn(service: type[Provider]) -> None:
    async with open_emulator(service, first_delay=0.4) as emulator:
        answers = await trioprov.gather(
            QUESTION,
            [emulator.provider] * 3,
            max_concurrent=1,
            deadlines=Deadlines(first_token=1.0, total=1.2),
        )
        assert [answer.error for answer in answers] == [None] * 3
        assert all(answer.duration < 1.2 for answer in answers)
        assert_no_orphans(emulator)


async def test_a_lane_that_had_to_wait_for_its_turn_can_be_late() -> None:
    async with open_emulator(H2o, first_delay=60) as emulator:
        with trio.fail_after(10):
            answers = await trioprov.gather(
                QUESTION, [emulator.provider] * 2, max_concurrent=1, deadlines=Deadlines(first_token=0.2)
            )
        assert [type(answer.error) for answer in answers] == [trioprov.FirstTokenTimeout] * 2
        assert_no_orphans(emulator)


async def test_lanes_that_wait_for_their_turn_can_be_closed_and_cancelled() -> None:
    async with open_emulator(AllenAI, forever=True, token_delay=0.005) as emulator:
        async with trioprov.fan_out(QUESTION, [emulator.provider] * 4, max_concurrent=1) as fan:
            with trio.fail_after(10):
                running, _ = await anext(aiter(fan))
                closed, stopped, last = (lane for lane in fan.lanes if lane is not running)
                closed.close()
                stopped.reply.stop()
                assert (await closed.reply.wait()).finish_reason == "interrupted"
                assert (await stopped.reply.wait()).finish_reason == "interrupted"
                running.close()
                async for _ in last.reply:
                    break
        assert len(emulator.requests) == 4  # two questions, two deletes
        assert all(lane.cleanup for lane in fan.lanes)
        assert_no_orphans(emulator)
        with trio.move_on_after(0.2):
            await trioprov.gather(QUESTION, [emulator.provider] * 4, max_concurrent=1)
        assert_no_orphans(emulator)


@pytest.mark.parametrize("with_client", [True, False])
async def test_cancelling_gather_in_the_middle_leaves_nothing(with_client: bool) -> None:
    async with Emulators(token_delay=0.005) as emulators:
        async with trioprov.open_client() as client:
            for after in (0.0, 0.01, 0.05, 0.12):
                with trio.move_on_after(after) as scope:
                    await trioprov.gather(QUESTION, emulators.providers, client=client if with_client else None)
                assert scope.cancelled_caught
        assert_no_orphans(emulators.all)


# -- fan_out ----------------------------------------------------------------------------------------------------------


async def test_the_merged_events_are_each_lanes_events_in_their_order() -> None:
    async with Emulators(token_delay=0.002) as emulators:
        async with trioprov.fan_out(QUESTION, emulators.providers) as fan:
            assert [lane.index for lane in fan.lanes] == [0, 1, 2]
            assert [lane.provider for lane in fan.lanes] == emulators.providers
            seen: list[list[Any]] = [[], [], []]
            order: list[int] = []
            async for lane, event in fan:
                assert fan.lanes[lane.index] is lane
                seen[lane.index].append(event)
                order.append(lane.index)
            answers = await fan.wait()
            again = [(lane.index, event) async for lane, event in fan]
        for lane, events in zip(fan.lanes, seen, strict=True):
            assert events == [event async for event in lane.reply.subscribe()]
            assert isinstance(events[-1], Finish)
            assert sum(isinstance(event, Finish) for event in events) == 1
            assert "".join(event for event in events if isinstance(event, str)) == answers[lane.index].text
        assert [index for index, _ in again] == order
        assert sum(one != other for one, other in itertools.pairwise(order)) > 3  # they are merged
        assert_no_orphans(emulators.all)


async def test_one_lanes_failure_is_its_finish() -> None:
    async with Emulators() as emulators:
        emulators.all[2].add_fault(Fault(on="stream", end_after=4))
        async with trioprov.fan_out(QUESTION, emulators.providers) as fan:
            ends = {lane.index: event async for lane, event in fan if isinstance(event, Finish)}
        assert ends[2].reason == "error"
        assert ends[2].error is fan.lanes[2].error
        assert isinstance(ends[2].error, trioprov.IncompleteReply)
        assert ends[0].error is ends[1].error is None
        assert_no_orphans(emulators.all)


@pytest.mark.parametrize("how", ["iterate", "wait", "leave"])
async def test_with_cancel_the_first_error_interrupts_the_others_and_comes_out_bare(how: str) -> None:
    async with Emulators(token_delay=0.02) as emulators:
        emulators.all[0].add_fault(Fault(on="generate", end_after=3))
        fan: trioprov.FanOut | None = None
        with pytest.raises(trioprov.IncompleteReply) as caught:
            async with trioprov.fan_out(QUESTION, emulators.providers, on_error="cancel") as fan:
                if how == "iterate":
                    async for _ in fan:
                        pass
                elif how == "wait":
                    await fan.wait()
                else:
                    with pytest.raises(trioprov.IncompleteReply):
                        await fan.lanes[0].reply.wait()
        assert fan is not None
        assert caught.value.partial == fan.lanes[0].reply.text
        reasons = [lane.reply.finish.reason for lane in fan.lanes if lane.reply.finish]
        assert reasons == ["error", "interrupted", "interrupted"]
        assert [lane.error is None for lane in fan.lanes] == [False, True, True]
        assert_no_orphans(emulators.all)
        assert emulators.all[1].worker_crashes == 0


async def test_with_cancel_a_refused_value_is_the_first_error_and_nobody_is_asked() -> None:
    async with Emulators() as emulators:
        providers = [emulators.providers[1], emulators.providers[0], emulators.providers[2]]
        with pytest.raises((TypeError, ValueError)):
            async with trioprov.fan_out(QUESTION, providers, on_error="cancel", stop=["x"]) as fan:
                await fan.wait()
        assert_no_orphans(emulators.all)


async def test_with_cancel_a_loop_and_every_wait_raise_the_error_and_then_leaving_does_not() -> None:
    async with Emulators() as emulators:
        emulators.all[0].add_fault(Fault(on="generate", end_after=3))
        async with trioprov.fan_out(QUESTION, emulators.providers, on_error="cancel") as fan:
            with pytest.raises(trioprov.IncompleteReply):
                async for _ in fan:
                    pass
            for _ in range(2):
                with pytest.raises(trioprov.IncompleteReply):
                    await fan.wait()
        assert_no_orphans(emulators.all)


@pytest.mark.parametrize("told", [True, False])
async def test_an_exception_of_the_body_is_stronger_than_a_lanes_and_bare(told: bool) -> None:
    async with Emulators() as emulators:
        emulators.all[0].add_fault(Fault(on="generate", end_after=3))
        with pytest.raises(KeyError):
            async with trioprov.fan_out(QUESTION, emulators.providers, on_error="cancel") as fan:
                await fan.lanes[0].wait()
                if told:
                    with pytest.raises(trioprov.IncompleteReply):
                        await fan.wait()
                raise KeyError
        assert_no_orphans(emulators.all)


async def test_leaving_the_merged_loop_leaves_the_lanes_running() -> None:
    async with Emulators(token_delay=0.002) as emulators:
        async with trioprov.fan_out(QUESTION, emulators.providers) as fan:
            async for _ in fan:
                break
            with trio.fail_after(10):
                answers = await fan.wait()
        assert all(answer.finish_reason in ("stop", "length") for answer in answers)
        assert_no_orphans(emulators.all)


MANY: dict[str, Any] = {"tokens": ["word "] * 900}


async def test_a_merged_iterator_that_is_dropped_holds_nobody_back() -> None:
    async with open_emulator(AllenAI, **MANY) as emulator:
        async with trioprov.fan_out(QUESTION, [emulator.provider] * 2) as fan:
            merged = aiter(fan)
            await anext(merged)
            with trio.move_on_after(0.3):
                await fan.wait()
            assert not all(lane.reply.finish for lane in fan.lanes)
            del merged
            gc.collect()
            with trio.fail_after(5):
                await fan.wait()
        assert_no_orphans(emulator)


async def test_a_slow_merged_reader_holds_all_lanes_back_and_wait_never_does() -> None:
    async with open_emulator(AllenAI, **MANY) as emulator:
        async with trioprov.fan_out(QUESTION, [emulator.provider] * 3) as fan:
            merged = aiter(fan)
            await anext(merged)
            await trio.sleep(0.3)
            assert sum(len(lane.reply.text) // 5 for lane in fan.lanes) <= 256 + 1
            count = 1
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fan.wait)
                with trio.fail_after(10):
                    async for _ in merged:
                        count += 1
            assert count == 3 * 901
        assert_no_orphans(emulator)


@pytest.mark.parametrize("cls", [H2o, OpenAssistant])
async def test_a_lane_that_is_held_back_can_be_stopped_and_asked_again(cls: type[Provider]) -> None:
    """Also where the rest of an answer has to be read, though nobody wants it any more."""
    async with (
        open_emulator(cls, tokens=["x"] * 2000, token_delay=0) as emulator,
        open_emulator(H2o, first_delay=30) as slow,
        trioprov.fan_out(QUESTION, [emulator.provider, slow.provider]) as fan,
    ):
        lane = fan.lanes[0]
        events = aiter(fan)
        await anext(events)
        with trio.fail_after(10):
            before = -1
            while before < lane.tokens:
                before = lane.tokens
                await trio.sleep(0.2)
            assert lane.reply.finish is None
            lane.reply.stop()
            async with lane.reply.session.ask("And at night?") as reply:
                async for _ in reply:
                    break


async def test_without_a_reader_nobody_is_held_back() -> None:
    async with open_emulator(AllenAI, **MANY) as emulator:
        async with trioprov.fan_out(QUESTION, [emulator.provider] * 3) as fan:
            with trio.fail_after(5):
                answers = await fan.wait()
        assert all(len(answer.text) == 900 * 5 for answer in answers)


async def test_a_slow_subscriber_of_a_lane_holds_back_only_that_lane() -> None:
    async with open_emulator(AllenAI, **MANY) as emulator:
        async with trioprov.fan_out(QUESTION, [emulator.provider] * 2) as fan:
            slow = fan.lanes[0].reply.subscribe(buffer=10)
            with trio.fail_after(5):
                assert len((await fan.lanes[1].reply.wait()).text) == 4500
            await trio.sleep(0.1)
            assert fan.lanes[0].reply.finish is None
            assert len(fan.lanes[0].reply.text) <= 11 * 5
            slow.close()
            with trio.fail_after(5):
                await fan.wait()
        assert_no_orphans(emulator)


@pytest.mark.parametrize("first", ["lane", "merged"])
async def test_two_slow_readers_that_wake_one_after_the_other_do_not_lock_each_other(first: str) -> None:
    async with open_emulator(AllenAI, **MANY) as emulator:
        async with trioprov.fan_out(QUESTION, [emulator.provider]) as fan:
            lane, merged = fan.lanes[0].reply.subscribe(), aiter(fan)
            await trio.sleep(0.3)
            counts = {"lane": 0, "merged": 0}

            async def read(name: str) -> None:
                async for _ in lane if name == "lane" else merged:
                    counts[name] += 1

            with trio.fail_after(5):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(read, first)
                    await trio.sleep(0.2)
                    nursery.start_soon(read, "merged" if first == "lane" else "lane")
            assert counts == {"lane": 901, "merged": 901}
        assert_no_orphans(emulator)


async def test_closing_a_lane_interrupts_and_deletes_only_it() -> None:
    async with Emulators(token_delay=0.005) as emulators:
        async with trioprov.fan_out(QUESTION, emulators.providers) as fan:
            async for _ in fan.lanes[0].reply:
                fan.lanes[0].close()
                fan.lanes[0].close()
            answers = await fan.wait()
            assert [answer.finish_reason == "interrupted" for answer in answers] == [True, False, False]
            assert answers[0].error is None
            with trio.fail_after(5):
                while fan.lanes[0].cleanup is None:  # noqa: ASYNC110 - it happens in an emulator's thread
                    await trio.sleep(0.01)
            assert emulators.all[0].conversations == ()
            assert emulators.all[1].conversations
        assert all(lane.cleanup and lane.cleanup.outcome == "deleted" for lane in fan.lanes)
        assert_no_orphans(emulators.all)


@pytest.mark.parametrize("leave", ["raise", "cancel", "break"])
async def test_leaving_a_fan_out_in_the_middle_leaves_nothing(leave: str) -> None:
    async with Emulators(token_delay=0.005) as emulators:
        try:
            with trio.CancelScope() as scope:
                async with trioprov.fan_out(QUESTION, emulators.providers) as fan:
                    async for _ in fan:
                        if leave == "raise":
                            raise KeyError(leave)
                        if leave == "cancel":
                            scope.cancel()
                        else:
                            break
        except KeyError:
            pass
        assert_no_orphans(emulators.all)
        assert emulators.all[1].worker_crashes == 0


async def test_a_cancelled_fan_out_with_a_client_is_left_at_once() -> None:
    faults = [Fault(on="delete", delay_response=1.2, times=math.inf)]
    async with Emulators(token_delay=0.002, faults=faults) as emulators:
        async with trioprov.open_client() as client:
            begun = trio.current_time()
            with trio.CancelScope() as scope:
                async with trioprov.fan_out(QUESTION, emulators.providers, client=client) as fan:
                    async for _ in fan:
                        scope.cancel()
            assert trio.current_time() - begun < 1.0
        assert_no_orphans(emulators.all)


async def test_a_cancelled_reply_with_a_client_is_left_at_once() -> None:
    stubborn = Fault(on="delete", delay_response=1.5)
    async with (
        open_emulator(H2o, forever=True, token_delay=0.01, faults=[stubborn]) as emulator,
        trioprov.open_client() as client,
    ):
        begun = math.inf
        with trio.CancelScope() as scope:
            async with trioprov.open_reply(QUESTION, emulator.provider, client=client) as reply:
                async for _ in reply:
                    scope.cancel()
                    begun = trio.current_time()
        assert trio.current_time() - begun < 1
    assert_no_orphans(emulator)


async def merged_events(providers: list[Provider]) -> AsyncGenerator[Any]:
    async with trioprov.fan_out(QUESTION, providers) as fan:
        async for pair in fan:
            yield pair


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_a_generator_over_a_fan_out_that_is_abandoned_leaves_nothing() -> None:
    async with Emulators(token_delay=0.003) as emulators:
        generator = merged_events(emulators.providers)
        async for _ in generator:
            break
        del generator
        gc.collect()
        with trio.fail_after(10):
            while any(emulator.conversations for emulator in emulators.all):  # noqa: ASYNC110 - it happens in an emulator's thread
                await trio.sleep(0.01)


async def test_a_fan_out_that_is_dropped_is_collected() -> None:
    async with open_emulator(AllenAI, forever=True, token_delay=0.005) as emulator:
        fan = await trioprov.fan_out(QUESTION, [emulator.provider] * 2).__aenter__()
        async for pair in fan:
            del pair  # it holds its lane
            break
        del fan
        gc.collect()
        with trio.fail_after(5):
            while emulator.conversations or not emulator.requests:  # noqa: ASYNC110 - it happens in an emulator's thread
                await trio.sleep(0.01)


async def test_several_cleanups_that_fail_are_values_and_no_group() -> None:
    faults = [Fault(on="delete", status=500, times=math.inf)]
    async with Emulators(faults=faults) as emulators, trioprov.open_client(cleanup_timeout=0.3) as client:
        begun = trio.current_time()
        async with trioprov.fan_out(QUESTION, emulators.providers, client=client) as fan:
            await fan.wait()
        assert trio.current_time() - begun < 3
        assert [lane.cleanup.outcome for lane in fan.lanes if lane.cleanup] == ["owed"] * 3


async def test_a_lane_that_waits_for_its_turn_and_is_closed_is_over_at_once() -> None:
    async with (
        open_emulator(AllenAI, forever=True, token_delay=0.005) as emulator,
        trioprov.fan_out(QUESTION, [emulator.provider] * 2, max_concurrent=1) as fan,
    ):
        running, _ = await anext(aiter(fan))
        (waiting,) = (lane for lane in fan.lanes if lane is not running)
        waiting.close()
        with trio.fail_after(5):
            while waiting.cleanup is None:
                await trio.sleep(0.01)
        assert waiting.cleanup.outcome == "nothing_owed"
        assert running.reply.finish is None


async def test_a_lane_that_was_refused_is_not_waited_for() -> None:
    async with open_emulator(OpenAssistant) as emulator:
        begun = trio.current_time()
        (answer,) = await trioprov.gather(QUESTION, [emulator.provider], stop=["never"])
        assert trio.current_time() - begun < 5
        assert isinstance(answer.error, (TypeError, ValueError))
        async with trioprov.fan_out(QUESTION, [emulator.provider], stop=["never"]) as fan:
            with pytest.raises(trio.ClosedResourceError):  # nor can it be asked anything else
                await fan.lanes[0].reply.session.ask(QUESTION).__aenter__()


async def test_a_lane_that_is_closed_before_it_could_wait_for_its_turn_is_over_at_once() -> None:
    async with (
        open_emulator(AllenAI, forever=True, token_delay=0.005) as emulator,
        trioprov.fan_out(QUESTION, [emulator.provider] * 2, max_concurrent=1) as fan,
    ):
        begun = trio.current_time()
        fan.lanes[1].close()
        await fan.lanes[1].aclose()
        assert trio.current_time() - begun < 5
        assert fan.lanes[1].cleanup == trioprov.CleanupReport(outcome="nothing_owed")
        assert fan.lanes[0].reply.finish is None


async def test_a_reply_that_is_stopped_before_it_begins_opens_nothing(service: type[Provider]) -> None:
    async with open_emulator(service) as emulator:
        async with trioprov.open_reply(QUESTION, emulator.provider) as reply:
            reply.stop()
            await trio.sleep(0.2)
        assert emulator.requests == ()


async def one(provider: Provider, client: trioprov.Client, held: list[object]) -> None:
    async with trioprov.open_reply(QUESTION, provider, client=client) as reply:
        held.append(reply)
        async for _ in reply:
            pass


async def alone(provider: Provider, client: trioprov.Client, held: list[object]) -> None:
    async with trioprov.open_session(provider, client=client) as session:
        held.append(session)
        await trio.sleep_forever()


async def many(provider: Provider, client: trioprov.Client, held: list[object]) -> None:
    async with trioprov.fan_out(QUESTION, [provider] * 2, client=client) as fan:
        held.append(fan)
        async for _ in fan:
            pass


async def undecided(provider: Provider, client: trioprov.Client, held: list[object]) -> None:
    race = trioprov.race(QUESTION, [provider] * 2, client=client, until="finished")
    held.append(race)
    async with race:
        raise AssertionError


async def won(provider: Provider, client: trioprov.Client, held: list[object]) -> None:
    async with trioprov.race(QUESTION, [provider] * 2, client=client) as reply:
        held.append(reply)
        async for _ in reply:
            pass


@pytest.mark.parametrize("use", [alone, one, many, undecided, won])
async def test_what_is_left_by_cancellation_is_deleted_while_the_client_stays_open(use: Any) -> None:
    async with (
        open_emulator(H2o, forever=True, token_delay=0.01) as emulator,
        trioprov.open_client() as client,
    ):
        held: list[object] = []  # or they would be closed for being dropped
        with trio.move_on_after(0.5):
            await use(emulator.provider, client, held)
        with trio.fail_after(5):
            while client.tenants:
                await trio.sleep(0.01)
        assert_no_orphans(emulator)
