"""TLS by hand: the same bytes as over any other, an end that was meant told from a cut, and no word too much."""

# pyright: reportPossiblyUnboundVariable=false

from __future__ import annotations

import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from trioprov._transport._wires import SocketWire, TLSWire, Wire, connect

AUTHORITY = trustme.CA()


def contexts(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's."""
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    AUTHORITY.issue_cert("a.test").configure_cert(server)  # pyright: ignore[reportUnknownMemberType]
    AUTHORITY.configure_trust(client)  # pyright: ignore[reportUnknownMemberType]
    server.maximum_version = version
    server.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # which older Pythons set: no end is told from a cut
    return server, client


def sockets() -> tuple[SocketWire, trio.SocketStream]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    return SocketWire(ours), trio.SocketStream(trio.socket.from_stdlib_socket(theirs))


class Below(trio.abc.HalfCloseableStream):
    """What is below the server's TLS; it may lose the last bytes of what is sent."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.dropped = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(bytes(data)[: len(data) - self.dropped])

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def aclose(self) -> None:
        await self.stream.aclose()


async def creep(one: trio.abc.Stream, other: trio.abc.Stream) -> None:
    """Pass bytes on one by one, each in a packet of its own."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while data := await one.receive_some(65536):
            for byte in data:
                await other.send_all(bytes([byte]))
                await trio.lowlevel.checkpoint()
        await trio.aclose_forcefully(other)


@asynccontextmanager
async def joined(
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, *, creeping: bool = False
) -> AsyncGenerator[tuple[TLSWire, trio.SSLStream[trio.abc.Stream], Below]]:
    """Our end, and theirs, with what is below it."""
    server, client = contexts(version)
    ours, stream = sockets()
    below = Below(stream)
    wire = TLSWire(ours, client, "a.test")
    async with trio.open_nursery() as nursery:
        theirs: trio.SSLStream[trio.abc.Stream] = trio.SSLStream(below, server, server_side=True)
        if creeping:
            left, right = trio.testing.memory_stream_pair()
            nursery.start_soon(creep, below, left)
            nursery.start_soon(creep, left, below)
            theirs = trio.SSLStream(right, server, server_side=True)
        async with trio.open_nursery() as handshake:
            handshake.start_soon(theirs.do_handshake)
            handshake.start_soon(wire.handshake)
        try:
            yield wire, theirs, below
        finally:
            wire.close()
            await trio.aclose_forcefully(theirs)
            await trio.aclose_forcefully(below)
            nursery.cancel_scope.cancel()


async def send_all(wire: Wire, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        sent = await wire.send(rest)
        assert sent
        rest = rest[sent:]


async def receive_all(stream: trio.abc.ReceiveStream) -> None:
    while await stream.receive_some():
        pass


async def receive_exactly(wire: Wire, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await wire.receive()
        assert piece  # nothing is the end, and not that the rest of a record is on its way
        data += piece
    return data


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("creeping", [False, True], ids=["whole", "byte by byte"])
async def test_bytes_go_both_ways_however_they_are_cut(version: ssl.TLSVersion, creeping: bool) -> None:
    size = 3000 if creeping else 3_000_000
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    async with joined(version, creeping=creeping) as (wire, theirs, _):
        with trio.fail_after(20):
            for _ in range(2):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(send_all, wire, data)
                    got = b""
                    while len(got) < size:
                        got += await theirs.receive_some(65536)
                assert got == data
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(theirs.send_all, data)
                    assert await receive_exactly(wire, size) == data
                assert wire.is_quiet()


async def test_all_that_one_read_brought_comes_in_one_piece() -> None:
    async with joined() as (wire, theirs, _):
        for _ in range(50):
            await theirs.send_all(b"token")
        await trio.sleep(0.01)
        assert await wire.receive() == b"token" * 50
        assert not wire.clean


async def test_an_end_that_was_meant_is_told_from_a_cut() -> None:
    async with joined() as (wire, theirs, _):
        await theirs.send_all(b"hi")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.aclose)
            assert await receive_exactly(wire, 2) == b"hi"
            assert await wire.receive() == b""
        assert wire.clean
        assert not wire.is_quiet()
    async with joined() as (wire, theirs, below):
        await theirs.send_all(b"hi")
        await below.send_eof()
        assert await receive_exactly(wire, 2) == b"hi"
        assert await wire.receive() == b""
        assert not wire.clean


async def test_an_end_that_was_meant_needs_no_end_of_what_is_below() -> None:
    async with joined() as (wire, theirs, _):
        await theirs.send_all(b"hi")
        with trio.move_on_after(0.01):  # it says that it closes, and waits for us to say so
            await theirs.unwrap()
        with trio.fail_after(5):
            assert await receive_exactly(wire, 2) == b"hi"
            assert await wire.receive() == b""
        assert wire.clean


async def test_what_comes_with_the_end_of_the_handshake_is_not_lost() -> None:
    server, client = contexts(ssl.TLSVersion.TLSv1_2)  # there, the server has the last word in it
    ours, stream = sockets()
    wire, incoming, outgoing = TLSWire(ours, client, "a.test"), ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = server.wrap_bio(incoming, outgoing, server_side=True)
    async with stream:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.handshake)
            while theirs.version() is None or outgoing.pending:
                try:
                    theirs.do_handshake()
                    theirs.write(b"hi")
                except ssl.SSLWantReadError:
                    pass
                await stream.send_all(outgoing.read())
                if theirs.version() is None:
                    incoming.write(await stream.receive_some(65536))
        with trio.fail_after(5):
            assert await receive_exactly(wire, 2) == b"hi"
    wire.close()


async def test_a_cut_inside_a_record_is_a_cut() -> None:
    async with joined() as (wire, theirs, below):
        await theirs.send_all(b"whole")
        below.dropped = 1
        await theirs.send_all(b"half")
        await below.send_eof()
        assert await wire.receive() == b"whole"
        assert await wire.receive() == b""
        assert not wire.clean


async def test_bytes_that_are_forged_are_an_error() -> None:
    async with joined() as (wire, _, below):
        await below.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        with pytest.raises(ssl.SSLError):
            await wire.receive()


async def test_what_came_before_forged_bytes_is_given_before_the_error() -> None:
    async with joined() as (wire, theirs, below):
        await theirs.send_all(b"tokens")
        await below.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        await trio.sleep(0.01)
        with trio.fail_after(5):
            assert await wire.receive() == b"tokens"
            assert not wire.is_quiet()
            for _ in range(2):
                with pytest.raises(ssl.SSLError):
                    await wire.receive()


async def test_we_say_that_we_close_and_what_is_half_said_is_no_end() -> None:
    async with joined() as (wire, theirs, _):
        wire.close()
        assert await theirs.receive_some() == b""
    async with joined() as (wire, theirs, _):
        with trio.move_on_after(0.1):
            await send_all(wire, b"x" * 10_000_000)
        wire.close()
        with pytest.raises(trio.BrokenResourceError):
            await receive_all(theirs)


async def test_a_server_that_cannot_be_trusted_or_speaks_something_else_is_an_error() -> None:
    server, client = contexts()
    for context, host in ((client, "b.test"), (ssl.create_default_context(), "a.test")):
        ours, below = sockets()
        theirs = trio.SSLStream(below, server, server_side=True)
        async with trio.open_nursery() as nursery:

            async def serve(theirs: trio.SSLStream[trio.SocketStream] = theirs) -> None:
                with suppress(trio.BrokenResourceError):
                    await theirs.do_handshake()

            nursery.start_soon(serve)
            with pytest.raises(ssl.SSLCertVerificationError):
                await TLSWire(ours, context, host).handshake()
            ours.close()
        await trio.aclose_forcefully(theirs)


async def test_who_is_at_the_other_end_is_known_over_tls_too() -> None:
    wire, theirs = sockets()
    wire.peer = "192.0.2.1"
    assert TLSWire(wire, contexts()[1], "a.test").peer == "192.0.2.1"
    wire.close()
    await theirs.aclose()


async def test_alpn_asks_for_http_1_1() -> None:
    server, client = contexts()
    server.set_alpn_protocols(["h2", "http/1.1"])
    client.set_alpn_protocols(["h2"])  # as somebody may have who shares the context
    ours, below = sockets()
    theirs = trio.SSLStream(below, server, server_side=True)
    wire = TLSWire(ours, client, "a.test")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.do_handshake)
        await wire.handshake()
    assert theirs.selected_alpn_protocol() == "http/1.1"
    wire.close()
    await trio.aclose_forcefully(theirs)


