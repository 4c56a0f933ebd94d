"""Starting, stopping and asking an emulator: from trio, from asyncio, cancelled, and in the caller's nursery."""

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, ClassVar

import httpx
import pytest
import trio
import trio.testing

from trioprov.testing import (
    AllenAIScript,
    Emulator,
    H2oScript,
    RecordedRequest,
    assert_no_orphans,
    open_emulator,
    serve_emulator,
)
from trioprov.testing._h2o import H2oService

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]


class H2o:
    name: ClassVar[str] = "h2o"

    def __init__(self, *, base_url: str) -> None:
        self.base_url = base_url


class OpenAssistant(H2o):
    name = "openassistant"

    def __init__(self, *, base_url: str, cookies: dict[str, str]) -> None:
        super().__init__(base_url=base_url)
        self.cookies = cookies


class AllenAI(H2o):
    name = "allenai"


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "emulator" in thread.name]


async def create(emulator: Emulator[H2o], session: str = "me") -> str:
    """A conversation on an emulator without disclaimer."""
    async with httpx.AsyncClient(base_url=emulator.url, cookies={"hf-chat": session}) as client:
        response = await client.post("/conversation", json={"model": H2oScript().models[0]})
        return response.json()["conversationId"]


@pytest.mark.parametrize("provider_class", [H2o, OpenAssistant, AllenAI])
async def test_the_provider_is_ready_for_its_emulator(provider_class: Any) -> None:
    async with open_emulator(provider_class) as emulator:
        assert isinstance(emulator.provider, provider_class)
        assert emulator.provider.base_url == emulator.url
        assert emulator.name == provider_class.name
        assert emulator.connections == 0
        if isinstance(emulator.provider, OpenAssistant):
            assert list(emulator.provider.cookies) == ["next-auth.session-token"]
    assert threads() == []


async def test_what_it_saw_and_holds_can_be_read_when_it_has_stopped() -> None:
    async with open_emulator(H2o, disclaimer=False) as emulator:
        name = await create(emulator)
    assert emulator.conversations == (name,)
    assert "h2o at http://127.0.0.1" in repr(emulator)
    request = emulator.requests[0]
    assert (request.step, request.method, request.path, request.cookies) == (
        "create",
        "POST",
        "/conversation",
        {"hf-chat": "me"},
    )
    assert request.json == {"model": H2oScript().models[0]}
    assert request.headers["content-type"] == "application/json"


async def test_orphans_are_named_with_their_service() -> None:
    async with open_emulator(H2o, disclaimer=False) as first, open_emulator(AllenAI) as second:
        assert_no_orphans(first, second)
        assert_no_orphans([first, second])
        name = await create(first)
        with pytest.raises(AssertionError, match=f"h2o: {name}"):
            assert_no_orphans(second, first)
        with pytest.raises(AssertionError):
            assert_no_orphans([second], first)


async def test_cancelling_the_caller_leaves_the_server_alone_until_the_block_ends() -> None:
    seen: list[Emulator[H2o]] = []
    with trio.CancelScope() as scope:
        async with open_emulator(H2o, disclaimer=False) as emulator:
            seen.append(emulator)
            scope.cancel()
            with trio.CancelScope(shield=True):
                await create(emulator)
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert threads() == []
    assert len(seen[0].conversations) == 1


async def test_opening_in_a_cancelled_scope_starts_nothing() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        async with open_emulator(H2o):
            raise AssertionError("not reached")
    assert scope.cancelled_caught
    assert threads() == []


async def test_an_exception_passes_through_unchanged() -> None:
    with pytest.raises(KeyboardInterrupt):
        async with open_emulator(H2o):
            raise KeyboardInterrupt
    assert threads() == []


