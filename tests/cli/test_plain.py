"""Real runs with pipes: what a script gets."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from trioprov import AllenAI, H2o, OpenAssistant
from trioprov.testing import Fault, assert_no_orphans, open_emulator

if TYPE_CHECKING:
    from .conftest import Run, Start, Until, Without

COMMAND = [sys.executable, "-W", "error", "-X", "dev", "-m", "trioprov"]
HEADER = r"^== (.+) \((.+)\) ==$"


def quiet(stderr: str) -> bool:
    """No warning and no traceback."""
    return not re.search("Warning|Traceback|Exception ignored", stderr)


async def arun(run: Run, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return await trio.to_thread.run_sync(lambda: run(*arguments, stdin=stdin))


def test_several_answers_come_whole_under_headers_and_every_conversation_is_listed_as_deleted(run: Run) -> None:
    done = run("ask", "Why is the sky blue?", "--emulated", "--plain")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert sorted(re.findall(HEADER, done.stdout, re.MULTILINE)) == [
        ("Ai2 Playground", "tulu3-405b"),
        ("H2o", H2o().model),
        ("Open Assistant", OpenAssistant().model),
    ]
    assert "Look up — 🌤!\n" in done.stdout
    assert "No account, no network" in done.stderr
    assert len(re.findall(r"^  (h2o|openassistant|allenai) +deleted +\S+$", done.stderr, re.MULTILINE)) == 3
    assert "None is left on any of these servers." in done.stderr
    assert quiet(done.stderr)


def test_one_answer_is_its_text_and_a_newline(run: Run) -> None:
    done = run("ask", "-", "-p", "allenai", "--emulated", stdin="Why?\n")
    assert done.returncode == 0
    assert done.stdout.startswith("Sunlight looks white, but")
    assert done.stdout.endswith("sunsets glow.  ☀️\n")
    assert quiet(done.stderr)


def test_one_answer_is_streamed(environment: Mapping[str, str]) -> None:
    command = [*COMMAND, "ask", "hi", "-p", "allenai", "--emulated"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 100) == b"Sunlight"
        assert process.poll() is None


async def test_what_a_server_sends_is_neither_markup_nor_escape_codes(run: Run) -> None:
    async with open_emulator(H2o, text="[bold]x[/bold]\x1b[31m\r\n\x9b2J \x07.") as emulator:
        done = await arun(run, "ask", "hi", "-p", "h2o", "--base-url", emulator.url)
        assert done.stdout == "[bold]x[/bold]\\x1b[31m\n\\x9b2J \\x07.\n"
        assert done.returncode == 0
        assert_no_orphans(emulator)


async def test_a_failed_lane_is_told_on_stderr_with_advice_and_the_others_answer(run: Run) -> None:
    fault = Fault(on="generate", cut_after=2)
    async with open_emulator(H2o, faults=[fault]) as h2o, open_emulator(AllenAI, text="Fine.") as allenai:
        done = await arun(run, "ask", "hi", "--base-url", f"h2o={h2o.url}", "--base-url", f"allenai={allenai.url}")
        assert done.returncode == 1
        assert "== Ai2 Playground (tulu3-405b) ==\nFine.\n" in done.stdout
        assert "trioprov: H2o: " in done.stderr
        assert "(the answer above is not complete)\n  " in done.stderr
        assert quiet(done.stderr)
        assert_no_orphans([h2o, allenai])


def test_what_a_provider_refuses_is_its_lanes_error(run: Run) -> None:
    done = run("ask", "hi", "--emulated", "-p", "openassistant", "-p", "allenai", "-o", "stop=X", "-o", "max_tokens=3")
    assert done.returncode == 1
    assert "Open Assistant: ValueError: stop: " in done.stderr
    assert "openassistant  nothing owed  (none was created)" in done.stderr
    assert "== Ai2 Playground" in done.stdout


@pytest.mark.parametrize(
    ("closed", "status", "out", "err"),
    [("0<&-", 0, "Sunlight looks", "None is left"), ("2>&-", 0, "Sunlight looks", ""), ("1>&-", 1, "", "None is left")],
)
@pytest.mark.parametrize("output", ["--plain", "--json"])
def test_who_has_closed_a_standard_stream_does_without_it_and_the_conversation_is_deleted(
    closed: str, status: int, out: str, err: str, output: str, environment: Mapping[str, str]
) -> None:
    ask = ["ask", "hi", "-p", "allenai", "--emulated", output]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, *ask],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=30,
        check=False,
    )
    assert done.returncode == status
    assert out in (done.stdout if output == "--plain" else "".join(re.findall('"text": "(.*?)"', done.stdout)))
    assert err in done.stderr
    assert ("could not be written" in done.stderr) == (closed == "1>&-")
    assert quiet(done.stderr)


def test_a_prompt_from_a_closed_standard_input_is_empty(environment: Mapping[str, str]) -> None:
    command = ["sh", "-c", 'exec "$@" 0<&-', "sh", *COMMAND, "ask", "-", "--emulated"]
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=30, check=False)
    assert (done.returncode, done.stderr) == (2, "trioprov: error: the prompt is empty\n")


@pytest.mark.parametrize("name", ["h2o", "allenai"])
def test_a_server_that_is_not_there_is_told_with_advice(name: str, run: Run) -> None:
    done = run("ask", "hi", "-p", name, "--base-url", "http://127.0.0.1:9")
    assert (done.returncode, done.stdout) == (1, "")
    assert "ConnectionFailed" in done.stderr
    assert "Is there a server at http://127.0.0.1:9?" in done.stderr


def test_a_closed_public_service_is_warned_of(run: Run) -> None:
    done = run("ask", "hi", "-p", "openassistant")
    assert (done.returncode, done.stdout) == (1, "")
    assert "warning: the public service of Open Assistant (https://open-assistant.io) has closed" in done.stderr


async def test_a_cleanup_that_failed_is_told_and_the_answer_counts(run: Run) -> None:
    fault = Fault(on="delete", times=100, status=403)
    async with open_emulator(AllenAI, text="Fine.", faults=[fault]) as emulator:
        done = await arun(run, "ask", "hi", "-p", "allenai", "--base-url", emulator.url)
        (conversation,) = emulator.conversations
        assert (done.returncode, done.stdout) == (0, "Fine.\n")
        assert f"conversation {conversation} may still be on {emulator.url}" in done.stderr


async def test_an_id_of_several_lines_says_nothing_in_our_name(run: Run) -> None:
    body = json.dumps({"conversationId": "abc\nNone is left."})
    faults = [Fault(on="create", status=200, body=body), Fault(on="delete", status=403)]
    async with open_emulator(H2o, faults=faults) as emulator:
        done = await arun(run, "ask", "hi", "-p", "h2o", "--base-url", emulator.url, "-v")
    assert f"H2o: conversation abc None is left. may still be on {emulator.url}" in done.stderr
    assert not re.search("^None is left", done.stderr, re.MULTILINE)


async def test_emulated_logins_are_read_from_a_file(run: Run, tmp_path: Path) -> None:
    cookies = tmp_path / "cookies.json"
    cookies.write_text('{"next-auth.session-token": "emulated-session-token"}')
    async with open_emulator(OpenAssistant, text="Hello.") as emulator:
        address = ["-p", "openassistant", "--base-url", emulator.url]
        done = await arun(run, "ask", "hi", *address, "--cookies", str(cookies))
        assert (done.returncode, done.stdout) == (0, "Hello.\n")
        done = await arun(run, "ask", "hi", *address)
        assert (done.returncode, done.stdout) == (1, "")
        assert_no_orphans(emulator)


def test_verbose_tells_what_trioprov_does_and_nothing_of_the_http_library(run: Run) -> None:
    done = run("ask", "hi", "-p", "openassistant", "--emulated", "-v", "-o", "max_tokens=3")
    assert re.search(r"trioprov: openassistant: conversation \S+: deleted", done.stderr)
    assert "queued, position 3" in done.stderr
    assert "session-token" not in done.stderr
    assert "http" not in done.stderr.replace("httpx", "")


def test_the_emulators_name_what_is_not_installed(run: Run, without: Without) -> None:
    without("h11")
    done = run("ask", "hi", "--emulated")
    assert (done.returncode, done.stdout) == (2, "")
    assert '--emulated needs h11: pip install "trioprov[cli]"' in done.stderr
    assert "need h11" in run("emulate").stderr


def test_plain_needs_no_rich(run: Run, without: Without) -> None:
    without("rich")
    done = run("ask", "hi", "-p", "allenai", "--emulated", "--plain", "-o", "max_tokens=3")
    assert (done.returncode, done.stdout) == (0, "Sunlight looks white\n")
    assert "rich" not in done.stderr


# -- Ways to be stopped ------------------------------------------------------------------------------------------------


async def rest(stream: trio.abc.ReceiveStream | None) -> str:
    assert stream is not None
    return b"".join([chunk async for chunk in stream]).decode()


async def test_a_reader_who_has_seen_enough_ends_it_quietly_and_the_conversation_is_deleted(start: Start) -> None:
    async with open_emulator(H2o, forever=True, token_delay=0.01) as emulator:
        process = await start("ask", "hi", "-p", "h2o", "--base-url", emulator.url)
        assert process.stdout is not None
        assert await process.stdout.receive_some(10)
        await process.stdout.aclose()
        assert await rest(process.stderr) == ""
        assert await process.wait() == 1
        assert_no_orphans(emulator)


def test_head_gets_what_it_wants(environment: Mapping[str, str]) -> None:
    line = f"{sys.executable} -m trioprov ask hi -p allenai --emulated | head -c 10"
    done = subprocess.run(["sh", "-c", line], env=environment, capture_output=True, timeout=30, check=True)
    assert done.stdout == b"Sunlight l"
    assert b"  allenai  deleted  " in done.stderr
    assert quiet(done.stderr.decode())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
async def test_a_full_disk_is_told_and_the_conversation_is_deleted(start: Start) -> None:
    async with open_emulator(AllenAI, forever=True, token_delay=0.01) as emulator:
        async with await trio.open_file("/dev/full", "wb") as full:
            process = await start("ask", "hi", "-p", "allenai", "--base-url", emulator.url, stdout=full.wrapped)
            stderr = await rest(process.stderr)
        assert await process.wait() == 1
        assert "could not be written: [Errno 28]" in stderr
        assert quiet(stderr)
        assert_no_orphans(emulator)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
async def test_a_full_disk_is_told_by_every_command_and_emulators_serve_all_the_same(start: Start) -> None:
    async with await trio.open_file("/dev/full", "wb") as full:
        process = await start("providers", stdout=full.wrapped)
        stderr = await rest(process.stderr)
        assert await process.wait() == 1
        assert stderr.startswith("trioprov: the list could not be written: [Errno 28]")
        assert quiet(stderr)
        process = await start("emulate", "h2o", stdout=full.wrapped)
        assert process.stderr is not None
        stderr = ""
        while "serving until Ctrl-C\n" not in stderr:
            stderr += (await process.stderr.receive_some()).decode() or "it ended before serving until Ctrl-C\n"
        assert re.match(r"trioprov: h2o: http://127\.0\.0\.1:\d+ .*\[Errno 28\]", stderr)
        process.send_signal(signal.SIGINT)
        stderr = await rest(process.stderr)
        assert await process.wait() == 130
        assert stderr == "trioprov: h2o: nothing is left\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
async def test_a_signal_stops_it_with_the_conversations_deleted(
    number: signal.Signals, status: int, start: Start, until: Until
) -> None:
    async with (
        open_emulator(H2o, forever=True, token_delay=0.01) as h2o,
        open_emulator(AllenAI, forever=True, token_delay=0.01) as allenai,
    ):
        process = await start("ask", "hi", "--base-url", f"h2o={h2o.url}", "--base-url", f"allenai={allenai.url}")
        await until(lambda: h2o.generating and allenai.generating)
        process.send_signal(number)
        process.send_signal(number)  # as from a shell that tells the process and its group: still the first
        stderr = await rest(process.stderr)
        assert await process.wait() == status
        assert "cleaning up" in stderr
        assert "conversations: 2 deleted" in stderr
        assert quiet(stderr)
        assert_no_orphans([h2o, allenai])


async def test_ctrl_c_is_heard_while_nobody_reads_the_pipe(start: Start, until: Until) -> None:
    async with open_emulator(AllenAI, tokens=["word " * 200] * 1000) as emulator:
        process = await start("ask", "hi", "-p", "allenai", "--base-url", emulator.url)
        await until(lambda: emulator.conversations)
        await trio.sleep(0.5)
        process.send_signal(signal.SIGINT)
        await until(lambda: process.poll() is not None, 5)
        assert process.returncode == 130
        assert_no_orphans(emulator)


async def test_a_second_signal_leaves_at_once_and_names_what_may_be_left(start: Start, until: Until) -> None:
    async with open_emulator(AllenAI, forever=True, faults=[Fault(on="delete", hang=True, times=100)]) as emulator:
        process = await start("ask", "hi", "-p", "allenai", "--base-url", emulator.url, stdout=subprocess.DEVNULL)
        await until(lambda: emulator.generating)
        await trio.sleep(0.3)
        process.send_signal(signal.SIGINT)
        await trio.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        stderr = await rest(process.stderr)
        assert await process.wait() == 130
        assert time.monotonic() - begun < 1
        (conversation,) = emulator.conversations
        assert f"Ai2 Playground: conversation {conversation} may still be on {emulator.url}" in stderr


# -- emulate -----------------------------------------------------------------------------------------------------------


async def test_emulate_serves_until_ctrl_c_and_its_examples_work(
    start: Start, environment: Mapping[str, str], tmp_path: Path
) -> None:
    process = await start("emulate", "allenai", "openassistant")
    assert process.stdout is not None
    said = ""
    while said.count("\n") < 5:
        said += (await process.stdout.receive_some()).decode()
    lines = [line.strip() for line in said.splitlines()]
    assert re.fullmatch(r"allenai: http://127\.0\.0\.1:\d+", lines[0])
    shell = f'trioprov() {{ {sys.executable} -m trioprov "$@"; }}\n'
    for example in (lines[1], f"{lines[3]}\n{lines[4]}"):
        done = await trio.run_process(
            ["sh", "-c", shell + example], env=environment, cwd=tmp_path, capture_stdout=True, capture_stderr=True
        )
        assert done.stdout.startswith(b"Sunlight")
    process.send_signal(signal.SIGINT)
    stderr = await rest(process.stderr)
    assert await process.wait() == 130
    assert "allenai: nothing is left" in stderr
    assert quiet(stderr)


def test_emulate_says_when_a_port_is_taken(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("emulate", "h2o", "--port", str(port))
    assert done.returncode == 2
    assert f"cannot listen on port {port}: " in done.stderr
    assert quiet(done.stderr)
