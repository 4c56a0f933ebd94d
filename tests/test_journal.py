"""The journal: who may read it, what is in it and for how long, and what happens when it cannot be written."""

# What raises is the leaving of a block:
# ruff: noqa: SIM117
# pyright: reportPossiblyUnboundVariable=false

from __future__ import annotations

import json
import logging
import math
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import AsyncExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from children import child
from other_ends import proxied

import trioprov
from trioprov import AllenAI, H2o, Journal, JournalError, OpenAssistant
from trioprov._transport import Exchange
from trioprov._transport._http1 import HTTP1Transport
from trioprov._transport._outgoing import Message
from trioprov.providers import Provider
from trioprov.testing import Emulator, Fault, assert_no_orphans, open_emulator

QUESTION = "Why is the sky blue, and who sees it green?"
CREATE: dict[type[Provider], str] = {H2o: "create", OpenAssistant: "create", AllenAI: "stream"}
CHILD = Path(__file__).parent / "crash" / "child.py"
NOBODY = 65534


def _text(cookies: Any) -> dict[str, str]:
    return dict(cookies)


def fields(emulator: Emulator[Any], **more: Any) -> dict[str, Any]:
    """What a child makes the emulator's provider of."""
    provider = emulator.provider
    return {"base_url": emulator.url, "cookies": dict(provider.cookies), **more}


@contextmanager
def mounted(size: str) -> Generator[Path]:
    """A small file system of one's own."""
    place = Path(f"/tmp/trioprov-{uuid.uuid4().hex}")
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode:
        place.rmdir()
        pytest.skip("only root may mount")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        place.rmdir()


def fill(place: Path) -> Path:
    """Leave not one byte on the disk."""
    filler = place / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (4096, 1):
            while True:
                try:
                    file.write(bytes(size))
                except OSError:
                    break
    return filler


def raw(path: Path) -> bytes:
    """All bytes of all files of a journal; read by another process, since closing a file gives up one's own locks."""
    files = sorted(str(file) for file in path.parent.glob(f"{path.name}*"))
    return subprocess.run(["cat", *files], capture_output=True, check=True).stdout


def rows(path: Path) -> list[dict[str, Any]]:
    """The debts as any program sees them."""
    with closing(sqlite3.connect(path)) as db:
        db.row_factory = sqlite3.Row
        found = [dict(row) for row in db.execute("SELECT * FROM debt ORDER BY id")]
    return [{**row, "conversation": json.loads(row["conversation"])} for row in found]


def modes(path: Path) -> dict[str, str]:
    return {
        file.name.removeprefix(path.name): oct(stat.S_IMODE(file.stat().st_mode))
        for file in path.parent.glob(f"{path.name}*")
    }


async def said(session: trioprov.Session, question: str = QUESTION, **how: Any) -> trioprov.Answer:
    async with session.ask(question, **how) as reply:
        return await reply.wait()


def steps(emulator: Emulator[Any]) -> list[str]:
    return [request.step for request in emulator.requests]


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.005)


async def longest_standstill(
    stop: trio.Event, task_status: trio.TaskStatus[list[float]] = trio.TASK_STATUS_IGNORED
) -> None:
    """How long, at most, another task was not let run; in seconds."""
    worst = [0.0]
    task_status.started(worst)
    while not stop.is_set():
        before = time.monotonic()
        await trio.sleep(0.01)
        worst[0] = max(worst[0], time.monotonic() - before - 0.01)


# -- Who may read it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_every_file_of_a_journal_is_for_its_owner_alone(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "owed.db"
    before = os.umask(umask)
    try:
        async with open_emulator(H2o) as emulator, trioprov.open_client(journal=path) as client:
            async with trioprov.open_session(emulator.provider, client=client):
                assert modes(path) == dict.fromkeys(["", "-wal", "-shm", "-owners"], "0o600")
        assert modes(path) == dict.fromkeys(["", "-owners"], "0o600")
    finally:
        os.umask(before)


@pytest.mark.parametrize("make", ["empty", "used"])
def test_a_file_that_others_could_read_is_narrowed_and_its_companions_with_it(tmp_path: Path, make: str) -> None:
    path = tmp_path / "owed.db"
    if make == "used":
        Journal(path).open().close()
    path.touch()
    path.chmod(0o644)
    with Journal(path).open():
        assert modes(path) == dict.fromkeys(["", "-wal", "-shm", "-owners"], "0o600")


