"""Who stands between httpx and the network sees every request; and if nobody does, httpx's client is left out."""

from __future__ import annotations

import logging
import secrets
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import trio
from other_ends import request_of

import trioprov
from trioprov import AllenAI
from trioprov._transport import Transport
from trioprov._transport._http1 import HTTP1Transport
from trioprov._transport._outgoing import built
from trioprov.providers import Provider, Request
from trioprov.testing import assert_no_orphans, open_emulator

QUESTION = "Why is the sky blue?"

Watch = Callable[[pytest.MonkeyPatch], list[object]]


def wrapped(cls: type[Any], name: str) -> Watch:
    """By a wrapper, as a tracer's: it has the name and the docstring of what it wraps."""

    def watch(monkeypatch: pytest.MonkeyPatch) -> list[object]:
        seen: list[object] = []
        inner = getattr(cls, name)

        def wrapper(self: object, *args: Any, **how: Any) -> Any:
            seen.append(args)
            return inner(self, *args, **how)

        wrapper.__name__, wrapper.__module__ = name, "httpx"
        monkeypatch.setattr(cls, name, wrapper)
        return seen

    return watch


class Equal:
    """A wrapper, as wrapt's: it is equal to what it wraps."""

    def __init__(self, wrapped: Any, seen: list[object]) -> None:
        self.wrapped, self.seen = wrapped, seen

    def __eq__(self, other: object) -> bool:
        return bool(self.wrapped == other)

    def __hash__(self) -> int:
        return hash(self.wrapped)

    def __get__(self, client: httpx.AsyncClient, owner: object) -> Callable[..., Any]:
        def call(request: httpx.Request, **how: Any) -> Any:
            self.seen.append(request)
            return self.wrapped(client, request, **how)

        return call


