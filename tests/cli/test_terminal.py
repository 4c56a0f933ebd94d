"""Real runs in a real terminal: what a person sees."""

from __future__ import annotations

import os
import re
import signal
import time
from typing import TYPE_CHECKING

import trio

from trioprov import AllenAI, H2o
from trioprov.testing import Fault, assert_no_orphans, open_emulator

if TYPE_CHECKING:
    from .conftest import Spawn, Until, Without

TOPS = r"╭─+ H2o ─+╮╭─+ Open Assistant ─+╮╭─+ Ai2 Playground ─+╮"
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def test_three_answers_stand_side_by_side_on_80_columns(spawn: Spawn) -> None:
    terminal = spawn("ask", "Why is the sky blue?", "--emulated")
    terminal.wait_for("No account, no network")
    terminal.wait_for(TOPS)
    terminal.wait_for(r"│ ○ waiting")
    terminal.wait_for(r"│ ◔ queued \d of \d")
    terminal.wait_for(r"│ ● streaming +││")
    terminal.wait_for(r"first token \d\.\d\d s")
    assert terminal.wait() == 0
    assert terminal.left.count("✓ done: stop · deleted") == 3
    for words in ("sunsets glow.", "Look up — 🌤!", "glows blue 😊", "h2oai/h2ogpt-gm"):
        assert words in terminal.left
    assert "== H2o" not in terminal.left  # it all fits, so it stays where it is
    assert len(re.findall(r"^  \w+ +deleted +\S+$", terminal.left, re.MULTILINE)) == 3
    assert terminal.raw.rindex(SHOW) > terminal.raw.rindex(HIDE)
    assert "Warning" not in terminal.text


def test_lanes_are_stacked_on_40_columns_and_the_whole_answers_follow(spawn: Spawn) -> None:
    terminal = spawn("ask", "Why is the sky blue?", "--emulated", columns=40, lines=20)
    terminal.wait_for(r"╭─ H2o \(h2oai/[^\n]+… ─╮\n│ . \w+[^\n]+│\n(│[^\n]+│\n)+╰[^\n]*╯\n╭─ Open Assistant \(")
    assert terminal.wait() == 0
    assert max(len(line) for line in terminal.text.splitlines() if line.startswith("│")) == 40
    flat = " ".join(terminal.left.split())
    for words in ("The sky is blue because", "as strongly as red.", "**Red** passes through", "== Ai2 Playground ("):
        assert words in flat
    assert terminal.raw.rindex(SHOW) > terminal.raw.rindex(HIDE)


def test_an_answer_is_shown_where_columns_says_0(environment: dict[str, str], spawn: Spawn) -> None:
    environment["COLUMNS"] = "0"
    terminal = spawn("ask", "hi", "-p", "allenai", "--emulated", "-o", "max_tokens=3")
    assert terminal.wait() == 0
    assert "Sunlight looks white" in terminal.left


def test_ctrl_c_in_the_middle_of_an_answer_deletes_every_conversation(spawn: Spawn) -> None:
    terminal = spawn("ask", "Why is the sky blue?", "--emulated")
    terminal.wait_for(r"● streaming +││ ● streaming +│")
    terminal.child.sendintr()
    terminal.wait_for(r"cleaning up … .press Ctrl-C again to leave at once")
    assert terminal.wait() == 130
    assert terminal.text.count("■ stopped") >= 2
    assert len(re.findall(r"^  \w+ +deleted +\S+$", terminal.left, re.MULTILINE)) == 3
    assert "None is left on any of these servers." in terminal.left
    assert terminal.raw.rindex(SHOW) > terminal.raw.rindex(HIDE)


def test_a_second_ctrl_c_leaves_at_once(spawn: Spawn) -> None:
    terminal = spawn("ask", "Why is the sky blue?", "--emulated")
    terminal.wait_for(r"│ ● streaming +││ ● streaming +││")
    terminal.child.sendintr()
    terminal.wait_for("cleaning up")
    time.sleep(0.25)
    begun = time.monotonic()
    terminal.child.sendintr()
    assert terminal.wait() == 130
    assert time.monotonic() - begun < 1
    assert re.search(r"Open Assistant: conversation \S+ may\s+still\s+be", terminal.left)
    assert terminal.raw.rindex(SHOW) > terminal.raw.rindex(HIDE)