def test_a_new_journal_is_for_its_owner_alone_before_anything_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has opened a file can read it for ever, whatever its mode becomes."""
    path = tmp_path / "owed.db"
    connect = sqlite3.connect
    seen: list[dict[str, str]] = []

    def connected(*args: Any, **more: Any) -> sqlite3.Connection:
        seen.append(modes(path))
        return connect(*args, **more)

    monkeypatch.setattr(sqlite3, "connect", connected)
    before = os.umask(0)
    try:
        Journal(path).open().close()
    finally:
        os.umask(before)
    assert seen == [dict.fromkeys(["", "-owners"], "0o600")]


# -- What is in it ----------------------------------------------------------------------------------------------------

SECRETS = {
    "cookie": "c00kie-of-the-user",
    "authorization": "Bearer t0ken-of-the-user",
    "token": "t0ken-of-the-user",
    "key": "k3y-of-the-user",
    "team": "he4der-of-the-user",
    "proxy": "pr0xy-user",
    "password": "pr0xy-password-of-the-user",
}


def brought(cls: type[Provider], emulator: Emulator[Any], proxy: int) -> Provider:
    """A provider with everything that a user can bring."""
    cookies = {**dict(emulator.provider.cookies), "login": SECRETS["cookie"]}
    headers = {"X-Api-Key": SECRETS["key"], "X-Team": SECRETS["team"], "X-Authorization": SECRETS["authorization"]}
    url = f"http://{SECRETS['proxy']}:{SECRETS['password']}@127.0.0.1:{proxy}"
    return cls(base_url=emulator.url, cookies=cookies, headers=headers, proxy=url)


def found(secrets: dict[str, str], data: bytes) -> list[str]:
    return [name for name, secret in secrets.items() if secret.encode() in data]


async def test_nothing_of_the_users_is_ever_in_a_journal(service: type[Provider], tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(service) as emulator, proxied(emulator) as proxy:
        secrets = {**SECRETS, "question": QUESTION, "port": f":{proxy}", **_text(emulator.provider.cookies)}
        async with trioprov.open_client(journal=path) as client:
            async with trioprov.open_session(brought(service, emulator, proxy), client=client) as session:
                await said(session)
                assert len(rows(path)) == 1
                assert rows(path)[0]["access"]
                assert found(secrets, raw(path)) == []
        assert found(secrets, raw(path)) == []
        assert_no_orphans(emulator)


@pytest.mark.parametrize("name", SECRETS)
async def test_what_a_server_repeats_of_the_users_is_not_written_down(
    service: type[Provider], tmp_path: Path, name: str
) -> None:
    path = tmp_path / "owed.db"
    echo = f"I do not know {SECRETS[name]}, sorry"
    answer: object = {"error": {"code": 401, "message": echo}} if service is AllenAI else {"message": echo}
    fault = Fault(on="delete", status=401, body=json.dumps(answer), times=math.inf)
    async with open_emulator(service, faults=[fault]) as emulator, proxied(emulator) as proxy:
        async with trioprov.open_client(journal=path) as client:
            async with trioprov.open_session(brought(service, emulator, proxy), client=client) as session:
                await said(session)
        (entry,) = Journal(path).entries()
        assert entry.reason
        assert "I do not know" in entry.reason
        assert found(SECRETS, raw(path)) == []


async def test_two_journals_have_two_fingerprints_of_the_same_user(tmp_path: Path) -> None:
    access: set[str] = set()
    async with open_emulator(OpenAssistant) as emulator:
        for path in (tmp_path / "one.db", tmp_path / "two.db"):
            async with trioprov.open_client(journal=path) as client:
                for _ in range(2):
                    async with trioprov.open_session(emulator.provider, client=client):
                        access.add(rows(path)[0]["access"])
    assert len(access) == 2


async def test_what_was_minted_vanishes_with_its_row(service: type[Provider], tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(service) as emulator:
        identities: dict[str, str] = {}
        async with trioprov.open_client(journal=path) as client:
            for _ in range(3):
                async with trioprov.open_session(emulator.provider, client=client) as session:
                    await said(session)
                    written = rows(path)[0]["conversation"]
                    assert written.get("identity", {}) == dict(session.conversation.identity)
                    identities |= {str(len(identities)): value for value in session.conversation.identity.values()}
        assert len(identities) == (0 if service is OpenAssistant else 3)
        assert found(identities, raw(path)) == []
        assert Journal(path).entries() == []
        assert found(identities, raw(path)) == []


@pytest.fixture
def careless(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    """An SQLite that was built to overwrite nothing and to flush nothing unless it is told to; its connections."""
    connect = sqlite3.connect
    connections: list[sqlite3.Connection] = []

    def connected(*args: Any, **more: Any) -> sqlite3.Connection:
        connections.append(connect(*args, **more))
        connections[-1].execute("PRAGMA secure_delete = OFF")
        connections[-1].execute("PRAGMA synchronous = OFF")
        return connections[-1]

    monkeypatch.setattr(sqlite3, "connect", connected)
    return connections


async def test_what_was_struck_out_is_overwritten_wherever_sqlite_comes_from(
    tmp_path: Path, careless: list[sqlite3.Connection]
) -> None:
    path = tmp_path / "owed.db"
    minted = {f"{n}": f"m1nted-for-{n}" for n in range(3)}
    conversation = H2o().new_conversation()
    with Journal(path).open() as ledger:
        debts = [
            await ledger.intend(conversation.replace(identity={"hf-chat": one}), None, None) for one in minted.values()
        ]
    assert found(minted, raw(path)) == [*minted]
    with Journal(path).open() as ledger:
        for debt in debts:
            await ledger.strike(debt)
    assert found(minted, raw(path)) == []


async def test_what_was_struck_out_leaves_the_wal_too_though_not_at_once(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    wal = path.with_name("owed.db-wal")
    with Journal(path).open() as ledger:
        for _ in range(2):
            minted = {f"{n}": f"m1nted-for-{uuid.uuid4()}" for n in range(64)}
            for n, one in enumerate(minted.values(), 1):
                debt = await ledger.intend(H2o().new_conversation().replace(identity={"hf-chat": one}), None, None)
                await ledger.strike(debt)
                assert (wal.stat().st_size == 0) == (n == 64)
            assert found(minted, raw(path)) == []


@pytest.mark.parametrize("durable", [False, True])
def test_only_a_durable_journal_waits_for_the_disk(
    tmp_path: Path, careless: list[sqlite3.Connection], durable: bool
) -> None:
    with Journal(tmp_path / "owed.db", durable=durable).open():
        (connection,) = careless
        assert connection.execute("PRAGMA synchronous").fetchone() == (2 if durable else 1,)


async def test_a_row_follows_the_life_of_its_session(service: type[Provider], tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    fault = Fault(on=CREATE[service], delay_response=0.3)
    async with open_emulator(service, faults=[fault], first_delay=0.3, token_delay=0.01) as emulator:
        async with trioprov.open_client(journal=path) as client, trio.open_nursery() as nursery:
            assert rows(path) == []
            session: trioprov.Session

            async def live() -> None:
                nonlocal session
                async with trioprov.open_session(emulator.provider, client=client) as session:
                    assert [row["conversation"].get("id") for row in rows(path)] == list(emulator.conversations)
                    await said(session)
                    seen.append(rows(path))

            seen: list[list[dict[str, Any]]] = []
            nursery.start_soon(live)
            await until(lambda: CREATE[service] in steps(emulator))
            (intent,) = rows(path)
            assert intent["owner"] is not None
            assert (intent["provider"], intent["base_url"]) == (service.name, emulator.url)
            assert intent["conversation"].get("id") is None
            assert (intent["access"] is None) == (service is not OpenAssistant)
            assert (intent["expires"] is None) == (service is not AllenAI)
            assert (intent["attempts"], intent["reason"]) == (0, None)
            await until(lambda: rows(path)[0]["conversation"].get("id") is not None)
            (bound,) = rows(path)
            assert (bound["conversation"]["id"],) == emulator.conversations
            assert bound["id"] == intent["id"]
        assert [row["id"] for row in seen[0]] == [intent["id"]]
        assert rows(path) == []
        assert_no_orphans(emulator)


async def test_the_intent_is_in_the_journal_before_the_create_leaves(service: type[Provider], tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    written: dict[str, int] = {}

    class Watching(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            written[f"{request.method} {request.url.path}"] = len(rows(path))
            return await super().handle_async_request(request)

    creates: dict[type[Provider], str] = {
        H2o: "POST /conversation",
        OpenAssistant: "POST /api/chat",
        AllenAI: "POST /v4/message/stream",
    }
    async with open_emulator(service) as emulator:
        async with trioprov.open_client(journal=path, transport=Watching()) as client:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                await said(session)
        deletes = [count for request, count in written.items() if request.startswith("DELETE")]
        assert written[creates[service]] == 1
        assert deletes == [1]
        assert rows(path) == []


async def test_the_id_is_written_down_while_the_answer_streams_and_not_after_it(
    service: type[Provider], tmp_path: Path
) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(service, forever=True, token_delay=0.01) as emulator:
        async with trioprov.open_client(journal=path) as client:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                async with session.ask(QUESTION) as reply:
                    async for _ in reply:
                        break
                    (row,) = rows(path)
                    assert (row["conversation"]["id"],) == emulator.conversations


@pytest.mark.parametrize("when", ["before the question", "after it"])
async def test_a_kept_conversation_has_no_row(service: type[Provider], tmp_path: Path, when: str) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(service) as emulator:
        async with trioprov.open_client(journal=path) as client:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                if when == "before the question":
                    session.keep()
                    assert rows(path) == []
                await said(session)
                session.keep()
                assert rows(path) == []
            assert rows(path) == []
            assert len(emulator.conversations) == 1
            report = await trioprov.delete_conversation(emulator.provider, session.conversation, client=client)
            assert report.outcome == "deleted"
        assert rows(path) == []


async def test_allenai_a_thread_that_is_kept_before_it_exists_is_never_written_down(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(AllenAI, faults=[Fault(on="stream", delay_response=0.3)]) as emulator:
        async with (
            trioprov.open_client(journal=path) as client,
            trioprov.open_session(emulator.provider, client=client) as session,
        ):
            session.keep()
            async with session.ask(QUESTION) as reply:
                await until(lambda: len(emulator.conversations) == 1)
                assert rows(path) == []  # who dies here has left nothing to a sweeper
                await reply.wait()
        assert rows(path) == []
        assert emulator.conversations == (session.conversation.id,)


async def test_a_conversation_that_is_kept_while_the_journal_is_locked_has_no_row_soon_after(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o) as emulator, trioprov.open_client(journal=path) as client:
        async with trioprov.open_session(emulator.provider, client=client) as session:
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                saved = session.keep()
                assert len(rows(path)) == 1
                other.execute("ROLLBACK")
            await until(lambda: not rows(path))
            # Its place in the journal is another's now.
            async with trioprov.open_session(emulator.provider, client=client) as second:
                session.close()
                await session.aclose()
                assert [row["conversation"]["id"] for row in rows(path)] == [second.conversation.id]
        assert emulator.conversations == (saved.id,)
        await trioprov.delete_conversation(emulator.provider, saved)


async def test_what_was_struck_out_for_one_is_not_struck_out_again_for_the_next_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(OpenAssistant) as emulator, trioprov.open_client(journal=path) as client:
        for _ in range(10):  # who of the two goes first is chance
            async with trioprov.open_session(emulator.provider, client=client) as session, AsyncExitStack() as stack:
                opening = trioprov.open_session(emulator.provider, client=client)
                async with trio.open_nursery() as nursery:

                    async def keeps(session: trioprov.Session) -> None:
                        session.keep()

                    nursery.start_soon(stack.enter_async_context, opening)
                    nursery.start_soon(keeps, session)
                assert len(rows(path)) == 1
            await trioprov.delete_conversation(emulator.provider, session.conversation, client=client)
        assert_no_orphans(emulator)


async def test_a_program_may_go_to_another_directory_with_its_journal_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    async with open_emulator(H2o) as emulator, trioprov.open_client(journal="owed.db") as client:
        monkeypatch.chdir("elsewhere")
        async with trioprov.open_session(emulator.provider, client=client):
            assert len(rows(tmp_path / "owed.db")) == 1


async def test_no_debt_gets_the_number_of_one_that_was_struck_out(tmp_path: Path) -> None:
    """Somebody may be about to release that one, or to strike it out by hand."""
    path = tmp_path / "owed.db"
    numbers: set[int] = set()
    async with open_emulator(H2o) as emulator, trioprov.open_client(journal=path) as client:
        for _ in range(3):
            async with trioprov.open_session(emulator.provider, client=client):
                numbers |= {entry.id for entry in Journal(path).entries()}
    assert len(numbers) == 3


async def test_h2o_a_lost_create_that_cannot_be_recovered_is_left_to_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    faults = [Fault(on="create", lose_response=True), Fault(on="delete_all", status=401)]
    async with open_emulator(H2o, faults=faults) as emulator:
        async with trioprov.open_client(journal=path) as client:
            with pytest.raises(trioprov.ConnectionFailed) as caught:
                async with trioprov.open_session(emulator.provider, client=client):
                    raise AssertionError
            assert not hasattr(caught.value, "__notes__")
        assert len(emulator.conversations) == len(rows(path)) == 1
        await trioprov.sweep(path, [emulator.provider])
        assert_no_orphans(emulator)


async def test_a_conversation_taken_over_is_left_to_the_journal_if_it_cannot_be_deleted(
    service: type[Provider], tmp_path: Path
) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(service) as emulator:
        async with trioprov.open_client(journal=path) as client:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                await said(session)
                saved = session.keep()
            emulator.add_fault(Fault(on="delete", status=401))
            async with trioprov.open_session(emulator.provider, client=client, conversation=saved) as session:
                pass  # and nothing is raised: whoever sweeps the journal pays it
            assert session.cleanup is not None
            assert session.cleanup.outcome == "owed"
        assert [row["conversation"]["id"] for row in rows(path)] == [saved.id]
        report = await trioprov.sweep(path, [emulator.provider])
        assert report.deleted == 1
        assert_no_orphans(emulator)


async def test_a_conversation_of_another_process_is_never_written_down(service: type[Provider], tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(service) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            await said(session)
            saved = session.keep()
        theirs = {**saved, "opened_by": "a process that is no more"}
        async with trioprov.open_client(journal=path) as client:
            async with trioprov.open_session(emulator.provider, client=client, conversation=theirs) as session:
                assert rows(path) == []  # who dies here has left nothing to a sweeper
                await said(session, "And the sea?")
            assert (saved.id or "").encode() not in raw(path)
        assert emulator.conversations == (saved.id,)


async def test_a_conversation_that_is_only_begun_is_written_down_with_the_create(tmp_path: Path) -> None:
    """Ai2's threads are created by the first question: until then, nothing of a session is on the server."""
    path = tmp_path / "owed.db"
    async with open_emulator(AllenAI) as emulator:
        async with trioprov.open_client(journal=path) as client:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                pass
            async with trioprov.open_session(
                emulator.provider, client=client, conversation=session.conversation
            ) as session:
                assert rows(path) == []
                await said(session)
                (row,) = rows(path)
                assert row["expires"] is not None
        assert rows(path) == []
        assert_no_orphans(emulator)


