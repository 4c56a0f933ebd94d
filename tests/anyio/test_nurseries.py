"""Sessions in nurseries and task groups of others, and a client in an application's lifespan."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trio

import trioprov.anyio as trioprov
from trioprov.testing import Fault, assert_no_orphans

if TYPE_CHECKING:
    from .conftest import Emulated, Run

QUESTION = "Why is the sky blue?"


def test_run_session_is_started_in_an_anyio_task_group(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        async with trioprov.open_client() as client, anyio.create_task_group() as group:
            for given in (client, None):
                session = await group.start(partial(trioprov.run_session, emulator.provider, client=given))
                assert isinstance(session, trioprov.Session)
                async with session.ask(QUESTION) as reply:
                    assert (await reply.wait()).text
                await session.aclose()
                assert session.cleanup is not None
                assert session.cleanup.outcome == "deleted"

    with emulated() as emulator:
        run(main)


def test_run_session_is_started_in_a_trio_nursery(emulated: Emulated) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            session = await nursery.start(trioprov.run_session, emulator.provider)
            async with session.ask(QUESTION) as reply:
                assert (await reply.wait()).text
            nursery.cancel_scope.cancel()
        assert_no_orphans(emulator)

    with emulated() as emulator:
        trio.run(main)


def test_run_session_is_a_task_of_asyncios_own_group(run_asyncio: Run, emulated: Emulated) -> None:
    async def main() -> None:
        async def cancel() -> None:
            while not emulator.conversations:
                await asyncio.sleep(0.01)
            task.cancel()

        async with asyncio.TaskGroup() as group:
            task = group.create_task(trioprov.run_session(emulator.provider))
            group.create_task(cancel())
        assert_no_orphans(emulator)

    with emulated(faults=[Fault(on="create", delay_response=0.2)]) as emulator:
        run_asyncio(main)


def test_a_cancelled_group_ends_its_sessions_and_waits_for_their_cleanups(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        async with trioprov.open_client() as client:
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    session = await group.start(partial(trioprov.run_session, emulator.provider, client=client))
                    asking = session.ask(QUESTION)
                    await anext(aiter(await asking.__aenter__()))
                group.cancel_scope.cancel()
            assert_no_orphans(emulator)

    with emulated(token_delay=0.005, faults=[Fault(on="delete", delay=0.1)]) as emulator:
        run(main)


def test_a_failed_create_is_raised_bare_from_the_groups_start(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as group:
            with pytest.raises(trioprov.Overloaded):
                await group.start(trioprov.run_session, emulator.provider)

    with emulated(faults=[Fault(on="create", status=503, times=2)]) as emulator:
        run(main)


def test_a_start_that_is_cancelled_leaves_nothing(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        for after in (0.005, 0.02, 0.05):
            async with anyio.create_task_group() as group:
                with anyio.move_on_after(after):
                    await group.start(trioprov.run_session, emulator.provider)
                group.cancel_scope.cancel()
            assert_no_orphans(emulator)

    with emulated(faults=[Fault(on="create", delay_response=0.1, times=3)]) as emulator:
        run(main)


def test_a_started_session_nobody_refers_to_ends_its_task(emulated: Emulated) -> None:
    async def main() -> None:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                await nursery.start(trioprov.run_session, emulator.provider)
                await trio.sleep(0.01)
                gc.collect()

    with emulated() as emulator:
        trio.run(main)


def test_a_client_lives_in_an_applications_lifespan(run: Run, emulated: Emulated) -> None:
    state: dict[str, trioprov.Client] = {}

    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[None, None]:
        async with trioprov.open_client() as client:
            state["client"] = client
            yield

    async def handle(question: str) -> str:
        async with trioprov.open_reply(question, emulator.provider, client=state["client"]) as reply:
            return "".join([token async for token in reply])

    async def serve(started: anyio.Event, ended: anyio.Event) -> None:
        """A server's: the lifespan is a task of its own."""
        async with lifespan():
            started.set()
            await ended.wait()

    async def main() -> None:
        started, ended = anyio.Event(), anyio.Event()
        answers: list[Any] = []

        async def request(number: int) -> None:
            with anyio.move_on_after(0.02 if number % 3 == 0 else 5):  # some go away
                answers.append(await handle(QUESTION))

        async with anyio.create_task_group() as server:
            server.start_soon(serve, started, ended)
            await started.wait()
            async with anyio.create_task_group() as requests:
                for number in range(12):
                    requests.start_soon(request, number)
            ended.set()
        assert len(answers) == 8
        assert all(answers)
        assert_no_orphans(emulator)

    with emulated(token_delay=0.002) as emulator:
        run(main)
