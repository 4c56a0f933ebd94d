"""Clients that are cut off, and come back."""

from __future__ import annotations

import pytest
import trio

from trioprov import H2o
from trioprov.testing import Emulator, Fault, open_emulator

from .conftest import Server, events, fetch, get, gone, text

# uvloop is uvicorn again, and nothing here depends on it.
pytestmark = pytest.mark.parametrize("one_server", ["uvicorn", "hypercorn-asyncio", "hypercorn-trio"], indirect=True)

# As tests/asgi/server.py has it.
LINGER = 1.5
MAX_LINGERING = 3


async def held(server: Server, number: int) -> None:
    """Wait until the application holds so many replies."""
    with trio.fail_after(10):
        while (await fetch(server, "/held")).json != number:
            await trio.sleep(0.02)


async def cut_off(server: Server, emulator: Emulator[H2o], tokens: int = 3, after: str = "") -> tuple[bytes, str]:
    """Read so much and leave; returns what was read in whole blocks, and the last id."""
    headers = {"Last-Event-ID": after} if after else {}
    async with get(server, "/resumable", emulator, headers=headers) as client:
        await client.head()
        await client.tokens(tokens)
        whole = client.body[: client.body.rindex(b"\n\n") + 2]
        return whole, whole.rpartition(b"id: ")[2].split(b"\n")[0].decode()


async def test_a_client_that_comes_back_misses_nothing_and_reads_nothing_twice(server: Server) -> None:
    tokens = [f"<{number}>" for number in range(60)]
    async with open_emulator(H2o, tokens=tokens, token_delay=0.02) as emulator:
        seen, last = await cut_off(server, emulator)
        assert b"retry: " in seen
        for _ in range(4):
            more, last = await cut_off(server, emulator, after=last)
            seen += more
        async with get(server, "/resumable", emulator, headers={"Last-Event-ID": last}) as client:
            await client.head()
            seen += await client.read()
        assert [request.step for request in emulator.requests].count("create") == 1
        await gone(emulator)
        await held(server, 0)
    blocks = events(seen)
    assert [data for _, event, data in blocks if event == "token"] == tokens
    assert [data["reason"] for _, event, data in blocks if event == "finish"] == ["stop"]
    assert [number.partition(":")[2] for number, _, _ in blocks] == [*map(str, range(1, 61)), "end"]
    assert len({number.partition(":")[0] for number, _, _ in blocks}) == 1
    assert len(blocks[0][0].partition(":")[0]) >= 22


async def test_a_client_that_was_cut_off_before_the_first_event_may_come_back(server: Server) -> None:
    async with open_emulator(H2o, tokens=["a", "b"], first_delay=1) as emulator:
        async with get(server, "/resumable", emulator, begin_after=0) as client:
            await client.head()
            prelude = await client.chunk()
        last = prelude.rpartition(b"id: ")[2].split(b"\n")[0].decode()
        assert last.endswith(":0")
        back = await fetch(server, "/resumable", emulator, headers={"Last-Event-ID": last})
        assert text(back.body) == "ab"
        # Being cut off again before anything new must not send it to the beginning.
        assert f"id: {last}\n".encode() in back.body
        await gone(emulator)
        await held(server, 0)


async def test_who_comes_back_and_is_cut_off_at_once_is_still_where_it_was(server: Server) -> None:
    async with open_emulator(
        H2o, tokens=["a", "b", "c"], token_delay=0.01, faults=[Fault(on="generate", stall_after=2)]
    ) as emulator:
        _, last = await cut_off(server, emulator, tokens=2)
        assert last.endswith(":2")
        async with get(server, "/resumable", emulator, headers={"Last-Event-ID": last}, begin_after=0) as client:
            await client.head()
            assert f"id: {last}\n".encode() in await client.chunk()
        await gone(emulator, within=10)
        await held(server, 0)


async def test_a_client_that_does_not_come_back_is_waited_for_only_so_long(server: Server) -> None:
    async with open_emulator(H2o, token_delay=0.01, forever=True) as emulator:
        _, last = await cut_off(server, emulator)
        left = trio.current_time()
        await trio.sleep(LINGER / 2)
        assert len(emulator.conversations) == 1
        await gone(emulator)
        assert trio.current_time() - left > LINGER * 0.9
        await held(server, 0)
        late = await fetch(server, "/resumable", emulator, headers={"Last-Event-ID": last})
        assert late.status == 410
        assert len([request for request in emulator.requests if request.step == "create"]) == 1