async def test_a_handshake_that_is_cancelled_or_cut_leaves_nothing_open() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        hello.set()
        if cut:
            await stream.aclose()
            return
        with suppress(trio.BrokenResourceError):
            assert await stream.receive_some(65536) == b""
        left.set()

    for cut in (False, True):
        hello, left = trio.Event(), trio.Event()
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, serve, listeners)
            port = listeners[0].socket.getsockname()[1]
            if cut:
                with pytest.raises(OSError, match="closed"):
                    await connect("127.0.0.1", port, contexts()[1])
            else:
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as connecting:
                        connecting.start_soon(connect, "127.0.0.1", port, contexts()[1])
                        await hello.wait()
                        scope.cancel()
                with trio.fail_after(5):
                    await left.wait()
            nursery.cancel_scope.cancel()


async def test_many_that_are_ready_take_turns() -> None:
    wire, theirs = sockets()
    other, whose = sockets()
    async with theirs, whose, trio.open_nursery() as nursery:
        nursery.start_soon(theirs.send_all, b"x" * 10_000_000)
        await trio.testing.wait_all_tasks_blocked(0.01)
        received: list[str] = []

        async def read(wire: Wire, name: str, size: int) -> None:
            while size > 0:
                size -= len(await wire.receive())
                received.append(name)

        nursery.start_soon(read, wire, "long", 10_000_000)
        await trio.lowlevel.checkpoint()
        await whose.send_all(b"short")
        await read(other, "short", 5)
        assert received.index("short") < 100
    wire.close()
    other.close()


