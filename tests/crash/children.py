"""Other processes, as the tests have them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

_CHILD = Path(__file__).parent / "child.py"


class Child:
    """Another process, which does as it is told (``crash/child.py``)."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._rest = b""
        self.said: Any = None
        """Its first word."""

    async def heard(self) -> Any:
        assert self._process.stdout is not None
        with trio.fail_after(60):
            while b"\n" not in self._rest:
                data = await self._process.stdout.receive_some()
                assert data, "the child has died"
                self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    async def send(self, **order: Any) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps(order).encode() + b"\n")

    async def do(self, what: str, **order: Any) -> Any:
        await self.send(do=what, **order)
        return await self.heard()

    async def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()


@asynccontextmanager
async def child(command: str, **arguments: Any) -> AsyncGenerator[Child]:
    """Such a process, from its first word on; at the end it is killed if it still runs."""
    async with spoken_with(_CHILD, command, json.dumps(arguments)) as process:
        other = Child(process)
        other.said = await other.heard()
        yield other


@asynccontextmanager
async def spoken_with(script: Path, *arguments: str) -> AsyncGenerator[trio.Process]:
    """A script's process, by its standard input and output; at the end it is killed if it still runs."""
    process = await trio.lowlevel.open_process(
        [sys.executable, str(script), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            await process.stdin.aclose()
            await process.stdout.aclose()
