"""The client: its limits, its budgets, what it shares between sessions and what it does not."""

# What raises is the leaving of a block:
# ruff: noqa: PT012, SIM117
# pyright: reportPossiblyUnboundVariable=false

from __future__ import annotations

import gc
import math
import ssl
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing
import trustme

import trioprov
from trioprov import AllenAI, CleanupFailed, H2o, OpenAssistant
from trioprov._journal._presence import Presence
from trioprov.providers import Provider
from trioprov.testing import Emulator, Fault, assert_no_orphans, open_emulator

QUESTION = "Why is the sky blue?"


async def said(session: trioprov.Session, question: str = QUESTION, **how: Any) -> trioprov.Answer:
    async with session.ask(question, **how) as reply:
        return await reply.wait()


async def asked(provider: Provider, client: trioprov.Client) -> trioprov.Answer:
    async with trioprov.open_session(provider, client=client) as session:
        return await said(session)


def steps(emulator: Emulator[Any]) -> list[str]:
    return [request.step for request in emulator.requests]


NUMBERS = ("create_timeout", "cleanup_timeout", "shutdown_timeout", "max_reply_bytes", "max_connections")


@pytest.mark.parametrize("name", NUMBERS)
def test_limits_that_are_no_limits_are_refused(name: str) -> None:
    for value in (0, -1, math.nan):
        limit: dict[str, Any] = {name: value}
        with pytest.raises((ValueError, TypeError), match=name):
            trioprov.open_client(**limit)
    wrong: list[dict[str, Any]] = [{name: "1"}, {name: True}, {name: [1]}]
    for limits in wrong:
        with pytest.raises(TypeError, match=name):
            trioprov.open_client(**limits)


def test_connections_are_counted_in_whole_numbers() -> None:
    with pytest.raises(TypeError, match="max_connections"):
        trioprov.open_client(max_connections=1.5)  # pyright: ignore[reportArgumentType]


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        trioprov.open_client(timeout=3)  # pyright: ignore


@pytest.mark.parametrize("wrong", [httpx.HTTPTransport(), httpx.AsyncHTTPTransport, 5], ids=["sync", "class", "number"])
def test_a_transport_that_is_none_is_refused_at_once(wrong: Any) -> None:
    with pytest.raises(TypeError, match="transport must be"):
        trioprov.open_client(transport=wrong)


async def test_an_endless_budget_is_one() -> None:
    async with open_emulator(H2o) as emulator:
        limits: Any = dict.fromkeys(NUMBERS[:4], math.inf)
        async with trioprov.open_client(**limits) as client:
            assert (await asked(emulator.provider, client)).text
        assert_no_orphans(emulator)


async def test_streams_beyond_max_connections_wait_their_turn(service: type[Provider]) -> None:
    async with open_emulator(service, first_delay=0.1, token_delay=0.001) as emulator:
        running = 0
        async with trioprov.open_client(max_connections=2) as client:

            async def one() -> None:
                nonlocal running
                async with trioprov.open_session(emulator.provider, client=client) as session:
                    async with session.ask(QUESTION) as reply:
                        async for _ in reply:
                            running = max(running, len(emulator.generating))

            async with trio.open_nursery() as nursery:
                for _ in range(1 if service is OpenAssistant else 6):
                    nursery.start_soon(one)
        assert 1 <= running <= 2
        assert_no_orphans(emulator)


@pytest.mark.parametrize("cls", [H2o, AllenAI])
async def test_cleanup_is_not_starved_by_a_program_that_has_all_threads_at_work(cls: type[Provider]) -> None:
    """They are what names are looked up in."""
    limiter = trio.to_thread.current_default_thread_limiter()
    async with open_emulator(cls, forever=True, token_delay=0.01) as emulator:
        provider = cls(base_url=emulator.url.replace("127.0.0.1", "localhost"))
        async with trioprov.open_client(cleanup_timeout=2) as client:
            async with trioprov.open_session(provider, client=client) as session, session.ask(QUESTION) as reply:
                await anext(aiter(reply))
                for work in (works := [object() for _ in range(int(limiter.total_tokens))]):
                    limiter.acquire_on_behalf_of_nowait(work)
        for work in works:
            limiter.release_on_behalf_of(work)
        assert_no_orphans(emulator)


