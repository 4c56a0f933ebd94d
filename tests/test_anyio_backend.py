"""The core inside an anyio application on anyio's trio backend."""

# pyright: reportPossiblyUnboundVariable=false

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import pytest
import trio

import trioprov
from trioprov import H2o, OpenAssistant
from trioprov.providers import Provider
from trioprov.testing import Fault, assert_no_orphans, open_emulator

QUESTION = "Why is the sky blue?"


async def on_anyio(main: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Run ``main`` under anyio's own runner, in a thread, as the tests themselves run on trio."""
    return await trio.to_thread.run_sync(partial(anyio.run, main, *args, backend="trio"))


async def test_a_session_lives_in_an_anyio_program(service: type[Provider]) -> None:
    async def main(provider: Provider) -> str:
        async with trioprov.open_session(provider) as session, session.ask(QUESTION) as reply:
            return "".join([token async for token in reply])

    async with open_emulator(service) as emulator:
        assert await on_anyio(main, emulator.provider)
        assert_no_orphans(emulator)


async def test_an_anyio_scope_that_cancels_leaves_nothing(service: type[Provider]) -> None:
    async def main(provider: Provider) -> None:
        for after in (0.01, 0.05, 0.1):
            with anyio.move_on_after(after) as scope:
                async with trioprov.open_session(provider) as session, session.ask(QUESTION) as reply:
                    await reply.wait()
            assert scope.cancelled_caught

    async with open_emulator(service, token_delay=0.01) as emulator:
        await on_anyio(main, emulator.provider)
        assert_no_orphans(emulator)
        assert emulator.worker_crashes == 0


async def test_run_session_is_started_in_an_anyio_task_group(service: type[Provider]) -> None:
    async def main(provider: Provider) -> trioprov.Session:
        async with anyio.create_task_group() as group:
            session: trioprov.Session = await group.start(trioprov.run_session, provider)
            async with session.ask(QUESTION) as reply:
                assert (await reply.wait()).text
            session.close()
        return session

    async with open_emulator(service) as emulator:
        session = await on_anyio(main, emulator.provider)
        assert session.cleanup.outcome == "deleted"
        assert_no_orphans(emulator)


async def test_run_session_is_cleaned_up_when_the_task_group_is_cancelled(service: type[Provider]) -> None:
    async def main(provider: Provider) -> None:
        async with trioprov.open_client() as client, anyio.create_task_group() as group:
            session: trioprov.Session = await group.start(partial(trioprov.run_session, provider, client=client))
            async with session.ask(QUESTION) as reply:
                async for _ in reply:
                    group.cancel_scope.cancel()
                    break

    async with open_emulator(service, token_delay=0.005) as emulator:
        await on_anyio(main, emulator.provider)
        assert_no_orphans(emulator)
        assert emulator.worker_crashes == 0


@pytest.mark.parametrize("cls", [H2o, OpenAssistant])
async def test_a_failed_create_is_raised_bare_from_the_task_groups_start(cls: type[Provider]) -> None:
    async def main(provider: Provider) -> None:
        async with anyio.create_task_group() as group:
            with pytest.raises(trioprov.Overloaded):
                await group.start(trioprov.run_session, provider)

    async with open_emulator(cls, faults=[Fault(on="create", status=503, times=2)]) as emulator:
        await on_anyio(main, emulator.provider)
        assert_no_orphans(emulator)


async def test_a_program_that_ends_with_a_session_open_leaves_nothing(service: type[Provider]) -> None:
    handles: list[Any] = []

    async def main(provider: Provider) -> None:
        session = await trioprov.open_session(provider).__aenter__()
        reply = await session.ask(QUESTION).__aenter__()
        await anext(aiter(reply))
        handles.extend((session, reply))

    async with open_emulator(service, token_delay=0.005) as emulator:
        await on_anyio(main, emulator.provider)
        assert_no_orphans(emulator)
    handles.clear()
