"""Replies of a real application on real servers, whose clients behave as clients do."""

from __future__ import annotations

import signal
from functools import partial

import pytest
import trio

from trioprov import H2o
from trioprov.testing import Emulator, Fault, assert_no_orphans, open_emulator

from .conftest import Client, Server, events, fetch, get, gone, running, text

TOKENS = ["The", " sky", "\n\r\n", " is\u2028", " «blue»", " 🌌", ' "quoted"\\']
WHOLE = "".join(TOKENS)

ENDPOINTS = pytest.mark.parametrize("path", ["/sse", "/text", "/own", "/resumable", "/bare/sse", "/wrapped/text"])


async def test_a_client_reads_all_events(server: Server) -> None:
    async with open_emulator(H2o, tokens=TOKENS) as emulator:
        client = await fetch(server, "/sse", emulator)
        await gone(emulator)
    assert client.status == 200
    assert client.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert client.headers["cache-control"] == "no-store"
    assert client.headers["x-accel-buffering"] == "no"
    assert client.complete
    *tokens, (last, event, finish) = events(client.body)
    assert [data for _, _, data in tokens] == TOKENS
    assert [number for number, _, _ in tokens] == [f":{number}" for number in range(1, len(TOKENS) + 1)]
    assert (last, event) == (":end", "finish")
    assert finish["reason"] == "stop"
    assert finish["error"] is None


async def test_a_client_reads_the_text(server: Server) -> None:
    async with open_emulator(H2o, tokens=TOKENS) as emulator:
        client = await fetch(server, "/text", emulator)
        await gone(emulator)
    assert client.body.decode() == WHOLE
    assert client.headers["content-type"] == "text/plain; charset=utf-8"
    assert client.complete


async def test_an_endpoint_may_leave_its_body_unread(server: Server) -> None:
    async with open_emulator(H2o, tokens=TOKENS) as emulator:
        client = await fetch(server, "/text", emulator, method="POST", body=b"x" * 200_000)
        await gone(emulator)
    assert client.body.decode() == WHOLE


async def test_for_the_headers_alone_nobody_is_asked(server: Server) -> None:
    async with open_emulator(H2o) as emulator:
        async with get(server, "/plain", emulator, method="HEAD") as client:
            await client.head()
        assert client.status == 200
        assert client.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert not emulator.requests


async def test_an_answer_may_pass_a_middleware(server: Server) -> None:
    async with open_emulator(H2o, tokens=TOKENS) as emulator:
        client = await fetch(server, "/wrapped/sse", emulator)
        await gone(emulator)
    assert text(client.body) == WHOLE
    assert client.headers["x-wrapped"] == "yes"


@ENDPOINTS
@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_a_client_that_leaves_mid_answer_leaves_nothing(server: Server, path: str, how: str) -> None:
    async with open_emulator(H2o, token_delay=0.01, forever=True) as emulator:
        async with get(server, path, emulator) as client:
            await client.head()
            await client.chunk()
            assert len(emulator.conversations) == 1
            if how == "RST":
                client.reset()
        await gone(emulator)


@ENDPOINTS
async def test_a_client_that_leaves_before_the_first_token_leaves_nothing(server: Server, path: str) -> None:
    async with open_emulator(H2o, first_delay=30) as emulator:
        async with get(server, path, emulator):
            with trio.fail_after(20):
                while not emulator.generating:
                    await trio.sleep(0.01)
        await gone(emulator)


@ENDPOINTS
async def test_a_client_that_leaves_while_the_conversation_is_created_leaves_nothing(server: Server, path: str) -> None:
    async with open_emulator(H2o, faults=[Fault(on="create", delay_response=0.3)]) as emulator:
        async with get(server, path, emulator):
            with trio.fail_after(20):
                while not emulator.conversations:
                    await trio.sleep(0.01)
        await gone(emulator)


