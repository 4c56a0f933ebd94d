from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Generator, Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

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


# -- What --json promises ----------------------------------------------------------------------------------------------

Record: TypeAlias = dict[str, Any]
Checked: TypeAlias = Callable[[str], list[Record]]

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="session")
def checked() -> Checked:
    """The records of a whole output of ``--json``, after a check against the table in README, and of their order."""
    body = README.read_text("utf-8").split("<!-- json -->")[1].split("<!-- /json -->")[0]
    rows = [line.strip("| ").split(" | ") for line in body.strip().splitlines()[2:]]
    schema = {row[0].strip("`"): _fields(row[2]) for row in rows}

    def checked(output: str) -> list[Record]:
        assert output.endswith("\n")
        # Also for a terminal, and for those who take other characters for ends of lines.
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", output)
        lines = output.removesuffix("\n").split("\n")
        records = [json.loads(line, object_pairs_hook=_unique, parse_constant=_no_number) for line in lines]
        for record in records:
            kind = record["type"]
            common = {"type": {f"`{kind}`"}, "lane": {"count"}, "provider": {"text"}}
            _check(record, {**common, **schema[kind]}, schema)
        _check_order(records)
        return records

    return checked


def _fields(cell: str) -> dict[str, set[str]]:
    """Each field of a row, and what it may be."""
    if cell == "none":
        return {}
    return {
        name.strip("`"): set(re.split(r", | or ", kinds))
        for name, kinds in (field.split(": ") for field in cell.split("; "))
    }


def _unique(pairs: list[tuple[str, Any]]) -> Record:
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def _no_number(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def _check(record: Record, fields: Mapping[str, set[str]], schema: Mapping[str, Mapping[str, set[str]]]) -> None:
    assert list(record) == list(fields), record
    for name, kinds in fields.items():
        value = record[name]
        if isinstance(value, dict):
            assert "error" in kinds
            _check(cast("Record", value), schema["error"], schema)
            continue
        fits = {
            "null": value is None,
            "text": type(value) is str,
            "count": type(value) is int and value >= 0,
            "number": type(value) in (int, float) and value >= 0,
            f"`{value}`": type(value) is str,
        }
        assert any(fits.get(kind) for kind in kinds), (name, value)


def _check_order(records: list[Record]) -> None:
    kinds = [record["type"] for record in records]
    lanes = kinds.count("start")
    assert kinds[:lanes] == ["start"] * lanes
    assert kinds[-lanes:] == ["cleanup"] * lanes
    assert [record["lane"] for record in records[:lanes] + records[-lanes:]] == [*range(lanes)] * 2
    race = "winner" in kinds or "lost" in kinds
    for index in range(lanes):
        own = [record for record in records if record["lane"] == index]
        assert len({record["provider"] for record in own}) == 1
        said = " ".join(record["type"] for record in own)
        talk = "(queued |notice )*"
        won = f"start {talk}(winner )(token |queued |notice )*finish cleanup"
        lost = f"start {talk}finish lost cleanup"
        assert re.fullmatch(f"{won}|{lost}" if race else "start (token |queued |notice )*finish cleanup", said), said
        finish = next(record for record in own if record["type"] == "finish")
        assert (finish["reason"] == "error") == (finish["error"] is not None)
        if "lost" not in said:
            assert finish["tokens"] == said.count("token ")
        else:
            assert records[records.index(finish) + 1]["type"] == "lost"
    assert kinds.count("winner") <= 1
    for record in records:
        if record["type"] == "lost":
            assert (record["why"] == "failed") == (record["error"] is not None)
