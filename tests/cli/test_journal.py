"""Real runs with a journal: what is written down, who is told, and who pays."""

from __future__ import annotations

import re
import shlex
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
import trio

from trioprov import AllenAI, Conversation, H2o, Journal, OpenAssistant, open_client, open_reply, open_session
from trioprov.cli import main
from trioprov.cli._options import question
from trioprov.cli._parser import build
from trioprov.providers import Provider
from trioprov.testing import Emulator, Fault, assert_no_orphans, open_emulator

if TYPE_CHECKING:
    from .conftest import Run, Spawn, Start, Until

P = TypeVar("P", bound=Provider)

SECRET = "do-not-show-this"
REFUSED = Fault(on="delete", status=403, body="not you")


@pytest.fixture
def journal(tmp_path: Path) -> str:
    return str(tmp_path / "owed.db")


async def owe(journal: str, emulator: Emulator[P]) -> Conversation:
    """Let a conversation stay behind that the emulated server refuses, once, to delete."""
    emulator.add_fault(REFUSED)
    async with open_client(journal=journal) as client, open_reply("hi", emulator.provider, client=client) as reply:
        await reply.wait()
    assert reply.session.cleanup is not None
    assert reply.session.cleanup.outcome == "owed"
    return reply.session.conversation


async def arun(run: Run, *arguments: str) -> subprocess.CompletedProcess[str]:
    return await trio.to_thread.run_sync(lambda: run(*arguments))


def told(stderr: str) -> list[str]:
    """The arguments of the command that was said to pay."""
    found = re.search(r"trioprov: the journal has it; this deletes it:\r?\n  trioprov (sweep .*)", stderr)
    assert found is not None, stderr
    return shlex.split(found[1])


# -- ask ---------------------------------------------------------------------------------------------------------------


async def test_a_second_ctrl_c_leaves_the_debt_in_the_journal_and_the_command_that_it_names_pays_it(
    spawn: Spawn, run: Run, journal: str
) -> None:
    hangs = Fault(on="delete", hang=True)
    async with open_emulator(AllenAI, forever=True, token_delay=0.01, faults=[hangs]) as emulator:
        terminal = spawn("ask", "hi", "-p", "allenai", "--base-url", emulator.url, "--journal", journal)
        await trio.to_thread.run_sync(terminal.wait_for, "● streaming")
        terminal.child.sendintr()
        await trio.to_thread.run_sync(terminal.wait_for, "cleaning up")
        await trio.sleep(0.25)
        begun = time.monotonic()
        terminal.child.sendintr()
        assert await trio.to_thread.run_sync(terminal.wait) == 130
        assert time.monotonic() - begun < 1
        (entry,) = Journal(journal).entries()
        assert (entry.conversation_id,) == emulator.conversations
        assert (entry.provider, entry.base_url, entry.alive) == ("allenai", emulator.url, False)
        words = told(terminal.left)
        assert words == ["sweep", "--journal", journal]
        done = await arun(run, *words)
        assert (done.returncode, done.stderr) == (0, "trioprov: conversations to delete: 1\n")
        assert done.stdout == "deleted: 1\nalready gone: 0\nowed: 0\nlost: 0\nNothing is in the journal.\n"
        assert_no_orphans(emulator)


async def test_a_second_sigterm_does_the_same_and_what_needs_a_login_is_paid_with_that_login_only(
    start: Start, run: Run, until: Until, journal: str, tmp_path: Path
) -> None:
    async with open_emulator(OpenAssistant, tokens=["word "] * 40, token_delay=0.05) as emulator:
        cookies = tmp_path / "my cookies.json"
        cookies.write_text('{"next-auth.session-token": "emulated-session-token"}')
        who = ["-p", "openassistant", "--base-url", emulator.url, "--cookies", str(cookies)]
        process = await start("ask", "hi", *who, "--journal", journal, stdout=subprocess.DEVNULL)
        await until(lambda: emulator.generating)
        process.send_signal(signal.SIGTERM)
        await trio.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        stderr = b"".join([chunk async for chunk in process.stderr]).decode()
        assert await process.wait() == 143
        assert told(stderr) == ["sweep", "--journal", journal, *who]

        done = await arun(run, "sweep", "--journal", journal)
        assert done.returncode == 1
        assert "owed: 1\n" in done.stdout
        assert (
            f"  needs         what it was created with: -p openassistant --base-url openassistant={emulator.url} "
            in (done.stdout)
        )
        assert "emulated-session-token" not in done.stdout + done.stderr
        done = await arun(run, *told(stderr))
        assert (done.returncode, done.stdout.split("\n")[0]) == (0, "deleted: 1")
        assert_no_orphans(emulator)


