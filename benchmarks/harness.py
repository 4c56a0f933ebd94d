"""The laboratory: an environment with the peers in it, the load server on one core, one client at a time on another."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

# Seconds after which a client that has not ended never will. The slowest measurement takes thirty.
_PATIENCE = 120

# What clients need, beside the dependencies of the project where they import it. Each peer that brings half of PyPI has
# an environment of its own, so that none decides which versions another one gets.
ENVIRONMENTS: Mapping[str, Sequence[str]] = {
    "by hand": ("aiohttp", "httptools", "trustme", *(["uvloop"] if os.name == "posix" else [])),
    "g4f": ("g4f==0.2.5.4",),
    "openai": ("openai",),
    "litellm": ("litellm",),
    "any-llm": ("any-llm-sdk[openai]",),
    "pydantic-ai": ("pydantic-ai-slim[openai]",),
}
OURS = "by hand"


class Failed(Exception):
    """Something did not do what it must; its message is for the person at the terminal."""


@dataclass(frozen=True)
class Environment:
    """An interpreter that runs clients, and what it can import.

    Attributes:
        python: its path.
        versions: of every package, by name.
        compiled: where its compiled files are kept; `None`: only as long as the laboratory is open.
    """

    python: Path
    versions: Mapping[str, str]
    compiled: Path | None = None


def prepare(names: Iterable[str], *, fresh: bool = False) -> tuple[dict[str, Environment], dict[str, str]]:
    """Make, or complete, environments of our own in the cache.

    The project itself is not installed there. Clients import it from this checkout, so it is never an old one.

    Args:
        names: of `ENVIRONMENTS`; one that cannot be made is left out.
        fresh: begin with nothing, and so with the newest versions.

    Returns:
        Those that are there, and why the others are not.

    Raises:
        Failed: the one that the project is measured in could not be made.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "trioprov-benchmarks" / str(sys.implementation.cache_tag)
    there: dict[str, Environment] = {}
    missing: dict[str, str] = {}
    for name in names:
        try:
            there[name] = _environment(home / name.replace(" ", "-"), _packages(name), fresh=fresh)
        except Failed as failure:
            if name == OURS:
                raise
            missing[name] = str(failure)
            _tell(f"{name} is left out: {failure}")
    return there, missing


def here() -> dict[str, Environment]:
    """The interpreter that runs this, with whatever happens to be installed, in place of an environment of our own."""
    versions = {found.metadata["Name"].lower(): found.version for found in distributions()}
    return {OURS: Environment(Path(sys.executable), versions)}


def _packages(name: str) -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*ENVIRONMENTS[name], *(project["dependencies"] if name == OURS else ())]


def _environment(home: Path, packages: list[str], *, fresh: bool) -> Environment:
    if fresh and home.exists():
        rmtree(home)
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        _tell(f"making an environment in {home}")
        made = _run([sys.executable, "-m", "venv", str(home)])
        if made.returncode:
            raise Failed(f"no virtual environment (does Python have venv and ensurepip?)\n{made.stdout}{made.stderr}")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    done = home / "installed.txt"
    if not done.exists() or done.read_text().splitlines() != packages:
        installed = _run([*pip, "install", "-q", *packages])
        if installed.returncode:
            said = installed.stderr.strip().splitlines()
            raise Failed(next((line for line in reversed(said) if line.startswith("ERROR:")), "pip failed"))
        done.write_text("\n".join(packages))
    listed = _run([*pip, "list", "--format", "json"])
    versions = {package["name"].lower(): package["version"] for package in json.loads(listed.stdout)}
    return Environment(python, versions, home / "compiled")


@dataclass(frozen=True)
class Cores:
    """Who may run where; `None`: anywhere, because the system has no say in it or has one core."""

    client: int | None
    server: int | None


def cores() -> Cores:
    """The first core of those we may use for clients, the last for the server."""
    usable = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
    return Cores(usable[0], usable[-1]) if len(usable) > 1 else Cores(None, None)


