"""Bytes: how they may be cut, framed, packed, tunnelled, broken and forged on their way."""

# pyright: reportPossiblyUnboundVariable=false

from __future__ import annotations

import gc
import gzip
import json
import math
import ssl
import subprocess
import sys
import textwrap
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import trio
import trustme
from other_ends import request_of

import trioprov
from trioprov import AllenAI, H2o, OpenAssistant, TrioprovError
from trioprov._transport import Exchange, Transport
from trioprov._transport._pools import Pools
from trioprov.providers import Provider, Request
from trioprov.testing import Fault, assert_no_orphans, open_emulator

QUESTION = "Why is the sky blue?"
STREAM = {"h2o": "generate", "openassistant": "events", "allenai": "stream"}

Handler = Callable[[trio.abc.Stream], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncGenerator[int]:
    """A server on loopback; its port."""
    failure: Exception | None = None

    async def guarded(stream: trio.abc.Stream) -> None:
        try:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
                await handler(stream)
        finally:
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        listeners: list[Any] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port: int = listeners[0].socket.getsockname()[1]
        if tls is not None:
            listeners = [trio.SSLListener(listener, tls) for listener in listeners]
        nursery.start_soon(trio.serve_listeners, guarded, listeners)
        try:
            yield port
        except Exception as exc:
            failure = exc  # and not a group with one exception
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def head_of(stream: trio.abc.Stream) -> bytes:
    """A request's head, and as much of its body as came with it."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some(65536)
        if not more:
            return b""
        data += more
    return data


async def pipe(one: trio.abc.Stream, other: trio.abc.Stream) -> None:
    async def copy(source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some(65536):
                await sink.send_all(data)
        nursery.cancel_scope.cancel()

    async with one, other, trio.open_nursery() as nursery:
        nursery.start_soon(copy, one, other)
        nursery.start_soon(copy, other, one)


# -- An olmo-api in raw bytes -----------------------------------------------------------------------------------------


def line(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def tree(content: str = "", reason: str | None = None) -> bytes:
    leaf = {"id": "leaf", "role": "assistant", "content": content, "finish_reason": reason}
    return line({"id": "root", "root": "root", "role": "user", "children": [leaf]})


LINES = [tree(), line({"message": "leaf", "content": "Grüße, "}), line({"message": "leaf", "content": "🌍"})]
WHOLE = b"".join([*LINES, tree("Grüße, 🌍", "stop")])
CUT = b"".join(LINES)


@dataclass
class RawOlmo:
    """Answers the question with whatever it is told, and remembers the deletes."""

    answer: bytes
    hold: bool = False
    asked: int = 0
    deletes: list[bytes] = field(default_factory=list[bytes])
    heads: list[bytes] = field(default_factory=list[bytes])

    async def __call__(self, stream: trio.abc.Stream) -> None:
        while head := await request_of(stream):
            self.heads.append(head)
            if head.startswith(b"DELETE"):
                self.deletes.append(head.split()[1])
                await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull")
                continue
            self.asked += 1
            for start in range(0, len(self.answer), 1000):
                await stream.send_all(self.answer[start : start + 1000])
            if self.hold:
                await trio.sleep_forever()
            return


async def answered(server: RawOlmo, **how: Any) -> trioprov.Answer:
    async with serving(server) as port:
        with trio.fail_after(10):
            return await trioprov.ask(QUESTION, AllenAI(base_url=f"http://127.0.0.1:{port}"), **how)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/jsonl\r\n"


def chunked(body: bytes, size: int = 7) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data)


WELL_FRAMED = {
    "length": HEAD + b"Content-Length: %d\r\n\r\n" % len(WHOLE) + WHOLE,
    "chunked": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(WHOLE) + b"0\r\n\r\n",
    "chunk extensions and trailers": HEAD
    + b"Transfer-Encoding: chunked\r\n\r\n"
    + b"%x;a=b\r\n%s\r\n" % (len(WHOLE), WHOLE)
    + b"0\r\nX-Trailer: 1\r\n\r\n",
    "one byte a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(WHOLE, 1) + b"0\r\n\r\n",
    "until closed": HEAD + b"Connection: close\r\n\r\n" + WHOLE,
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\n" + WHOLE,
    "informational": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + HEAD + b"Connection: close\r\n\r\n" + WHOLE,
    "gzip": HEAD + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n" + gzip.compress(WHOLE),
    "gzip, chunked": HEAD
    + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    + chunked(gzip.compress(WHOLE), 5)
    + b"0\r\n\r\n",
    "deflate": HEAD + b"Content-Encoding: deflate\r\nConnection: close\r\n\r\n" + raw_deflate(WHOLE),
    "CRLF lines": HEAD + b"Connection: close\r\n\r\n" + WHOLE.replace(b"\n", b"\r\n"),
    "no last newline": HEAD + b"Connection: close\r\n\r\n" + WHOLE.removesuffix(b"\n"),
    "complete, then cut": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(WHOLE),
    "complete, then garbage": HEAD + b"Content-Length: %d\r\n\r\n" % (len(WHOLE) + 9) + WHOLE + b"nonsense\n",
}


@pytest.mark.parametrize("name", WELL_FRAMED)
async def test_an_answer_may_be_framed_in_any_way_http_has(name: str) -> None:
    server = RawOlmo(WELL_FRAMED[name])
    answer = await answered(server)
    assert answer.text == "Grüße, 🌍"
    assert answer.finish_reason == "stop"
    assert server.deletes == [b"/v3/message/root"]
    assert b"accept-encoding: identity" in server.heads[0].lower()


BROKEN: dict[str, tuple[bytes, type[TrioprovError], str]] = {
    "chunked, cut": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(CUT),
        trioprov.IncompleteReply,
        "Grüße, 🌍",
    ),
    "length, cut": (HEAD + b"Content-Length: 9999\r\n\r\n" + CUT, trioprov.IncompleteReply, "Grüße, 🌍"),
    "until closed, cut": (HEAD + b"Connection: close\r\n\r\n" + CUT, trioprov.IncompleteReply, "Grüße, 🌍"),
    "ended cleanly": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(CUT) + b"0\r\n\r\n",
        trioprov.IncompleteReply,
        "Grüße, 🌍",
    ),
    "half a line": (HEAD + b"Connection: close\r\n\r\n" + CUT[:-9], trioprov.RemoteProtocolError, "Grüße, "),
    "gzip, cut": (
        HEAD + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n" + gzip.compress(WHOLE)[:-12],
        trioprov.RemoteProtocolError,
        "",
    ),
    "gzip that is none": (
        HEAD + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n" + WHOLE,
        trioprov.RemoteProtocolError,
        "",
    ),
    "a chunk that is none": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(CUT, 9999) + b"zz\r\n",
        trioprov.RemoteProtocolError,
        "Grüße, 🌍",
    ),
    "not HTTP": (b"220 mail.example ESMTP\r\n\r\n", trioprov.RemoteProtocolError, ""),
    "TLS alert": (b"\x15\x03\x01\x00\x02\x02\x0a\r\n\r\n", trioprov.RemoteProtocolError, ""),
    "nothing": (b"", trioprov.ConnectionFailed, ""),
    "half a head": (b"HTTP/1.1 200 O", trioprov.TrioprovError, ""),
    "a head without end": (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000, trioprov.RemoteProtocolError, ""),
    "a huge header": (
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 500_000 + b"\r\n\r\n",
        trioprov.RemoteProtocolError,
        "",
    ),
    "two lengths": (
        HEAD + b"Content-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
        trioprov.RemoteProtocolError,
        "",
    ),
    "two hundred and four": (b"HTTP/1.1 204 No Content\r\n\r\n", trioprov.IncompleteReply, ""),
    "a redirect": (
        b"HTTP/1.1 308 Permanent Redirect\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n",
        trioprov.ProviderError,
        "",
    ),
    "switching protocols": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        trioprov.TrioprovError,
        "",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_answer_has_its_error_and_keeps_what_came(name: str) -> None:
    answer, error, text = BROKEN[name]
    with pytest.raises(error) as caught:
        await answered(RawOlmo(answer))
    assert type(caught.value).__module__.startswith("trioprov")
    assert caught.value.partial.startswith(text) if name.startswith("gzip") else caught.value.partial == text


UNREADABLE = {
    "cut": b"Content-Length: 999\r\n\r\n<html>",
    "cut in a chunk": b"Transfer-Encoding: chunked\r\n\r\nff\r\n<html>",
    "too long": b"Connection: close\r\n\r\n" + b"x" * 2_000_000,
    "in an encoding that nobody asked for": b"Content-Encoding: br\r\nConnection: close\r\n\r\nxyz",
    "not in the encoding that it says": b"Content-Encoding: gzip\r\nConnection: close\r\n\r\nxyz",
}


@pytest.mark.parametrize("theirs", [False, True])
@pytest.mark.parametrize("page", UNREADABLE)
async def test_an_error_whose_page_cannot_be_read_is_what_its_status_says(page: str, theirs: bool) -> None:
    server = RawOlmo(b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\n" + UNREADABLE[page])
    transport = httpx.AsyncHTTPTransport() if theirs else None
    async with serving(server) as port, trioprov.open_client(transport=transport) as client:
        provider = AllenAI(base_url=f"http://127.0.0.1:{port}")
        async with trioprov.open_session(provider, client=client) as session:
            async with session.ask(QUESTION) as reply:
                with trio.fail_after(10), pytest.raises(trioprov.RateLimited) as caught:
                    await reply.wait()
            assert caught.value.retry_after == 7
    assert session.cleanup is not None
    assert session.cleanup.outcome == "nothing_owed"  # a create was refused, whatever the page would have said


NO_GZIP = """
    import gc, sys
    import trio, trioprov
    from trioprov import AllenAI

    async def handler(stream):
        data = b""
        while b"--\\r\\n" not in data:
            data += await stream.receive_some(65536)
        head = b"HTTP/1.1 200 OK\\r\\nContent-Encoding: gzip\\r\\nContent-Length: 9999"
        await stream.send_all(head + b"\\r\\n\\r\\nnot gzip")
        await stream.receive_some(1)
        await stream.aclose()

    async def main():
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, handler, 0)
            port = listeners[0].socket.getsockname()[1]
            try:
                await trioprov.ask("x", AllenAI(base_url=f"http://127.0.0.1:{port}"))
            except trioprov.RemoteProtocolError as exc:
                assert "decompress" in str(exc), exc
            nursery.cancel_scope.cancel()

    trio.run(main)
    gc.collect()
