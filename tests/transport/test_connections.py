"""What httpx carries for us, to a proxy or by a transport of the user's: no less is known, and nothing more lost."""

from __future__ import annotations

import gc
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import pytest
import respx
import trio
import trio.testing
from other_ends import proxied

import trioprov
from trioprov import AllenAI, H2o, OpenAssistant
from trioprov._transport import Exchange, Transport
from trioprov.providers import Provider, Request
from trioprov.testing import Emulator, Fault, open_emulator

QUESTION = "Why is the sky blue?"

# The request that creates; and what can be said of one whose answer is lost.
CREATE: dict[type[Provider], str] = {H2o: "create", OpenAssistant: "create", AllenAI: "stream"}
PATHS: dict[type[Provider], str] = {H2o: "/conversation", OpenAssistant: "/api/chat", AllenAI: "/v4/message/stream"}
LOST: dict[type[Provider], str] = {H2o: "deleted", OpenAssistant: "lost", AllenAI: "lost"}


@asynccontextmanager
async def behind_a_proxy(emulator: Emulator[Any]) -> AsyncGenerator[Provider]:
    """The emulator's provider, with a proxy between."""
    theirs = emulator.provider
    async with proxied(emulator) as port:
        yield type(theirs)(base_url=theirs.base_url, cookies=theirs.cookies, proxy=f"http://127.0.0.1:{port}")


class Wrapped(httpx.AsyncBaseTransport):
    """A transport of a user's, which knows nothing of our hooks.

    Args:
        path: what is asked for by the request that creates.
        instead: what happens instead of its answer.
    """

    def __init__(self, path: str, instead: Callable[[], Awaitable[None]]) -> None:
        self._inner = httpx.AsyncHTTPTransport(verify=False)
        self._path = path
        self._instead = instead

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions = {}
        response = await self._inner.handle_async_request(request)
        content = b"".join([part async for part in response.aiter_raw()])
        await response.aclose()
        if request.url.path == self._path:
            await self._instead()
        return httpx.Response(response.status_code, headers=response.headers, content=content)

    async def aclose(self) -> None:
        await self._inner.aclose()


async def broken() -> None:
    raise httpx.ReadError("it broke")


async def test_a_create_whose_answer_a_proxy_lost_is_owed(service: type[Provider]) -> None:
    fault = Fault(on=CREATE[service], lose_response=True)
    async with open_emulator(service, faults=[fault]) as emulator, behind_a_proxy(emulator) as provider:
        (answer,) = await trioprov.gather(QUESTION, [provider])
        assert isinstance(answer.error, trioprov.ConnectionFailed)
        assert answer.cleanup is not None
        assert answer.cleanup.outcome == LOST[service]
        assert bool(emulator.conversations) == (LOST[service] == "lost")


async def test_a_create_that_is_given_up_behind_a_proxy_is_owed(service: type[Provider]) -> None:
    fault = Fault(on=CREATE[service], hang=True)
    async with (
        open_emulator(service, faults=[fault]) as emulator,
        behind_a_proxy(emulator) as provider,
        trioprov.open_client(create_timeout=1, cleanup_timeout=2) as client,
    ):
        (answer,) = await trioprov.gather(
            QUESTION, [provider], client=client, deadlines=trioprov.Deadlines(first_token=1)
        )
        assert answer.cleanup is not None
        assert answer.cleanup.outcome in (LOST[service], "already_gone")


@pytest.mark.parametrize("how", ["an error", "silence"])
async def test_what_a_transport_of_the_users_may_have_sent_is_owed(service: type[Provider], how: str) -> None:
    transport = Wrapped(PATHS[service], broken if how == "an error" else trio.sleep_forever)
    async with (
        open_emulator(service) as emulator,
        trioprov.open_client(transport=transport, create_timeout=0.1, cleanup_timeout=2) as client,
    ):
        (answer,) = await trioprov.gather(
            QUESTION, [emulator.provider], client=client, deadlines=trioprov.Deadlines(first_token=0.5)
        )
        assert answer.error is not None
        assert answer.cleanup is not None
        assert answer.cleanup.outcome == LOST[service]
        assert bool(emulator.conversations) == (LOST[service] == "lost")


@pytest.mark.parametrize(
    "error", [httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, httpx.UnsupportedProtocol]
)
async def test_where_a_transport_of_the_users_did_not_connect_nothing_is_owed(
    service: type[Provider], error: type[httpx.HTTPError]
) -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise error("no way")

    provider = service(base_url="http://mock.test", cookies={"next-auth.session-token": "abcdef"})
    async with trioprov.open_client(transport=httpx.MockTransport(refuse)) as client:
        (answer,) = await trioprov.gather(QUESTION, [provider], client=client)
    assert isinstance(answer.error, trioprov.ConnectionFailed)
    assert answer.cleanup is not None
    assert answer.cleanup.outcome == "nothing_owed"


async def test_what_an_interceptor_may_have_sent_is_owed() -> None:
    provider = OpenAssistant(base_url="http://mock.test", cookies={"next-auth.session-token": "abcdef"})
    with respx.mock(using="httpx") as router:
        router.post("http://mock.test/api/chat").mock(side_effect=httpx.ReadError)
        (answer,) = await trioprov.gather(QUESTION, [provider])
    assert isinstance(answer.error, trioprov.ConnectionFailed)
    assert answer.cleanup is not None
    assert answer.cleanup.outcome == "lost"