async def test_cleanup_is_not_starved_by_streams_that_hold_every_connection(service: type[Provider]) -> None:
    other = AllenAI if service is H2o else H2o
    async with (
        open_emulator(service) as emulator,
        open_emulator(other, forever=True, token_delay=0.01) as hog,
        trioprov.open_client(max_connections=1) as client,
    ):
        async with trioprov.open_session(emulator.provider, client=client) as session:
            await said(session)
            async with trioprov.open_reply(QUESTION, hog.provider, client=client) as reply:
                async for _ in reply:
                    break
                with trio.fail_after(3):
                    await session.aclose()
                assert reply.finish is None
                assert_no_orphans(emulator)
        assert_no_orphans(hog)


async def test_a_generation_is_told_to_stop_though_another_stream_took_its_connection() -> None:
    async with (
        open_emulator(H2o, forever=True, token_delay=0.01) as emulator,
        open_emulator(AllenAI, forever=True, token_delay=0.01) as hog,
        trioprov.open_client(max_connections=1) as client,
        trio.open_nursery() as nursery,
        trioprov.open_session(emulator.provider, client=client) as session,
    ):
        async with session.ask(QUESTION) as reply:
            async for _ in reply:
                break
            nursery.start_soon(lambda: trioprov.ask(QUESTION, hog.provider, client=client))
            await trio.sleep(0.05)
            begun = trio.current_time()
        assert trio.current_time() - begun < 3
        assert steps(emulator)[-1] == "stop"
        nursery.cancel_scope.cancel()


async def test_a_session_that_waits_for_a_connection_can_be_cancelled(service: type[Provider]) -> None:
    async with (
        open_emulator(service) as emulator,
        open_emulator(H2o, forever=True, token_delay=0.01) as hog,
        trioprov.open_client(max_connections=1) as client,
        trioprov.open_reply(QUESTION, hog.provider, client=client) as reply,
    ):
        async for _ in reply:
            break
        for _ in range(5):
            with trio.move_on_after(0.03) as scope:
                await trioprov.ask(QUESTION, emulator.provider, client=client)
            assert scope.cancelled_caught
        assert emulator.requests == ()
        reply.stop()
        with trio.fail_after(5):
            assert (await trioprov.ask(QUESTION, emulator.provider, client=client)).text
        assert_no_orphans(emulator)


@pytest.mark.parametrize("budget", [0.3, 1.0])
async def test_cleanup_timeout_is_kept_to_when_the_delete_hangs(service: type[Provider], budget: float) -> None:
    async with open_emulator(service, faults=[Fault(on="delete", hang=True, times=math.inf)]) as emulator:
        async with trioprov.open_client(cleanup_timeout=budget) as client:
            with pytest.raises(CleanupFailed) as caught:
                async with trioprov.open_session(emulator.provider, client=client) as session:
                    await said(session)
                    begun = trio.current_time()
            assert budget - 0.05 <= trio.current_time() - begun <= budget + 1
            assert caught.value.report.outcome == "owed"
            assert caught.value.report.attempts >= 2


async def test_one_delete_that_hangs_is_not_all_that_is_tried(service: type[Provider]) -> None:
    async with open_emulator(service, faults=[Fault(on="delete", hang=True)]) as emulator:
        async with trioprov.open_client(cleanup_timeout=1) as client:
            await asked(emulator.provider, client)
        assert steps(emulator).count("delete") == 2
        assert_no_orphans(emulator)


async def test_waiting_for_a_cleanup_connection_does_not_count_for_the_budget() -> None:
    slow = [Fault(on="delete", delay_response=1.0, times=math.inf)]
    async with open_emulator(AllenAI, faults=slow) as emulator:
        async with trioprov.open_client(cleanup_timeout=3) as client, trio.open_nursery() as nursery:
            for _ in range(64):
                nursery.start_soon(asked, emulator.provider, client)
        assert_no_orphans(emulator)


async def test_leaving_the_client_settles_what_its_sessions_owe(service: type[Provider]) -> None:
    async with open_emulator(service, token_delay=0.002, faults=[Fault(on="delete", delay=0.2)]) as emulator:
        async with trioprov.open_client() as client:
            session = await trioprov.open_session(emulator.provider, client=client).__aenter__()
            reply = await session.ask(QUESTION).__aenter__()
            async for _ in reply:
                break
        assert reply.finish is not None
        assert reply.finish.reason == "interrupted"
        assert session.cleanup is not None
        assert session.cleanup.outcome == "deleted"
        assert_no_orphans(emulator)
        with trio.fail_after(5):
            while emulator.connections:  # noqa: ASYNC110 - it happens in an emulator's thread
                await trio.sleep(0.01)
        with pytest.raises(trio.ClosedResourceError):
            await session.ask(QUESTION).__aenter__()