"""


async def test_a_body_that_cannot_be_unpacked_is_left_without_a_warning() -> None:
    command = [sys.executable, "-W", "error", "-X", "dev", "-c", textwrap.dedent(NO_GZIP)]
    with trio.fail_after(30):
        done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.STDOUT, check=False)
    output = done.stdout.decode()
    assert "Warning" not in output
    assert done.returncode == 0, output


async def test_a_small_body_that_unpacks_to_a_huge_one_ends_at_max_reply_bytes() -> None:
    bomb = tree() + line({"message": "leaf", "content": "a" * 500_000}) * 100
    server = RawOlmo(HEAD + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n" + gzip.compress(bomb))
    async with trioprov.open_client(max_reply_bytes=1_000_000) as client:
        with pytest.raises(trioprov.RemoteProtocolError):
            await answered(server, client=client)


@pytest.mark.parametrize("theirs", [False, True])
async def test_what_a_small_body_unpacks_to_comes_in_pieces_and_can_be_left_between_them(theirs: bool) -> None:
    pieces: list[int] = []
    server = RawOlmo(HEAD + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n" + gzip.compress(b"\n" * 5_000_001))

    async def receive(data: bytes) -> bool:  # noqa: ASYNC124 - the interface's
        pieces.append(len(data))
        if len(pieces) == stop:
            scope.cancel()
        return True

    async with serving(server) as port, httpx.AsyncHTTPTransport() as transport:
        client = Transport(transport=transport if theirs else None)
        provider = AllenAI(base_url=f"http://127.0.0.1:{port}")
        for stop in (0, 3):
            pieces.clear()
            with trio.CancelScope() as scope:
                await client.stream(provider, Request(method="POST", path="/", headers={}), Exchange(), receive)
            if not stop:
                assert sum(pieces) == 5_000_001
                assert max(pieces) <= 65536
        assert len(pieces) == 3
        await client.aclose()


@pytest.mark.parametrize("how", ["ended", "cut"])
async def test_a_thread_that_was_named_in_a_line_without_an_end_is_deleted(how: str) -> None:
    named = LINES[0].removesuffix(b"\n")
    framed = b"Connection: close\r\n\r\n" + named
    if how == "cut":
        framed = b"Transfer-Encoding: chunked\r\n\r\n" + chunked(named, 9999)
    server = RawOlmo(HEAD + framed)
    with pytest.raises(trioprov.TrioprovError):
        await answered(server)
    assert server.deletes == [b"/v3/message/root"]


async def test_a_server_that_says_no_more_and_never_closes_is_left_when_the_answer_is_complete() -> None:
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    server = RawOlmo(head + chunked(WHOLE, 9999), hold=True)
    begun = trio.current_time()
    assert (await answered(server)).finish_reason == "stop"
    assert trio.current_time() - begun < 2
    assert server.deletes == [b"/v3/message/root"]


async def test_redirects_are_not_followed_with_credentials(service: type[Provider]) -> None:
    async with open_emulator(service) as emulator, open_emulator(service) as elsewhere:
        step = {"h2o": "generate", "openassistant": "prompter", "allenai": "stream"}[service.name]
        for status in (301, 302, 303, 307, 308):
            emulator.add_fault(Fault(on=step, status=status, headers={"Location": elsewhere.url + "/"}))
            with pytest.raises(trioprov.ProviderError) as caught:
                await trioprov.ask(QUESTION, emulator.provider)
            assert caught.value.status == status
        assert elsewhere.requests == ()
        assert_no_orphans(emulator)


# -- Text, cut anywhere -----------------------------------------------------------------------------------------------

TOKENS = [
    "Grüße",
    " 🌍🇪🇺",
    "\u2028",
    "line\u2029sep\x85arators",
    " \n\n\t ",
    "\x0b\x0c\x1c\x1d\x1e",
    '"quoted\\"',
    "\ufeff",
    "data: x\n\ndata: y",
    "\u0000",
    "👩‍👩‍👧",
]


@pytest.mark.parametrize("chunk_bytes", [1, 3, None])
async def test_text_is_the_servers_however_the_bytes_are_cut(service: type[Provider], chunk_bytes: int | None) -> None:
    async with open_emulator(service, tokens=TOKENS, chunk_bytes=chunk_bytes) as emulator:
        async with trioprov.open_session(emulator.provider) as session, session.ask("Grüße \u2028 🌍") as reply:
            tokens = [token async for token in reply]
            answer = await reply.wait()
        assert tokens[: len(TOKENS)] == TOKENS
        assert answer.text.startswith("".join(TOKENS))
        assert_no_orphans(emulator)


async def test_everything_else_a_service_says_may_be_cut_anywhere_too(service: type[Provider]) -> None:
    async with open_emulator(service, chunk_bytes=2) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            for question in ("Grüße", "one\u2028two"):
                async with session.ask(question) as reply:
                    assert (await reply.wait()).text
        assert_no_orphans(emulator)


# -- Connections ------------------------------------------------------------------------------------------------------


async def test_a_cancelled_stream_closes_its_connection(service: type[Provider]) -> None:
    async with open_emulator(service, forever=True, token_delay=0.005) as emulator:
        async with trioprov.open_client(cleanup_timeout=0.6) as client:
            for _ in range(3):
                with trio.move_on_after(0.1):
                    await trioprov.ask(QUESTION, emulator.provider, client=client)
            with trio.fail_after(8):
                while emulator.conversations:  # noqa: ASYNC110 - it happens in an emulator's thread
                    await trio.sleep(0.01)
                while emulator.generating and service is AllenAI:  # noqa: ASYNC110 - it happens in an emulator's thread
                    await trio.sleep(0.01)
        with trio.fail_after(5):
            while emulator.connections:  # noqa: ASYNC110 - it happens in an emulator's thread
                await trio.sleep(0.01)


async def test_many_cancelled_requests_leave_no_connection_and_no_slot_behind(service: type[Provider]) -> None:
    async with open_emulator(service, faults=[Fault(on="*", delay=0.02, times=math.inf)]) as emulator:
        async with trioprov.open_client(max_connections=3) as client:

            async def one(after: float) -> None:
                with trio.move_on_after(after):
                    await trioprov.ask(QUESTION, emulator.provider, client=client)

            async with trio.open_nursery() as nursery:
                for number in range(60):
                    nursery.start_soon(one, number * 0.003)
            if service is not OpenAssistant:  # there, everybody's question cancels everybody else's
                with trio.fail_after(10):
                    assert (await trioprov.ask(QUESTION, emulator.provider, client=client)).text
        assert_no_orphans(emulator)
        with trio.fail_after(5):
            while emulator.connections:  # noqa: ASYNC110 - it happens in an emulator's thread
                await trio.sleep(0.01)


async def test_a_keep_alive_that_the_server_ends_disturbs_nothing(service: type[Provider]) -> None:
    async with open_emulator(service, keep_alive=0.05) as emulator:
        async with trioprov.open_client() as client, trioprov.open_session(emulator.provider, client=client) as session:
            for _ in range(3):
                async with session.ask(QUESTION) as reply:
                    assert (await reply.wait()).text
                await trio.sleep(0.1)
        assert_no_orphans(emulator)


# -- Proxies ----------------------------------------------------------------------------------------------------------


@dataclass
class Proxy:
    """A proxy that forwards plain requests and tunnels the others."""

    refuse: bytes = b""
    hang: bool = False
    drop: bool = False
    heads: list[bytes] = field(default_factory=list[bytes])

    async def __call__(self, stream: trio.abc.Stream) -> None:
        head = await head_of(stream)
        if not head:
            return
        self.heads.append(head)
        method, target, _ = head.split(b" ", 2)
        if self.refuse:
            await stream.send_all(self.refuse)
            return
        if self.hang:
            await trio.sleep_forever()
        if self.drop:
            return
        if method == b"CONNECT":
            host, port = target.decode().rsplit(":", 1)
            server = await trio.open_tcp_stream(host, int(port))
            await stream.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            parts = urlsplit(target.decode())
            server = await trio.open_tcp_stream(parts.hostname or "", parts.port or 80)
            await server.send_all(head)
        await pipe(stream, server)


def certified() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context and a client's that trusts it."""
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(server)  # pyright: ignore[reportUnknownMemberType]
    authority.configure_trust(client)  # pyright: ignore[reportUnknownMemberType]
    return server, client


