"""The standard's own client, as Node has it, in front of a network that breaks."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import partial
from urllib.parse import urlencode

import pytest
import trio

from trioprov import H2o
from trioprov.testing import open_emulator

from .conftest import BreakingNetwork, Server, gone

READER = """
setInterval(() => {}, 1000); // what waits to come back keeps no Node alive
const source = new EventSource(process.argv[1]);
let text = "", cuts = 0;
source.addEventListener("token", event => { text += JSON.parse(event.data); });
source.addEventListener("finish", event => { text += JSON.parse(event.data).reason; });
source.addEventListener("error", () => {
    cuts += 1;
    if (source.readyState === EventSource.CLOSED) {
        console.log(JSON.stringify({ text, cuts }));
        process.exit(0);
    }
});
"""


def node(*arguments: str) -> list[str]:
    return ["node", "--no-warnings", "--experimental-eventsource", *arguments]


def has_event_source() -> bool:
    if shutil.which("node") is None:
        return False
    probe = subprocess.run(node("-p", "typeof EventSource"), capture_output=True, text=True)
    return probe.stdout.strip() == "function"


pytestmark = [
    pytest.mark.skipif(not has_event_source(), reason="needs a Node with an EventSource (20.18 or later)"),
    pytest.mark.parametrize("one_server", ["uvicorn", "hypercorn-asyncio", "hypercorn-trio"], indirect=True),
]


async def test_an_event_source_resumes_what_was_cut_and_comes_back_no_more_after_the_end(server: Server) -> None:
    tokens = [f"<{number}>" for number in range(80)]
    network = BreakingNetwork(server.port, [600, 1100, 450])
    async with open_emulator(H2o, tokens=tokens, token_delay=0.03) as emulator, trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, network.serve, 0, host="127.0.0.1")
        listeners: list[trio.SocketListener] = await nursery.start(serve)
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/resumable"
        with trio.fail_after(60):
            query = urlencode({"base_url": emulator.url})
            done = await trio.run_process(node("-e", READER, f"{url}?{query}"), capture_stdout=True)
        nursery.cancel_scope.cancel()
        await gone(emulator)
        assert [request.step for request in emulator.requests].count("create") == 1
    said = json.loads(done.stdout)
    assert said["text"] == "".join(tokens) + "stop"
    assert network.connections == 4  # three were cut; the 204 comes on the same one as the rest
    assert said["cuts"] == 5  # three, the end, and the 204
