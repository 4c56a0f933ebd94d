"""Our own transport: whatever happens at whatever instant, a connection is as good as new, or closed."""

# pyright: reportPossiblyUnboundVariable=false

from __future__ import annotations

import gc
import socket
import ssl
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import httpx
import pytest
import respx
import trio
import trio.testing
import trustme
from other_ends import request_of

import trioprov
from trioprov import AllenAI, H2o
from trioprov._transport import _wires
from trioprov._transport._http1 import BODY, KEEPALIVE, TELL, HTTP1Transport
from trioprov._transport._wires import Wire
from trioprov.testing import assert_no_orphans, open_emulator
from trioprov.testing._memory import MemoryNetwork, MemorySocket
from trioprov.testing._strike import Points, cancel

Handler = Callable[[trio.abc.Stream], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\n"
HI = OK + b"Content-Length: 2\r\n\r\nhi"


SERVER, CLIENT = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
AUTHORITY = trustme.CA()
AUTHORITY.issue_cert("127.0.0.1").configure_cert(SERVER)  # pyright: ignore[reportUnknownMemberType]
AUTHORITY.configure_trust(CLIENT)  # pyright: ignore[reportUnknownMemberType]


class Server:
    """Answers each request by what ``answers`` says for its target, and counts connections."""

    def __init__(self, **answers: bytes | Handler) -> None:
        self.answers: dict[str, bytes | Handler] = {"hi": HI, **answers}
        self.connections = 0
        self.open = 0
        self.requests: list[bytes] = []

    async def serve(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        self.open += 1
        try:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while request := await request_of(stream):
                    self.requests.append(request)
                    answer = self.answers[request.split()[1][1:].decode()]
                    if isinstance(answer, bytes):
                        await stream.send_all(answer)
                    else:
                        await answer(stream)
        finally:
            self.open -= 1
            await trio.aclose_forcefully(stream)


class Memory:
    """The server in memory, at port 80."""

    @asynccontextmanager
    async def __call__(self, server: Server) -> AsyncGenerator[str]:
        network = MemoryNetwork()
        trio.socket.set_custom_socket_factory(network)
        async with trio.open_nursery() as nursery:

            def accept(stream: trio.SocketStream) -> None:
                nursery.start_soon(server.serve, stream)

            network.servers[80] = accept
            yield "http://127.0.0.1"
            nursery.cancel_scope.cancel()


class Loopback:
    """The server on a socket."""

    def __init__(self, *, tls: bool = False) -> None:
        self.tls = tls

    @asynccontextmanager
    async def __call__(self, server: Server) -> AsyncGenerator[str]:
        async with trio.open_nursery() as nursery:
            listeners: list[Any] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port: int = listeners[0].socket.getsockname()[1]
            if self.tls:
                listeners = [trio.SSLListener(listener, SERVER) for listener in listeners]
            nursery.start_soon(trio.serve_listeners, server.serve, listeners)
            yield f"{'https' if self.tls else 'http'}://127.0.0.1:{port}"
            nursery.cancel_scope.cancel()


Network = Memory | Loopback


@pytest.fixture(params=[Memory(), Loopback(), Loopback(tls=True)], ids=["memory", "sockets", "tls"])
def network(request: pytest.FixtureRequest) -> Network:
    return request.param


def socket_of(stream: trio.abc.Stream) -> trio.SocketStream:
    below: Any = getattr(stream, "transport_stream", stream)  # what is below TLS, if there is any
    assert isinstance(below, trio.SocketStream)
    return below


@asynccontextmanager
async def client_of() -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=HTTP1Transport(lambda: CLIENT), timeout=5) as client:
        yield client


async def all_closed(server: Server) -> None:
    with trio.fail_after(5):
        while server.open:  # noqa: ASYNC110 - it is the server that has to notice
            await trio.sleep(0.001)


# -- Connections are used again, or closed -----------------------------------------------------------------------------


async def test_requests_one_after_another_share_a_connection_and_two_at_once_do_not(network: Network) -> None:
    server = Server(chunked=OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", head=OK + b"\r\n")
    server.answers["nothing"] = b"HTTP/1.1 204 No Content\r\n\r\n"
    async with network(server) as url, client_of() as client:
        for _ in range(3):
            assert (await client.get(f"{url}/hi")).text == "hi"
            assert (await client.post(f"{url}/chunked", content=b"x" * 1000)).text == "hi"
            assert (await client.head(f"{url}/head")).text == ""
            assert (await client.delete(f"{url}/nothing")).status_code == 204
        assert server.connections == 1
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(client.get, f"{url}/hi")
        assert 1 < server.connections <= 10
        assert server.open == server.connections


NOT_AGAIN: dict[str, bytes] = {
    "close": OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi",
    "old": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "garbage": HI + b"x",
    "another": HI + OK + b"Content-Length: 2\r\n\r\nno",
    "newline": HI + b"\r\n",
    "chunked": OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n",
}


@pytest.mark.parametrize("name", NOT_AGAIN)
async def test_a_connection_that_is_not_as_it_was_is_closed(network: Network, name: str) -> None:
    server = Server(it=NOT_AGAIN[name])
    async with network(server) as url, client_of() as client:
        for number in (1, 2):
            assert (await client.get(f"{url}/it")).text == "hi"
            assert server.connections == number
        await all_closed(server)


async def test_what_a_server_says_unasked_is_nobodys_answer(network: Network) -> None:
    async def twice(stream: trio.abc.Stream) -> None:
        await stream.send_all(HI)
        await trio.sleep(0.01)
        await stream.send_all(OK + b"Content-Length: 6\r\n\r\nforged")

    server = Server(twice=twice)
    async with network(server) as url, client_of() as client:
        assert (await client.get(f"{url}/twice")).text == "hi"
        await trio.sleep(0.1)
        assert (await client.get(f"{url}/hi")).text == "hi"
        assert server.connections == 2


async def test_a_connection_that_the_server_closed_meanwhile_is_not_used(network: Network) -> None:
    async def once(stream: trio.abc.Stream) -> None:
        await stream.send_all(HI)
        await trio.sleep(0.01)
        await trio.aclose_forcefully(stream)

    server = Server(once=once)
    async with network(server) as url, client_of() as client:
        for _ in range(3):
            assert (await client.get(f"{url}/once")).text == "hi"
            await trio.sleep(0.1)
        assert server.connections == 3


async def test_an_idle_connection_is_closed_before_the_server_does(autojump_clock: trio.testing.MockClock) -> None:
    server = Server()
    async with Memory()(server) as url, client_of() as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, f"{url}/hi")
            nursery.start_soon(client.get, f"{url}/hi")
        await trio.sleep(KEEPALIVE - 0.1)
        await client.get(f"{url}/hi")  # it uses one of them
        assert (server.connections, server.open) == (2, 2)
        await trio.sleep(0.2)
        await client.get(f"{url}/hi")  # and the other is old now
        await trio.sleep(0.1)
        assert (server.connections, server.open) == (2, 1)
        await trio.sleep(KEEPALIVE + 0.1)
        await client.get(f"{url}/hi")
        await trio.sleep(0.1)
        assert (server.connections, server.open) == (3, 1)


async def test_the_connection_that_was_used_last_is_used_first(autojump_clock: trio.testing.MockClock) -> None:
    async def later(stream: trio.abc.Stream) -> None:
        await trio.sleep(1)
        await stream.send_all(HI)

    server = Server(later=later)
    async with Memory()(server) as url, client_of() as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, f"{url}/hi")
            nursery.start_soon(client.get, f"{url}/later")
        await trio.sleep(1)
        await client.get(f"{url}/hi")
        await trio.sleep(KEEPALIVE - 1.9)  # the one that nobody used since the beginning is old now
        await client.get(f"{url}/hi")
        await trio.sleep(0.1)
        assert (server.connections, server.open) == (2, 1)