async def test_leaving_the_client_is_shielded(service: type[Provider]) -> None:
    async with open_emulator(service, faults=[Fault(on="delete", delay=0.2)]) as emulator:
        with trio.CancelScope() as scope:
            async with trioprov.open_client() as client:
                session = await trioprov.open_session(emulator.provider, client=client).__aenter__()
                await said(session)
                scope.cancel()
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert session.cleanup is not None
        assert session.cleanup.outcome == "deleted"
        assert_no_orphans(emulator)


async def test_an_exception_leaves_the_client_bare(service: type[Provider]) -> None:
    async with open_emulator(service) as emulator:
        with pytest.raises(KeyError) as caught:
            async with trioprov.open_client() as client:
                session = await trioprov.open_session(emulator.provider, client=client).__aenter__()
                await said(session)
                raise KeyError("mine")
        assert caught.value.args == ("mine",)
        assert_no_orphans(emulator)


async def test_shutdown_timeout_bounds_leaving_the_client_and_what_it_leaves_is_logged(
    service: type[Provider], caplog: pytest.LogCaptureFixture
) -> None:
    async with open_emulator(service, faults=[Fault(on="delete", hang=True, times=math.inf)]) as emulator:
        async with trioprov.open_client(cleanup_timeout=30, shutdown_timeout=0.4) as client:
            session = await trioprov.open_session(emulator.provider, client=client).__aenter__()
            await said(session)
            begun = trio.current_time()
        assert 0.3 < trio.current_time() - begun < 1.5
        assert session.cleanup is not None
        assert session.cleanup.outcome == "owed"
        assert session.cleanup.attempts == sum(request.step == "delete" for request in emulator.requests) == 1
        assert "before the cleanup was confirmed" in str(session.cleanup.error)
        assert session.conversation.id is not None
        logged = [record for record in caplog.records if record.name == "trioprov"]
        assert [(record.levelname, session.conversation.id in record.getMessage()) for record in logged] == [
            ("WARNING", True)
        ]


async def test_a_create_that_shutdown_timeout_leaves_behind_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with open_emulator(H2o, faults=[Fault(on="create", hang=True)]) as emulator:
        async with trioprov.open_client(shutdown_timeout=0.2) as client:
            with trio.move_on_after(0.1):
                await trioprov.open_session(emulator.provider, client=client).__aenter__()
        assert ["owed" in record.getMessage() for record in caplog.records if record.name == "trioprov"] == [True]


async def test_what_is_kept_is_kept_though_shutdown_timeout_passes_before_its_generation_is_stopped() -> None:
    async with open_emulator(H2o, forever=True, faults=[Fault(on="stop", hang=True)]) as emulator:
        async with trioprov.open_client(shutdown_timeout=0.2) as client:
            session = await trioprov.open_session(emulator.provider, client=client).__aenter__()
            reply = await session.ask(QUESTION).__aenter__()
            await anext(aiter(reply))
            session.keep()
        assert session.cleanup == trioprov.CleanupReport("kept")
        assert emulator.conversations == (session.conversation.id,)


async def test_a_closed_client_refuses_everything(service: type[Provider]) -> None:
    async with open_emulator(service) as emulator:
        provider = emulator.provider
        async with trioprov.open_client() as client, trioprov.open_session(provider, client=client) as session:
            await said(session)
            saved = session.keep()
        before = len(emulator.requests)
        with pytest.raises(trio.ClosedResourceError):
            await trioprov.open_session(provider, client=client).__aenter__()
        with pytest.raises(trio.ClosedResourceError):
            await trioprov.ask(QUESTION, provider, client=client)
        with pytest.raises(trio.ClosedResourceError):
            await trioprov.gather(QUESTION, [provider, provider], client=client)
        with pytest.raises(trio.ClosedResourceError):
            await trioprov.open_reply(QUESTION, provider, client=client).__aenter__()
        with pytest.raises(trio.ClosedResourceError):
            await trioprov.run_session(provider, client=client)
        with pytest.raises(trio.ClosedResourceError):
            await trioprov.delete_conversation(provider, saved, client=client)
        assert len(emulator.requests) == before
        await trioprov.delete_conversation(provider, saved)


