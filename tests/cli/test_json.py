"""Real runs with --json: what a program gets."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from trioprov import AllenAI, H2o, OpenAssistant
from trioprov.cli._json import line
from trioprov.testing import Fault, assert_no_orphans, open_emulator

if TYPE_CHECKING:
    from .conftest import Checked, Record, Run, Start, Until

TOKEN = "emulated-session-token"


def quiet(stderr: str) -> bool:
    """No warning and no traceback."""
    return not re.search("Warning|Traceback|Exception ignored", stderr)


def of(records: list[Record], kind: str, lane: int | None = None) -> list[Record]:
    return [record for record in records if record["type"] == kind and lane in (None, record["lane"])]


def text(records: list[Record], lane: int | None = None) -> str:
    return "".join(record["text"] for record in of(records, "token", lane))


async def arun(run: Run, *arguments: str) -> subprocess.CompletedProcess[str]:
    return await trio.to_thread.run_sync(lambda: run(*arguments))


async def rest(stream: trio.abc.ReceiveStream | None) -> str:
    assert stream is not None
    return b"".join([chunk async for chunk in stream]).decode()


def test_three_answers_are_told_in_records_and_nothing_else_is_on_standard_output(run: Run, checked: Checked) -> None:
    done = run("ask", "Why is the sky blue?", "--emulated", "--json")
    records = checked(done.stdout)
    assert done.returncode == 0
    assert [record["provider"] for record in of(records, "start")] == ["h2o", "openassistant", "allenai"]
    assert text(records, 0).endswith("straight from the sun.\n\nLook up — 🌤!")
    assert text(records, 2).startswith("Sunlight looks white, but")
    assert [record["position"] for record in of(records, "queued")] == [3, 2, 1]
    assert {record["reason"] for record in of(records, "finish")} == {"stop"}
    assert {record["outcome"] for record in of(records, "cleanup")} == {"deleted"}
    assert "No account, no network" in done.stderr
    assert quiet(done.stderr)


async def test_records_are_written_at_once(start: Start, checked: Checked) -> None:
    async with open_emulator(AllenAI, tokens=["word "], forever=True, token_delay=0.01) as emulator:
        process = await start("ask", "hi", "-p", "allenai", "--base-url", emulator.url, "--json")
        assert process.stdout is not None
        output = b""
        with trio.fail_after(10):
            while output.count(b'"token"') < 3:
                output += await process.stdout.receive_some()
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        records = checked(output.decode() + await rest(process.stdout))
        assert await process.wait() == 130
        assert of(records, "finish")[0]["reason"] == "interrupted"
        assert text(records) == "word " * of(records, "finish")[0]["tokens"]
        assert of(records, "cleanup")[0]["outcome"] == "deleted"
        assert_no_orphans(emulator)


async def test_an_error_is_an_object_and_people_are_told_with_advice(run: Run, checked: Checked) -> None:
    busy = Fault(on="stream", status=503, headers={"Retry-After": "7"}, body="no capacity")
    cut = Fault(on="generate", end_after=2)
    async with open_emulator(H2o, faults=[cut]) as h2o, open_emulator(AllenAI, faults=[busy]) as allenai:
        addresses = ["--base-url", f"h2o={h2o.url}", "--base-url", f"allenai={allenai.url}"]
        done = await arun(run, "ask", "hi", *addresses, "--json")
        assert_no_orphans([h2o, allenai])
    records = checked(done.stdout)
    incomplete, overloaded = (of(records, "finish", lane)[0] for lane in (0, 1))
    assert done.returncode == 1
    assert (incomplete["reason"], incomplete["tokens"]) == ("error", 2)
    assert incomplete["error"]["class"] == "IncompleteReply"
    assert incomplete["error"]["status"] is None
    assert overloaded["error"] == {
        "class": "Overloaded",
        "message": "no capacity",
        "status": 503,
        "code": None,
        "retry_after": 7.0,
    }
    assert "Ask again in a while" in done.stderr
    assert "above" not in done.stderr


def test_what_a_provider_refuses_is_told_of_a_lane_that_nobody_asked(run: Run, checked: Checked) -> None:
    done = run("ask", "hi", "--emulated", "--json", "-p", "openassistant", "-p", "allenai", "-o", "stop=X")
    finish = of(checked(done.stdout), "finish", 0)[0]
    assert (finish["error"]["class"], finish["seconds"], finish["first_token"]) == ("ValueError", None, None)
    assert of(checked(done.stdout), "cleanup", 0)[0]["outcome"] == "nothing_owed"


async def test_a_cleanup_that_failed_is_told_with_its_reason(run: Run, checked: Checked) -> None:
    fault = Fault(on="delete", times=100, status=403, body="not you")
    async with open_emulator(AllenAI, text="Fine.", faults=[fault]) as emulator:
        done = await arun(run, "ask", "hi", "-p", "allenai", "--base-url", emulator.url, "--json")
        (cleanup,) = of(checked(done.stdout), "cleanup")
        assert [cleanup["conversation"]] == list(emulator.conversations)
    assert done.returncode == 0
    assert cleanup["outcome"] == "owed"
    assert cleanup["error"]["class"] == "AuthenticationError"
    assert cleanup["error"]["status"] == 403


async def test_no_secret_is_told_not_even_one_that_a_server_repeats(run: Run, checked: Checked, tmp_path: Path) -> None:
    cookies = tmp_path / "cookies.json"
    cookies.write_text(json.dumps({"next-auth.session-token": TOKEN}))
    faults = [
        Fault(on="create", status=400, body=f"who is {TOKEN}?"),
        Fault(on="delete", status=403, body=f"not {TOKEN}!", times=100),
    ]
    for count in (2, 1):  # the create is refused, then the delete
        async with open_emulator(OpenAssistant, text="Hello.", faults=faults[-count:]) as emulator:
            address = ["-p", "openassistant", "--base-url", emulator.url, "--cookies", str(cookies)]
            done = await arun(run, "ask", "hi", *address, "--json", "-v")
        records = checked(done.stdout)
        assert [record["error"] for record in records if record.get("error")]
        assert TOKEN not in done.stdout + done.stderr


async def test_what_a_service_says_beside_the_answer_is_a_notice(run: Run, checked: Checked, tmp_path: Path) -> None:
    cookies = tmp_path / "cookies.json"
    cookies.write_text(json.dumps({"next-auth.session-token": TOKEN}))
    script: dict[str, Any] = {"plugin_events": [{"thought": "I should look it up."}], "pending": (2,), "text": "Blue."}
    async with open_emulator(OpenAssistant, **script) as emulator:
        address = ["-p", "openassistant", "--base-url", emulator.url, "--cookies", str(cookies)]
        records = checked((await arun(run, "ask", "hi", *address, "--race", "--json")).stdout)
    (notice,) = of(records, "notice")
    assert (notice["kind"], notice["text"]) == ("plugin", "I should look it up.")
    assert text(records) == "Blue."


async def test_what_a_server_sends_controls_no_terminal_breaks_no_line_and_is_whole(
    environment: dict[str, str], run: Run, checked: Checked
) -> None:
    sent = 'x\x1b[31m\x9b2J\x7f\u202eabc\u202c\u2067i\u2069 a\u2028b\u2029c\x85d\r\n\x00"\\ 漢字👩‍🔬 \ufeff'
    environment["PYTHONIOENCODING"] = "latin-1"  # JSON is UTF-8 wherever it is written
    async with open_emulator(H2o, text=sent) as emulator:
        done = await arun(run, "ask", "hi", "-p", "h2o", "--base-url", emulator.url, "--json")
    assert text(checked(done.stdout)) == sent
    assert "漢字👩‍🔬" in done.stdout
    assert done.stdout.splitlines() == done.stdout.split("\n")[:-1]
    assert done.returncode == 0


def test_half_a_surrogate_pair_becomes_a_replacement_character() -> None:
    written = line({"text": "\ud800", "error": {"message": "a\udcffb \udfff"}}).encode()
    assert json.loads(written) == {"text": "\ufffd", "error": {"message": "a\ufffdb \ufffd"}}


# -- Ways to be stopped ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
async def test_after_a_signal_the_end_is_told(
    number: signal.Signals, status: int, start: Start, until: Until, checked: Checked
) -> None:
    async with (
        open_emulator(H2o, forever=True, token_delay=0.01) as h2o,
        open_emulator(OpenAssistant) as openassistant,  # which is given no cookies
        open_emulator(AllenAI, forever=True, token_delay=0.01) as allenai,
    ):
        addresses = [f"--base-url={one.name}={one.url}" for one in (h2o, openassistant, allenai)]
        process = await start("ask", "hi", *addresses, "--json")
        await until(lambda: h2o.generating and allenai.generating)
        process.send_signal(number)
        records = checked(await rest(process.stdout))
        stderr = await rest(process.stderr)
        assert await process.wait() == status
        reasons = {record["provider"]: record["reason"] for record in of(records, "finish")}
        assert reasons == {"h2o": "interrupted", "openassistant": "error", "allenai": "interrupted"}
        assert {record["outcome"] for record in of(records, "cleanup")} <= {"deleted", "nothing_owed"}
        assert quiet(stderr)
        assert_no_orphans([h2o, openassistant, allenai])


async def test_a_signal_while_the_reader_is_slow_tears_no_line(start: Start, until: Until, checked: Checked) -> None:
    # More than a pipe holds, in lines longer than what is written at a time.
    tokens = [f"{number} " * 4000 for number in range(40)]
    async with open_emulator(AllenAI, tokens=tokens, forever=True) as emulator:
        process = await start("ask", "hi", "-p", "allenai", "--base-url", emulator.url, "--json")
        await until(lambda: emulator.generating)
        await trio.sleep(0.5)
        process.send_signal(signal.SIGINT)
        await trio.sleep(0.1)
        records = checked(await rest(process.stdout))
        assert await process.wait() == 130
        assert_no_orphans(emulator)
    told = [record["text"] for record in of(records, "token")]
    assert told == [tokens[number % 40] for number in range(len(told))]


async def test_a_signal_is_heard_while_nobody_reads(start: Start, until: Until) -> None:
    async with open_emulator(AllenAI, tokens=["word " * 200] * 1000) as emulator:
        process = await start("ask", "hi", "-p", "allenai", "--base-url", emulator.url, "--json")
        await until(lambda: emulator.conversations)
        await trio.sleep(0.5)
        process.send_signal(signal.SIGINT)
        await until(lambda: process.poll() is not None, 5)
        assert process.returncode == 130
        assert "nobody reads the output" in await rest(process.stderr)
        assert_no_orphans(emulator)


async def test_a_reader_who_has_seen_enough_ends_it_quietly(start: Start) -> None:
    async with open_emulator(H2o, forever=True, token_delay=0.01) as emulator:
        process = await start("ask", "hi", "-p", "h2o", "--base-url", emulator.url, "--json")
        assert process.stdout is not None
        assert await process.stdout.receive_some(10)
        await process.stdout.aclose()
        assert await rest(process.stderr) == ""
        assert await process.wait() == 1
        assert_no_orphans(emulator)


def test_head_gets_one_record_and_the_conversations_are_deleted(environment: Mapping[str, str]) -> None:
    command = f"{sys.executable} -W error -X dev -m trioprov ask hi --emulated --json | head -1"
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, timeout=30, check=True)
    record: dict[str, Any] = json.loads(done.stdout)
    assert (record["type"], record["lane"]) == ("start", 0)
    assert b"None is left on any of these servers." in done.stderr
    assert quiet(done.stderr.decode())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
async def test_a_full_disk_is_told_and_the_conversation_is_deleted(start: Start) -> None:
    async with open_emulator(AllenAI, forever=True, token_delay=0.01) as emulator:
        async with await trio.open_file("/dev/full", "wb") as full:
            arguments = ["ask", "hi", "-p", "allenai", "--base-url", emulator.url, "--json"]
            process = await start(*arguments, stdout=full.wrapped)
            stderr = await rest(process.stderr)
        assert await process.wait() == 1
        assert stderr.count("could not be written: [Errno 28]") == 1
        assert quiet(stderr)
        assert_no_orphans(emulator)