async def test_a_kept_conversation_that_is_being_deleted_is_a_debt_again(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o, faults=[Fault(on="delete", delay_response=0.3)]) as emulator:
        async with trioprov.open_client(journal=path) as client, trio.open_nursery() as nursery:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                saved = session.keep()
            nursery.start_soon(trioprov.delete_conversation, emulator.provider, saved)
            await until(lambda: "delete" in steps(emulator))
            assert rows(path) == []  # without a client there is no journal
        async with trioprov.open_client(journal=path) as client:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                saved = session.keep()
            emulator.add_fault(Fault(on="delete", delay_response=0.3))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: trioprov.delete_conversation(emulator.provider, saved, client=client))
                await until(lambda: steps(emulator).count("delete") == 2)
                assert [row["conversation"]["id"] for row in rows(path)] == [saved.id]
            assert rows(path) == []


@pytest.mark.parametrize("refusal", [{"status": 400, "body": b"{}"}, {"status": 403}, {"status": 429}])
async def test_a_create_that_was_refused_is_no_debt(
    service: type[Provider], tmp_path: Path, refusal: dict[str, Any]
) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(service, faults=[Fault(on=CREATE[service], **refusal)]) as emulator:
        async with trioprov.open_client(journal=path) as client:
            with pytest.raises(trioprov.ProviderError):
                async with trioprov.open_session(emulator.provider, client=client) as session:
                    await said(session)
            assert rows(path) == []