async def test_many_clients_that_leave_at_any_instant_leave_nothing(server: Server) -> None:
    async def one(after: float) -> None:
        async with get(server, "/sse", emulator):
            await trio.sleep(after)

    slow = [Fault(on=step, delay_response=0.02, times=1000) for step in ("create", "stop", "delete")]
    async with open_emulator(H2o, first_delay=0.03, token_delay=0.003, faults=slow) as emulator:
        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(one, number * 0.025)
        await trio.sleep(0.5)  # a request that the server has not looked at yet
        await gone(emulator)


async def test_a_manager_of_the_users_own_is_entered_and_left_in_one_task(server: Server) -> None:
    async with open_emulator(H2o, token_delay=0.01, forever=True) as emulator:
        async with get(server, "/own", emulator) as client:
            await client.head()
            await client.tokens(3)
        await gone(emulator)
    async with open_emulator(H2o, tokens=TOKENS) as emulator:
        assert text((await fetch(server, "/own", emulator)).body) == WHOLE
        with trio.fail_after(20):
            while (await fetch(server, "/left", emulator)).json != 1:
                await trio.sleep(0.01)


async def test_a_client_that_reads_nothing_holds_the_service_back(server: Server) -> None:
    # Faster than a loop, the emulator passes the limit of 16 MiB at once if nobody holds it back.
    async with open_emulator(H2o, tokens=["x" * 4096], forever=True) as emulator:
        async with get(server, "/text", emulator, receive_buffer=4096) as client:
            await client.head()
            await trio.sleep(2.5)
            assert len(emulator.generating) == 1
            assert len(emulator.conversations) == 1
        await gone(emulator)


async def test_a_client_that_goes_on_reading_nothing_counts_as_gone(server: Server) -> None:
    async with (
        open_emulator(H2o, tokens=["x" * 4096], forever=True) as emulator,
        get(server, "/sse", emulator, receive_buffer=4096) as client,
    ):
        await client.head()
        await gone(emulator)
    if server.kind.startswith("uvicorn"):  # it minds that the answer is not complete
        with trio.fail_after(20):
            while "without completing" not in server.errors:
                await trio.sleep(0.01)
        server.forget_errors()