async def test_a_cleanup_that_failed_names_the_command_that_pays_and_the_answer_counts(run: Run, journal: str) -> None:
    async with open_emulator(AllenAI, text="Fine.", faults=[REFUSED]) as emulator:
        done = await arun(run, "ask", "hi", "-p", "allenai", "--base-url", emulator.url, "--journal", journal)
        assert (done.returncode, done.stdout) == (0, "Fine.\n")
        assert told(done.stderr) == ["sweep", "--journal", journal]
        assert len(Journal(journal).entries()) == 1


async def test_nothing_is_said_of_a_journal_in_which_nothing_stays(run: Run, journal: str) -> None:
    async with open_emulator(AllenAI, text="Fine.") as emulator:
        done = await arun(run, "ask", "hi", "-p", "allenai", "--base-url", emulator.url, "--journal", journal)
        assert (done.returncode, done.stdout, done.stderr) == (0, "Fine.\n", "")
        assert Journal(journal).entries() == []


@pytest.mark.parametrize("name", ["no/such/folder.db", "letter.txt", "."])
async def test_a_journal_that_cannot_be_used_is_an_error_before_anything_is_sent(
    name: str, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "letter.txt").write_text("Dear Ann,")
    async with open_emulator(AllenAI) as emulator:
        path = str(tmp_path / name)
        done = await arun(run, "ask", "hi", "-p", "allenai", "--base-url", emulator.url, "--journal", path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"trioprov: error: --journal: the journal {Path(path)} cannot be used: ")
        assert done.stderr.count("\n") == 1
        assert not emulator.requests
        assert (tmp_path / "letter.txt").read_text() == "Dear Ann,"


def paid_by(*arguments: str) -> str:
    return question(build().parse_args(["ask", "hi", "--journal", "owed.db", *arguments])).paid_by


def test_the_command_that_pays_asks_for_nothing_that_no_debt_needs() -> None:
    assert paid_by() == "trioprov sweep --journal owed.db"
    assert paid_by("-p", "h2o", "--base-url", "http://x:1") == "trioprov sweep --journal owed.db"


def test_the_command_that_pays_shows_no_password() -> None:
    command = paid_by("--proxy", f"http://ann:{SECRET}@proxy:3128")
    assert command == "trioprov sweep --journal owed.db -p allenai --proxy URL"
    assert paid_by("--proxy", "http://proxy:3128").endswith(" -p allenai --proxy http://proxy:3128")


# -- sweep -------------------------------------------------------------------------------------------------------------


async def test_what_is_paid_is_counted_and_what_stays_is_shown_with_the_reason_and_without_a_secret(
    run: Run, journal: str
) -> None:
    async with open_emulator(H2o, text="Fine.") as h2o, open_emulator(AllenAI, text="Fine.") as allenai:
        paid, stays = await owe(journal, h2o), await owe(journal, allenai)
        allenai.add_fault(REFUSED)
        done = await arun(run, "sweep", "--journal", journal)
        assert done.returncode == 1
        assert done.stdout.startswith(
            "deleted: 1\nalready gone: 0\nowed: 1\nlost: 0\n\nStill in the journal:\n2: allenai, "
        )
        shown = dict(re.findall(r"^  (\w[\w ]+?)  +(.+)$", done.stdout, re.MULTILINE))
        assert shown["conversation"] == stays.id
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", shown["since"])
        assert shown["tried"] == "2 times"
        assert shown["why not"] == "AuthenticationError: not you (403)"
        assert shown["seen to by"] == "nobody"
        assert "needs" not in shown
        secrets = [*paid.identity.values(), *stays.identity.values()]
        assert len(secrets) >= 2
        assert not any(secret in done.stdout + done.stderr for secret in secrets)
        assert_no_orphans(h2o)


async def test_a_list_pays_nothing(run: Run, journal: str) -> None:
    async with open_emulator(AllenAI, text="Fine.") as emulator:
        conversation = (await owe(journal, emulator)).id
        before, requests = Journal(journal).entries(), len(emulator.requests)
        done = await arun(run, "sweep", "--journal", journal, "--list")
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.startswith(f"In the journal:\n1: allenai, {emulator.url}\n  conversation  {conversation}\n")
        assert (Journal(journal).entries(), len(emulator.requests)) == (before, requests)