async def test_a_refused_create_is_no_debt_either_when_another_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(AllenAI, faults=[Fault(on="stream", status=400)]) as emulator:
        async with trioprov.open_client(journal=path) as client:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                with pytest.raises(trioprov.InvalidRequest):
                    await said(session)
                await said(session)
            assert session.cleanup is not None
            assert session.cleanup.outcome == "deleted"
            assert rows(path) == []


async def test_a_create_that_never_left_is_no_debt_however_often_it_is_tried(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with trioprov.open_client(journal=path) as client:
        async with trioprov.open_session(AllenAI(base_url="http://127.0.0.1:9"), client=client) as session:
            for _ in range(3):
                with pytest.raises(trioprov.ConnectionFailed):
                    await said(session)
        assert session.cleanup is not None
        assert session.cleanup.outcome == "nothing_owed"
        assert rows(path) == []


async def test_a_create_that_is_broken_off_as_it_is_about_to_leave_is_no_debt(
    service: type[Provider], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it may have left is asked before the cancellation, which arrives after it."""
    path = tmp_path / "owed.db"
    targets = (b"/conversation", b"/api/chat", b"/v4/message/stream")
    trace = Exchange.trace

    async def traced(self: Exchange, event: str, info: dict[str, Any]) -> None:
        if event.endswith("send_request_headers.started") and info["request"].url.target in targets:
            client.close()
        await trace(self, event, info)

    monkeypatch.setattr(Exchange, "trace", traced)
    async with open_emulator(service) as emulator:
        async with trioprov.open_client(journal=path) as client:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                with suppress(trioprov.TrioprovError, trio.ClosedResourceError):
                    await said(session)
        if CREATE[service] not in steps(emulator):
            assert rows(path) == []
            assert session.cleanup is None or session.cleanup.outcome == "nothing_owed"
        assert_no_orphans(emulator)


async def test_h2o_a_create_that_the_server_is_still_at_does_not_outlive_a_session_that_gave_up(
    tmp_path: Path,
) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o, faults=[Fault(on="create", delay=1)]) as emulator:
        async with trioprov.open_client(journal=path, create_timeout=0.2) as client:
            with trio.move_on_after(0.2):
                async with trioprov.open_session(emulator.provider, client=client):
                    pass
        await trio.sleep(1.2)
        await trioprov.sweep(path)
        assert_no_orphans(emulator)


async def test_hundreds_of_sessions_have_a_row_each(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o) as emulator:
        async with trioprov.open_client(journal=path) as client:
            together = trio.Event()

            async def one() -> None:
                async with trioprov.open_session(emulator.provider, client=client):
                    await together.wait()

            async with trio.open_nursery() as nursery:
                for _ in range(200):
                    nursery.start_soon(one)
                await until(lambda: len(emulator.conversations) == 200)
                await until(lambda: all(row["conversation"].get("id") for row in rows(path)))
                assert sorted(row["conversation"]["id"] for row in rows(path)) == list(emulator.conversations)
                together.set()
        assert rows(path) == []
        assert_no_orphans(emulator)


# -- What is no journal -----------------------------------------------------------------------------------------------


def used(path: Path) -> bytes:
    """A journal in which there is something; its bytes."""

    async def write() -> None:
        with Journal(path).open() as ledger:
            for _ in range(100):
                await ledger.intend(H2o().new_conversation().replace(identity={"hf-chat": "x" * 100}), None, None)

    trio.run(write)
    return path.read_bytes()


def foreign() -> bytes:
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE debt (id INTEGER PRIMARY KEY, owner INTEGER)")
    db.commit()
    return db.serialize()


NOISE = random.Random(1).randbytes(100_000)
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a text": lambda good: b"These are not the debts you are looking for.\n" * 50,
    "a short text": lambda good: b"[owed]\n",
    "noise": lambda good: NOISE,
    "another program's database": lambda good: foreign(),
    "another program's, by its number": lambda good: good[:68] + b"GPKG" + good[72:],
    "a newer version's": lambda good: good[:60] + (2).to_bytes(4, "big") + good[64:],
    "a much newer version's": lambda good: good[:60] + b"\xff\xff\xff\xff" + good[64:],
    "cut in the header": lambda good: good[:80],
    "cut after the header": lambda good: good[:100],
    "cut after the first page": lambda good: good[:4096],
    "cut in a page": lambda good: good[: len(good) // 2 + 17],
    "noise after the header": lambda good: good[:100] + NOISE[: len(good) - 100],
    "noise after the first page": lambda good: good[:4096] + NOISE[: len(good) - 4096],
    "zeros after the first page": lambda good: good[:4096] + bytes(len(good) - 4096),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_what_is_no_journal_gives_a_clear_error_and_is_not_touched(tmp_path: Path, what: str) -> None:
    path = tmp_path / "owed.db"
    data = DAMAGE[what](used(path))
    for file in tmp_path.iterdir():
        file.unlink()
    path.write_bytes(data)
    path.chmod(0o640)
    before = path.stat()

    async def client() -> None:
        async with trioprov.open_client(journal=path):
            pytest.fail("it was taken for a journal")

    async def swept() -> None:
        await trioprov.sweep(path)

    for use in (Journal(path).entries, lambda: Journal(path).abandon(1), lambda: trio.run(client),
                lambda: trio.run(swept)):  # fmt: skip
        with pytest.raises(JournalError) as caught:
            use()
        assert str(path) in str(caught.value)
        assert "newer" in str(caught.value) if "newer" in what else "newer" not in str(caught.value)
        if what in ("a text", "a short text", "noise", "cut in the header"):
            assert "not a journal" in str(caught.value)
        assert path.read_bytes() == data
        assert (path.stat().st_mode, path.stat().st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
        assert [file.name for file in tmp_path.glob("*-wal")] == []


@pytest.mark.parametrize("what", DAMAGE)
def test_what_is_no_journal_is_not_waited_for_to_become_one(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "owed.db"
    data = DAMAGE[what](used(path))
    for file in tmp_path.iterdir():
        file.unlink()
    path.write_bytes(data)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    with pytest.raises(JournalError):
        Journal(path).entries()

    async def opened() -> None:
        begun = trio.current_time()
        with trio.fail_after(60), pytest.raises(JournalError):
            await Journal(path).aopen()
        assert trio.current_time() == begun

    trio.run(opened, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_newer_version_is_seen_even_while_it_is_only_in_the_wal(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    Journal(path).open().close()
    with closing(sqlite3.connect(path, isolation_level=None)) as newer:
        newer.execute("ALTER TABLE debt ADD COLUMN more TEXT")
        newer.execute("PRAGMA user_version = 2")
        with pytest.raises(JournalError, match="newer"):
            Journal(path).entries()


async def test_a_row_that_is_nonsense_stands_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o) as emulator:
        async with trioprov.open_client(journal=path) as client:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                session.keep()
        sql = "INSERT INTO debt (provider, base_url, conversation, created) VALUES (?, ?, ?, 1)"
        values = ["{", "[]", "null", '{"id": 1}', '{"identity": []}', '{"id": "a", "identity": {"hf-chat": {}}}']
        values.append(session.conversation.to_json())
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            for value in values:
                db.execute(sql, ("h2o", emulator.url, value))
        assert len(Journal(path).entries()) == len(values)
        await trioprov.sweep(path)
        assert_no_orphans(emulator)
        for entry in Journal(path).entries():
            assert Journal(path).abandon(entry.id)
        assert Journal(path).entries() == []


@pytest.mark.parametrize("what", ["missing directory", "directory", "file for a directory"])
async def test_a_path_that_cannot_be_a_journal_is_said_to_be_none(tmp_path: Path, what: str) -> None:
    (tmp_path / "file").write_text("")
    path = {"missing directory": tmp_path / "none" / "owed.db", "directory": tmp_path,
            "file for a directory": tmp_path / "file" / "owed.db"}[what]  # fmt: skip
    with pytest.raises(JournalError) as caught:
        async with trioprov.open_client(journal=path):
            pytest.fail("it was taken for a journal")
    assert str(path) in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file"]


async def test_a_path_that_cannot_be_looked_at_is_said_so_by_whoever_looks(tmp_path: Path) -> None:
    journal = Journal(tmp_path / ("long" * 80))
    for look in (journal.open, journal.entries, partial(journal.abandon, 1)):
        with pytest.raises(JournalError, match="too long"):
            look()
    with pytest.raises(JournalError, match="too long"):
        await trioprov.sweep(journal)


# -- What cannot be written -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", ["a journal is there", "nothing is there"])
async def test_on_a_read_only_disk_the_client_does_not_open(there: str) -> None:
    with mounted("1m") as place:
        path = place / "owed.db"
        if there == "a journal is there":
            Journal(path).entries()
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        with pytest.raises(JournalError) as caught:
            async with trioprov.open_client(journal=path):
                pytest.fail("where should it write?")
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("readable", [True, False])
def test_somebody_elses_journal_cannot_be_used(readable: bool) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can be somebody else")
    with mounted("1m") as place:
        path = place / "owed.db"
        Journal(path).open().close()
        place.chmod(0o755)
        if readable:
            path.chmod(0o644)
        arguments = json.dumps({"journals": [str(path)]})
        script = f"import os, runpy; os.setuid({NOBODY}); runpy.run_path({str(CHILD)!r}, run_name='__main__')"
        done = subprocess.run(
            [sys.executable, "-c", f"import sys, trioprov.testing, trio; {script}", "first", arguments],
            input=b"{}\n",
            capture_output=True,
            check=False,
            timeout=20,
        )
        if done.returncode:
            pytest.skip("nobody cannot run this Python here")
        (trouble,) = json.loads(done.stdout.splitlines()[-1])
        assert trouble.startswith("JournalError")


async def test_with_a_full_disk_nothing_is_created(service: type[Provider]) -> None:
    with mounted("512k") as place:
        path = place / "owed.db"
        async with open_emulator(service) as emulator, trioprov.open_client(journal=path) as client:
            filler = fill(place)
            with pytest.raises(JournalError, match="full") as caught:
                async with trioprov.open_session(emulator.provider, client=client) as session:
                    await said(session)
            assert str(path) in str(caught.value)
            assert CREATE[service] not in steps(emulator)
            filler.unlink()
            async with trioprov.open_session(emulator.provider, client=client) as session:
                assert (await said(session)).text
        assert_no_orphans(emulator)
        assert Journal(path).entries() == []


async def test_a_full_disk_is_not_waited_for_to_become_empty(autojump_clock: trio.testing.MockClock) -> None:
    with mounted("512k") as place, await Journal(place / "owed.db").aopen() as ledger:
        fill(place)
        begun = trio.current_time()
        with pytest.raises(JournalError, match="full"):
            await ledger.intend(H2o().new_conversation().replace(identity={"x": "x" * 100_000}), None, None)
        assert trio.current_time() == begun


async def test_a_session_that_could_not_write_its_debt_down_can_be_asked_again() -> None:
    with mounted("512k") as place:
        async with open_emulator(AllenAI) as emulator, trioprov.open_client(journal=place / "owed.db") as client:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                filler = fill(place)
                with pytest.raises(JournalError):
                    await said(session)
                filler.unlink()
                assert (await said(session)).text
        assert_no_orphans(emulator)


def test_a_disk_that_is_full_from_the_start_is_said_so() -> None:
    with mounted("64k") as place:
        fill(place)
        with pytest.raises(JournalError, match=r"full|No space|disk"):
            Journal(place / "owed.db").open()


@pytest.mark.parametrize("when", ["in the create", "after it"])
async def test_a_disk_that_fills_after_the_create_harms_nobody(
    service: type[Provider], when: str, caplog: pytest.LogCaptureFixture
) -> None:
    with mounted("512k") as place:
        path = place / "owed.db"
        slow = [Fault(on=CREATE[service], delay_response=0.3)]
        async with open_emulator(service, faults=slow) as emulator:
            async with trioprov.open_client(journal=path) as client:

                async def fills() -> None:
                    await until(lambda: CREATE[service] in steps(emulator))
                    filler.append(fill(place))

                filler: list[Path] = []
                async with trio.open_nursery() as nursery:
                    if when == "in the create":
                        nursery.start_soon(fills)
                    async with trioprov.open_session(emulator.provider, client=client) as session:
                        if when == "after it" and service is not AllenAI:
                            filler.append(fill(place))
                        assert (await said(session)).text
                        if not filler:
                            filler.append(fill(place))
                assert session.cleanup is not None
                assert session.cleanup.outcome == "deleted"
            assert_no_orphans(emulator)
            assert [record.levelname for record in caplog.records if record.levelno > logging.WARNING] == []
            assert "full" in caplog.text
            filler[0].unlink()
            report = await trioprov.sweep(path, [emulator.provider])
            # What the disk had no room for cannot be known: the row may still say less than there was.
            assert report.owed == 0
            assert report.lost <= (when == "in the create" and service is not H2o)


async def test_a_debt_that_the_journal_could_not_learn_of_is_not_hushed_up() -> None:
    """With a journal an `owed` debt is no error, since a sweep pays it; not so if the journal has not got the id."""
    with mounted("512k") as place:
        faults = [Fault(on="create", delay_response=0.3), Fault(on="delete", status=401, times=math.inf)]
        async with open_emulator(OpenAssistant, faults=faults) as emulator:
            async with trioprov.open_client(journal=place / "owed.db") as client, trio.open_nursery() as nursery:

                async def fills() -> None:
                    await until(lambda: "create" in steps(emulator))
                    fill(place)

                nursery.start_soon(fills)
                with pytest.raises(trioprov.CleanupFailed):
                    async with trioprov.open_session(emulator.provider, client=client):
                        pass


def taken_away(path: Path, how: str) -> None:
    for companion in ("", "-wal", "-shm"):
        file = Path(f"{path}{companion}")
        if how == "deleted":
            file.unlink()
        else:
            file.rename(path.with_name(f"other.db{companion}"))
    if how == "replaced":
        Journal(path).open().close()


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
async def test_a_journal_that_was_taken_away_is_no_journal_any_more(tmp_path: Path, how: str) -> None:
    """What is written to a file that nobody finds is owed all the same, so it is said, and nothing more is created."""
    path = tmp_path / "owed.db"
    faults = [Fault(on="delete", status=401, times=math.inf)]
    async with open_emulator(H2o, faults=faults) as emulator, trioprov.open_client(journal=path) as client:
        with pytest.raises(trioprov.CleanupFailed):
            async with trioprov.open_session(emulator.provider, client=client):
                taken_away(path, how)
        with pytest.raises(JournalError, match="deleted, moved or replaced"):
            async with trioprov.open_session(emulator.provider, client=client):
                pass
        assert steps(emulator).count("create") == 1


@pytest.mark.skipif(not hasattr(os, "seteuid") or os.geteuid() != 0, reason="only root has privileges to give up")
async def test_a_program_that_gave_up_its_privileges_may_go_on_with_its_journal(tmp_path: Path) -> None:
    place = tmp_path / "root's"
    place.mkdir(mode=0o700)
    with Journal(place / "owed.db").open() as ledger:
        os.seteuid(NOBODY)
        try:
            row = await ledger.intend(H2o().new_conversation(), None, None)
        finally:
            os.seteuid(0)
        assert [entry.id for entry in ledger.entries()] == [row]


@pytest.mark.parametrize("how", ["IMMEDIATE", "EXCLUSIVE"])
async def test_a_lock_that_is_soon_given_up_is_waited_for_and_stops_nobody(
    service: type[Provider], tmp_path: Path, how: str
) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(service) as emulator, trioprov.open_client(journal=path) as client:
        async with child("lock", journal=str(path), how=how) as locker, trio.open_nursery() as nursery:
            stop = trio.Event()
            standstill = await nursery.start(longest_standstill, stop)

            async def frees() -> None:
                await trio.sleep(0.5)
                assert CREATE[service] not in steps(emulator)
                await locker.do("free")

            nursery.start_soon(frees)
            async with trioprov.open_session(emulator.provider, client=client) as session:
                assert (await said(session)).text
            stop.set()
        assert standstill[0] < 0.25
        assert rows(path) == []
        assert_no_orphans(emulator)


async def test_a_lock_that_is_not_given_up_is_an_error_before_anything_is_created(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"

    async def fails(emulator: Emulator[Any], client: trioprov.Client) -> None:
        with pytest.raises(JournalError, match="locked") as caught:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                await said(session)
        assert str(path) in str(caught.value)

    async with AsyncExitStack() as stack:
        emulators: list[Emulator[Any]] = [await stack.enter_async_context(open_emulator(cls)) for cls in CREATE]
        client = await stack.enter_async_context(trioprov.open_client(journal=path))
        await stack.enter_async_context(child("lock", journal=str(path), how="IMMEDIATE"))
        stop = trio.Event()
        async with trio.open_nursery() as outer:
            standstill = await outer.start(longest_standstill, stop)
            with trio.fail_after(15):
                async with trio.open_nursery() as nursery:
                    for emulator in emulators:
                        nursery.start_soon(fails, emulator, client)
            stop.set()
        assert standstill[0] < 0.25
        for emulator in emulators:
            assert not {"create", "stream"} & set(steps(emulator))


async def test_a_lock_at_the_end_of_a_session_delays_no_delete(service: type[Provider], tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(service) as emulator, trioprov.open_client(journal=path) as client:
        async with trio.open_nursery() as nursery:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                await said(session)
                freed = await locked_for_a_while(nursery, path)

            assert session.cleanup is not None
            assert session.cleanup.outcome == "deleted"
            assert rows(path) == []
            assert freed.is_set()
        assert_no_orphans(emulator)


async def locked_for_a_while(nursery: trio.Nursery, path: Path) -> trio.Event:
    """Lock the journal for half a second; the event is set when it is free again."""
    freed = trio.Event()

    async def locks(task_status: trio.TaskStatus[None]) -> None:
        async with child("lock", journal=str(path), how="IMMEDIATE") as locker:
            task_status.started()
            await trio.sleep(0.5)
            freed.set()
            await locker.do("free")

    await nursery.start(locks)
    return freed


async def test_allenai_a_lost_create_is_not_forgotten_by_who_gives_up_waiting_for_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(AllenAI, faults=[Fault(on="stream", lose_response=True)]) as emulator:
        async with trioprov.open_client(journal=path) as client:
            session = await trioprov.open_session(emulator.provider, client=client).__aenter__()
            with pytest.raises(trioprov.ConnectionFailed):
                await said(session)
            with closing(sqlite3.connect(path, isolation_level=None)) as db:
                db.execute("BEGIN EXCLUSIVE")
                async with session.ask(QUESTION):
                    await trio.testing.wait_all_tasks_blocked()
                    session.close()
                    await trio.testing.wait_all_tasks_blocked()
                db.execute("ROLLBACK")
            with pytest.raises(trioprov.CleanupFailed):
                await session.aclose()
            (entry,) = Journal(path).entries()
            assert not entry.alive
            assert entry.reason


async def test_opening_a_journal_that_is_locked_stops_nobody(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    Journal(path).open().close()
    async with child("lock", journal=str(path), how="whole file") as locker, trio.open_nursery() as nursery:
        stop = trio.Event()
        standstill = await nursery.start(longest_standstill, stop)

        async def frees() -> None:
            await trio.sleep(0.5)
            await locker.do("free")

        nursery.start_soon(frees)
        try:
            async with trioprov.open_client(journal=path):
                pass
        finally:
            stop.set()
    assert standstill[0] < 0.25


async def test_opening_a_journal_whose_lock_is_not_given_up_is_an_error(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path = tmp_path / "owed.db"
    Journal(path).open().close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("BEGIN IMMEDIATE")
        db.execute("DELETE FROM debt")
        with trio.fail_after(60), pytest.raises(JournalError, match="locked"):
            await Journal(path).aopen()


def test_abandoning_a_debt_under_a_lock_is_a_journal_error_or_a_wait(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    Journal(path).open().close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalError, match="locked"):
            Journal(path).abandon(1)


def test_a_lock_that_is_soon_given_up_is_waited_for_where_nothing_can_be_awaited(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    with Journal(path).open() as ledger:
        debt = trio.run(ledger.intend, H2o().new_conversation(), None, None)
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as db:
        db.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.3, db.execute, ["ROLLBACK"])
        timer.start()
        assert Journal(path).abandon(debt)
        timer.join()
    assert Journal(path).entries() == []


# -- Several at once --------------------------------------------------------------------------------------------------


async def test_many_processes_may_make_the_same_journal_at_once(tmp_path: Path) -> None:
    journals = [str(tmp_path / f"{n}.db") for n in range(30)]
    troubles: list[list[str]] = []

    async def one(ready: trio.Event, go: trio.Event) -> None:
        async with child("first", journals=journals) as other:
            ready.set()
            await go.wait()
            troubles.append(await other.do("go"))

    go = trio.Event()
    async with trio.open_nursery() as nursery:
        everybody = [trio.Event() for _ in range(6)]
        for ready in everybody:
            nursery.start_soon(one, ready, go)
        for ready in everybody:
            await ready.wait()
        go.set()
    assert troubles == [[]] * 6
    for path in journals:
        assert Journal(path).entries() == []
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT count(*) FROM secret").fetchone() == (1,)


async def test_what_a_journal_still_owes_when_it_is_closed_is_nobodys(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    with Journal(path).open() as ledger:
        await ledger.intend(H2o().new_conversation(), None, None)
        assert [entry.alive for entry in Journal(path).entries()] == [True]
    assert [entry.alive for entry in Journal(path).entries()] == [False]


async def test_a_journal_that_is_closed_twice_takes_nothing_from_who_has_it_open_too(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o) as emulator, trioprov.open_client(journal=path) as client:
        async with trioprov.open_session(emulator.provider, client=client):
            with Journal(path).open() as ledger:
                ledger.close()
            async with child("sweep", journal=str(path), providers=[]) as other:
                assert set((await other.do("sweep")).values()) == {0}
            assert len(emulator.conversations) == 1


def test_a_closed_journal_holds_no_file(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    with Journal(path).open():
        assert {Path(file).name for file in held(tmp_path)} == {
            f"owed.db{end}" for end in ("", "-owners", "-wal", "-shm")
        }
    assert held(tmp_path) == []


def test_a_journal_that_sqlite_could_not_open_holds_no_file_either(tmp_path: Path) -> None:
    path = tmp_path.joinpath(*["long" * 20] * 7, "owed.db")  # SQLite takes no path of more than 512 bytes
    path.parent.mkdir(parents=True)
    with pytest.raises(JournalError, match="unable to open"):
        Journal(path).open()
    assert held(tmp_path) == []


def held(place: Path) -> list[str]:
    """The files below a directory that this process has open."""
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("only Linux shows what is open")
    files: list[str] = []
    for descriptor in descriptors.iterdir():
        with suppress(OSError):  # the one by which they are listed
            files.append(str(descriptor.readlink()))
    return [file for file in files if file.startswith(str(place))]


def test_who_is_slower_to_make_a_journal_takes_the_one_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "owed.db"
    connect = sqlite3.connect

    class Slow(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if sql.startswith("BEGIN"):
                monkeypatch.undo()
                with Journal(path).open() as faster:
                    debts.append(trio.run(faster.intend, H2o().new_conversation(), "mine", None))
            return super().execute(sql, *values)

    def slowly(*args: Any, **more: Any) -> sqlite3.Connection:
        return connect(*args, factory=Slow, **more)

    debts: list[int] = []
    monkeypatch.setattr(sqlite3, "connect", slowly)
    with Journal(path).open() as slower:
        assert [entry.id for entry in slower.entries()] == debts == [1]
        assert slower.fingerprint("mine") == rows(path)[0]["access"]


def test_without_the_locks_of_posix_there_is_no_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(JournalError, match="POSIX"):
        Journal(tmp_path / "owed.db").open()


@pytest.mark.parametrize("how", ["look", "second client", "sweep", "through a link"])
async def test_a_journal_that_is_opened_twice_in_one_process_loses_nothing(tmp_path: Path, how: str) -> None:
    """POSIX: who closes a file gives up all his locks on it; then SQLite elsewhere takes itself for the last one."""
    path = tmp_path / "owed.db"
    async with open_emulator(H2o) as emulator, trioprov.open_client(journal=path) as client:
        if how == "look":
            Journal(path).entries()
        elif how == "sweep":
            await trioprov.sweep(path)
        elif how == "through a link":
            (tmp_path / "link.db").symlink_to(path)
            Journal(tmp_path / "link.db").entries()
        else:
            async with trioprov.open_client(journal=path):
                pass
        async with child("first", journals=[str(path)]) as other:
            assert await other.do("go") == []
        async with trioprov.open_session(emulator.provider, client=client):
            assert path.with_name("owed.db-wal").exists()
            script = (
                f"import sqlite3; print(sqlite3.connect({str(path)!r}).execute('select count(*) from debt').fetchone())"
            )
            seen = await trio.run_process([sys.executable, "-c", script], capture_stdout=True)
            assert seen.stdout.strip() == b"(1,)"


async def test_two_clients_of_one_journal_do_not_touch_each_others_debts(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o) as emulator, trioprov.open_client(journal=path) as one:
        async with trioprov.open_session(emulator.provider, client=one):
            async with trioprov.open_client(journal=path) as two:
                async with trioprov.open_session(emulator.provider, client=two):
                    assert [row["owner"] for row in rows(path)] == [rows(path)[0]["owner"]] * 2
                    assert await trioprov.sweep(path) == trioprov.SweepReport()
            assert await trioprov.sweep(path) == trioprov.SweepReport()
            async with child("sweep", journal=str(path), providers=[]) as other:
                assert set((await other.do("sweep")).values()) == {0}
            assert len(emulator.conversations) == 1


@pytest.mark.parametrize("lock", ["nobody", "somebody"])
async def test_what_a_client_gave_up_is_nobodys_though_another_of_this_process_has_the_journal_open(
    tmp_path: Path, lock: str
) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o, faults=[Fault(on="delete", hang=True)]) as emulator:
        async with trioprov.open_client(journal=path):
            async with AsyncExitStack() as stack:
                async with trioprov.open_client(journal=path, shutdown_timeout=0.3) as short:
                    with trio.CancelScope() as scope:
                        async with trioprov.open_session(emulator.provider, client=short):
                            scope.cancel()
                            await trio.sleep_forever()
                    if lock == "somebody":
                        await until(lambda: "delete" in steps(emulator))
                        other = stack.enter_context(closing(sqlite3.connect(path, isolation_level=None)))
                        other.execute("BEGIN IMMEDIATE")
            if lock == "somebody":  # who could not write it down still knows it
                assert (await trioprov.sweep(path)).deleted == 1
            else:
                async with child("sweep", journal=str(path), providers=[]) as sweeper:
                    assert (await sweeper.do("sweep"))["deleted"] == 1
            assert_no_orphans(emulator)
            assert rows(path) == []


async def test_what_a_client_gave_up_may_be_paid_though_a_sweep_met_a_lock(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o) as emulator:
        async with trioprov.open_client(journal=path):
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                async with trioprov.open_client(journal=path, cleanup_timeout=0.1, shutdown_timeout=0.1) as short:
                    async with trioprov.open_session(emulator.provider, client=short):
                        await until(lambda: len(emulator.conversations) == 1)
                        other.execute("BEGIN IMMEDIATE")
                with trio.move_on_after(0.2):
                    await trioprov.sweep(path)
            assert (await trioprov.sweep(path)).already_gone == 1
        assert rows(path) == []


async def test_what_is_kept_is_not_given_up_to_be_deleted_though_a_lock_outlasts_its_client(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o) as emulator, trioprov.open_client(journal=path):
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            async with trioprov.open_client(journal=path, cleanup_timeout=0.1, shutdown_timeout=0.1) as short:
                async with trioprov.open_session(emulator.provider, client=short) as session:
                    other.execute("BEGIN IMMEDIATE")
                    saved = session.keep()
        assert (await trioprov.sweep(path)).deleted == 0
        assert emulator.conversations == (saved.id,)


async def test_a_process_that_reads_its_own_journal_files_stays_alive(tmp_path: Path) -> None:
    """A backup made by the program itself, say."""
    path = tmp_path / "owed.db"
    async with open_emulator(H2o) as emulator:
        async with child("host", journal=str(path), name="h2o", fields=fields(emulator)) as other:
            await other.do("open", n=1)
            await other.do("read")
            assert await trioprov.sweep(path) == trioprov.SweepReport()
            assert len(emulator.conversations) == 1


async def test_a_forked_child_cannot_use_the_journal_and_does_not_harm_it(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o) as emulator:
        async with child("host", journal=str(path), name="h2o", fields=fields(emulator)) as other:
            await other.do("open", n=2)
            assert "forked child" in await other.do("fork")
            assert await trioprov.sweep(path) == trioprov.SweepReport()
            assert len(emulator.conversations) == 2
            await other.do("open", n=1)
            assert len(rows(path)) == 3
            assert await other.do("close") == "closed"
        assert_no_orphans(emulator)
        assert rows(path) == []


async def test_a_forked_child_gets_its_own_journal_or_an_error_but_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with child("fork", journal=str(path)) as other:
        assert len(Journal(path).entries()) == (other.said == "written")
        assert other.said in ("written", "refused")
        assert await other.do("go") == "gone"
        assert len(Journal(path).entries()) == (other.said == "written")


async def test_a_forked_child_that_outlives_its_parent_does_not_feign_its_life(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o) as emulator:
        async with child("host", journal=str(path), name="h2o", fields=fields(emulator)) as other:
            await other.do("open", n=1)
            pid = await other.do("fork and stay")
            try:
                assert await trioprov.sweep(path) == trioprov.SweepReport()
                await trio.sleep(0.5)  # until the child has run far enough to give up what it inherited
                await other.kill()
                assert await trioprov.sweep(path) == trioprov.SweepReport(deleted=1)
            finally:
                os.kill(pid, signal.SIGKILL)
        assert_no_orphans(emulator)


_FORKED_TWICE = """
import os, sys, trioprov

ledger = trioprov.Journal(sys.argv[1]).open()
if os.fork() == 0:
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]  # with the numbers, too, of what was given up
    if os.fork() == 0:
        for file in files:
            os.fstat(file)
        os._exit(0)
    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_a_forked_childs_own_child_keeps_all_its_files(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _FORKED_TWICE, str(tmp_path / "owed.db")], check=True, timeout=20)