async def test_a_cancellation_just_before_the_first_byte_leaves_nothing_in_doubt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trace = Exchange.trace
    scope = trio.CancelScope()

    async def cancelling(self: Exchange, event: str, info: dict[str, Any]) -> None:
        if event.endswith("send_request_headers.started"):
            scope.cancel()
        await trace(self, event, info)

    monkeypatch.setattr(Exchange, "trace", cancelling)
    async with open_emulator(H2o) as emulator, behind_a_proxy(emulator) as provider:
        transport, exchange = Transport(), Exchange()
        with scope:
            await transport.send(provider, Request(method="GET", path="/", headers={}), exchange)
        assert scope.cancelled_caught
        assert not exchange.sent
        assert not emulator.requests
        await transport.aclose()


@pytest.mark.parametrize("theirs", [False, True], ids=["ours", "httpx's"])
async def test_a_question_that_is_broken_off_while_it_is_sent_leaves_nothing_behind(theirs: bool) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()  # and read nothing, so that no buffer takes all of the question

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        provider = AllenAI(base_url=f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}")
        transport, exchange = Transport(transport=httpx.AsyncHTTPTransport() if theirs else None), Exchange()
        with trio.move_on_after(20) as scope:

            async def break_off() -> None:
                while not exchange.sent:  # noqa: ASYNC110 - it is no event's
                    await trio.sleep(0.01)
                scope.deadline = trio.current_time() + 0.5

            nursery.start_soon(break_off)
            await transport.send(
                provider, Request(method="POST", path="/", headers={}, json="x" * 20_000_000), exchange
            )
        assert scope.cancelled_caught
        assert exchange.sent
        await transport.aclose()
        nursery.cancel_scope.cancel()
    gc.collect()  # what is left open now would warn


async def test_a_proxy_of_the_environment_s_whose_name_no_host_can_have_is_no_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://{'a' * 64}.example:80")
    with pytest.raises(trioprov.ConnectionFailed):
        await trioprov.ask(QUESTION, H2o(base_url="http://h2o.example"))


@pytest.mark.parametrize("intercepted", [False, True])
async def test_what_cannot_be_said_was_not_sent(intercepted: bool, caplog: pytest.LogCaptureFixture) -> None:
    if intercepted:
        caplog.set_level("INFO", "httpx")
    transport, exchange = Transport(), Exchange()
    request = Request(method="GET", path="/", headers={"x": "a\r\nb"})
    with pytest.raises(trioprov.ConnectionFailed, match="'x' is not one that can be sent"):
        await transport.send(AllenAI(base_url="http://127.0.0.1:9"), request, exchange)
    assert not exchange.sent
    await transport.aclose()


# -- A body that is left ----------------------------------------------------------------------------------------------


class Body(httpx.AsyncByteStream):
    """Never ends, and takes its time to be closed."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds
        self.closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await trio.sleep(0.1)
        return b" " * 100_000

    async def aclose(self) -> None:
        await trio.sleep(self._seconds)
        self.closed = True


def answering(body: Body, **headers: str) -> Transport:
    """A user's transport, whose every answer is this."""

    def respond(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers=headers, stream=body)

    return Transport(transport=httpx.MockTransport(respond))


REQUEST = Request(method="GET", path="/", headers={})
NOBODY = AllenAI(base_url="http://mock.test")


async def left(body: Body) -> float:
    """Ask what answers with it, and leave; how long that took."""

    async def receive(data: bytes) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    transport = answering(body)
    begun = trio.current_time()
    with trio.move_on_after(1):
        await transport.stream(NOBODY, REQUEST, Exchange(), receive)
    ended = trio.current_time()
    await transport.aclose()
    return ended - begun


async def test_a_body_of_the_users_transport_is_closed_though_it_was_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    body = Body(0.5)
    assert math.isclose(await left(body), 1.5)
    assert body.closed


async def test_a_body_of_the_users_transport_that_does_not_close_keeps_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    assert math.isclose(await left(Body(1000)), 2)


async def test_what_goes_wrong_while_a_body_of_the_users_transport_is_read_is_raised_when_it_was_left(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def receive(data: bytes) -> bool:
        await trio.lowlevel.checkpoint()
        raise LookupError("what?")

    body = Body()
    transport = answering(body)
    with pytest.raises(LookupError, match=r"what\?"):
        await transport.stream(NOBODY, REQUEST, Exchange(), receive)
    assert body.closed
    await transport.aclose()


async def test_an_answer_of_the_users_transport_that_does_not_end_is_too_long(
    autojump_clock: trio.testing.MockClock,
) -> None:
    body = Body()
    transport = answering(body)
    with pytest.raises(trioprov.RemoteProtocolError, match="the answer to a GET is larger than 1048576 bytes"):
        await transport.send(NOBODY, REQUEST)
    assert body.closed
    await transport.aclose()


async def test_an_encoding_that_nobody_knows_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    body = Body()
    transport = answering(body, **{"content-encoding": "br"})
    with pytest.raises(trioprov.RemoteProtocolError, match="an encoding that was not asked for"):
        await transport.send(NOBODY, REQUEST)
    assert body.closed
    await transport.aclose()


# -- Pools of httpx's --------------------------------------------------------------------------------------------------


async def test_a_pool_of_httpxs_carries_few_at_once_and_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0
    init = httpx.AsyncClient.__init__

    def counting(self: httpx.AsyncClient, *args: Any, **how: Any) -> None:
        nonlocal made
        made += 1
        init(self, *args, **how)

    monkeypatch.setattr(httpx.AsyncClient, "__init__", counting)
    async with open_emulator(AllenAI, first_delay=0.2) as emulator, behind_a_proxy(emulator) as provider:
        transport = Transport()

        async def ask(method: str) -> None:
            await transport.send(provider, Request(method=method, path="/v4/nothing", headers={}))

        for _ in range(40):
            await ask("GET")
        assert made == 1
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for _ in range(40):
                    nursery.start_soon(ask, "GET")
            assert made == 2
        await transport.aclose()
