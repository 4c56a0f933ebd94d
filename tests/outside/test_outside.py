"""A provider from another package is one like ours: found by its entry point, checked, asked, cleaned up after."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from .conftest import Server

CHILD = Path(__file__).with_name("child.py")


async def run(installed: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(60):
        return await trio.run_process(
            [sys.executable, "-W", "error", *arguments],
            env=installed,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )


async def cli(installed: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return await run(installed, "-m", "trioprov", *arguments)


async def test_an_installed_package_is_found_checked_and_used(installed: Mapping[str, str], server: Server) -> None:
    done = await run(installed, str(CHILD), server.url)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    assert found == {
        "names": ["h2o", "openassistant", "allenai", "brook", "puff"],
        "before": False,
        "tokens": ["Rayleigh", " scattering", "."],
        "second": "Rayleigh scattering.",
        "brook": "deleted",
        "gathered": [["Rayleigh scattering.", "unsupported"], ["Rayleigh scattering.", "deleted"]],
        "puff": "unsupported",
    }
    assert server.service.rooms == {}
    assert len(server.service.puffs) == 2
    assert [one.json["tone"] for one in server.service.requests if one.step == "turn"] == ["calm"] * 3
    assert server.service.requests[0].json == {"model": "brook-2"}


async def test_the_command_line_lists_it_and_says_what_it_cleans_up(installed: Mapping[str, str]) -> None:
    done = await cli(installed, "providers", "--plain")
    assert (done.returncode, done.stderr) == (0, b"")
    brook, puff = done.stdout.decode().split("brook: Brook, https://brook.example\n")[1].split("puff: Puff, ")
    assert "latest = brook-2" in brook
    assert "max_tokens, temperature, limit, stop" in brook
    assert "deletes the conversation" in brook
    assert "none: the service documents none" in puff


async def test_the_command_line_asks_it(installed: Mapping[str, str], server: Server) -> None:
    done = await cli(installed, "ask", "Why?", "-p", "brook", "--base-url", server.url, "-o", "limit=3", "--plain")
    assert done.returncode == 0, done.stderr.decode()
    assert b"Rayleigh scattering." in done.stdout
    assert server.service.rooms == {}
    assert next(one.json["limit"] for one in server.service.requests if one.step == "turn") == 3


async def test_what_has_no_documented_cleanup_is_no_failure_on_the_command_line(
    installed: Mapping[str, str], server: Server
) -> None:
    done = await cli(installed, "ask", "Why?", "-p", "puff", "--base-url", server.url, "--plain")
    assert done.returncode == 0, done.stderr.decode()
    assert b"Rayleigh" in done.stdout
    assert len(server.service.puffs) == 1


async def test_neither_it_nor_one_that_cannot_be_imported_is_in_the_way_of_the_emulators(
    installed: Mapping[str, str], tmp_path: Path
) -> None:
    info = tmp_path / "broken-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[trioprov.providers]\nbroken = no_such_module:Broken\n")
    environment = {**installed, "PYTHONPATH": os.pathsep.join([str(tmp_path), installed["PYTHONPATH"]])}
    done = await cli(environment, "ask", "Why?", "--emulated", "--plain")
    assert done.returncode == 0, done.stderr.decode()
    with trio.fail_after(60):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "trioprov", "emulate"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        async with process.stdout, process.stderr:
            said = b""
            async for data in process.stderr:
                said += data
                if b"serving" in said:
                    process.send_signal(signal.SIGINT)
        await process.wait()
    assert b"serving until Ctrl-C" in said