# -- What a row costs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
async def test_what_a_row_costs_is_measured(tmp_path: Path, durable: bool) -> None:
    rounds = 200 if durable else 2000
    path = Path(os.environ.get("TRIOPROV_JOURNAL_DIRECTORY", tmp_path)) / f"{uuid.uuid4().hex}.db"
    conversation = H2o().new_conversation().replace(identity={"hf-chat": str(uuid.uuid4())})
    bound = conversation.replace(id="0" * 24)
    times: dict[str, list[float]] = {"intend": [], "bind": [], "strike": []}
    with Journal(path, durable=durable).open() as ledger:
        for _ in range(rounds):
            begun = time.perf_counter()
            row = await ledger.intend(conversation, None, None)
            intended = time.perf_counter()
            await ledger.bind(row, bound)
            known = time.perf_counter()
            await ledger.strike(row)
            times["intend"].append(intended - begun)
            times["bind"].append(known - intended)
            times["strike"].append(time.perf_counter() - known)
        assert ledger.entries() == []
    for name, taken in times.items():
        taken.sort()
        print(f"{name}, durable={durable}: p50 {taken[rounds // 2] * 1e6:.0f} µs, "
              f"p99 {taken[rounds * 99 // 100] * 1e6:.0f} µs")  # fmt: skip


