"""Real runs with --race: who is shown, and what is told of the others."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
import trio

from trioprov import AllenAI, H2o, OpenAssistant
from trioprov.providers import Provider
from trioprov.testing import Emulator, Fault, assert_no_orphans, open_emulator

if TYPE_CHECKING:
    from .conftest import Checked, Record, Run, Spawn, Start, Until

Script: TypeAlias = tuple[type[Provider], Mapping[str, Any]]

BUSY = Fault(on="stream", status=503, body="no capacity")
SLOW: Mapping[str, Any] = {"first_delay": 60.0}
ENDLESS: Mapping[str, Any] = {"tokens": ["word "], "forever": True, "first_delay": 0.3, "token_delay": 0.01}

LONG: Mapping[str, Any] = {"tokens": ["loser\n"], "forever": True, "token_delay": 0.005}


@asynccontextmanager
async def racers(
    *scripts: Script,
) -> AsyncGenerator[tuple[list[Emulator[Any]], list[str]]]:
    """Servers, and what asks them in this order; afterwards nothing is alive on any."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(open_emulator(cls, **script)) for cls, script in scripts]
        named = [word for one in servers for word in ("-p", one.name)]
        urls = [word for one in servers for word in ("--base-url", f"{one.name}={one.url}")]
        yield servers, ["ask", "hi", "--race", *named, *urls]
        assert_no_orphans(servers)


def quiet(stderr: str) -> bool:
    """No warning and no traceback."""
    return not re.search("Warning|Traceback|Exception ignored|ExceptionGroup", stderr)


def table(stderr: str) -> list[list[str]]:
    """The rows about the race: name, standing, tokens, seconds, cleanup, and why one failed."""
    lines = stderr.replace("\r\n", "\n").partition("The race:\n")[2].split("\n")
    rows: list[list[str]] = []
    for line in lines:
        if not line.startswith("  "):
            break
        rows.append(re.split(r" {2,}", line.strip()))
    return rows


def of(records: list[Record], kind: str) -> list[Record]:
    return [record for record in records if record["type"] == kind]


async def arun(run: Run, *arguments: str) -> subprocess.CompletedProcess[str]:
    return await trio.to_thread.run_sync(lambda: run(*arguments))


async def rest(stream: trio.abc.ReceiveStream | None) -> str:
    assert stream is not None
    return b"".join([chunk async for chunk in stream]).decode()


# -- Who is shown ------------------------------------------------------------------------------------------------------


async def test_the_winners_answer_alone_is_on_standard_output_and_a_table_tells_of_all(run: Run) -> None:
    scripts = [(H2o, SLOW), (AllenAI, {"faults": [BUSY]}), (AllenAI, {"tokens": ["All ", "mine."], "first_delay": 0.3})]
    async with racers(*scripts) as (_, arguments):
        done = await arun(run, *arguments)
    assert (done.returncode, done.stdout) == (0, "All mine.\n")
    lost, failed, won = table(done.stderr)
    assert [lost[0], lost[1], lost[2], lost[4]] == ["h2o", "lost", "0 tokens", "deleted"]
    assert [failed[0], failed[1], failed[5]] == ["allenai", "failed", "Overloaded: no capacity (503)"]
    assert [won[0], won[1], won[2], won[4]] == ["allenai", "won", "2 tokens", "deleted"]
    assert all(re.fullmatch(r"\d+\.\d\d s", row[3]) for row in (lost, failed, won))
    assert "Ask again" not in done.stderr
    assert quiet(done.stderr)


async def test_the_winners_answer_is_streamed(start: Start) -> None:
    async with racers((AllenAI, SLOW), (H2o, ENDLESS)) as (_, arguments):
        process = await start(*arguments)
        assert process.stdout is not None
        with trio.fail_after(10):
            assert (await process.stdout.receive_some(5)) == b"word "
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        await rest(process.stdout)
        assert await process.wait() == 130


async def test_a_fallback_asks_nobody_who_is_not_needed(run: Run) -> None:
    idle: Script = (OpenAssistant, {})
    async with racers((AllenAI, {"faults": [BUSY]}), (H2o, {"text": "Fine."}), idle) as (servers, arguments):
        done = await arun(run, *arguments, "--stagger", "inf")
        assert servers[2].requests == ()
    assert (done.returncode, done.stdout) == (0, "Fine.\n")
    assert [row[1] for row in table(done.stderr)] == ["failed", "won", "not started"]
    assert table(done.stderr)[2] == ["openassistant", "not started", "0 tokens", "nothing owed"]