def terminating(url: str) -> Handler:
    """TLS in front of a server that has none."""

    async def handler(stream: trio.abc.Stream) -> None:
        server = await trio.open_tcp_stream("127.0.0.1", urlsplit(url).port or 80)
        await pipe(stream, server)

    return handler


async def test_a_proxy_is_used_for_everything(service: type[Provider]) -> None:
    proxy = Proxy()
    async with open_emulator(service) as emulator, serving(proxy) as port:
        cookies = emulator.provider.cookies
        provider = service(base_url=emulator.url, cookies=cookies, proxy=f"http://user:pass%20word@127.0.0.1:{port}")
        assert (await trioprov.ask(QUESTION, provider)).text
        assert_no_orphans(emulator)
        assert len(proxy.heads) >= 1
        assert all(b"http://127.0.0.1" in head.split(b"\r\n")[0] for head in proxy.heads)
        assert all(b"Basic dXNlcjpwYXNzIHdvcmQ=" in head for head in proxy.heads)
        # The password is the proxy's; the server does not see it.
        seen = [request.headers for request in emulator.requests]
        assert seen


async def test_https_goes_through_a_tunnel(service: type[Provider]) -> None:
    proxy = Proxy()
    server_context, client_context = certified()
    async with (
        open_emulator(service) as emulator,
        serving(terminating(emulator.url), server_context) as secure,
        serving(proxy) as port,
        trioprov.open_client(verify=client_context) as client,
    ):
        provider = service(
            base_url=f"https://127.0.0.1:{secure}",
            cookies=emulator.provider.cookies,
            proxy=f"http://user:password@127.0.0.1:{port}",
        )
        if service is not H2o:  # the emulated chat-ui takes itself for http, and checks the origin
            assert (await trioprov.ask(QUESTION, provider, client=client)).text
            assert_no_orphans(emulator)
            assert all(head.startswith(b"CONNECT 127.0.0.1:") for head in proxy.heads)
            assert not any("proxy-authorization" in request.headers for request in emulator.requests)
        else:
            with pytest.raises(trioprov.InvalidRequest):
                await trioprov.ask(QUESTION, provider, client=client)


