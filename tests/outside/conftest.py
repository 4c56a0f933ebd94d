"""A server for the providers of the package here, and the package, installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio

import trioprov
from trioprov.testing import Fault, RecordedRequest, Script
from trioprov.testing._server import Responder
from trioprov.testing._service import EventStream, Service

PIECES = ("Rayleigh", " scattering", ".")


class Elsewhere(Service):
    """Brook's rooms, which have owners, and Puff's puffs, which nobody can delete."""

    name = "elsewhere"
    steps = ("create", "turn", "stop", "delete", "list", "puff", "say", "other")

    def __init__(self) -> None:
        super().__init__(Script())
        self.rooms: dict[str, str] = {}
        self.puffs: list[str] = []

    def step(self, request: RecordedRequest) -> str:
        method, parts = request.method, request.path.split("/")[1:]
        if parts[0] == "rooms":
            known = {("POST", 1): "create", ("GET", 1): "list", ("DELETE", 2): "delete"}
            return known.get((method, len(parts)), {"turns": "turn", "stop": "stop"}.get(parts[-1], "other"))
        return {"puffs": "puff", "say": "say"}.get(parts[0], "other")

    async def answer(self, request: RecordedRequest, respond: Responder, fault: Fault) -> None:
        step, owner = request.step, request.headers.get("x-brook-owner", "")
        room = request.path.split("/")[2] if request.path.count("/") > 1 else ""
        if step == "create":
            name = f"r-{len(self.requests)}"
            self.rooms[name] = owner
            await self._json(respond, {"room": name})
        elif step == "list":
            await self._json(respond, {"rooms": [name for name, of in self.rooms.items() if of == owner]})
        elif step == "puff":
            self.puffs.append(f"p-{len(self.puffs)}")
            await self._json(respond, {"id": self.puffs[-1]})
        elif step == "say":
            stream = EventStream(respond, fault)
            await stream.start(200, [])
            for line in (*({"token": piece} for piece in PIECES), {"done": True}):
                await stream.content(json.dumps(line).encode() + b"\n")
            await stream.end()
        elif self.rooms.get(room) != owner:
            await respond.send(404, b'{"error": {"code": "no_room", "message": "there is no such room"}}')
        elif step == "turn":
            await self._turn(respond, fault)
        else:
            if step == "delete":
                del self.rooms[room]
            await respond.send(204)

    async def _turn(self, respond: Responder, fault: Fault) -> None:
        stream = EventStream(respond, fault)
        await stream.start(200, [])
        await stream.other(b'event: place\ndata: {"ahead": 1}\n\n')
        for piece in PIECES:
            await stream.content(b"event: piece\ndata: " + json.dumps({"text": piece}).encode() + b"\n\n")
        await stream.content(b'event: end\ndata: {"why": "stop", "tokens": 3}\n\n')
        await stream.end()

    async def _json(self, respond: Responder, value: object) -> None:
        await respond.send(200, json.dumps(value).encode(), [("Content-Type", "application/json")])


class Server(NamedTuple):
    service: Elsewhere
    url: str


@pytest.fixture
async def server(nursery: trio.Nursery) -> AsyncIterator[Server]:
    service = Elsewhere()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, service.serve_stream, listeners)
    yield Server(service, f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}")
    assert service.errors == []


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """An environment in which the package is installed, as pip does it."""
    where = tmp_path_factory.mktemp("outside")
    source = shutil.copytree(Path(__file__).parent / "package", where / "source")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    done = subprocess.run(
        [*pip, "--no-deps", "--no-build-isolation", "--target", str(where / "site"), str(source)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    house = Path(trioprov.__file__).parent.parent
    paths = [str(where / "site"), str(house), os.environ.get("PYTHONPATH", "")]
    told: dict[str, Any] = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "no_proxy": "127.0.0.1"}
    return told