async def test_cookies_of_one_session_never_reach_another() -> None:
    async with open_emulator(H2o) as emulator:
        async with trioprov.open_client() as client:
            async with (
                trioprov.open_session(emulator.provider, client=client) as one,
                trioprov.open_session(emulator.provider, client=client) as two,
            ):
                for session in (one, two, one):
                    await said(session)
                identities = {session.conversation.identity["hf-chat"] for session in (one, two)}
            assert len(identities) == 2
            await asked(emulator.provider, client)
        for request in emulator.requests:
            assert list(request.cookies) == ["hf-chat"]
        assert len({request.cookies["hf-chat"] for request in emulator.requests}) == 3


async def test_a_cookie_of_another_name_is_adopted_and_stays_in_its_session() -> None:
    extra = {"Set-Cookie": "balancer=node-1; Path=/; Secure; HttpOnly"}
    async with open_emulator(H2o, disclaimer=False) as emulator:
        emulator.add_fault(Fault(on="settings", status=200, body='{"type":"success"}', headers=extra))
        async with trioprov.open_client() as client:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                await said(session)
            first = len(emulator.requests)
            await asked(emulator.provider, client)
        for request in emulator.requests[1:first]:
            assert request.cookies["balancer"] == "node-1"
        for request in emulator.requests[first:]:
            assert "balancer" not in request.cookies


async def test_a_user_agent_is_ours_and_headers_override_it(service: type[Provider]) -> None:
    async with open_emulator(service) as emulator:
        await trioprov.ask(QUESTION, emulator.provider)
        assert {r.headers["user-agent"] for r in emulator.requests} == {f"trioprov/{trioprov.__version__}"}
        before = len(emulator.requests)
        provider = service(base_url=emulator.url, cookies=emulator.provider.cookies, headers={"user-AGENT": "mine"})
        await trioprov.ask(QUESTION, provider)
        assert {r.headers["user-agent"] for r in emulator.requests[before:]} == {"mine"}
        assert_no_orphans(emulator)


async def test_max_reply_bytes_ends_a_reply_and_keeps_what_fits(service: type[Provider]) -> None:
    async with open_emulator(service, tokens=["ä" * 10] * 50) as emulator:
        async with trioprov.open_client(max_reply_bytes=105) as client:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                with pytest.raises(trioprov.RemoteProtocolError, match="max_reply_bytes") as caught:
                    await said(session)
                assert type(caught.value) is trioprov.RemoteProtocolError
                assert caught.value.partial == "ä" * 50
        assert_no_orphans(emulator)


async def test_a_line_without_an_end_is_not_collected_for_ever(service: type[Provider]) -> None:
    step = {"h2o": "generate", "openassistant": "events", "allenai": "stream"}[service.name]
    fault = Fault(on=step, inject_at=2, inject=b"data: " + b"x" * 3_000_000)
    async with open_emulator(service, faults=[fault]) as emulator:
        with pytest.raises(trioprov.RemoteProtocolError):
            await trioprov.ask(QUESTION, emulator.provider)
        assert_no_orphans(emulator)


async def test_an_error_page_without_an_end_is_not_collected_for_ever() -> None:
    async with open_emulator(H2o, faults=[Fault(on="generate", status=500, body=b"x" * 3_000_000)]) as emulator:
        with pytest.raises((trioprov.RemoteProtocolError, trioprov.ProviderError)):
            await trioprov.ask(QUESTION, emulator.provider)
        assert_no_orphans(emulator)


async def test_certificates_are_read_once_for_all_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bool] = []
    loaded: list[bool] = []
    create = httpx.create_ssl_context
    load = ssl.SSLContext.load_verify_locations

    def counted(*args: Any, **how: Any) -> ssl.SSLContext:
        made.append(True)
        return create(*args, **how)

    def loading(self: ssl.SSLContext, *args: Any, **how: Any) -> None:
        loaded.append(True)
        load(self, *args, **how)

    monkeypatch.setattr(httpx, "create_ssl_context", counted)
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", loading)
    for _ in range(3):
        async with trioprov.open_client() as client:
            for url in ("https://127.0.0.1:9", "https://127.0.0.1:10", "http://127.0.0.1:9"):
                answers = await trioprov.gather(QUESTION, [H2o(base_url=url), AllenAI(base_url=url)], client=client)
                assert all(isinstance(answer.error, trioprov.ConnectionFailed) for answer in answers)
    with pytest.raises(trioprov.ConnectionFailed):
        await trioprov.ask(QUESTION, AllenAI(base_url="https://127.0.0.1:9"))
    assert len(made) <= 1
    assert len(loaded) <= 1


