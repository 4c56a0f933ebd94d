"""What crosses: calls, values, exceptions with their tracebacks, and the caller's context."""

# pyright: reportPossiblyUnboundVariable=false

from __future__ import annotations

import contextvars
import gc
import math
import threading
import traceback
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

import trioprov as core
import trioprov.anyio as trioprov
from trioprov.anyio import H2o
from trioprov.providers import Provider
from trioprov.testing import Fault, assert_no_orphans

if TYPE_CHECKING:
    from .conftest import Emulated, Run

QUESTION = "Why is the sky blue?"


def test_a_question_is_asked_and_the_conversation_is_gone(
    run: Run, service: type[Provider], emulated: Emulated
) -> None:
    async def main() -> None:
        async with trioprov.open_session(emulator.provider) as session:
            async with session.ask(QUESTION) as reply:
                tokens = [token async for token in reply]
                assert "".join(tokens) == reply.text == (await reply.wait()).text
            assert len(emulator.conversations) == 1
        assert session.cleanup is not None
        assert session.cleanup.outcome == "deleted"
        assert_no_orphans(emulator)

    with emulated(service) as emulator:
        run(main)


def test_every_way_of_asking_many_works(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        providers = [emulator.provider] * 3
        async with trioprov.open_client(max_connections=8) as client:
            async with trioprov.fan_out(QUESTION, providers, client=client) as fan:
                merged: list[list[Any]] = [[], [], []]
                async for lane, event in fan:
                    assert lane is fan.lanes[lane.index]
                    merged[lane.index].append(event)
                assert [answer.text for answer in await fan.wait()] == [lane.reply.text for lane in fan.lanes]
                for lane, events in zip(fan.lanes, merged, strict=True):
                    with lane.reply.subscribe() as again:
                        assert [event async for event in again] == events
            answers = await trioprov.gather(QUESTION, providers, client=client, max_concurrent=1)
            assert [answer.cleanup and answer.cleanup.outcome for answer in answers] == ["deleted"] * 3
            async with trioprov.open_reply(QUESTION, emulator.provider, client=client) as reply:
                assert (await reply.wait()).text == reply.text
            assert not client.closed
        assert client.closed
        assert (await trioprov.ask(QUESTION, emulator.provider)).text

    with emulated() as emulator:
        run(main)


def test_a_kept_conversation_is_continued_and_deleted(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        async with trioprov.open_session(emulator.provider) as session:
            async with session.ask(QUESTION) as reply:
                await reply.wait()
            saved = session.keep()
        with pytest.raises(anyio.ClosedResourceError):
            session.keep()
        async with trioprov.open_session(emulator.provider, conversation=saved) as session:
            session.keep()
            async with session.ask("And at night?") as reply:
                assert (await reply.wait()).text
        assert emulator.conversations == (saved.id,)
        report = await trioprov.delete_conversation(emulator.provider, saved)
        assert report.outcome == "deleted"

    with emulated() as emulator:
        run(main)


def test_a_journal_is_written_and_swept(run: Run, tmp_path: Path, emulated: Emulated) -> None:
    async def main() -> None:
        async with (
            trioprov.open_client(journal=tmp_path / "owed.db") as client,
            trioprov.open_session(emulator.provider, client=client) as session,
        ):
            assert client.journal is not None
            (entry,) = client.journal.entries()
            assert (entry.conversation_id, entry.alive) == (session.conversation.id, True)
        assert client.journal.entries() == []
        assert await trioprov.sweep(tmp_path / "owed.db") == trioprov.SweepReport()

    with emulated() as emulator:
        run(main)


def test_wrong_values_are_refused_on_entering(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="max_concurrent"):
            async with trioprov.fan_out(QUESTION, [emulator.provider], max_concurrent=0):
                pass
        with pytest.raises(TypeError):
            async with trioprov.open_reply(QUESTION, emulator.provider, stream=False):
                pass
        with pytest.raises(ValueError, match="not with h2o"):
            async with trioprov.open_session(emulator.provider, conversation={"provider": "allenai"}):
                pass
        with pytest.raises(ValueError, match="cleanup_timeout"):
            trioprov.open_client(cleanup_timeout=0)
        for wrong in (trioprov.open_client(), core.Client, 5):
            with pytest.raises(TypeError, match="client must be"):
                async with trioprov.open_session(emulator.provider, client=wrong):  # pyright: ignore[reportArgumentType]
                    pass
        with pytest.raises(TypeError, match="a provider is"):
            await trioprov.ask(QUESTION, H2o)  # pyright: ignore[reportArgumentType]
        async with trioprov.open_session(emulator.provider) as session:
            with pytest.raises(TypeError):
                session.ask(QUESTION, stream=True)
            with pytest.raises(TypeError):
                async with session.ask(QUESTION, deadlines=5):  # pyright: ignore[reportArgumentType]
                    pass
            async with session.ask(QUESTION) as reply:
                with pytest.raises(TypeError):
                    reply.subscribe(buffer=1.5)
                with pytest.raises(ValueError, match="when_full"):
                    reply.subscribe(when_full="explode")  # pyright: ignore[reportArgumentType]

    with emulated() as emulator:
        run(main)


def test_a_block_is_entered_once_and_says_so(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        blocks: list[AbstractAsyncContextManager[object]] = [
            trioprov.open_session(emulator.provider),
            trioprov.open_reply(QUESTION, emulator.provider),
            trioprov.fan_out(QUESTION, [emulator.provider]),
            trioprov.race(QUESTION, [emulator.provider]),
            trioprov.open_client(),
        ]
        for block in blocks:
            async with block:
                with pytest.raises(RuntimeError, match="entered before"):
                    await block.__aenter__()
            said = len(emulator.requests)
            with pytest.raises(RuntimeError, match="entered before"):
                await block.__aenter__()
            assert len(emulator.requests) == said
            assert_no_orphans(emulator)

    with emulated() as emulator:
        run(main)


def test_a_refused_create_is_raised_bare_on_entering(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        with pytest.raises(trioprov.Overloaded) as caught:
            async with trioprov.open_session(emulator.provider):
                raise AssertionError
        assert caught.value.status == 503

    with emulated(faults=[Fault(on="create", status=503, times=2)]) as emulator:
        run(main)


def test_a_failure_is_raised_by_everybody_who_reads_as_a_copy_of_one(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        async with trioprov.open_session(emulator.provider) as session:
            async with session.ask(QUESTION) as reply:
                with pytest.raises(trioprov.RemoteProtocolError) as waited:
                    await reply.wait()
                with pytest.raises(trioprov.RemoteProtocolError) as iterated:
                    async for _ in reply:
                        pass
            assert waited.value is not iterated.value
            assert waited.value.__cause__ is iterated.value.__cause__
            assert waited.value.partial == reply.text

    with emulated(faults=[Fault(on="generate", cut_after=3)]) as emulator:
        run(main)


def test_an_exception_keeps_its_traceback(run: Run) -> None:
    class Broken(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("this line")

    async def main() -> None:
        async with trioprov.open_client(transport=Broken()) as client:
            with pytest.raises(trioprov.ConnectionFailed) as caught:
                async with trioprov.open_session(H2o(base_url="http://nowhere.test"), client=client):
                    pass
        text = "".join(traceback.format_exception(caught.value))
        assert "handle_async_request" in text
        assert "this line" in text
        assert __file__ in text

    run(main)


def test_a_users_exception_comes_out_as_it_went_in(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        mine = LookupError("mine")
        with pytest.raises(LookupError) as caught:
            async with trioprov.open_session(emulator.provider) as session, session.ask(QUESTION):
                raise mine
        assert caught.value is mine

    with emulated() as emulator:
        run(main)


def test_a_failed_cleanup_is_raised_once_or_noted_on_what_is_raised(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        async with trioprov.open_client(cleanup_timeout=0.1) as client:
            with pytest.raises(trioprov.CleanupFailed) as caught:
                async with trioprov.open_session(emulator.provider, client=client) as session:
                    pass
            assert caught.value.report is session.cleanup
            await session.aclose()
            with pytest.raises(LookupError) as noted:
                async with trioprov.open_session(emulator.provider, client=client):
                    raise LookupError
            assert "may still be on" in noted.value.__notes__[0]

    with emulated(faults=[Fault(on="delete", status=500, times=math.inf)], alive=2) as emulator:
        run(main)


def test_context_variables_of_the_caller_are_seen_by_what_runs_for_it(run: Run, emulated: Emulated) -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who")
    seen: list[str] = []

    class Watching(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            seen.append(f"{who.get()} {request.method}")
            return await super().handle_async_request(request)

    async def main() -> None:
        async with trioprov.open_client(transport=Watching()) as client:
            who.set("a")
            async with trioprov.open_session(emulator.provider, client=client):
                who.set("b")
            async with trioprov.open_session(emulator.provider, client=client) as session:
                who.set("c")
                session.close()

    with emulated() as emulator:
        run(main)
    assert seen == ["a POST", "a POST", "a DELETE", "b POST", "b POST", "b DELETE"]


def test_on_trio_there_is_no_thread_and_on_asyncio_one_for_each_client(
    run: Run, request: Any, emulated: Emulated
) -> None:
    def threads() -> int:
        return len([thread for thread in threading.enumerate() if thread.name == "trioprov"])

    async def main() -> list[int]:
        counts = [threads()]
        async with trioprov.open_client() as client, trioprov.open_client():
            counts.append(threads())
            async with trioprov.open_session(emulator.provider, client=client):
                counts.append(threads())
            async with trioprov.open_session(emulator.provider):
                counts.append(threads())
            counts.append(threads())
        return [*counts, threads()]

    with emulated() as emulator:
        counts = run(main)
    on_trio = "[trio" in request.node.name
    assert counts == ([0] * 6 if on_trio else [0, 2, 2, 3, 2, 0])


def test_two_clients_on_many_loops_one_after_another(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        async with trioprov.open_client() as one, trioprov.open_client() as two:
            for client in (one, two):
                assert (await trioprov.ask(QUESTION, emulator.provider, client=client)).text

    with emulated() as emulator:
        for _ in range(5):
            run(main)


def test_a_session_may_be_closed_again_when_its_client_is(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        async with trioprov.open_client() as client:
            for given in (client, None):
                async with trioprov.open_session(emulator.provider, client=given) as session:
                    kept.append(session)
                await session.aclose()
        for session in kept:
            await session.aclose()
            session.close()

    kept: list[trioprov.Session] = []
    with emulated() as emulator:
        run(main)


def test_a_client_of_another_loop_is_refused(run_asyncio: Run) -> None:
    clients: list[trioprov.Client] = []

    async def first() -> None:
        clients.append(await trioprov.open_client().__aenter__())

    async def second() -> None:
        with pytest.raises((RuntimeError, anyio.ClosedResourceError)):
            await trioprov.ask(QUESTION, H2o(base_url="http://nowhere.test"), client=clients[0])

    run_asyncio(first)
    run_asyncio(second)
    clients.clear()
    gc.collect()