async def test_an_answer_that_is_left_early_takes_its_connection_with_it(network: Network) -> None:
    server = Server(long=OK + b"Content-Length: 9999\r\n\r\nhi")
    async with network(server) as url, client_of() as client:
        async with client.stream("GET", f"{url}/long") as response:
            answer = response.extensions[BODY]
            assert await answer.receive() == b"hi"
        await all_closed(server)
        with pytest.raises(httpx.StreamClosed):
            await answer.receive()


async def answered(transport: HTTP1Transport, url: str) -> httpx.Response:
    return await transport.handle_async_request(httpx.Request("GET", url))


async def body_of(response: httpx.Response) -> bytes:
    """Without a client that would close the response."""
    assert isinstance(response.stream, httpx.AsyncByteStream)
    return b"".join([data async for data in response.stream])


async def test_an_answer_that_has_come_gives_its_connection_back_whether_or_not_it_is_closed(network: Network) -> None:
    async def slowly(stream: trio.abc.Stream) -> None:
        await stream.send_all(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
        await trio.sleep(0.01)
        await stream.send_all(b"0\r\n\r\n")

    server = Server(nothing=b"HTTP/1.1 204 No Content\r\n\r\n", slowly=slowly)
    async with network(server) as url:
        transport = HTTP1Transport(lambda: CLIENT)
        responses = [await answered(transport, f"{url}/nothing") for _ in range(2)]  # not even looked at
        for _ in range(2):
            responses.append(await answered(transport, f"{url}/slowly"))
            assert await body_of(responses[-1]) == b"hi"
        assert server.connections == 1
        await transport.aclose()


async def test_an_answer_that_broke_closes_its_connection_whether_or_not_it_is_closed(network: Network) -> None:
    broken = OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nnonsense\r\n"
    server = Server(broken=broken)  # and the server holds the connection open
    async with network(server) as url:
        transport = HTTP1Transport(lambda: CLIENT)
        response = await answered(transport, f"{url}/broken")
        with pytest.raises(httpx.RemoteProtocolError), trio.fail_after(5):
            await body_of(response)
        await all_closed(server)
        await transport.aclose()


async def test_what_is_asked_of_a_closed_transport_leaves_no_connection(network: Network) -> None:
    server = Server()
    async with network(server) as url:
        transport = HTTP1Transport(lambda: CLIENT)
        await transport.aclose()
        assert await body_of(await answered(transport, f"{url}/hi")) == b"hi"
        await all_closed(server)


async def test_a_connection_that_is_closed_is_not_remembered() -> None:
    def wires() -> list[Wire]:
        gc.collect()
        return [one for one in gc.get_objects() if isinstance(one, Wire)]

    before = wires()
    server = Server(close=NOT_AGAIN["close"])
    async with Memory()(server) as url, client_of() as client:
        for _ in range(5):
            await client.get(f"{url}/close")
        assert all(wire in before for wire in wires())


async def test_closing_the_client_wakes_who_uses_it(network: Network) -> None:
    server = Server(long=OK + b"Content-Length: 9999\r\n\r\nhi")
    async with network(server) as url, trio.open_nursery() as nursery:
        async with client_of() as client:

            async def reading() -> None:
                with pytest.raises(httpx.ReadError):
                    await client.get(f"{url}/long")

            nursery.start_soon(reading)
            await client.get(f"{url}/hi")
            await trio.testing.wait_all_tasks_blocked(0.01)
        await all_closed(server)


# -- Cancelled anywhere ------------------------------------------------------------------------------------------------


async def slow_chunks(stream: trio.abc.Stream) -> None:
    for part in (OK, b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\nsl", b"o\r\n", b"1\r\nw\r\n", b"0\r\n", b"\r\n"):
        await stream.send_all(part)
        await trio.sleep(0.001)


async def test_cancelled_at_any_step_a_connection_is_as_good_as_new_or_closed(network: Network) -> None:
    for step in range(1, 1000):
        server = Server(slow=slow_chunks)
        told: list[bool] = []
        async with network(server) as url, client_of() as client:
            (await client.get(f"{url}/hi")).read()

            async def body(client: httpx.AsyncClient = client, url: str = url, told: list[bool] = told) -> None:
                for name in ("slow", "hi", "slow"):
                    request = client.build_request(
                        "POST", f"{url}/{name}", content=b"x", extensions={TELL: told.append}
                    )
                    response = await client.send(request)
                    assert response.text == {"slow": "slow", "hi": "hi"}[name]

            points = Points(step)
            await cancel(body, points)
            # What did not leave did not arrive, and whoever comes next gets an answer of his own.
            await trio.sleep(0.02)
            assert len(server.requests) - 1 <= sum(told)
            async with trio.open_nursery() as nursery:
                for _ in range(3):

                    async def after(client: httpx.AsyncClient = client, url: str = url) -> None:
                        assert (await client.get(f"{url}/hi")).text == "hi"

                    nursery.start_soon(after)
            with trio.fail_after(5):
                while server.open > 3:  # noqa: ASYNC110 - it is the server that has to notice
                    await trio.sleep(0.001)
        if not points.where:
            break
    assert 10 < step < 999


async def test_a_request_is_told_to_leave_just_before_it_does(network: Network) -> None:
    server = Server()
    told: list[Any] = []

    async def note(stream: trio.abc.Stream) -> None:
        told.append("arrived")
        await stream.send_all(HI)

    server.answers["note"] = note
    async with network(server) as url, client_of() as client:
        await client.get(f"{url}/note", extensions={TELL: told.append})
        assert told == [False, True, "arrived"]
        told.clear()
        refused = url.rpartition(":")[0] + ":9" if "1:" in url else f"{url}:9"
        for bad in (refused, "ftp://127.0.0.1", f"{url}/a"):
            headers = {"x": "a\r\nb"} if bad.endswith("/a") else {}
            with pytest.raises(httpx.TransportError):
                await client.get(bad, headers=headers, extensions={TELL: told.append})
        assert told == [False] * 3
        assert server.connections == 1


# -- Errors, in httpx's words ------------------------------------------------------------------------------------------

BROKEN: dict[str, tuple[bytes, type[httpx.HTTPError], str]] = {
    "nothing": (b"", httpx.RemoteProtocolError, "disconnected"),
    "half a head": (OK, httpx.RemoteProtocolError, "disconnected"),
    "a length, cut": (OK + b"Content-Length: 9\r\n\r\nhi", httpx.RemoteProtocolError, "peer closed connection"),
    "chunks, cut": (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", httpx.RemoteProtocolError, "peer closed"),
    "nonsense": (b"nonsense", httpx.RemoteProtocolError, "begin like an answer"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_answer_is_an_error_and_its_connection_closed(network: Network, name: str) -> None:
    answer, error, words = BROKEN[name]

    async def send_and_close(stream: trio.abc.Stream) -> None:
        await stream.send_all(answer)
        await trio.aclose_forcefully(stream)

    server = Server(it=send_and_close)
    async with network(server) as url, client_of() as client:
        with pytest.raises(error, match=words):
            await client.get(f"{url}/it")
        await all_closed(server)


async def reset(stream: trio.abc.Stream) -> None:
    socket_of(stream).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await trio.aclose_forcefully(stream)


async def test_a_reset_is_an_error_wherever_it_comes(network: Network) -> None:
    async def later(stream: trio.abc.Stream) -> None:
        await stream.send_all(OK + b"\r\nhi")
        await trio.sleep(0.01)
        await reset(stream)

    server = Server(reset=reset, later=later)
    async with network(server) as url, client_of() as client:
        for name in ("reset", "later"):
            with pytest.raises(httpx.TransportError):
                await client.get(f"{url}/{name}")
        await all_closed(server)


async def test_a_connection_that_is_not_made_in_time_is_an_error(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def connect(*_: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(MemorySocket, "connect", connect)
    async with Memory()(Server()) as url, client_of() as client:
        with pytest.raises(httpx.ConnectTimeout):
            await client.get(f"{url}/hi")
    assert trio.current_time() > 4


# -- Answers that do not wait for the question -------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("stays", [True, False])
async def test_an_answer_may_come_before_the_whole_question_was_sent(stays: bool, tls: bool) -> None:
    async def serve(stream: trio.abc.Stream) -> None:
        if (await stream.receive_some(100)).startswith(b"GET"):
            await stream.send_all(HI)
            return
        await stream.send_all(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        if stays:
            await trio.sleep_forever()
        await trio.aclose_forcefully(stream)  # a reset, as there is something unread

    server = Server()
    server.serve = serve
    async with Loopback(tls=tls)(server) as url, client_of() as client:
        with trio.fail_after(5):
            response = await client.post(f"{url}/", content=b"x" * 30_000_000)
        assert (response.status_code, response.text) == (413, "no")
        assert (await client.get(f"{url}/hi")).text == "hi"


@pytest.mark.parametrize("tls", [False, True])
async def test_who_answers_before_the_end_of_the_question_may_hear_the_rest_of_it(tls: bool) -> None:
    question, begun = b"x" * 15_000_000 + b"!", trio.Event()

    async def serve(stream: trio.abc.Stream) -> None:
        heard = await stream.receive_some(100)
        await stream.send_all(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nI \r\n")
        await begun.wait()
        while not heard.endswith(b"!"):
            heard = await stream.receive_some(65536)
            assert heard
        await stream.send_all(b"3\r\nsee\r\n0\r\n\r\n")
        await trio.sleep_forever()

    server = Server()
    server.serve = serve
    async with Loopback(tls=tls)(server) as url, client_of() as client:
        with trio.fail_after(10):
            async with client.stream("POST", f"{url}/", content=question) as response:
                begun.set()
                assert await response.aread() == b"I see"


async def test_who_refuses_a_question_does_not_hear_the_rest_of_it() -> None:
    refused = trio.Event()

    async def serve(stream: trio.abc.Stream) -> None:
        heard = await stream.receive_some(100)
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nno,\r\n")
        await refused.wait()
        with trio.move_on_after(0.1) as scope:  # what was on its way
            while not heard.endswith(b"!"):
                heard = await stream.receive_some(65536)
                scope.deadline = trio.current_time() + 0.1
        assert not heard.endswith(b"!")
        await stream.send_all(b"3\r\n no\r\n0\r\n\r\n")

    server = Server()
    server.serve = serve
    async with Loopback()(server) as url, client_of() as client:
        with trio.fail_after(10):
            async with client.stream("POST", f"{url}/", content=b"x" * 30_000_000 + b"!") as response:
                refused.set()
                assert await response.aread() == b"no, no"


@pytest.mark.parametrize("tls", [False, True])
async def test_a_server_may_take_its_time_for_a_long_question(monkeypatch: pytest.MonkeyPatch, tls: bool) -> None:
    monkeypatch.setattr(_wires, "_GLANCE", 0.01)

    async def serve(stream: trio.abc.Stream) -> None:
        await stream.receive_some(100)
        await trio.sleep(0.05)
        while not (await stream.receive_some(65536)).endswith(b"!"):
            pass
        await stream.send_all(HI)

    server = Server()
    server.serve = serve
    async with Loopback(tls=tls)(server) as url, client_of() as client:
        with trio.fail_after(10):
            assert (await client.post(f"{url}/", content=b"x" * 15_000_000 + b"!")).text == "hi"


async def test_an_answer_until_the_end_that_was_reset_while_its_question_was_sent_is_cut() -> None:
    async def serve(stream: trio.abc.Stream) -> None:
        await stream.receive_some(100)
        await stream.send_all(OK + b"\r\nhalf an ans")
        await trio.sleep(0.01)
        await reset(stream)

    server = Server()
    server.serve = serve
    async with Loopback()(server) as url, client_of() as client:
        with pytest.raises(httpx.RemoteProtocolError, match="peer closed"), trio.fail_after(5):
            await client.post(f"{url}/", content=b"x" * 30_000_000)


async def test_a_question_that_is_larger_than_any_buffer_arrives_whole(network: Network) -> None:
    server = Server()
    async with network(server) as url, client_of() as client:
        assert (await client.post(f"{url}/hi", content=bytes(range(256)) * 100_000)).text == "hi"
        assert (await client.get(f"{url}/hi")).text == "hi"
        assert server.connections == 1


# -- Whoever wants to have a word --------------------------------------------------------------------------------------


@pytest.mark.parametrize("using", ["httpcore", "httpx"])
async def test_respx_sees_every_request_of_ours(using: str) -> None:
    async with open_emulator(H2o) as emulator, trioprov.open_client() as client:
        for _ in range(2):
            with respx.mock(using=using) as router:
                route = router.post("https://olmo.test/v4/message/stream").respond(503)
                with pytest.raises(trioprov.Overloaded):
                    await trioprov.ask("Why?", AllenAI(base_url="https://olmo.test"), client=client)
                assert route.call_count == 1
            assert (await trioprov.ask("Why?", emulator.provider, client=client)).text
        assert_no_orphans(emulator)


async def test_who_replaces_httpxs_own_transport_sees_every_request_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(self: object, request: httpx.Request) -> httpx.Response:
        return httpx.Response(503, request=request)

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", answer)
    with pytest.raises(trioprov.Overloaded):
        await trioprov.ask("Why?", AllenAI(base_url="https://olmo.test"))


@contextmanager
def counted_contexts(monkeypatch: pytest.MonkeyPatch) -> Generator[list[object]]:
    made: list[object] = []
    new = ssl.SSLContext.__new__

    def counting(cls: type[ssl.SSLContext], *args: Any, **how: Any) -> ssl.SSLContext:
        made.append(cls)
        return new(cls, *args, **how)

    with monkeypatch.context() as patch:
        patch.setattr(ssl.SSLContext, "__new__", counting)
        yield made


async def test_plain_http_makes_no_tls_context(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_emulator(H2o) as emulator:
        with counted_contexts(monkeypatch) as made:
            assert (await trioprov.ask("Why?", emulator.provider)).text
        assert made == []
        assert_no_orphans(emulator)