async def test_a_context_of_the_users_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trustme.CA().configure_trust(context)  # pyright: ignore[reportUnknownMemberType]
    seen: list[ssl.SSLContext] = []
    wrap = ssl.SSLContext.wrap_bio

    def wrapping(self: ssl.SSLContext, *args: Any, **how: Any) -> Any:
        seen.append(self)
        return wrap(self, *args, **how)

    monkeypatch.setattr(ssl.SSLContext, "wrap_bio", wrapping)
    async with open_emulator(AllenAI) as emulator:
        provider = AllenAI(base_url=emulator.url.replace("http:", "https:"))
        async with trioprov.open_client(verify=context) as client:
            with pytest.raises(trioprov.ConnectionFailed):
                await trioprov.ask(QUESTION, provider, client=client)
    assert seen == [context]


async def test_a_transport_of_the_users_carries_everything(service: type[Provider]) -> None:
    seen: list[str] = []

    async def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.method)
        return httpx.Response(503, text="mock")

    provider = service(base_url="http://mock.test", cookies={"a": "bbbb"})
    async with trioprov.open_client(transport=httpx.MockTransport(handler)) as client:
        with pytest.raises(trioprov.Overloaded):
            await trioprov.ask(QUESTION, provider, client=client)
        assert seen
        # Who connects is the transport's business, so a proxy would silently not be one, or the transport not be used.
        seen.clear()
        proxied = service(base_url="http://mock.test", cookies={"a": "bbbb"}, proxy="http://127.0.0.1:9")
        with pytest.raises(ValueError, match="proxy"):
            await trioprov.ask(QUESTION, proxied, client=client)
        assert not seen


async def test_a_transport_that_raises_what_it_likes_breaks_only_its_session(service: type[Provider]) -> None:
    async def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("no", request=request)

    provider = service(base_url="http://mock.test", cookies={"a": "bbbb"})
    async with trioprov.open_client(transport=httpx.MockTransport(handler), cleanup_timeout=0.3) as client:
        (answer,) = await trioprov.gather(QUESTION, [provider], client=client)
    assert isinstance(answer.error, trioprov.ConnectionFailed)
    assert isinstance(answer.error.__cause__ or answer.error, (httpx.ReadError, trioprov.ConnectionFailed))


async def test_a_transport_of_the_users_that_breaks_in_the_cleanup_leaves_a_debt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "DELETE":
            raise ZeroDivisionError
        return httpx.Response(200, json={"conversationId": "c1"})

    provider = H2o(base_url="http://mock.test")
    async with trioprov.open_client(transport=httpx.MockTransport(handler)) as client:
        begun = trio.current_time()
        with pytest.raises(trioprov.CleanupFailed) as caught:
            async with trioprov.open_session(provider, client=client):
                pass
        assert trio.current_time() - begun < 5
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert "crashed" in caplog.text


async def test_a_create_through_a_transport_of_the_users_is_finished_though_nobody_waits_for_it() -> None:
    seen: list[str] = []

    async def handler(request: httpx.Request) -> httpx.Response:
        seen.append(f"{request.method} {request.url.path}")
        if seen[-1] == "POST /conversation":
            await trio.sleep(0.2)
        return httpx.Response(200, json={"conversationId": "c1"})

    with trio.move_on_after(0.1):
        async with trioprov.open_client(transport=httpx.MockTransport(handler)) as client:
            async with trioprov.open_session(H2o(base_url="http://mock.test"), client=client):
                raise AssertionError
    assert seen == ["POST /settings", "POST /conversation", "DELETE /conversation/c1"]


async def test_what_nobody_wants_any_more_is_not_sent_by_a_transport_that_never_waits_either() -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(f"{request.method} {request.url.path}")
        client.close()
        return httpx.Response(200, json={"conversationId": "c1"})

    async with trioprov.open_client(transport=httpx.MockTransport(handler)) as client:
        with pytest.raises(trio.ClosedResourceError):
            await trioprov.open_session(H2o(base_url="http://mock.test"), client=client).__aenter__()
    assert seen == ["POST /settings"]