async def test_who_has_read_all_there_was_waits_and_does_not_look_again_and_again() -> None:
    wire, theirs = sockets()
    async with theirs, trio.open_nursery() as nursery:
        await theirs.send_all(b"x" * 65536)
        assert await receive_exactly(wire, 65536)
        nursery.start_soon(receive_exactly, wire, 1)
        with trio.fail_after(5):
            await trio.testing.wait_all_tasks_blocked(0.01)
        await theirs.send_all(b"y")
    wire.close()


@pytest.mark.parametrize("full", [False, True])
async def test_receiving_is_a_checkpoint_and_loses_nothing(full: bool) -> None:
    wire, theirs = sockets()
    async with theirs:
        data = b"x" * 65536 * 2 if full else b"x"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.send_all, data + b"y")
            got = await wire.receive() if full else b""
            with trio.CancelScope() as scope:
                scope.cancel()
                await wire.receive()
            assert scope.cancelled_caught
            while len(got) <= len(data):
                with trio.testing.assert_checkpoints():
                    got += await wire.receive()
        assert got == data + b"y"
    wire.close()


@pytest.mark.parametrize("who", ["sends", "looks"])
async def test_a_reset_that_was_met_elsewhere_is_no_end_that_was_meant(who: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        wire = SocketWire(socket.create_connection(listener.getsockname()))
        theirs, _ = listener.accept()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    await wire.readable()
    if who == "sends":
        with pytest.raises(ConnectionResetError):
            await wire.send(memoryview(b"x"))
    else:
        assert not wire.is_quiet()
    assert await wire.receive() == b""  # the system says it only once
    assert not wire.clean
    wire.close()


async def test_who_goes_on_with_a_closed_wire_is_told_so_and_is_in_nobodys_way() -> None:
    for _ in range(2):
        async with joined() as (wire, theirs, _):
            await theirs.send_all(b"hi")
            assert await receive_exactly(wire, 2) == b"hi"
            wire.close()
            for _ in range(2):
                with pytest.raises(OSError, match="descriptor"), trio.fail_after(5):
                    await wire.receive()


needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="Python's ssl cannot ask for new keys; openssl's server can"
)