async def test_closing_the_terminal_deletes_the_conversation(spawn: Spawn, until: Until) -> None:
    async with open_emulator(AllenAI, forever=True, token_delay=0.01) as emulator:
        terminal = spawn("ask", "hi", "-p", "allenai", "--base-url", emulator.url)
        await trio.to_thread.run_sync(terminal.wait_for, "● streaming")
        # Closes the terminal, and leaves pexpect a descriptor to close.
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, terminal.child.fileno())
        os.close(nowhere)
        await until(lambda: not terminal.child.isalive(), 5)
        assert terminal.child.exitstatus == 128 + signal.SIGHUP
        assert_no_orphans(emulator)


async def test_what_a_server_sends_is_drawn_and_not_obeyed(spawn: Spawn) -> None:
    text = "[bold]x[/bold]\x1b[31m [/]:smile: \x1b]0;title\x07 漢字👩‍🔬"
    async with open_emulator(H2o, text=text) as emulator:
        terminal = spawn("ask", "hi", "-p", "h2o", "--base-url", emulator.url)
        assert await trio.to_thread.run_sync(terminal.wait) == 0
    assert "[bold]x[/bold]\\x1b[31m [/]:smile: \\x1b]0;title\\x07 漢字👩‍🔬" in terminal.text
    assert not re.search(r"\x1b\[31m|\x1b\]|\x07", terminal.raw)


async def test_of_a_very_long_answer_the_end_is_shown_live_and_the_whole_at_last(spawn: Spawn) -> None:
    lines = [f"line {number}" for number in range(2000)]
    tokens = ["\n".join(lines[start : start + 4]) + "\n" for start in range(0, 2000, 4)]
    async with open_emulator(H2o, tokens=tokens, token_delay=0.001) as emulator:
        terminal = spawn("ask", "hi", "-p", "h2o", "--base-url", emulator.url)
        await trio.to_thread.run_sync(terminal.wait_for, r"│ line [1-9]\d\d")
        assert await trio.to_thread.run_sync(terminal.wait) == 0
    whole = terminal.left.partition(" ==\n")[2]
    assert whole.split("\n")[:2000] == lines


async def test_an_error_is_shown_in_its_column_and_below_with_advice(spawn: Spawn) -> None:
    fault = Fault(on="stream", status=503, body="no capacity [red]")
    async with open_emulator(AllenAI, faults=[fault]) as emulator:
        terminal = spawn("ask", "hi", "-p", "allenai", "--base-url", emulator.url)
        assert await trio.to_thread.run_sync(terminal.wait) == 1
    assert "✗ Overloaded" in terminal.text
    assert "│ Overloaded: no capacity [red] (503)" in terminal.text
    assert "Ask again in a while" in terminal.left


def test_more_lanes_than_lines_are_a_line_each(spawn: Spawn) -> None:
    arguments = [word for _ in range(12) for word in ("-p", "allenai")]
    terminal = spawn("ask", "hi", "--emulated", "-o", "max_tokens=20", *arguments, columns=40, lines=10)
    terminal.wait_for(r"● Ai2 Playground: streaming, \d+ charac")
    terminal.wait_for("and 6 more")
    assert terminal.wait() == 0
    assert terminal.left.count("== Ai2 Playground") == 12


def test_plain_is_plain_on_a_terminal_too(spawn: Spawn) -> None:
    terminal = spawn("ask", "hi", "-p", "h2o", "--emulated", "--plain", "-o", "max_tokens=3")
    assert terminal.wait() == 0
    assert "\x1b" not in terminal.raw
    assert "\r\nThe sky is\r\n" in terminal.raw


def test_without_rich_a_terminal_gets_plain_text_and_is_told_why(spawn: Spawn, without: Without) -> None:
    without("rich")
    terminal = spawn("ask", "hi", "-p", "h2o", "--emulated", "-o", "max_tokens=3")
    assert terminal.wait() == 0
    assert 'the live view needs rich: pip install "trioprov[cli]"' in " ".join(terminal.raw.split())
    assert "\x1b" not in terminal.raw


def test_details_are_told_above_the_view(spawn: Spawn) -> None:
    terminal = spawn("ask", "hi", "-p", "h2o", "--emulated", "-v", "-o", "max_tokens=3")
    assert terminal.wait() == 0
    assert re.search(r"trioprov: h2o: conversation '\w+': deleted[^╭]+╭─", terminal.text)


def test_providers_are_tables_on_a_terminal(spawn: Spawn) -> None:
    terminal = spawn("providers")
    assert terminal.wait() == 0
    assert "│ default model  │ tulu3-405b" in terminal.text
