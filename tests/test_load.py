"""Many sessions at once: none is lost, and each costs what it would alone."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import pytest
import trio

import trioprov
from trioprov import Finish, H2o
from trioprov.providers import Provider
from trioprov.testing import assert_no_orphans, open_emulator


async def cancelled_at_once(sessions: int) -> float:
    """Open so many, cancel all in one instant; returns CPU seconds from then until all is settled."""
    started, begun = 0, 0.0
    async with open_emulator(H2o, tokens=["a"] * 100, token_delay=1.0) as emulator:

        async def one(client: trioprov.Client) -> None:
            nonlocal started
            async with (
                trioprov.open_session(emulator.provider, client=client) as session,
                session.ask("Why is the sky blue?") as reply,
            ):
                async for _ in reply:
                    started += 1
                    await trio.sleep_forever()

        # None is to be asked for twice, however long a busy machine takes for the first time.
        async with trioprov.open_client(cleanup_timeout=60) as client:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    for _ in range(sessions):
                        nursery.start_soon(one, client)
                    while started < sessions:
                        await trio.sleep(0.01)
                    begun = time.process_time()
                    scope.cancel()
        spent = time.process_time() - begun
        assert emulator.conversations == ()
        assert sum(request.step == "delete" for request in emulator.requests) == sessions
    return spent


async def test_a_thousand_sessions_cancelled_at_once_are_all_deleted_in_linear_time() -> None:
    few = await cancelled_at_once(100)
    many = await cancelled_at_once(1000)
    # Linear is 10; quadratic would be 100.
    assert many / few < 30


async def test_64_readers_of_10000_tokens_get_every_one_in_order(service: type[Provider]) -> None:
    count = 10_000 if service is H2o else 2_000
    tokens = [f"{n} " for n in range(count)]
    long: dict[str, Any] = {"max_total_tokens": 2 * count} if service is H2o else {}
    heard: list[list[trioprov.Event]] = []

    async def read(events: trioprov.Subscription[trioprov.Event], pause: int) -> None:
        mine: list[trioprov.Event] = []
        with events:
            async for event in events:
                mine.append(event)
                if pause and len(mine) % pause == 0:
                    await trio.sleep(0.001)
        heard.append(mine)

    async with open_emulator(service, tokens=tokens, **long) as emulator:
        async with (
            trioprov.open_session(emulator.provider) as session,
            session.ask("Count!", max_tokens=count) as reply,
            trio.open_nursery() as nursery,
        ):
            for reader in range(64):
                buffer = (64, 256, 1024, 4096)[reader % 4]
                nursery.start_soon(read, reply.subscribe(buffer=buffer), 500 * (reader % 3))
        assert_no_orphans(emulator)
    assert len(heard) == 64
    for mine in heard:
        assert isinstance(mine[-1], Finish)
        assert [event for event in mine if isinstance(event, str)] == tokens


async def test_memory_is_flat_while_one_reader_holds_an_endless_stream_back(service: type[Provider]) -> None:
    # The reader takes ten events and then none: what the server goes on sending has to stay on its side.
    async with open_emulator(service, tokens=["x" * 1000], forever=True) as emulator:
        async with (
            trioprov.open_client() as client,
            trioprov.open_reply("?", emulator.provider, client=client) as reply,
        ):
            with reply.subscribe(buffer=16) as events:
                for _ in range(10):
                    await events.receive()
                await trio.sleep(0.5)
                tracemalloc.start()
                try:
                    before, length = tracemalloc.get_traced_memory()[0], len(reply.text)
                    await trio.sleep(1.5)
                    assert tracemalloc.get_traced_memory()[0] - before < 1_000_000  # the server is in this process, too
                finally:
                    tracemalloc.stop()
                assert len(reply.text) == length < 40_000
                assert reply.finish is None
        assert_no_orphans(emulator)


async def test_an_endless_stream_that_nobody_reads_ends_at_its_limit() -> None:
    async with open_emulator(H2o, tokens=["x" * 1000], forever=True) as emulator:
        async with trioprov.open_client(max_reply_bytes=1_000_000) as client:
            with pytest.raises(trioprov.RemoteProtocolError, match="max_reply_bytes") as caught:
                await trioprov.ask("?", emulator.provider, client=client)
        assert len(caught.value.partial) == 1_000_000
        assert_no_orphans(emulator)