@asynccontextmanager
async def openssl(
    tmp_path: Path, version: str
) -> AsyncGenerator[tuple[int, trio.abc.SendStream, Callable[[bytes], Awaitable[None]]]]:
    """Its server: its port, its standard input, and what waits until it has printed something.

    It sends what it reads, does what one letter tells it, if that is all it reads, and prints what it is sent.
    """
    certificate = tmp_path / "certificate.pem"
    AUTHORITY.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    server = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-naccept", "1", version, "-cert", str(certificate)]
    pipe = subprocess.PIPE
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(trio.run_process, server, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, check=False)
        )
        assert process.stdin is not None
        assert process.stdout is not None
        printed = b""

        async def until(text: bytes) -> None:
            nonlocal printed
            while text not in printed:
                printed += await process.stdout.receive_some(1000)  # pyright: ignore[reportOptionalMemberAccess]
            printed = printed.partition(text)[2]

        with trio.fail_after(10):
            await until(b"ACCEPT ")
            while b"\n" not in printed:
                printed += await process.stdout.receive_some(1000)
            yield int(printed.split()[0].rpartition(b":")[2]), process.stdin, until
        nursery.cancel_scope.cancel()


@needs_openssl
@pytest.mark.parametrize(("version", "command"), [("-tls1_3", b"K\n"), ("-tls1_2", b"r\n")])
async def test_a_server_may_ask_for_new_keys_at_any_time(tmp_path: Path, version: str, command: bytes) -> None:
    async with openssl(tmp_path, version) as (port, say, until):
        wire = await connect("127.0.0.1", port, contexts()[1])
        for _ in range(3):
            await say.send_all(b"first\n")
            assert await receive_exactly(wire, 6) == b"first\n"
            await say.send_all(command)
            while wire.is_quiet():  # noqa: ASYNC110 - a letter is a command only in a read of its own
                await trio.sleep(0.001)
            await say.send_all(b"from the server\n")
            assert await receive_exactly(wire, 16) == b"from the server\n"
            await send_all(wire, b"from the client\n")
            await until(b"from the client\n")
        wire.close()


@needs_openssl
async def test_who_only_receives_answers_a_server_that_wants_another_handshake(tmp_path: Path) -> None:
    answered = 0

    async def relay(client: trio.SocketStream) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as server, trio.open_nursery() as nursery:
            nursery.start_soon(copy, server, client)
            nonlocal answered
            async for data in client:
                answered += len(data)
                await server.send_all(data)
            nursery.cancel_scope.cancel()

    async def copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        async for data in source:
            await sink.send_all(data)

    async with openssl(tmp_path, "-tls1_2") as (port, say, _), trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, relay, 0, host="127.0.0.1"))
        wire = await connect("127.0.0.1", listeners[0].socket.getsockname()[1], contexts()[1])
        async with trio.open_nursery() as receiving:
            before = answered
            receiving.start_soon(receive_exactly, wire, 16)
            await say.send_all(b"r\n")
            while answered == before:  # noqa: ASYNC110 - the relay counts
                await trio.sleep(0.001)
            await say.send_all(b"from the server\n")
        wire.close()
        nursery.cancel_scope.cancel()
