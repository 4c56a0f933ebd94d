from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Generator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pexpect
import pytest
import trio

# What a user runs, except that a warning is an error and would show on stderr.
COMMAND = [sys.executable, "-W", "error", "-X", "dev", "-m", "trioprov"]

Run: TypeAlias = Callable[..., "subprocess.CompletedProcess[str]"]
Spawn: TypeAlias = Callable[..., "Terminal"]
Start: TypeAlias = Callable[..., Awaitable[trio.Process]]
Without: TypeAlias = Callable[[str], None]
Until: TypeAlias = Callable[..., Awaitable[None]]


@pytest.fixture
def until() -> Until:
    """Wait until something is so, somewhere where no event of ours could tell."""

    async def until(condition: Callable[[], object], seconds: float = 10) -> None:
        with trio.fail_after(seconds):
            while not condition():  # noqa: ASYNC110 - other processes and threads
                await trio.sleep(0.02)

    return until


@pytest.fixture
def start(environment: Mapping[str, str]) -> Start:
    """Start the command with pipes; every test waits for its end itself."""

    async def start(*arguments: str, **streams: Any) -> trio.Process:
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        return await trio.lowlevel.open_process([*COMMAND, *arguments], env=environment, **pipes)

    return start


@pytest.fixture
def without(environment: dict[str, str], tmp_path: Path) -> Without:
    """Let the command run as if a package were not installed."""

    def without(package: str) -> None:
        (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError('No module named {package}')")
        environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment.get("PYTHONPATH", "")])

    return without


@pytest.fixture
def environment() -> dict[str, str]:
    """An environment that does not depend on who runs the tests."""
    told = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    return {**told, "TERM": "xterm-256color", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "no_proxy": "127.0.0.1"}


@pytest.fixture
def run(environment: Mapping[str, str]) -> Run:
    """Run the command with pipes for everything."""

    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            input=stdin,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            timeout=30,
            check=False,
        )

    return run


class Terminal:
    """The command in a real terminal."""

    def __init__(self, child: pexpect.spawn[str]) -> None:
        self.child = child
        self.raw = ""

    def wait_for(self, pattern: str, timeout: float = 10) -> None:
        """Wait until this has been drawn, colours left out."""
        compiled = re.compile(pattern)
        while not compiled.search(self.text):
            try:
                self.raw += self.child.read_nonblocking(4096, timeout=timeout)
            except pexpect.EOF:
                break
        assert compiled.search(self.text), f"never drawn: {pattern}\n{self.text}"

    def wait(self, timeout: float = 15) -> int:
        """Read on to the end; the exit status."""
        self.child.timeout = timeout
        self.raw += self.child.read()
        self.child.close()
        status = self.child.exitstatus
        return -(self.child.signalstatus or 0) if status is None else status

    @property
    def text(self) -> str:
        """Everything drawn so far, without the escape codes; a form feed stands where a frame is wiped out."""
        frames = re.sub(r"(\r?\x1b\[(2K|1A))+", "\f", self.raw)
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frames).replace("\r\n", "\n")

    @property
    def left(self) -> str:
        """What stands there at the end: the last frame, unless it was wiped out, and what follows."""
        return self.text.rpartition("\f")[2]


@pytest.fixture
def spawn(environment: Mapping[str, str]) -> Generator[Spawn]:
    """Run the command in a terminal of a size."""
    children: list[pexpect.spawn[str]] = []

    def spawn(*arguments: str, columns: int = 80, lines: int = 24) -> Terminal:
        child: pexpect.spawn[str] = pexpect.spawn(
            COMMAND[0],
            [*COMMAND[1:], *arguments],
            env=environment,  # pyright: ignore[reportArgumentType] - the stub wants os.environ's own class
            dimensions=(lines, columns),
            encoding="utf-8",
            timeout=15,
        )
        children.append(child)
        return Terminal(child)

    yield spawn
    for child in children:
        child.close(force=True)