async def test_until_finished_the_first_complete_answer_wins(run: Run, checked: Checked) -> None:
    scripts = [(H2o, {**ENDLESS, "first_delay": 0.0}), (AllenAI, {"text": "One two three.", "first_delay": 0.5})]
    async with racers(*scripts) as (_, arguments):
        done = await arun(run, *arguments, "--until", "finished")
        assert (done.returncode, done.stdout) == (0, "One two three.\n")
        done = await arun(run, *arguments, "--until", "finished", "--json")
    records = checked(done.stdout)
    assert "".join(record["text"] for record in of(records, "token")) == "One two three."
    assert of(records, "lost")[0]["why"] == "beaten"
    assert next(record["tokens"] for record in of(records, "finish") if record["lane"] == 0) > 0


async def test_when_all_fail_each_is_told_with_advice(run: Run, checked: Checked) -> None:
    blank = {"tokens": [" "]}
    async with racers((AllenAI, {"faults": [BUSY, BUSY]}), (H2o, blank)) as (_, arguments):
        done = await arun(run, *arguments)
        records = checked((await arun(run, *arguments, "--json")).stdout)
    assert (done.returncode, done.stdout) == (1, "")
    assert "trioprov: Ai2 Playground: Overloaded: no capacity (503)\n  Ask again in a while" in done.stderr
    assert "the reply ended without content" in done.stderr
    assert [row[1] for row in table(done.stderr)] == ["failed", "failed"]
    assert {record["provider"]: record["error"]["class"] for record in of(records, "lost")} == {
        "allenai": "Overloaded",
        "h2o": "TrioprovError",
    }
    assert not of(records, "winner")
    assert not of(records, "token")
    assert quiet(done.stderr)


async def test_a_winner_that_breaks_off_is_told_and_counts_as_failed(run: Run) -> None:
    fault = Fault(on="generate", end_after=3)
    async with racers((AllenAI, SLOW), (H2o, {"text": "a b c d e f", "faults": [fault]})) as (_, arguments):
        done = await arun(run, *arguments)
    assert (done.returncode, done.stdout) == (1, "a b c\n")
    assert "H2o: IncompleteReply" in done.stderr
    assert "(the answer above is not complete)" in done.stderr
    assert [row[1] for row in table(done.stderr)] == ["lost", "won"]


def test_a_race_is_told_in_records(run: Run, checked: Checked) -> None:
    done = run("ask", "hi", "--emulated", "--race", "--json", "--stagger", "0.05", "-o", "max_tokens=3")
    records = checked(done.stdout)
    (winner,) = of(records, "winner")
    assert done.returncode == 0
    assert {record["lane"] for record in of(records, "token")} == {winner["lane"]}
    assert {record["lane"] for record in of(records, "lost")} == {0, 1, 2} - {winner["lane"]}
    assert "The race:" not in done.stderr
    assert quiet(done.stderr)


# -- Ways to be stopped ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["--plain", "--json"])
async def test_ctrl_c_before_anybody_has_won_deletes_every_conversation(
    output: str, start: Start, until: Until, checked: Checked
) -> None:
    async with racers((H2o, SLOW), (AllenAI, SLOW), (AllenAI, {})) as (servers, arguments):
        process = await start(*arguments, "--stagger", "60", output)
        await until(lambda: servers[0].generating)
        process.send_signal(signal.SIGINT)
        stdout, stderr = await rest(process.stdout), await rest(process.stderr)
        assert await process.wait() == 130
        assert servers[2].requests == ()
    assert "cleaning up" in stderr
    assert quiet(stderr)
    if output == "--json":
        lost = of(checked(stdout), "lost")
        assert [record["why"] for record in lost] == ["interrupted", "not_started", "not_started"]
    else:
        assert stdout == ""
        assert [row[1] for row in table(stderr)] == ["stopped", "not started", "not started"]


@pytest.mark.parametrize("output", ["--plain", "--json"])
async def test_ctrl_c_after_somebody_has_won_deletes_every_conversation(
    output: str, start: Start, checked: Checked
) -> None:
    async with racers((H2o, SLOW), (AllenAI, ENDLESS)) as (_, arguments):
        process = await start(*arguments, output)
        assert process.stdout is not None
        stdout = ""
        while "word " not in stdout:
            stdout += (await process.stdout.receive_some()).decode()
        process.send_signal(signal.SIGINT)
        stdout += await rest(process.stdout)
        stderr = await rest(process.stderr)
        assert await process.wait() == 130
    assert quiet(stderr)
    if output == "--json":
        records = checked(stdout)
        assert of(records, "lost")[0]["why"] == "beaten"
        assert [record["reason"] for record in of(records, "finish")] == ["interrupted"] * 2
    else:
        assert [row[1] for row in table(stderr)] == ["lost", "won"]
        assert "conversations: 2 deleted" in stderr