async def test_a_reply_goes_on_while_nobody_reads_and_its_conversation_ends_with_it(server: Server) -> None:
    tokens = [f"<{number}>" for number in range(40)]
    async with open_emulator(H2o, tokens=tokens, token_delay=0.01) as emulator:
        seen, last = await cut_off(server, emulator)
        await gone(emulator, within=LINGER)
        await held(server, 1)
        back = await fetch(server, "/resumable", emulator, headers={"Last-Event-ID": last})
        assert text(seen + back.body) == "".join(tokens)
        again = await fetch(server, "/resumable", emulator, headers={"Last-Event-ID": last})
        assert events(again.body) == events(back.body)
        finish = last.partition(":")[0] + ":41"  # nobody was told of it by this number
        assert (await fetch(server, "/resumable", emulator, headers={"Last-Event-ID": finish})).status == 410
        await held(server, 0)


async def test_only_so_many_replies_wait_for_their_clients(server: Server) -> None:
    async with open_emulator(H2o, token_delay=0.05, forever=True) as emulator:
        lasts = [(await cut_off(server, emulator, tokens=1))[1] for _ in range(MAX_LINGERING + 2)]
        first = await fetch(server, "/resumable", emulator, headers={"Last-Event-ID": lasts[0]})
        assert first.status == 410
        await held(server, 0)
        await gone(emulator)


async def test_who_comes_back_takes_the_place_of_its_old_connection(server: Server) -> None:
    async with open_emulator(H2o, token_delay=0.01, forever=True) as emulator:
        async with get(server, "/resumable", emulator) as old:
            await old.head()
            await old.tokens(2)
            async with get(server, "/resumable", emulator, headers={"Last-Event-ID": old.last_event_id}) as new:
                await new.head()
                await old.read()
                assert b"event: finish" not in old.body
                await new.tokens(5)
        await held(server, 0)
        await gone(emulator)


async def test_who_means_it_stops_the_reply_for_good(server: Server) -> None:
    async with open_emulator(H2o, token_delay=0.01, forever=True) as emulator:
        async with get(server, "/resumable", emulator) as client:
            await client.head()
            await client.tokens(2)
            last = client.last_event_id
            assert (await fetch(server, f"/resumable/{last}", method="DELETE")).json is True
            await client.read()
        assert events(client.body)[-1][2]["reason"] == "interrupted"
        await gone(emulator, within=LINGER)
        assert (await fetch(server, "/resumable/nobody:3", method="DELETE")).json is False
        await held(server, 0)


async def test_an_id_that_nobody_was_given_is_refused(server: Server) -> None:
    async with open_emulator(H2o, token_delay=0.05, forever=True) as emulator:
        _, known = await cut_off(server, emulator, tokens=1)
        name = known.partition(":")[0]
        for last in ("nobody:3", ":3", "nonsense", f"{name}:-1", name, ":", f"{name}:99999", f"{name}:" + "9" * 5000):
            refused = await fetch(server, "/resumable", emulator, headers={"Last-Event-ID": last})
            assert refused.status == 410, last
        assert (await fetch(server, "/resumable", emulator, headers={"Last-Event-ID": "any:end"})).status == 204
        await held(server, 0)
        await gone(emulator)


async def test_a_client_that_leaves_before_the_status_is_not_waited_for(server: Server) -> None:
    async with open_emulator(H2o, first_delay=30) as emulator:
        async with get(server, "/resumable", emulator):
            await held(server, 1)
            with trio.fail_after(5):
                while not emulator.generating:
                    await trio.sleep(0.01)
        left = trio.current_time()
        await held(server, 0)
        await gone(emulator)
        assert trio.current_time() - left < LINGER


async def test_a_client_that_stops_reading_is_one_that_may_come_back(server: Server) -> None:
    async with open_emulator(H2o, tokens=["x" * 4096], forever=True) as emulator:
        async with get(server, "/resumable", emulator, receive_buffer=4096) as client:
            await client.head()
            await client.tokens(1)
            await gone(emulator, within=10)
        await held(server, 0)
    if server.kind.startswith("uvicorn"):  # it minds that the answer is not complete
        with trio.fail_after(5):
            while "without completing" not in server.errors:
                await trio.sleep(0.01)
        server.forget_errors()