def equal(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """By an object that passes for what it wraps."""
    seen: list[object] = []
    monkeypatch.setattr(httpx.AsyncClient, "send", Equal(httpx.AsyncClient.send, seen))
    return seen


def logged(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """By the log that httpx keeps."""
    seen: list[object] = []
    logger = logging.getLogger("httpx")
    monkeypatch.setattr(logger, "level", logging.INFO)
    logging.Logger.manager._clear_cache()  # pyright: ignore  - else it remembers the level it had
    monkeypatch.setattr(logger, "handle", seen.append)
    return seen


@pytest.fixture
def levels() -> Iterator[None]:
    yield
    logging.Logger.manager._clear_cache()  # pyright: ignore


@pytest.mark.parametrize(
    "watch",
    [
        wrapped(httpx.AsyncClient, "send"),
        wrapped(httpx.AsyncClient, "_send_single_request"),
        wrapped(httpx.AsyncClient, "_transport_for_url"),
        wrapped(HTTP1Transport, "handle_async_request"),
        equal,
        logged,
    ],
    ids=["send", "one request", "the choice of a transport", "the transport", "an object", "the log"],
)
@pytest.mark.usefixtures("levels")
async def test_who_looks_on_sees_every_request_from_that_moment(
    watch: Watch, service: type[Provider], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_emulator(service) as emulator, trioprov.open_client() as client:
        await trioprov.ask(QUESTION, emulator.provider, client=client)
        before = len(emulator.requests)
        with monkeypatch.context() as patch:
            seen = watch(patch)
            await trioprov.ask(QUESTION, emulator.provider, client=client)
            assert len(seen) == len(emulator.requests) - before > 0
        logging.Logger.manager._clear_cache()  # pyright: ignore
        count = len(seen)
        await trioprov.ask(QUESTION, emulator.provider, client=client)
        assert len(seen) == count
        assert_no_orphans(emulator)


class Around(httpx.AsyncByteStream):
    """A tracer's, around the body of an answer."""

    def __init__(self, stream: httpx.AsyncByteStream, seen: list[bytes]) -> None:
        self.stream, self.seen = stream, seen

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for data in self.stream:
            self.seen.append(data)
            yield data

    async def aclose(self) -> None:
        await self.stream.aclose()


@pytest.mark.parametrize("how", ["reads it", "copies it", "puts something around it"])
async def test_who_looks_on_may_look_at_the_body_too(
    how: str, service: type[Provider], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []
    inner = httpx.AsyncClient.send

    async def send(client: httpx.AsyncClient, request: httpx.Request, **options: Any) -> httpx.Response:
        response = await inner(client, request, **options)
        if how == "puts something around it":
            assert isinstance(response.stream, httpx.AsyncByteStream)
            response.stream = Around(response.stream, seen)
            return response
        seen.append(await response.aread())
        if how == "reads it":
            return response
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            content=seen[-1],
            request=request,
            extensions=response.extensions,
        )

    async with open_emulator(service) as emulator, trioprov.open_client() as client:
        text = (await trioprov.ask(QUESTION, emulator.provider, client=client)).text
        monkeypatch.setattr(httpx.AsyncClient, "send", send)
        assert (await trioprov.ask(QUESTION, emulator.provider, client=client)).text == text
        assert sum(map(len, seen)) > len(text)
        assert_no_orphans(emulator)


async def test_with_nobody_there_no_client_of_httpxs_is_made(
    service: type[Provider], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = wrapped(httpx.AsyncClient, "__init__")(monkeypatch)
    async with open_emulator(service) as emulator:
        assert (await trioprov.ask(QUESTION, emulator.provider)).text
    assert not made


BEFORE_US = {
    "a function": """
        import httpx, respx
        router = respx.mock(using="httpx")
        router.start()
        router.post("https://olmo.test/v4/message/stream").respond(503)
        """,
    "an object": """
        import functools, httpx

        class Wrapper:  # as wrapt's: it passes for what it wraps
            def __init__(self, wrapped):
                self.wrapped = wrapped

            def __getattr__(self, name):
                return getattr(self.wrapped, name)

            @property
            def __class__(self):
                return type(self.wrapped)

            def __get__(self, client, owner):
                return self

            async def __call__(self, request, **how):
                return httpx.Response(503, request=request)

        httpx.AsyncClient.send = Wrapper(httpx.AsyncClient.send)
        """,
}


@pytest.mark.parametrize("what", BEFORE_US)
def test_who_was_there_before_us_sees_every_request_too(what: str) -> None:
    script = """
        import trio, trioprov
        try:
            trio.run(trioprov.ask, "Why?", trioprov.AllenAI(base_url="https://olmo.test"))
        except trioprov.Overloaded:
            print("intercepted")
    """
    script = textwrap.dedent(BEFORE_US[what]) + textwrap.dedent(script)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.stdout.strip(), ran.stderr) == ("intercepted", "")


@contextmanager
def logging_requests() -> Generator[None]:
    logger = logging.getLogger("httpx")
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(logging.NOTSET)


REQUESTS = {
    "nothing": Request(method="GET", path="/hi", headers={}),
    "a post of nothing": Request(method="POST", path="/", headers={"Accept": "*/*"}),
    "json": Request(method="POST", path="/v1/hi", headers={}, json={"a": "ü\u2028", "b": [1.5, None]}),
    "json under another name": Request(method="POST", path="/hi", headers={"content-type": "text/plain"}, json={}),
    "a form": Request(method="POST", path="/hi", headers={}, form={"a b": "c&d=ü", "e": ""}),
    "fields": Request(method="POST", path="/hi", headers={}, multipart=[("data", '{"ü": "\r\n"}'), ('a"\n', "2")]),
    "a query": Request(method="DELETE", path="/api/chat", headers={}, query={"chat_id": "a b&c=d/ü", "x": ""}),
    "a path with quotes": Request(method="GET", path="/a%2Fb/ü", headers={}),
    "a path with dots": Request(method="GET", path="/a/../b/./c.d", headers={}),
    "another host": Request(method="GET", path="/hi", headers={"Host": "olmo.test"}),
    "no keep-alive": Request(method="GET", path="/hi", headers={"connection": "close", "accept-encoding": "gzip"}),
}


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("prefix", ["", "/below/this"])
async def test_a_request_is_the_same_to_the_last_byte_whichever_way_it_goes(
    name: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def boundary(_: int) -> str:
        return "boundary"

    monkeypatch.setattr(secrets, "token_hex", boundary)
    came: list[bytes] = []

    async def answer(stream: trio.SocketStream) -> None:
        came.append(await request_of(stream))
        await stream.send_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi")
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, listeners)
        provider = AllenAI(base_url=f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}{prefix}")
        transport = Transport()
        assert (await transport.send(provider, REQUESTS[name])).body == b"hi"
        with logging_requests():
            assert (await transport.send(provider, REQUESTS[name])).body == b"hi"
        await transport.aclose()
        nursery.cancel_scope.cancel()
    one, other = came
    assert one == other
    assert one.startswith(REQUESTS[name].method.encode() + b" " + prefix.encode() + b"/")
    _, _, body = one.partition(b"\r\n\r\n")
    # RFC 9110, 8.6: also where there is nothing, if the method is one that could have something.
    assert (b"\r\nContent-Length: %d\r\n" % len(body) in one) == (REQUESTS[name].method == "POST")


@pytest.mark.parametrize("prefix", ["", "//", "/a/..", "/a/.", "//.", "//a//..", "/%2e/%C3%BC", "/a;b=c", "/100%"])
@pytest.mark.parametrize("path", ["/", "/a/b.c", "/./a", "/../a", "//", "/%2F", "/a?b=/.."])
def test_a_path_is_what_httpx_makes_of_the_whole_address(prefix: str, path: str) -> None:
    provider = AllenAI(base_url=f"http://olmo.test{prefix}")
    message = built(provider, Request(method="GET", path=path, headers={}))
    assert message.target == httpx.URL(f"{provider.base_url}{path}").raw_path


@pytest.mark.parametrize("query", [{}, {"a b": "c&d=ü", "e": ""}, {"#?/%41": "~*'()+\n"}])
def test_a_query_is_what_httpx_makes_of_it(query: dict[str, str]) -> None:
    message = built(AllenAI(), Request(method="GET", path="/hi", headers={}, query=query))
    assert message.target == httpx.Request("GET", "http://olmo.test/hi", params=query).url.raw_path


def test_a_header_of_the_providers_is_stronger_than_ours_in_any_case() -> None:
    headers = {"Accept-Encoding": "gzip", "CONNECTION": "close", "Content-Type": "text/plain", "HOST": "olmo.test"}
    message = built(AllenAI(), Request(method="POST", path="/", headers=headers, json={}))
    sent = {name.lower(): value for name, value in message.headers}
    assert len(sent) == len(message.headers)
    assert all(sent[name.lower().encode()] == value.encode() for name, value in headers.items())