async def test_an_answer_that_cannot_be_stopped_is_in_the_journal_while_it_streams(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(OpenAssistant, forever=True, token_delay=0.01) as emulator:
        async with trioprov.open_client(journal=path, cleanup_timeout=1) as client:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                async with session.ask(QUESTION) as reply:
                    async for _ in reply:
                        break
                    (row,) = rows(path)
                    assert row["conversation"]["pending"]  # who deletes the chat waits for it first


async def test_a_lost_thread_stays_in_the_journal_when_the_next_ask_makes_another(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(AllenAI, faults=[Fault(on="stream", cut_after=0)]) as emulator:
        async with trioprov.open_client(journal=path) as client:
            with pytest.raises(trioprov.CleanupFailed):  # noqa: PT012 - the leaving raises
                async with trioprov.open_session(emulator.provider, client=client) as session:
                    for _ in range(2):
                        with suppress(trioprov.TrioprovError):
                            async with session.ask(QUESTION) as reply:
                                await reply.wait()
            lost = rows(path)
            assert len(emulator.conversations) == 1
        assert any("id" not in row["conversation"] for row in lost), lost
        assert any(entry.reason == "the answer to a create was lost" for entry in trioprov.Journal(path).entries())


async def test_h2o_a_create_that_is_broken_off_before_its_first_byte_is_no_debt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a connection that is there already, nothing is between the asking and the sending."""
    path = tmp_path / "owed.db"
    exchange = HTTP1Transport.exchange

    async def exchanging(self: HTTP1Transport, message: Message, *rest: Any) -> Any:
        if message.target == b"/conversation":
            client.close()
        return await exchange(self, message, *rest)

    monkeypatch.setattr(HTTP1Transport, "exchange", exchanging)
    async with open_emulator(H2o) as emulator:
        async with trioprov.open_client(journal=path) as client:
            with pytest.raises(trio.ClosedResourceError):
                await trioprov.open_session(emulator.provider, client=client).__aenter__()
        assert steps(emulator) == ["settings"]
        assert rows(path) == []