async def test_what_a_transport_of_the_users_could_not_connect_for_was_not_sent() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no", request=request)

    async with trioprov.open_client(transport=httpx.MockTransport(handler)) as client:
        (answer,) = await trioprov.gather(QUESTION, [AllenAI(base_url="http://mock.test")], client=client)
    assert answer.cleanup is not None
    assert answer.cleanup.outcome == "nothing_owed"


@pytest.mark.parametrize(("takes", "closed"), [(0.5, True), (1000, False)])
async def test_a_cancelled_client_closes_its_connections_all_the_same_but_waits_for_no_peer(
    takes: float, closed: bool, autojump_clock: trio.testing.MockClock
) -> None:
    class Connections(httpx.MockTransport):
        closed = False

        async def aclose(self) -> None:
            await trio.sleep(takes)
            self.closed = True

    connections = Connections(lambda _: httpx.Response(503))
    with trio.CancelScope() as scope:
        async with trioprov.open_client(transport=connections) as client:
            await trioprov.gather(QUESTION, [H2o(base_url="http://mock.test")], client=client)
            scope.cancel()
        begun = trio.current_time()
    assert connections.closed is closed
    assert trio.current_time() - begun < 2


async def test_a_transport_that_cannot_be_closed_does_not_keep_the_journal_open(tmp_path: Path) -> None:
    class Broken(httpx.MockTransport):
        async def aclose(self) -> None:
            raise OSError("no")

    broken = Broken(lambda _: httpx.Response(503))
    with pytest.raises(OSError, match="no"):
        async with trioprov.open_client(journal=tmp_path / "owed.db", transport=broken) as client:
            await trioprov.gather(QUESTION, [H2o(base_url="http://mock.test")], client=client)
    assert not Presence.known(tmp_path / "owed.db")


# -- Blocks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("private", [False, True])
async def test_a_block_is_entered_once_and_says_so(service: type[Provider], private: bool) -> None:
    async with open_emulator(service) as emulator, trioprov.open_client() as client:
        how: dict[str, Any] = {} if private else {"client": client}
        blocks: list[AbstractAsyncContextManager[object]] = [
            trioprov.open_session(emulator.provider, **how),
            trioprov.open_reply("Why?", emulator.provider, **how),
            trioprov.fan_out("Why?", [emulator.provider], **how),
            trioprov.race("Why?", [emulator.provider], **how),
            trioprov.open_client(),
        ]
        for block in blocks:
            async with block:
                with pytest.raises(RuntimeError, match="entered before"):
                    await block.__aenter__()
            said = len(emulator.requests)
            with pytest.raises(RuntimeError, match="entered before"):
                async with block:
                    pass
            assert len(emulator.requests) == said
        async with trioprov.open_session(emulator.provider, **how) as session:
            asking = session.ask("Why?")
            async with asking:
                with pytest.raises(RuntimeError, match="entered before"):
                    await asking.__aenter__()
            with pytest.raises(RuntimeError, match="entered before"):
                await asking.__aenter__()
        assert_no_orphans(emulator)


async def test_a_session_does_not_notice_that_somebody_tried_to_enter_its_block_again(service: type[Provider]) -> None:
    async with open_emulator(service) as emulator:
        block = trioprov.open_session(emulator.provider)
        async with block as session:
            with pytest.raises(RuntimeError, match="entered before"):
                await block.__aenter__()
            gc.collect()
            await trio.testing.wait_all_tasks_blocked()
            async with session.ask("Why?") as reply:
                assert (await reply.wait()).text
        assert_no_orphans(emulator)


@pytest.mark.parametrize("fault", [Fault(on="settings", hang=True), Fault(on="create", delay_response=0.1)])
async def test_a_client_closed_while_a_conversation_is_opened_gives_nobody_a_session(fault: Fault) -> None:
    async with open_emulator(H2o) as emulator:
        for entered in (False, True):
            emulator.add_fault(fault)
            async with trioprov.open_client() as client, trio.open_nursery() as nursery:
                before = len(emulator.requests)

                async def close(client: trioprov.Client = client, before: int = before) -> None:
                    while [request.step for request in emulator.requests[before:]][-1:] != [fault.on]:
                        await trio.sleep(0.005)
                    client.close()

                nursery.start_soon(close)
                with pytest.raises(trio.ClosedResourceError):
                    if entered:
                        await trioprov.open_session(emulator.provider, client=client).__aenter__()
                    else:
                        await nursery.start(partial(trioprov.run_session, emulator.provider, client=client))
            assert_no_orphans(emulator)
