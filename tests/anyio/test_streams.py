"""Subscriptions are anyio's streams: their order, their errors, and how they hold a stream back."""

from __future__ import annotations

import asyncio
import gc
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import ObjectReceiveStream

import trioprov.anyio as trioprov
from trioprov.anyio import Event, Finish, Lagged

if TYPE_CHECKING:
    from .conftest import Emulated, Run

QUESTION = "Why is the sky blue?"
LONG = [f"{number} " for number in range(1000)]


def test_misuse_raises_anyios_own_errors(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        async with trioprov.open_session(emulator.provider) as session, session.ask(QUESTION) as reply:
            with pytest.raises(anyio.BusyResourceError, match="another reply of this session is open"):
                async with session.ask(QUESTION):
                    pass
            events = reply.subscribe(replay=False)
            assert isinstance(events, ObjectReceiveStream)
            with pytest.raises(anyio.WouldBlock):
                events.receive_nowait()
            await reply.wait()
            assert [event async for event in events][-1] == reply.finish
            with pytest.raises(anyio.EndOfStream):
                await events.receive()
            with pytest.raises(anyio.EndOfStream):
                events.receive_nowait()
            await events.aclose()
            with pytest.raises(anyio.ClosedResourceError):
                await events.receive()
            with pytest.raises(anyio.ClosedResourceError):
                events.receive_nowait()
        with pytest.raises(anyio.ClosedResourceError):
            async with session.ask(QUESTION):
                pass
        async with trioprov.open_client() as client:
            pass
        with pytest.raises(anyio.ClosedResourceError):
            async with trioprov.open_session(emulator.provider, client=client):
                pass

    with emulated(first_delay=0.05) as emulator:
        run(main)


def test_every_subscriber_gets_every_event_in_order(run: Run, emulated: Emulated) -> None:
    async def read(reply: trioprov.Reply, buffer: float, into: list[list[Event]]) -> None:
        with reply.subscribe(buffer=buffer) as events:
            into.append([event async for event in events])

    async def main() -> None:
        read_by: list[list[Event]] = []
        async with trioprov.open_session(emulator.provider) as session, session.ask(QUESTION) as reply:
            async with anyio.create_task_group() as group:
                for buffer in (0, 1, 2, 3, 256, math.inf):
                    group.start_soon(read, reply, buffer, read_by)
                await anyio.sleep(0.05)
                group.start_soon(read, reply, 1, read_by)
            await read(reply, 1, read_by)
        assert len(read_by) == 8
        for events in read_by:
            assert events == [*LONG, reply.finish]

    with emulated(tokens=LONG) as emulator:
        run(main)


def test_several_tasks_share_one_subscription(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        taken: list[Event] = []

        async def worker(events: trioprov.Subscription[Event]) -> None:
            async for event in events:
                taken.append(event)
                await anyio.lowlevel.checkpoint()

        async with trioprov.open_session(emulator.provider) as session, session.ask(QUESTION) as reply:
            events = reply.subscribe(buffer=2)
            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(worker, events)
        assert sorted(map(str, taken)) == sorted(map(str, [*LONG, reply.finish]))

    with emulated(tokens=LONG) as emulator:
        run(main)


def test_a_reader_that_does_not_read_holds_the_stream_back(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        async with trioprov.open_session(emulator.provider) as session, session.ask(QUESTION) as reply:
            with reply.subscribe(buffer=10) as slow:
                await started(reply)
                await settled(reply)
                assert len(reply.text.split()) == 10
                assert slow.statistics().current_buffer_used == 10
                assert slow.statistics().tasks_waiting_send == 1
                for number in range(8):
                    assert await slow.receive() == LONG[number]
                    if number in (0, 1, 7):  # one free place is room enough
                        await settled(reply)
                        assert len(reply.text.split()) == 10 + number + 1
                with anyio.move_on_after(0.02):
                    await reply.wait()
                assert reply.finish is None
            assert (await reply.wait()).text == "".join(LONG)

    with emulated(first_delay=0.1, tokens=LONG) as emulator:
        run(main)


def test_readers_at_a_distance_that_the_buffer_allows_keep_going(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        async with trioprov.open_session(emulator.provider) as session, session.ask(QUESTION) as reply:
            ahead, behind = reply.subscribe(), reply.subscribe(buffer=4)
            for number in range(4):
                assert await ahead.receive() == LONG[number]
            for number in range(4, len(LONG)):
                assert await behind.receive() == LONG[number - 4]
                assert await ahead.receive() == LONG[number]

    with emulated(first_delay=0.1, tokens=LONG) as emulator:
        run(main)


def test_a_reader_that_falls_behind_is_told_or_detached(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        async with trioprov.open_session(emulator.provider) as session, session.ask(QUESTION) as reply:
            dropping = reply.subscribe(buffer=5, when_full="drop_oldest", replay=False)
            detached = reply.subscribe(buffer=5, when_full="detach", replay=False)
            await reply.wait()
            assert [event async for event in dropping] == [Lagged(len(LONG) - 5), *LONG[-5:], reply.finish]
            read = [event async for event in detached]
            assert read[:5] == LONG[:5]
            assert isinstance(read[-1], Lagged)
            assert len(read) == 6
            assert detached.statistics().open_receive_streams == 0

    with emulated(first_delay=0.05, tokens=LONG) as emulator:
        run(main)


def test_a_subscription_nobody_refers_to_holds_nothing_back(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        async with trioprov.open_session(emulator.provider) as session, session.ask(QUESTION) as reply:
            events = reply.subscribe(buffer=3)
            await events.receive()
            await settled(reply)
            del events
            gc.collect()
            await reply.wait()

    with emulated(tokens=LONG) as emulator:
        run(main)


def test_tokens_are_shared_among_workers_by_an_ordinary_stream(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        async with trioprov.open_session(emulator.provider) as session, session.ask(QUESTION) as reply:
            send, receive = anyio.create_memory_object_stream[Event](4)
            taken: list[Event] = []

            async def worker(clone: ObjectReceiveStream[Event]) -> None:
                async with clone:
                    async for event in clone:
                        taken.append(event)

            async with anyio.create_task_group() as group:
                group.start_soon(reply.forward, send)
                for _ in range(3):
                    group.start_soon(worker, receive.clone())
                receive.close()
            assert sorted(map(str, taken)) == sorted(map(str, [*LONG, reply.finish]))

            send, receive = anyio.create_memory_object_stream[Event](4)
            receive.close()
            await reply.forward(send)  # nobody receives

    with emulated(tokens=LONG) as emulator:
        run(main)


def test_stopping_ends_the_reply_with_what_there_is(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        async with trioprov.open_session(emulator.provider) as session:
            async with session.ask(QUESTION) as reply:
                async for token in reply:
                    reply.stop()
                    assert token in reply.text
                assert (await reply.wait()).finish_reason == "interrupted"
                with reply.subscribe(replay=False) as after:
                    assert [event async for event in after] == [Finish("interrupted")]
            async with session.ask(QUESTION) as reply:
                session.close()
                assert (await reply.wait()).finish_reason == "interrupted"

    with emulated(token_delay=0.005) as emulator:
        run(main)


def test_a_reader_is_never_far_from_a_cancellation(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        async with trioprov.open_session(emulator.provider) as session, session.ask(QUESTION) as reply:
            await reply.wait()
            for readable in (reply, reply.subscribe()):
                seen = 0
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    async for _ in readable:
                        seen += 1
                assert seen <= 64

    with emulated(tokens=LONG) as emulator:
        run(main)


def test_waiting_for_what_is_there_already_is_a_checkpoint(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        async with trioprov.fan_out(QUESTION, [emulator.provider]) as fan:
            await fan.wait()
            for wait in (fan.lanes[0].reply.wait, fan.wait):
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await wait()
                assert scope.cancelled_caught

    with emulated() as emulator:
        run(main)


def test_what_was_read_can_be_read_again_when_all_is_over(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        async with trioprov.open_session(emulator.provider) as session, session.ask(QUESTION) as reply:
            await reply.wait()
        assert [token async for token in reply] == LONG
        assert (await reply.wait()).text == "".join(LONG)
        with reply.subscribe() as events:
            assert events.receive_nowait() == LONG[0]
        reply.stop()
        session.close()

    with emulated(tokens=LONG) as emulator:
        run(main)


def test_many_streams_are_read_while_the_loop_is_kept_busy(run_asyncio: Run, emulated: Emulated) -> None:
    async def main() -> None:
        async with trioprov.open_client() as client:
            fan_out = trioprov.fan_out(QUESTION, [emulator.provider] * 50, client=client)
            async with fan_out as fan:

                async def read(reply: trioprov.Reply) -> None:
                    assert "".join([token async for token in reply]) == "".join(LONG[:100])

                async with asyncio.TaskGroup() as group:
                    for lane in fan.lanes:
                        group.create_task(read(lane.reply))

    with emulated(tokens=LONG[:100], token_delay=0.001) as emulator:
        run_asyncio(main)


def test_a_stream_of_another_loop_is_refused_to_whoever_would_wait_and_goes_on(
    run_asyncio: Run, emulated: Emulated
) -> None:
    async def main() -> None:
        async with trioprov.open_client() as client, trioprov.open_reply(QUESTION, provider, client=client) as reply:
            events = reply.subscribe()

            async def wait() -> None:
                with pytest.raises(RuntimeError, match="another event loop"):
                    await events.receive()
                with pytest.raises(RuntimeError, match="another event loop"):
                    await anext(aiter(reply))

            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, run_asyncio, wait)
            await loop.run_in_executor(None, partial(anyio.run, wait, backend="trio"))
            assert "".join([token async for token in reply]) == "".join(LONG[:5])

    with emulated(tokens=LONG[:5], first_delay=0.5) as emulator:
        provider = emulator.provider
        run_asyncio(main)


async def started(reply: Any) -> None:
    """Something has arrived."""
    while not reply.text:
        await anyio.sleep(0.01)


async def settled(reply: Any) -> None:
    """Nothing has arrived for a while."""
    before, text = None, ""
    while text != before:
        before = text
        await anyio.sleep(0.05)
        text = reply.text