async def test_leaving_ends_streams_that_are_still_open() -> None:
    async with open_emulator(AllenAI, forever=True, token_delay=0.01) as emulator:
        stream = await trio.open_tcp_stream("127.0.0.1", int(emulator.url.rpartition(":")[2]))
        body = b"model=tulu3-405b&host=inferd&content=Hi"
        head = (
            b"POST /v4/message/stream HTTP/1.1\r\nHost: x\r\nX-Anonymous-User-ID: me\r\nContent-Length: %d\r\n"
            % len(body)
        )
        await stream.send_all(head + b"Content-Type: application/x-www-form-urlencoded\r\n\r\n" + body)
        assert b"200" in await stream.receive_some()
        assert emulator.connections == 1
    async with stream:
        with pytest.raises(trio.BrokenResourceError):  # noqa: PT012 - what is in the buffer comes first
            while await stream.receive_some():
                pass
            raise trio.BrokenResourceError
    assert emulator.connections == 0


def test_it_works_under_asyncio_and_outlives_a_loop() -> None:
    async def main() -> Emulator[H2o]:
        async with open_emulator(H2o, disclaimer=False) as emulator:
            await create(emulator)
            return emulator

    assert len(asyncio.run(main()).conversations) == 1
    assert threads() == []


def test_an_autojump_clock_does_not_hang_the_exit() -> None:
    async def main() -> None:
        async with open_emulator(H2o):
            await trio.sleep(1000)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert threads() == []


async def test_stopping_at_once_is_fine() -> None:
    opening = open_emulator(H2o)
    for _ in range(20):
        opening = open_emulator(H2o)
        await opening.__aenter__()
        await opening.__aexit__(None, None, None)
    assert threads() == []
    with pytest.raises(RuntimeError, match="opened once"):
        await opening.__aenter__()
    gc.collect()


@pytest.mark.parametrize("provider_class", [int, type("Foreign", (), {"name": "mistral"})])
def test_a_provider_without_an_emulator_is_a_clear_error(provider_class: Any) -> None:
    with pytest.raises(LookupError, match="there are allenai, h2o, openassistant"):
        open_emulator(provider_class)


async def test_a_provider_that_cannot_be_made_leaves_nothing_behind() -> None:
    def refuse(**fields: Any) -> H2o:
        raise ValueError(fields["base_url"])

    refuse.name = "h2o"  # pyright: ignore[reportFunctionMemberAccess]
    with pytest.raises(ValueError, match="127"):
        await open_emulator(refuse).__aenter__()
    assert threads() == []


@pytest.mark.parametrize("own", [False, True])
async def test_a_bug_of_the_emulator_is_raised_or_noted(
    own: bool, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    def fail(self: H2oService, request: RecordedRequest) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(H2oService, "step", fail)
    with pytest.raises(RuntimeError) as caught:  # noqa: PT012
        async with open_emulator(H2o) as emulator:
            with pytest.raises(httpx.RemoteProtocolError):
                await create(emulator)
            await eventually(lambda: bool(emulator.errors))
            if own:
                raise RuntimeError("mine")
    text = caught.value.__notes__[0] if own else str(caught.value)
    assert "the emulator of h2o failed" in text


async def test_it_can_be_served_in_the_callers_nursery() -> None:
    async with trio.open_nursery() as nursery:
        script = H2oScript(disclaimer=False)
        emulator: Emulator[H2o] = await nursery.start(partial(serve_emulator, H2o, script=script))
        await create(emulator)
        assert threads() == []
        nursery.cancel_scope.cancel()
    assert len(emulator.conversations) == 1


async def test_serving_wants_the_services_own_script() -> None:
    with pytest.raises(TypeError, match="h2o takes a H2oScript"):
        await serve_emulator(H2o, script=AllenAIScript())


async def test_a_service_runs_on_memory_streams_in_virtual_time(autojump_clock: trio.testing.MockClock) -> None:
    """So that cancellation sweeps need no sockets and no waiting."""
    service = H2oService(H2oScript(token_delay=100, disclaimer=False))
    ours, theirs = trio.testing.memory_stream_pair()

    async def serving(nursery: trio.Nursery) -> None:
        nursery.start_soon(service.serve_stream, theirs)
        body = b'{"model":"%s"}' % service.knobs.models[0].encode()
        await ours.send_all(
            b"POST /conversation HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        assert b"conversationId" in await ours.receive_some()

    await service.serve(serving)
    assert len(service.conversations) == 1