@pytest.mark.parametrize(
    ("fault", "status", "error"),
    [
        (Fault(on="generate", status=429, headers={"retry-after": "7"}), 429, "RateLimited"),
        (Fault(on="create", status=503, times=5), 503, "Overloaded"),
        (Fault(on="generate", status=401, body="who is secret-key?"), 502, "AuthenticationError"),
        (Fault(on="generate", status=400, body="no secret-key"), 400, "InvalidRequest"),
        (Fault(on="generate", drop=True, times=5), 502, "ConnectionFailed"),
        (Fault(on="generate", hang=True), 504, "FirstTokenTimeout"),
        (Fault(on="generate", end_after=0), 502, "IncompleteReply"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
@pytest.mark.parametrize("path", ["/text", "/sse", "/resumable"])
async def test_a_failure_before_the_first_token_is_a_status(
    server: Server, path: str, fault: Fault, status: int, error: str
) -> None:
    if fault.hang and path != "/text":
        pytest.skip("the other endpoints are more patient")
    impatience = {"first_token": 0.5} if fault.hang else {}
    async with open_emulator(H2o, faults=[fault]) as emulator:
        client = await fetch(server, path, emulator, **impatience)
        await gone(emulator)
    assert client.status == status
    assert client.headers["content-type"] == "application/json"
    assert client.headers["cache-control"] == "no-store"
    assert client.json["error"]["type"] == error
    assert client.headers.get("retry-after") == fault.headers.get("retry-after")
    assert b"secret-key" not in client.body


async def test_a_failure_after_the_first_token_is_the_last_event(server: Server) -> None:
    async with open_emulator(
        H2o, tokens=TOKENS, token_delay=0.01, faults=[Fault(on="generate", cut_after=3)]
    ) as emulator:
        client = await fetch(server, "/sse", emulator)
        await gone(emulator)
    assert client.complete
    assert text(client.body) == "".join(TOKENS[:3])
    last, event, data = events(client.body)[-1]
    assert (last, event, data["reason"]) == (":end", "finish", "error")
    assert data["error"]["type"] in ("ConnectionFailed", "IncompleteReply")
    assert data["error"]["message"]


async def test_a_text_that_fails_does_not_look_complete(server: Server) -> None:
    async with open_emulator(
        H2o, tokens=TOKENS, token_delay=0.01, faults=[Fault(on="generate", cut_after=3)]
    ) as emulator:
        client = await fetch(server, "/text", emulator)
        await gone(emulator)
    assert client.body.decode() == "".join(TOKENS[:3])
    assert not client.complete
    with trio.fail_after(20):
        while "trioprov._errors" not in server.errors:
            await trio.sleep(0.01)
    server.forget_errors()


async def test_a_service_that_thinks_is_waited_for_with_signs_of_life(server: Server) -> None:
    async with open_emulator(H2o, tokens=TOKENS, first_delay=3.0) as emulator:
        async with get(server, "/sse", emulator, begin_after=0.1, heartbeat=0.1) as client:
            with trio.fail_after(2.5):
                await client.head()
                while client.body.count(b":\n\n") < 3:
                    await client.chunk()
            await client.read()
        await gone(emulator)
    assert client.status == 200
    assert text(client.body) == WHOLE


async def test_a_failure_after_the_answer_began_is_no_status_any_more(server: Server) -> None:
    fault = Fault(on="generate", delay=0.5, status=503)
    async with open_emulator(H2o, faults=[fault]) as emulator:
        client = await fetch(server, "/sse", emulator, begin_after=0.1)
        await gone(emulator)
    assert client.status == 200
    assert [(event, data["error"]["type"]) for _, event, data in events(client.body)] == [("finish", "Overloaded")]


async def test_a_value_that_cannot_be_sent_is_the_applications_failure(server: Server) -> None:
    async with open_emulator(H2o) as emulator:
        client = await fetch(server, "/wrong", emulator)
        assert not emulator.requests
    assert client.status == 500
    assert "temperature" not in client.body.decode()
    with trio.fail_after(20):
        while "TypeError" not in server.errors:
            await trio.sleep(0.01)
    assert "ExceptionGroup" not in server.errors
    server.forget_errors()


async def test_a_client_that_comes_back_is_not_given_another_answer(server: Server) -> None:
    async with open_emulator(H2o) as emulator:
        after_the_end = await fetch(server, "/sse", emulator, headers={"Last-Event-ID": ":end"})
        cut_off = await fetch(server, "/sse", emulator, headers={"Last-Event-ID": ":3"})
        assert not emulator.requests
    assert after_the_end.status == 204
    assert cut_off.status == 410
    assert cut_off.json["error"]["type"] == "ReplyGone"


@pytest.mark.parametrize("kind", ["uvicorn", "uvicorn-uvloop", "hypercorn-asyncio", "hypercorn-trio"])
@pytest.mark.parametrize("path", ["/sse", "/text", "/resumable"])
async def test_a_server_that_is_stopped_with_streams_open_leaves_nothing(kind: str, path: str) -> None:
    async with open_emulator(H2o, token_delay=0.01, forever=True) as emulator:
        with running(kind) as server:
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    client = await nursery.start(partial(open_client, server, path, emulator))
                    await client.head()
                    await client.chunk()
                assert len(emulator.conversations) == 5
                assert await trio.to_thread.run_sync(server.stop) in (0, -signal.SIGTERM)
                nursery.cancel_scope.cancel()
            assert "never" not in server.errors
        assert_no_orphans(emulator)


async def open_client(
    server: Server, path: str, emulator: Emulator[H2o], *, task_status: trio.TaskStatus[Client]
) -> None:
    async with get(server, path, emulator) as client:
        task_status.started(client)
        await trio.sleep_forever()
