"""The laboratory: an environment with the peers in it, the load server on one core, one client at a time on another."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

# Seconds after which a client that has not ended never will. The slowest measurement takes four.
_PATIENCE = 60


class Failed(Exception):
    """Something did not do what it must; its message is for the person at the terminal."""


@dataclass(frozen=True)
class Environment:
    """The interpreter that runs clients, and what it can import.

    Attributes:
        python: its path.
        versions: of every package, by name.
        missing: why a peer could not be installed, by name.
    """

    python: Path
    versions: Mapping[str, str]
    missing: Mapping[str, str]


def prepare(peers: Iterable[str], *, fresh: bool = False) -> Environment:
    """Make, or complete, an environment of our own in the cache: the project's dependencies, and the peers.

    The project itself is not installed there. Clients import it from this checkout, so it is never an old one.

    Args:
        peers: packages that are measured against; one that cannot be installed is left out.
        fresh: begin with nothing, and so with the newest versions.

    Raises:
        Failed: the environment could not be made, or a dependency not be installed.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "trioprov-benchmarks" / str(sys.implementation.cache_tag)
    if fresh and home.exists():
        rmtree(home)
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        _tell(f"making an environment in {home}")
        made = _run([sys.executable, "-m", "venv", str(home)])
        if made.returncode:
            raise Failed(f"no virtual environment (does Python have venv and ensurepip?)\n{made.stdout}{made.stderr}")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    installed = _run([*pip, "install", "-q", *project["dependencies"]])
    if installed.returncode:
        raise Failed(f"the dependencies of trioprov could not be installed\n{installed.stderr}")
    missing: dict[str, str] = {}
    for peer in peers:
        installed = _run([*pip, "install", "-q", peer])
        if installed.returncode:
            said = installed.stderr.strip().splitlines()
            missing[peer] = next((line for line in reversed(said) if line.startswith("ERROR:")), "pip failed")
            _tell(f"{peer} is left out: {missing[peer]}")
    listed = _run([*pip, "list", "--format", "json"])
    versions = {package["name"].lower(): package["version"] for package in json.loads(listed.stdout)}
    return Environment(python, versions, missing)


@dataclass(frozen=True)
class Cores:
    """Who may run where; `None`: anywhere, because the system has no say in it or has one core."""

    client: int | None
    server: int | None


def cores() -> Cores:
    """The first core of those we may use for clients, the last for the server."""
    usable = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
    return Cores(usable[0], usable[-1]) if len(usable) > 1 else Cores(None, None)


class Laboratory:
    """Where clients are measured; made by `open_laboratory`."""

    def __init__(self, environment: Environment, where: Cores, port: int) -> None:
        self.environment = environment
        self._where = where
        self._url = f"http://127.0.0.1:{port}"

    def count(self) -> Mapping[str, float]:
        """What the server has counted so far."""
        with urllib.request.urlopen(f"{self._url}/count", timeout=10) as response:
            return json.load(response)

    def measure(self, script: str, *arguments: str) -> Mapping[str, Any]:
        """Run a client in a fresh interpreter, alone, and return what it reports.

        Added to that is what the server has to say: ``sent`` (tokens) and ``server`` (its own CPU time, in seconds).

        Raises:
            Failed: it failed, or did not delete a conversation that it had created.
        """
        before = self.count()
        command = [str(self.environment.python), str(HERE / "clients" / script), self._url, *arguments]
        try:
            done = _run(
                command,
                preexec_fn=_pin(self._where.client),
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                timeout=_PATIENCE,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"{script} was not ready within {_PATIENCE} s") from None
        if done.returncode:
            raise Failed(f"{script} failed\n{done.stderr}")
        after = self.count()
        created, deleted = (after[what] - before[what] for what in ("created", "deleted"))
        if after["open"] or not created or created != deleted:
            raise Failed(f"{script} created {created} conversations and deleted {deleted}")
        sent, server = (after[what] - before[what] for what in ("tokens", "cpu"))
        return {**json.loads(done.stdout), "sent": sent, "server": server}


@contextmanager
def open_laboratory(environment: Environment, where: Cores) -> Generator[Laboratory]:
    """The load server, and whoever keeps the clients' core awake, for as long as the block lasts."""
    helpers: list[subprocess.Popen[str]] = []

    def start(script: str, core: int | None) -> subprocess.Popen[str]:
        # The server runs on the interpreter we run on, because it needs nothing else.
        helper = subprocess.Popen(
            [sys.executable, str(HERE / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=_pin(core),
        )
        helpers.append(helper)
        return helper

    try:
        server = start("load_server.py", where.server)
        assert server.stdout is not None
        port = json.loads(server.stdout.readline())["port"]
        if where.client is not None:
            start("spinner.py", where.client)
        yield Laboratory(environment, where, port)
    finally:
        for helper in helpers:
            helper.kill()
            helper.communicate()


def _pin(core: int | None) -> Callable[[], None] | None:
    if core is None or sys.platform != "linux":
        return None
    return lambda: os.sched_setaffinity(0, {core})


def _run(command: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, **how)


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def revision() -> str:
    """The commit under test, and whether the checkout differs from it."""
    git = ["git", "--no-optional-locks", "-C", str(ROOT)]
    try:
        commit = _run([*git, "rev-parse", "--short", "HEAD"]).stdout.strip()
        changed = _run([*git, "status", "--porcelain", "--", "trioprov"]).stdout.strip()
    except OSError:
        return "unknown"
    return f"{commit or 'unknown'}{' with changes' if changed else ''}"


def processor() -> str:
    """What the CPU calls itself."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1) if found else "unknown CPU"