async def test_a_proxy_that_refuses_or_breaks_is_a_failed_connection_and_owes_nothing(service: type[Provider]) -> None:
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    for proxy in (Proxy(refuse=refusal), Proxy(drop=True), Proxy(refuse=b"nonsense\r\n\r\n")):
        async with serving(proxy) as port:
            provider = service(
                base_url="https://127.0.0.1:9",
                cookies={"next-auth.session-token": "abcdef"},
                proxy=f"http://user:the-password@127.0.0.1:{port}",
            )
            (answer,) = await trioprov.gather(QUESTION, [provider])
        assert isinstance(answer.error, (trioprov.ConnectionFailed, trioprov.RemoteProtocolError))
        assert answer.cleanup is not None
        assert answer.cleanup.outcome == "nothing_owed"


async def test_a_tunnel_that_hangs_can_be_left_at_once_and_owes_nothing(service: type[Provider]) -> None:
    async with serving(Proxy(hang=True)) as port:
        provider = service(
            base_url="https://127.0.0.1:9",
            cookies={"next-auth.session-token": "abcdef"},
            proxy=f"http://127.0.0.1:{port}",
        )
        begun = trio.current_time()
        deadlines = trioprov.Deadlines(first_token=0.1)
        (answer,) = await trioprov.gather(QUESTION, [provider], deadlines=deadlines)
        assert isinstance(answer.error, trioprov.FirstTokenTimeout)
        assert trio.current_time() - begun < 2
        assert answer.cleanup is not None
        assert answer.cleanup.outcome == "nothing_owed"


