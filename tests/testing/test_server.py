"""The small HTTP server: any trio stream, keep-alive, limits, and noticing that a client has left."""

import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from trioprov.testing import RecordedRequest
from trioprov.testing._server import ClientGone, Responder, compact_json, serve_stream

GET = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"


class Echo:
    """Answers with what it saw; under ``/stream`` it writes until the client leaves."""

    body_limit = 8

    def __init__(self) -> None:
        self.seen: list[RecordedRequest] = []
        self.left = trio.Event()

    async def handle(self, request: RecordedRequest, respond: Responder) -> None:
        self.seen.append(request)
        if request.path == "/stream":
            await respond.start(200)
            try:
                while True:
                    await respond.write(b"x" * 10)
                    await trio.sleep(1)
            except ClientGone:
                self.left.set()
        elif request.path == "/wait":
            with respond.while_connected():
                await trio.sleep_forever()
            self.left.set()
        elif request.path == "/chunks":
            await respond.start(200)
            await respond.write(b"abcde")
            await respond.end()
        else:
            await respond.send(413 if request.too_large else 200, request.body or b"empty", [("X", "y")])


@asynccontextmanager
async def connection(handler: Echo, **options: Any) -> AsyncGenerator[trio.StapledStream[Any, Any]]:
    async with trio.open_nursery() as nursery:
        ours, theirs = trio.testing.memory_stream_pair()

        nursery.start_soon(partial(serve_stream, theirs, handler, **options))
        yield ours
        await ours.aclose()


async def read(stream: trio.abc.ReceiveStream) -> bytes:
    await trio.testing.wait_all_tasks_blocked()
    with trio.fail_after(1000):
        return bytes(await stream.receive_some())


async def test_one_connection_serves_several_requests(autojump_clock: trio.testing.MockClock) -> None:
    handler = Echo()
    async with connection(handler) as stream:
        for _ in range(2):
            await stream.send_all(b"POST /a?b=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
            answer = await read(stream)
            assert answer == b"HTTP/1.1 200 \r\nX: y\r\nContent-Length: 2\r\n\r\nhi"
    assert [(request.method, request.path, request.query) for request in handler.seen] == [
        ("POST", "/a", {"b": "1"})
    ] * 2


async def test_a_pipelined_request_is_kept_for_its_turn(autojump_clock: trio.testing.MockClock) -> None:
    async with connection(Echo()) as stream:
        await stream.send_all(GET % b"a" + GET % b"b")
        answers = b""
        while answers.count(b"empty") < 2:
            answers += await read(stream)


async def test_a_request_may_come_byte_by_byte_and_chunked(autojump_clock: trio.testing.MockClock) -> None:
    handler = Echo()
    async with connection(handler) as stream:
        for byte in b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n1\r\n!\r\n0\r\n\r\n":
            await stream.send_all(bytes([byte]))
        assert (await read(stream)).endswith(b"hi!")


async def test_more_than_the_limit_is_read_and_thrown_away(autojump_clock: trio.testing.MockClock) -> None:
    handler = Echo()
    async with connection(handler) as stream:
        await stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + bytes(100000))
        assert (await read(stream)).startswith(b"HTTP/1.1 413")
        await stream.send_all(GET % b"")
        assert b"200" in await read(stream)


async def test_a_client_that_waits_for_100_continue_is_told(autojump_clock: trio.testing.MockClock) -> None:
    async with connection(Echo()) as stream:
        await stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert (await read(stream)).startswith(b"HTTP/1.1 100")
        await stream.send_all(b"hi")
        assert (await read(stream)).endswith(b"hi")


async def test_what_is_no_http_gets_a_400_and_the_end(autojump_clock: trio.testing.MockClock) -> None:
    async with connection(Echo()) as stream:
        await stream.send_all(b"nonsense\r\n\r\n")
        assert (await read(stream)).startswith(b"HTTP/1.1 400")
        assert await read(stream) == b""


async def test_half_a_request_ends_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    handler = Echo()
    async with connection(handler) as stream:
        await stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\nhalf")
        await stream.send_eof()
    assert handler.seen == []


async def test_a_body_is_cut_into_chunks_of_the_size_asked_for(autojump_clock: trio.testing.MockClock) -> None:
    async with connection(Echo(), chunk_bytes=2) as stream:
        await stream.send_all(GET % b"chunks")
        answer = b""
        while not answer.endswith(b"0\r\n\r\n"):
            answer += await read(stream)
        assert answer.endswith(b"\r\n\r\n2\r\nab\r\n2\r\ncd\r\n1\r\ne\r\n0\r\n\r\n")


async def test_head_gets_the_length_and_no_body(autojump_clock: trio.testing.MockClock) -> None:
    async with connection(Echo()) as stream:
        await stream.send_all(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await read(stream)
        assert b"content-length: 5" in answer.lower()
        assert answer.endswith(b"\r\n\r\n")


async def test_the_address_as_a_proxy_sends_it_loses_its_host(autojump_clock: trio.testing.MockClock) -> None:
    handler = Echo()
    async with connection(handler) as stream:
        await stream.send_all(b"GET http://example.org/a/b?c=d HTTP/1.1\r\nHost: x\r\n\r\n")
        await read(stream)
    assert (handler.seen[0].path, handler.seen[0].query) == ("/a/b", {"c": "d"})


@pytest.mark.parametrize("path", [b"stream", b"wait"])
async def test_a_client_that_leaves_is_noticed(path: bytes, autojump_clock: trio.testing.MockClock) -> None:
    handler = Echo()
    async with connection(handler) as stream:
        await stream.send_all(GET % path)
        await trio.sleep(3.5)
        assert not handler.left.is_set()
        await stream.aclose()
        with trio.fail_after(2):
            await handler.left.wait()


async def test_an_idle_connection_is_closed_after_its_time(autojump_clock: trio.testing.MockClock) -> None:
    async with connection(Echo(), keep_alive=5) as stream:
        await stream.send_all(GET % b"")
        await read(stream)
        began = trio.current_time()
        assert await read(stream) == b""
        assert trio.current_time() - began == pytest.approx(5)


async def test_a_slow_request_is_not_idle(autojump_clock: trio.testing.MockClock) -> None:
    async with connection(Echo(), keep_alive=5) as stream:
        await stream.send_all((GET % b"")[:10])
        await trio.sleep(math.pi * 10)
        await stream.send_all((GET % b"")[10:])
        assert b"200" in await read(stream)


def test_json_is_written_as_javascript_does() -> None:
    assert compact_json({"a": ["ж\u2028", "\ud83d", "\n"]}).encode() == '{"a":["ж\u2028","\\ud83d","\\n"]}'.encode()