async def test_what_a_server_wrote_into_a_journal_is_one_line_and_no_escape_code(
    journal: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_emulator(AllenAI, text="Fine.") as emulator:
        await owe(journal, emulator)
    with closing(sqlite3.connect(journal)) as db, db:
        db.execute("UPDATE debt SET reason = ?", ["\x1b[31mno\n1: way\x9b"])
    assert main(["sweep", "--journal", journal, "--list"]) == 1
    assert "  why not       \\x1b[31mno 1: way\\x9b\n" in capsys.readouterr().out


async def test_what_a_living_process_sees_to_is_left_to_it(run: Run, journal: str) -> None:
    async with (
        open_emulator(AllenAI, text="Fine.") as emulator,
        open_client(journal=journal) as client,
        open_session(emulator.provider, client=client) as session,
    ):
        async with session.ask("hi") as reply:
            await reply.wait()
        done = await arun(run, "sweep", "--journal", journal)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("deleted: 0\nalready gone: 0\nowed: 0\nlost: 0\n\nStill in the journal:\n")
        assert "  seen to by    a living process\n" in done.stdout
        assert len(emulator.conversations) == 1


async def test_ctrl_c_stops_a_sweep_and_the_debt_stays(start: Start, until: Until, journal: str) -> None:
    async with open_emulator(AllenAI, text="Fine.") as emulator:
        await owe(journal, emulator)
        emulator.add_fault(Fault(on="delete", hang=True, times=100))
        requests = len(emulator.requests)
        process = await start("sweep", "--journal", journal, stdout=subprocess.DEVNULL)
        await until(lambda: len(emulator.requests) > requests)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        stderr = b"".join([chunk async for chunk in process.stderr]).decode()
        assert await process.wait() == 130
        assert time.monotonic() - begun < 2
        assert stderr.endswith("\ntrioprov: stopped; what was not confirmed stays in the journal\n")
        (entry,) = Journal(journal).entries()
        assert not entry.alive


async def test_abandoned_entries_are_struck_out_unpaid_all_or_none(run: Run, journal: str) -> None:
    async with open_emulator(AllenAI, text="Fine.") as emulator:
        for _ in range(3):
            await owe(journal, emulator)
        requests = len(emulator.requests)
        done = await arun(run, "sweep", "--journal", journal, "--abandon", "1", "9")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "trioprov: error: --abandon: the journal has no entry 9; there are 1, 2, 3\n"
        assert len(Journal(journal).entries()) == 3
        done = await arun(run, "sweep", "--journal", journal, "--abandon", "1", "3", "--abandon", "3")
        assert done.returncode == 1
        assert done.stdout.startswith(f"abandoned: 2\n\nStill in the journal:\n2: allenai, {emulator.url}\n")
        done = await arun(run, "sweep", "--journal", journal, "--abandon", "2")
        assert (done.returncode, done.stdout) == (0, "abandoned: 1\nNothing is in the journal.\n")
        assert len(emulator.requests) == requests


@pytest.mark.parametrize("instead", [[], ["--list"], ["--abandon", "1"]])
def test_a_journal_that_is_not_there_is_a_usage_error_and_none_is_made(
    instead: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "none.db"
    assert main(["sweep", "--journal", str(path), *instead]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"trioprov: error: --journal: {path}: there is no such file\n")
    assert not list(tmp_path.iterdir())


def test_what_is_no_journal_is_an_error_and_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear Ann,")
    assert main(["sweep", "--journal", str(path)]) == 2
    assert "it is not a journal of trioprov" in capsys.readouterr().err
    assert path.read_text() == "Dear Ann,"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sweep"], "--journal"),
        (["sweep", "--journal="], "--journal: the value is empty"),
        (["sweep", "--journal=x", "--list", "--abandon", "1"], "not allowed with"),
        (["sweep", "--journal=x", "--abandon", "one"], "'one' is not the number of an entry"),
        (["sweep", "--journal=x", "--cookies", "c.json"], "--cookies: for which provider? Name it with -p"),
        (["sweep", "--journal=x", "--proxy", "http://x:1"], "--proxy: for which provider? Name it with -p"),
        (["sweep", "--journal=x", "--base-url", "http://x:1"], "--base-url: for which provider? Name it with -p"),
        (["sweep", "--journal=x", "--base-url", "h20=http://x:1"], "there is no provider 'h20'"),
        (["sweep", "--journal=x", "-p", "h2o", "--base-url", "x"], "h2o: base_url must be a URL"),
        (["ask", "hi", "--journal="], "--journal: the value is empty"),
        (["ask", "hi", "--emulated", "--journal=x"], "--journal does not go with --emulated"),
    ],
)
def test_a_usage_error_says_what_is_allowed(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_help_says_who_pays_what(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--help"]) == 0
    out = capsys.readouterr().out
    assert "debts that need you" in out
    assert "--journal" in out