PASSWORD = "the-proxys-own-password"
BASIC = "dXNlcjp0aGUtcHJveHlzLW93bi1wYXNzd29yZA=="  # of "user:" and the password


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("secret", [PASSWORD, BASIC])
async def test_a_proxys_password_is_not_repeated(scheme: str, secret: str) -> None:
    said = f"HTTP/1.1 407 no {secret}\r\nContent-Length: {len(secret)}\r\n\r\n{secret}".encode()
    async with serving(Proxy(refuse=said)) as port:
        provider = AllenAI(base_url=f"{scheme}://127.0.0.1:9", proxy=f"http://user:{PASSWORD}@127.0.0.1:{port}")
        (answer,) = await trioprov.gather(QUESTION, [provider])
    error: BaseException | None = answer.error
    assert error is not None
    while error is not None:
        assert secret not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__
    assert PASSWORD not in repr(answer)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("NO_PROXY", "[::1]"),
        ("ALL_PROXY", "socks://127.0.0.1:9"),
        ("ALL_PROXY", f"ftp://user:{PASSWORD}@127.0.0.1:9"),
        ("ALL_PROXY", f"http://user:at@{PASSWORD}@127.0.0.1:9"),
    ],
)
async def test_an_environment_whose_proxies_nobody_can_speak_to_is_a_failed_connection(
    service: type[Provider], monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv(variable, value)
    provider = service(base_url="http://127.0.0.1:9", cookies={"next-auth.session-token": "abcdef"})
    with pytest.raises(trioprov.ConnectionFailed) as caught:
        await trioprov.ask(QUESTION, provider)
    error: BaseException | None = caught.value
    while error is not None:
        assert PASSWORD not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__


async def test_a_proxy_that_is_not_there_is_a_failed_connection(service: type[Provider]) -> None:
    provider = service(
        base_url="http://127.0.0.1:9", cookies={"next-auth.session-token": "abcdef"}, proxy="http://127.0.0.1:9"
    )
    with pytest.raises(trioprov.ConnectionFailed):
        await trioprov.ask(QUESTION, provider)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
async def test_a_proxy_of_the_environment_is_used_but_for_whom_it_spares(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    if variable == "HTTP_PROXY":
        monkeypatch.delenv("REQUEST_METHOD", raising=False)  # with which a web server's request could name a proxy
    proxy = Proxy()
    async with open_emulator(AllenAI) as emulator, serving(proxy) as port:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{port}")
        for spared, asked in (("", True), ("10.0.0.1, example.com", True), ("x, 127.0.0.1", False), ("*", False)):
            monkeypatch.setenv("NO_PROXY", spared)
            proxy.heads.clear()
            assert (await trioprov.ask(QUESTION, emulator.provider)).text
            assert bool(proxy.heads) == asked, spared
        monkeypatch.delenv("NO_PROXY")
        proxy.heads.clear()
        async with trioprov.open_client(trust_env=False) as client:
            assert (await trioprov.ask(QUESTION, emulator.provider, client=client)).text
        assert not proxy.heads
        assert_no_orphans(emulator)


@pytest.mark.parametrize(
    "spared",
    ["", "*", "a.test", ".test", "test", "sub.a.test", ".a.test", "..t", "A.test, b", "localhost", "127.0.0.1", "::1"],
)
@pytest.mark.parametrize(
    "host", ["a.test", "b.a.test", "aa.test", "a..t", "127.0.0.1", "x.127.0.0.1", "[::1]", "localhost", "a.localhost"]
)
def test_whom_the_environment_spares_httpx_spares_too(monkeypatch: pytest.MonkeyPatch, host: str, spared: str) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", spared)
    client = httpx.AsyncClient(verify=False)
    proxied = client._transport_for_url(httpx.URL(f"https://{host}/")) is not client._transport  # pyright: ignore
    assert Pools(None, True, True).may_be_proxied(f"https://{host}") == proxied


# -- TLS --------------------------------------------------------------------------------------------------------------


async def test_a_certificate_of_an_authority_of_ones_own_is_taken_with_verify() -> None:
    server_context, client_context = certified()
    async with (
        open_emulator(AllenAI) as emulator,
        serving(terminating(emulator.url), server_context) as port,
        trioprov.open_client(verify=client_context) as client,
    ):
        answer = await trioprov.ask(QUESTION, AllenAI(base_url=f"https://127.0.0.1:{port}"), client=client)
        assert answer.text
        assert answer.cleanup is not None
        assert answer.cleanup.outcome == "deleted"
        assert_no_orphans(emulator)


async def test_the_authorities_are_those_that_the_environment_names_now(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with open_emulator(AllenAI) as emulator:
        for number in range(2):
            authority, server_context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            authority.issue_cert("127.0.0.1").configure_cert(server_context)  # pyright: ignore[reportUnknownMemberType]
            authority.cert_pem.write_to_path(str(tmp_path / f"{number}.pem"))
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / f"{number}.pem"))
            async with serving(terminating(emulator.url), server_context) as port:
                assert (await trioprov.ask(QUESTION, AllenAI(base_url=f"https://127.0.0.1:{port}"))).text


async def test_verify_false_takes_any_certificate() -> None:
    server_context, _ = certified()
    async with (
        open_emulator(AllenAI) as emulator,
        serving(terminating(emulator.url), server_context) as port,
        trioprov.open_client(verify=False) as client,
    ):
        assert (await trioprov.ask(QUESTION, AllenAI(base_url=f"https://127.0.0.1:{port}"), client=client)).text
        assert_no_orphans(emulator)


async def test_a_wrong_certificate_is_a_failed_connection_and_nothing_is_sent(service: type[Provider]) -> None:
    server_context, _ = certified()
    _, other_context = certified()
    async with open_emulator(service) as emulator, serving(terminating(emulator.url), server_context) as port:
        provider = service(base_url=f"https://127.0.0.1:{port}", cookies=emulator.provider.cookies)
        named = service(base_url=f"https://localhost.:{port}", cookies=emulator.provider.cookies)
        async with trioprov.open_client() as default, trioprov.open_client(verify=other_context) as other:
            for client, who in ((default, provider), (other, provider), (other, named)):
                (answer,) = await trioprov.gather(QUESTION, [who], client=client)
                assert type(answer.error) is trioprov.ConnectionFailed
                assert answer.error.__cause__ is not None
                assert answer.cleanup is not None
                assert answer.cleanup.outcome == "nothing_owed"
        assert emulator.requests == ()


@pytest.mark.parametrize("proxy", [None, "http://127.0.0.1:9"])
async def test_certificates_that_are_not_there_are_a_failed_connection(
    service: type[Provider], monkeypatch: pytest.MonkeyPatch, proxy: str | None
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/authorities.pem")
    server_context, _ = certified()
    async with serving(terminating("http://127.0.0.1:9"), server_context) as port:
        cookies = {"next-auth.session-token": "abcdef"}
        with pytest.raises(trioprov.ConnectionFailed, match="certificates of who is trusted cannot be read"):
            await trioprov.ask(QUESTION, service(base_url=f"https://127.0.0.1:{port}", cookies=cookies, proxy=proxy))


async def test_a_tls_stream_that_is_cut_without_goodbye_is_incomplete_and_cleaned_up() -> None:
    server_context, client_context = certified()
    async with (
        open_emulator(AllenAI, faults=[Fault(on="stream", cut_after=5)]) as emulator,
        serving(terminating(emulator.url), server_context) as port,
        trioprov.open_client(verify=client_context) as client,
    ):
        with pytest.raises((trioprov.IncompleteReply, trioprov.ConnectionFailed)) as caught:
            await trioprov.ask(QUESTION, AllenAI(base_url=f"https://127.0.0.1:{port}"), client=client)
        assert caught.value.partial
        assert_no_orphans(emulator)


async def test_cancelling_a_stream_over_tls_leaves_nothing() -> None:
    server_context, client_context = certified()
    async with (
        open_emulator(AllenAI, forever=True, token_delay=0.002) as emulator,
        serving(terminating(emulator.url), server_context) as port,
    ):
        provider = AllenAI(base_url=f"https://127.0.0.1:{port}")
        async with trioprov.open_client(verify=client_context) as client:
            for _ in range(4):
                with trio.CancelScope() as scope:
                    async with trioprov.open_reply(QUESTION, provider, client=client) as reply:
                        async for _ in reply:
                            scope.cancel()
        assert_no_orphans(emulator)
        with trio.fail_after(5):
            while emulator.connections:  # noqa: ASYNC110 - it happens in an emulator's thread
                await trio.sleep(0.01)


@pytest.mark.parametrize("theirs", [False, True], ids=["ours", "httpx's"])
async def test_a_cancelled_handshake_closes_its_connection(service: type[Provider], theirs: bool) -> None:
    hello, closed = trio.Event(), trio.Event()

    async def silent(stream: trio.abc.Stream) -> None:
        await stream.receive_some(65536)
        hello.set()
        with suppress(trio.BrokenResourceError):
            await stream.receive_some(65536)
        closed.set()

    transport = httpx.AsyncHTTPTransport() if theirs else None
    async with serving(silent) as port, trioprov.open_client(transport=transport) as client:
        provider = service(base_url=f"https://127.0.0.1:{port}", cookies={"next-auth.session-token": "abcdef"})
        async with trio.open_nursery() as nursery:

            async def asking() -> None:
                await trioprov.ask(QUESTION, provider, client=client)

            nursery.start_soon(asking)
            await hello.wait()
            nursery.cancel_scope.cancel()
        with trio.move_on_after(1):
            await closed.wait()
        left_open = not closed.is_set()
    gc.collect()
    assert not left_open


class LateEnd:
    """Sends the end of a body some time after the last line of it, as a server does that has an answer to store."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.connections = 0
        self.asked = 0
        self.deleted_on: list[int] = []

    async def __call__(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        number = self.connections
        while head := await request_of(stream):
            if head.startswith(b"DELETE"):
                self.deleted_on.append(number)
                await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull")
                continue
            self.asked += 1
            await stream.send_all(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(WHOLE))
            await trio.sleep(self.delay)
            await stream.send_all(b"0\r\n\r\n")


async def test_the_end_of_a_body_is_waited_for_a_moment_so_that_its_connection_is_used_again() -> None:
    server = LateEnd(0.02)
    async with serving(server) as port, trioprov.open_client() as client:
        provider = AllenAI(base_url=f"http://127.0.0.1:{port}")
        async with trioprov.open_session(provider, client=client) as session:
            for _ in range(2):
                async with session.ask(QUESTION) as reply:
                    assert (await reply.wait()).text == "Grüße, 🌍"
        await trioprov.ask(QUESTION, provider, client=client)
    assert (server.connections, server.asked, server.deleted_on) == (1, 3, [1, 1])


async def test_nobody_waits_long_for_the_end_of_a_body_that_does_not_come() -> None:
    server = LateEnd(math.inf)
    async with serving(server) as port, trioprov.open_client() as client:
        provider = AllenAI(base_url=f"http://127.0.0.1:{port}")
        begun = trio.current_time()
        async with trioprov.open_session(provider, client=client) as session:
            async with session.ask(QUESTION) as reply:
                assert (await reply.wait()).text == "Grüße, 🌍"
            told = trio.current_time() - begun
            async with session.ask(QUESTION) as reply:
                assert (await reply.wait()).text == "Grüße, 🌍"
        assert session.cleanup is not None
        assert session.cleanup.outcome == "deleted"
        assert trio.current_time() - begun < 2
        assert told < 1
    assert (server.asked, server.deleted_on) == (2, [3])