@pytest.mark.parametrize("output", ["--plain", "--json"])
async def test_a_reader_who_has_seen_enough_ends_it_quietly(output: str, start: Start) -> None:
    async with racers((H2o, SLOW), (AllenAI, ENDLESS)) as (_, arguments):
        process = await start(*arguments, output)
        assert process.stdout is not None
        assert await process.stdout.receive_some(5)
        await process.stdout.aclose()
        stderr = await rest(process.stderr)
        assert await process.wait() == 1
    assert quiet(stderr)
    assert "could not be written" not in stderr


async def test_ctrl_c_when_the_reader_is_gone_ends_it_quietly(start: Start) -> None:
    async with racers((H2o, SLOW), (AllenAI, SLOW)) as (_, arguments):
        process = await start(*arguments, "--json")
        assert process.stdout is not None
        assert await process.stdout.receive_some(5)
        await process.stdout.aclose()
        process.send_signal(signal.SIGINT)
        stderr = await rest(process.stderr)
        assert await process.wait() == 130
    assert quiet(stderr)


async def test_a_second_ctrl_c_leaves_at_once_and_names_what_may_be_left(start: Start, until: Until) -> None:
    stuck = {**SLOW, "faults": [Fault(on="delete", hang=True, times=100)]}
    async with open_emulator(H2o, **stuck) as h2o, open_emulator(AllenAI, **ENDLESS) as allenai:
        urls = ["--base-url", f"h2o={h2o.url}", "--base-url", f"allenai={allenai.url}"]
        process = await start("ask", "hi", "--race", *urls, stdout=subprocess.DEVNULL)
        await until(lambda: h2o.conversations and allenai.generating)
        await trio.sleep(0.3)
        process.send_signal(signal.SIGINT)
        await trio.sleep(0.5)
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        stderr = await rest(process.stderr)
        assert await process.wait() == 130
        assert time.monotonic() - begun < 1
        (conversation,) = h2o.conversations
        assert f"H2o: conversation {conversation} may still be on {h2o.url}" in stderr
        assert allenai.conversations == ()


# -- On a terminal -----------------------------------------------------------------------------------------------------


async def test_on_a_terminal_all_lanes_are_seen_and_the_winners_column_goes_on(spawn: Spawn) -> None:
    winner = {"text": "One two three four five.", "token_delay": 0.15}
    loser = {**SLOW, "faults": [Fault(on="delete", delay_response=1.5)]}  # the view waits for it
    async with racers((H2o, loser), (AllenAI, winner), (AllenAI, SLOW)) as (_, arguments):
        terminal = spawn(*arguments, "--stagger", "0.4", columns=100)
        await trio.to_thread.run_sync(terminal.wait_for, "○ not started yet")
        await trio.to_thread.run_sync(terminal.wait_for, "● won, streaming")
        assert await trio.to_thread.run_sync(terminal.wait) == 0
    assert "■ lost · deleted" in terminal.left
    assert "✓ won: stop · deleted" in terminal.left
    assert "■ not started · nothing owed" in terminal.left
    assert "One two three four" in terminal.left
    assert [row[1] for row in table(terminal.left)] == ["lost", "won", "not started"]


async def test_on_a_terminal_only_the_winners_answer_is_printed_whole(spawn: Spawn) -> None:
    lines = [f"line {number}\n" for number in range(100)]
    winner = {"tokens": lines, "first_delay": 0.5}
    async with racers((H2o, LONG), (AllenAI, winner)) as (_, arguments):
        terminal = spawn(*arguments, "--until", "finished")
        await trio.to_thread.run_sync(terminal.wait_for, "│ loser")
        assert await trio.to_thread.run_sync(terminal.wait) == 0
    assert "== Ai2 Playground (tulu3-405b) ==\nline 0\n" in terminal.left
    assert "loser" not in terminal.left
    assert [row[1] for row in table(terminal.left)] == ["lost", "won"]


async def test_on_a_terminal_an_answer_that_fits_stays_where_it_is_however_much_a_loser_said(spawn: Spawn) -> None:
    async with racers((H2o, LONG), (AllenAI, {"text": "Fine.", "first_delay": 1.0})) as (_, arguments):
        terminal = spawn(*arguments, "--until", "finished")
        await trio.to_thread.run_sync(terminal.wait_for, r"(│ loser.*\n){18}")
        assert await trio.to_thread.run_sync(terminal.wait) == 0
    assert "✓ won: stop" in terminal.left
    assert "== Ai2 Playground" not in terminal.left


async def test_ctrl_c_on_a_terminal_ends_every_lane(spawn: Spawn) -> None:
    async with racers((H2o, SLOW), (AllenAI, ENDLESS)) as (_, arguments):
        terminal = spawn(*arguments)
        await trio.to_thread.run_sync(terminal.wait_for, "● won, streaming")
        terminal.child.sendintr()
        assert await trio.to_thread.run_sync(terminal.wait) == 130
    assert "cleaning up" in terminal.text
    assert [row[1] for row in table(terminal.left)] == ["lost", "won"]
