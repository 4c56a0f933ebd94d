"""A page in a real browser, in front of a network that breaks, and of a user who leaves."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import pytest
import trio
from other_ends import request_of

from trioprov import H2o
from trioprov.testing import Emulator, open_emulator

from .conftest import BreakingNetwork, Server, gone

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")

# As root, and without a word to anybody but the page.
OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--no-proxy-server"),
]

pytestmark = [
    pytest.mark.skipif(not BROWSER, reason="needs Chromium"),
    pytest.mark.parametrize("one_server", ["uvicorn", "hypercorn-trio"], indirect=True),
]

PAGE = """<!DOCTYPE html>
<html lang="en">
<link rel="icon" href="data:,">
<title>An answer</title>
<p id="answer"></p>
<script>
const answer = document.getElementById("answer");
const tell = (what, value) =>
    fetch("TELL/" + what, { method: "POST", mode: "no-cors", body: JSON.stringify(value) });
const source = new EventSource("SOURCE");
let tokens = 0, cuts = 0;
source.addEventListener("token", event => {
    answer.textContent += JSON.parse(event.data);
    tokens += 1;
    if (tokens === 5) tell("five", answer.textContent);
});
source.addEventListener("finish", event => { answer.dataset.reason = JSON.parse(event.data).reason; });
source.addEventListener("error", () => {
    cuts += 1;
    if (source.readyState === EventSource.CLOSED)
        tell("end", { text: answer.textContent, reason: answer.dataset.reason, cuts });
});
</script>
"""


class Front(BreakingNetwork):
    """Serves the page as well."""

    def __init__(self, port: int, cuts: list[int], page: str) -> None:
        super().__init__(port, cuts)
        self._page = page.encode()

    async def serve(self, stream: trio.SocketStream, begun: bytes = b"") -> None:
        begun = await request_of(stream)
        if begun.startswith(b"GET /page "):
            await answer(stream, b"text/html; charset=utf-8", self._page)
        elif begun:  # a browser may connect without having anything to say
            await super().serve(stream, begun)


class Ear:
    """Hears what the page tells, on a connection that nothing else uses."""

    def __init__(self) -> None:
        self._told: dict[str, object] = {}
        self._hears = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        head, _, body = (await request_of(stream)).partition(b"\r\n\r\n")
        if head:
            self._told[head.split(b" ")[1].decode()] = json.loads(body)
            self._hears.set()
            await answer(stream, b"text/plain", b"thanks")

    async def hear(self, what: str) -> object:
        while f"/{what}" not in self._told:
            self._hears = trio.Event()
            await self._hears.wait()
        return self._told[f"/{what}"]


async def answer(stream: trio.SocketStream, kind: bytes, body: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
    await stream.send_all(head % (kind, len(body)) + body)
    await stream.aclose()


@asynccontextmanager
async def browsing(
    server: Server, emulator: Emulator[H2o], path: str, cuts: list[int], profile: Path
) -> AsyncGenerator[tuple[Ear, trio.Process]]:
    """A browser that has the page open."""
    ear = Ear()
    async with trio.open_nursery() as nursery:
        hears = await nursery.start(partial(trio.serve_tcp, ear.serve, 0, host="127.0.0.1"))
        source = f"/{path}?{urlencode({'base_url': emulator.url})}"
        page = PAGE.replace("SOURCE", source).replace("TELL", address(hears))
        front = Front(server.port, cuts, page)
        serves = await nursery.start(partial(trio.serve_tcp, front.serve, 0, host="127.0.0.1"))
        command = [BROWSER, *OPTIONS, f"--user-data-dir={profile}", "--remote-debugging-port=0"]
        with (profile / "stderr").open("wb") as errors:
            process = await trio.lowlevel.open_process([*command, f"{address(serves)}/page"], stderr=errors)
            try:
                yield ear, process
            finally:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()
        nursery.cancel_scope.cancel()


def address(listeners: list[trio.SocketListener]) -> str:
    return f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"


async def test_a_page_shows_the_whole_answer_over_a_network_that_breaks(server: Server, tmp_path: Path) -> None:
    tokens = [f"<{number}>" for number in range(80)]
    with trio.fail_after(90):
        async with (
            open_emulator(H2o, tokens=tokens, token_delay=0.03) as emulator,
            browsing(server, emulator, "resumable", [600, 1100], tmp_path) as (ear, _),
        ):
            said = await ear.hear("end")
            await gone(emulator)
            assert [request.step for request in emulator.requests].count("create") == 1
    # Two cuts, the end, and the 204 after which a browser comes back no more.
    assert said == {"text": "".join(tokens), "reason": "stop", "cuts": 4}


@pytest.mark.parametrize("path", ["sse", "resumable"])
async def test_when_the_browser_is_closed_the_conversation_goes(server: Server, tmp_path: Path, path: str) -> None:
    with trio.fail_after(90):
        async with (
            open_emulator(H2o, forever=True, token_delay=0.01) as emulator,
            browsing(server, emulator, path, [], tmp_path) as (ear, process),
        ):
            assert await ear.hear("five")
            assert emulator.conversations
            process.terminate()
            await process.wait()
            await gone(emulator)