@dataclass(frozen=True)
class Client:
    """Who is measured.

    Attributes:
        label: its name in the tables.
        script: its file in ``clients/``.
        environment: where it can run.
        loop: the event loop, where there is a choice.
        needs: what must be installed there, beside the dependencies of the project.
        slow: it takes so long that two rounds must do.
        format: what it has the server speak, if it is not told by the question.
    """

    label: str
    script: str
    environment: str = OURS
    loop: str = ""
    needs: tuple[str, ...] = ()
    slow: bool = False
    format: str = ""


Report = Mapping[str, Any]


class Laboratory:
    """Where clients are measured; made by `open_laboratory`."""

    def __init__(
        self, environments: Mapping[str, Environment], where: Cores, ports: Mapping[str, int], certificate: Path
    ) -> None:
        self.environments = environments
        self.has_tls = "tls" in ports
        self._where = where
        self._url = f"http://127.0.0.1:{ports['port']}"
        self._tls = f"https://127.0.0.1:{ports.get('tls')}"
        self._certificate = certificate

    def can_run(self, client: Client) -> bool:
        """Whether there is all that it needs."""
        there = self.environments.get(client.environment)
        return there is not None and all(package in there.versions for package in client.needs)

    def count(self) -> Mapping[str, float]:
        """What the server has counted so far."""
        with urllib.request.urlopen(f"{self._url}/count", timeout=10) as response:
            return json.load(response)

    def measure(self, client: Client, question: str, *arguments: str, tls: bool = False) -> Report:
        """Run a client in a fresh interpreter, alone, and return what it reports.

        Added to that is what the server has to say: ``sent`` (tokens) and ``server`` (its own CPU time, in seconds).

        Raises:
            Failed: it failed, or did not delete a conversation that it had created.
        """
        before = self.count()
        url = self._tls if tls else self._url
        script = str(HERE / "clients" / client.script)
        done = self.run(client.environment, script, question, url, *arguments, loop=client.loop)
        after = self.count()
        created, deleted = (after[what] - before[what] for what in ("created", "deleted"))
        if after["open"] or created != deleted:
            raise Failed(f"{client.script} created {created} conversations and deleted {deleted}")
        sent, server = (after[what] - before[what] for what in ("tokens", "cpu"))
        return {**json.loads(done), "sent": sent, "server": server}

    def run(self, environment: str, *arguments: str, loop: str = "") -> str:
        """What a program of that environment prints.

        Raises:
            Failed: it failed, or did not end.
        """
        there = self.environments[environment]
        variables = {
            "PYTHONPATH": str(ROOT),
            # Compiled files are kept, as those of an installed package are; but not in the checkout.
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPYCACHEPREFIX": str(there.compiled or self._certificate.parent / "compiled"),
            "BENCHMARK_LOOP": loop,
            "BENCHMARK_CA": str(self._certificate),
        }
        try:
            done = _run(
                [str(there.python), *arguments],
                preexec_fn=_pin(self._where.client),
                env={**os.environ, **variables},
                timeout=_PATIENCE,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"{' '.join(arguments)} was not ready within {_PATIENCE} s") from None
        if done.returncode:
            raise Failed(f"{' '.join(arguments)} failed\n{done.stderr}")
        return done.stdout


@contextmanager
def open_laboratory(environments: Mapping[str, Environment], where: Cores) -> Generator[Laboratory]:
    """The load server, and whoever keeps the clients' core awake, for as long as the block lasts."""
    helpers: list[subprocess.Popen[str]] = []

    def start(script: str, core: int | None, *arguments: str) -> subprocess.Popen[str]:
        # The server runs on the interpreter we run on, because it needs nothing else.
        helper = subprocess.Popen(
            [sys.executable, str(HERE / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=_pin(core),
        )
        helpers.append(helper)
        return helper

    with TemporaryDirectory() as directory:
        made = _run([str(environments[OURS].python), "-m", "trustme", "-q", "-d", directory, "-i", "127.0.0.1"])
        try:
            server = start("load_server.py", where.server, *([] if made.returncode else [directory]))
            assert server.stdout is not None
            ports = json.loads(server.stdout.readline())
            if where.client is not None:
                start("spinner.py", where.client)
            yield Laboratory(environments, where, ports, Path(directory, "client.pem"))
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
