"""The sweeper: what it pays and for whom, what it leaves alone, and what it says about the rest."""

# What raises is the leaving of a block:
# ruff: noqa: PT012, SIM117
# pyright: reportPossiblyUnboundVariable=false

from __future__ import annotations

import importlib.metadata
import itertools
import json
import math
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import trio
from children import Child, child

import trioprov
from trioprov import AllenAI, H2o, Journal, OpenAssistant, SweepReport
from trioprov._journal import _presence
from trioprov.providers import Provider
from trioprov.testing import Emulator, Fault, assert_no_orphans, open_emulator

QUESTION = "Why is the sky blue?"
CREATE: dict[type[Provider], str] = {H2o: "create", OpenAssistant: "create", AllenAI: "stream"}
COOKIE = "next-auth.session-token"
NOTHING = SweepReport()


@asynccontextmanager
async def host(path: Path, emulator: Emulator[Any], **more: Any) -> AsyncGenerator[Child]:
    """A process with a client that has the journal, and a provider of the emulator's."""
    fields = {"base_url": emulator.url, "cookies": dict(emulator.provider.cookies), **more}
    async with child("host", journal=str(path), name=emulator.name, fields=fields) as other:
        yield other


async def crashed(path: Path, emulator: Emulator[Any], n: int = 1, *, asked: bool = True, **more: Any) -> list[str]:
    """What is left by a process that was killed in the middle of so many sessions; the ids."""
    async with host(path, emulator, **more) as other:
        await other.do("open", n=n)
        ids = await other.do("ask") if asked else await other.do("open", n=0)
        await other.kill()
    assert len(Journal(path).entries()) >= n
    return sorted(id for id in ids if id)


def steps(emulator: Emulator[Any]) -> list[str]:
    return [request.step for request in emulator.requests]


def deletes(emulator: Emulator[Any]) -> Counter[str]:
    """How often the server was asked to delete each conversation."""
    requests = [request for request in emulator.requests if request.step == "delete"]
    return Counter(request.query.get("chat_id") or request.path.rpartition("/")[2] for request in requests)


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(20):
        while not condition():
            await trio.sleep(0.005)


def age(path: Path, seconds: float = 3600.0) -> None:
    """Make everything in the journal so much older; nobody may have it open for writing."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as db:
        db.execute("UPDATE debt SET created = created - ?, due = due - ?, expires = expires - ?", [seconds] * 3)


# -- Whose debts ------------------------------------------------------------------------------------------------------


async def test_what_a_killed_process_left_is_deleted_once_and_struck_out(
    service: type[Provider], tmp_path: Path
) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(service) as emulator:
        ids = await crashed(path, emulator, 3)
        assert list(emulator.conversations) == ids
        assert await trioprov.sweep(path, [emulator.provider]) == SweepReport(deleted=3)
        assert deletes(emulator) == dict.fromkeys(ids, 1)
        assert Journal(path).entries() == []
        assert_no_orphans(emulator)
        assert await trioprov.sweep(path, [emulator.provider]) == NOTHING


async def test_a_living_process_is_left_alone_until_it_dies(service: type[Provider], tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(service) as emulator, host(path, emulator) as other:
        await other.do("open", n=2)
        await other.do("ask")
        assert await trioprov.sweep(path, [emulator.provider]) == NOTHING
        assert [entry.alive for entry in Journal(path).entries()] == [True, True]
        async with trioprov.open_client(journal=path):
            await trio.sleep(0.2)
        assert len(emulator.conversations) == 2
        assert not deletes(emulator)
        await other.kill()
        assert [entry.alive for entry in Journal(path).entries()] == [False, False]
        assert await trioprov.sweep(path, [emulator.provider]) == SweepReport(deleted=2)
        assert_no_orphans(emulator)


async def test_a_living_process_is_left_alone_also_when_it_looks_into_its_journal(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o) as emulator, host(path, emulator) as other:
        await other.do("open", n=1)
        assert [entry["alive"] for entry in await other.do("look")] == [True]
        assert await trioprov.sweep(path) == NOTHING
        await other.do("open", n=1)
        assert len(Journal(path).entries()) == 2
        assert await trioprov.sweep(path) == NOTHING
        await other.kill()
        assert await trioprov.sweep(path) == SweepReport(deleted=2)


@pytest.mark.parametrize("platform", ["linux", "darwin"])
async def test_who_looks_whether_another_lives_does_not_feign_its_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    """With Linux's locks of open files, and with those of POSIX for whole processes, which is all that others have."""
    monkeypatch.setattr(_presence, "sys", SimpleNamespace(platform=platform, maxsize=sys.maxsize))
    path = tmp_path / "owed.db"
    async with open_emulator(H2o) as emulator:
        await crashed(path, emulator, asked=False)
        with Journal(path).open() as ledger:
            await ledger.intend(H2o().new_conversation(), None, None)
            assert [entry.alive for entry in Journal(path).entries()] == [False, True]
            async with child("sweep", journal=str(path), providers=[]) as other:
                assert SweepReport(**await other.do("sweep")) == SweepReport(deleted=1)


async def test_a_process_that_is_stopped_is_not_dead(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o) as emulator, host(path, emulator) as other:
        await other.do("open", n=1)
        process = other._process  # pyright: ignore[reportPrivateUsage]
        process.send_signal(signal.SIGSTOP)
        assert await trioprov.sweep(path) == NOTHING
        process.send_signal(signal.SIGCONT)
        assert await other.do("close") == "closed"
        assert_no_orphans(emulator)


async def test_ones_own_living_debts_are_left_alone(service: type[Provider], tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(service) as emulator, trioprov.open_client(journal=path) as client:
        async with trioprov.open_session(emulator.provider, client=client) as session:
            async with session.ask(QUESTION) as reply:
                await reply.wait()
            assert await trioprov.sweep(path, [emulator.provider]) == NOTHING
            assert len(emulator.conversations) == 1
        assert_no_orphans(emulator)


async def test_a_pid_that_lives_again_is_nobodys(tmp_path: Path) -> None:
    """Whatever is written down of the dead, it is not a number that the living may have."""
    path = tmp_path / "owed.db"
    async with open_emulator(H2o) as emulator:
        async with host(path, emulator) as other:
            await other.do("open", n=1)
            pid = other._process.pid  # pyright: ignore[reportPrivateUsage]
            with closing(sqlite3.connect(path)) as db:
                (row,) = db.execute("SELECT owner, conversation FROM debt").fetchall()
            assert row[0] not in (pid, 0)
            assert str(pid) not in json.loads(row[1]).get("opened_by", "")
            await other.kill()
        async with host(path, emulator) as innocent:
            await innocent.do("open", n=1)
            await until(lambda: len(Journal(path).entries()) == 1)  # its client has swept in the background
            assert [entry.alive for entry in Journal(path).entries()] == [True]
            assert await trioprov.sweep(path) == NOTHING
            await innocent.do("close")
        assert_no_orphans(emulator)


async def test_what_was_kept_is_never_swept(service: type[Provider], tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(service) as emulator:
        async with host(path, emulator) as other:
            await other.do("open", n=3)
            await other.do("ask")
            assert len(await other.do("keep")) == 3
            await other.kill()
        assert await trioprov.sweep(path, [emulator.provider]) == NOTHING
        assert len(emulator.conversations) == 3


async def test_what_was_kept_while_another_process_held_the_lock_is_never_swept(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o) as emulator:
        async with host(path, emulator) as other:
            await other.do("open", n=1)
            async with child("lock", journal=str(path), how="IMMEDIATE") as locker:
                assert len(await other.do("keep")) == 1
                await locker.do("free")
            await trio.sleep(0.5)
            await other.kill()
        assert await trioprov.sweep(path) == NOTHING
        assert len(emulator.conversations) == 1


async def test_what_was_kept_while_the_lock_was_held_for_long_is_never_swept(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o) as emulator:
        async with host(path, emulator) as other:
            await other.do("open", n=1)
            async with child("lock", journal=str(path), how="IMMEDIATE") as locker:
                assert len(await other.do("keep")) == 1
                await trio.sleep(6)
                await locker.do("free")
            await trio.sleep(0.5)
            await other.do("close")
        assert await trioprov.sweep(path) == NOTHING
        assert len(emulator.conversations) == 1


# -- Several sweepers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sweepers", [2, 8])
async def test_tasks_that_sweep_at_once_delete_everything_once(
    service: type[Provider], tmp_path: Path, sweepers: int
) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(service) as emulator:
        ids = await crashed(path, emulator, 20, asked=service is AllenAI)
        reports: list[SweepReport] = []

        async def one() -> None:
            reports.append(await trioprov.sweep(path, [emulator.provider]))

        async with trio.open_nursery() as nursery:
            for _ in range(sweepers):
                nursery.start_soon(one)
        assert sum(report.deleted for report in reports) == 20
        assert [report for report in reports if report != SweepReport(deleted=report.deleted)] == []
        assert deletes(emulator) == dict.fromkeys(ids, 1)
        assert_no_orphans(emulator)
        assert Journal(path).entries() == []


@pytest.mark.parametrize("sweepers", [2, 8])
async def test_processes_that_sweep_at_once_delete_everything_once(tmp_path: Path, sweepers: int) -> None:
    path = tmp_path / "owed.db"
    faults = [Fault(on="delete", delay_response=0.02, times=math.inf)]
    async with open_emulator(H2o, faults=faults) as emulator, AsyncExitStack() as stack:
        ids = await crashed(path, emulator, 100, asked=False)
        others = [
            await stack.enter_async_context(child("sweep", journal=str(path), providers=[])) for _ in range(sweepers)
        ]
        for other in others:
            await other.send(do="sweep")
        reports = [await other.heard() for other in others]
        assert sum(report["deleted"] for report in reports) == 100
        assert sum(sum(report.values()) for report in reports) == 100
        assert deletes(emulator) == dict.fromkeys(ids, 1)
        assert_no_orphans(emulator)
        assert Journal(path).entries() == []


async def test_a_sweeper_that_is_killed_leaves_the_rest_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    faults = [Fault(on="delete", delay_response=0.05, times=math.inf)]
    async with open_emulator(H2o, faults=faults) as emulator:
        await crashed(path, emulator, 60, asked=False)
        for at_least in (5, 25):
            async with child("sweep", journal=str(path), providers=[]) as other:
                await other.send(do="sweep")
                await until(lambda at_least=at_least: deletes(emulator).total() >= at_least)
                await other.kill()
        report = await trioprov.sweep(path)
        # What was deleted for a dead sweeper, who could not write it down any more, is asked about again.
        assert report.owed == report.lost == 0
        assert report.deleted + report.already_gone == sum(1 for count in deletes(emulator).values() if count) - (
            60 - report.deleted - report.already_gone
        )
        assert_no_orphans(emulator)
        assert Journal(path).entries() == []
        assert max(deletes(emulator).values()) <= 3


# -- What a debt needs ------------------------------------------------------------------------------------------------


def wrong(cls: type[Provider], emulator: Emulator[Any], how: str, mine: dict[str, Any]) -> list[Provider]:
    others: dict[str, dict[str, Any]] = {
        "nobody": {},
        "nothing": {"cookies": {COOKIE: "second"}, "headers": {}},
        "account": {**mine, "cookies": {COOKIE: "second"}},
        "more cookies": {**mine, "cookies": {**mine["cookies"], "more": "1"}},
        "headers": {**mine, "headers": {"X-Team": "blue"}},
        "no headers": {**mine, "headers": {}},
        "proxy": {**mine, "proxy": "http://127.0.0.1:9"},
        "server": {**mine, "base_url": "http://127.0.0.1:9"},
    }
    return [] if how == "nobody" else [cls(**cast("dict[str, Any]", {"base_url": emulator.url, **others[how]}))]


@pytest.mark.parametrize(
    "how", ["nobody", "nothing", "account", "more cookies", "headers", "no headers", "proxy", "server"]
)
async def test_who_brings_something_else_may_not_pay_and_the_debt_stays(
    service: type[Provider], tmp_path: Path, how: str
) -> None:
    path = tmp_path / "owed.db"
    mine: dict[str, Any] = {"cookies": {COOKIE: "first"}, "headers": {"X-Team": "red"}}
    script: dict[str, Any] = {"accounts": ("first", "second")} if service is OpenAssistant else {}
    async with open_emulator(service, **script) as emulator:
        ids = await crashed(path, emulator, 2, **mine)
        before = len(emulator.requests)
        for _ in range(2):
            report = await trioprov.sweep(path, wrong(service, emulator, how, mine))
            assert report == SweepReport(owed=2)
        assert len(emulator.requests) == before
        assert list(emulator.conversations) == ids
        for entry in Journal(path).entries():
            assert entry.needs_credentials
            assert not entry.alive
            assert entry.reason
            assert emulator.url in entry.reason
            assert "first" not in entry.reason
        right = service(base_url=emulator.url, **mine)
        report = await trioprov.sweep(path, [*wrong(service, emulator, how, mine), right])
        assert report == SweepReport(deleted=2)
        assert_no_orphans(emulator)


async def test_a_wrong_account_is_not_taken_for_a_conversation_that_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(OpenAssistant, accounts=("first", "second")) as emulator:
        (id,) = await crashed(path, emulator, asked=False)
        second = OpenAssistant(base_url=emulator.url, cookies={COOKIE: "second"})
        report = await trioprov.sweep(path, [second])
        assert (report.already_gone, report.deleted) == (0, 0)
        assert emulator.conversations == (id,)
        assert await trioprov.sweep(path, [second, emulator.provider]) == SweepReport(deleted=1)


async def test_a_debt_that_needs_nobodys_credentials_is_paid_without_any(tmp_path: Path) -> None:
    for cls in (H2o, AllenAI):
        path = tmp_path / f"{cls.name}.db"
        async with open_emulator(cls) as emulator:
            await crashed(path, emulator)
            assert [entry.needs_credentials for entry in Journal(path).entries()] == [False]
            # Nor by somebody's, who happens to be given.
            somebody = cls(base_url=emulator.url, headers={"X-Team": "red"}, cookies={"a": "b"})
            assert await trioprov.sweep(path, [somebody]) == SweepReport(deleted=1)
            assert {"x-team", "a"} & set(emulator.requests[-1].headers) == set()
            assert "a" not in emulator.requests[-1].cookies
            assert_no_orphans(emulator)


async def test_another_model_or_prompt_style_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(OpenAssistant) as emulator:
        await crashed(path, emulator, asked=False)
        other = OpenAssistant(
            "OA_SFT_Llama_7B", base_url=f"{emulator.url}/", cookies=emulator.provider.cookies, prompt_style="inst"
        )
        assert await trioprov.sweep(path, [other]) == SweepReport(deleted=1)
        assert_no_orphans(emulator)


async def test_a_cookie_name_of_ones_own_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o, cookie_name="sess") as emulator:
        await crashed(path, emulator, cookie_name="sess")
        assert await trioprov.sweep(path) == SweepReport(deleted=1)
        assert_no_orphans(emulator)


@pytest.mark.parametrize("adopted", [False, True])
async def test_a_lost_create_under_a_cookie_name_of_ones_own_is_found_again(tmp_path: Path, adopted: bool) -> None:
    path = tmp_path / "owed.db"
    slow = [Fault(on="create", delay_response=60)]
    async with open_emulator(H2o, cookie_name="sess", faults=slow) as emulator:
        async with host(path, emulator, **({} if adopted else {"cookie_name": "sess"})) as other:
            await other.do("open soon", n=1)
            await until(lambda: emulator.conversations)
            await other.kill()
        report = await trioprov.sweep(path)
        if adopted:  # the server chose it, so perhaps it is not this session's alone
            assert report in (SweepReport(lost=1), SweepReport(deleted=1))
        else:
            assert report == SweepReport(deleted=1)
            assert_no_orphans(emulator)


# -- What cannot be paid ----------------------------------------------------------------------------------------------


async def test_a_server_that_is_down_leaves_the_reason_and_a_growing_count(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    down = Fault(on="delete", status=403, times=math.inf)
    async with open_emulator(H2o, faults=[down]) as emulator:
        await crashed(path, emulator, 2)
        attempts = [0, 0]
        for _ in range(3):
            assert await trioprov.sweep(path) == SweepReport(owed=2)
            entries = Journal(path).entries()
            assert all(entry.attempts > before for entry, before in zip(entries, attempts, strict=True))
            assert all("403" in (entry.reason or "") for entry in entries)
            assert not any(entry.alive for entry in entries)
            attempts = [entry.attempts for entry in entries]
        assert len(emulator.conversations) == 2


async def test_when_the_server_is_up_again_the_debt_is_paid(service: type[Provider], tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(service, faults=[Fault(on="delete", status=403, times=2)]) as emulator:
        await crashed(path, emulator, 2)
        assert await trioprov.sweep(path, [emulator.provider]) == SweepReport(owed=2)
        assert await trioprov.sweep(path, [emulator.provider]) == SweepReport(deleted=2)
        assert_no_orphans(emulator)
        assert Journal(path).entries() == []


async def test_a_server_that_is_not_there_is_waited_for_no_longer_than_the_budget(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o) as emulator:
        await crashed(path, emulator, 10, asked=False)
    begun = time.monotonic()
    with trio.fail_after(15):
        assert await trioprov.sweep(path) == SweepReport(owed=10)
    print(f"10 debts to a server that is gone: {time.monotonic() - begun:.1f} s")
    assert all(entry.attempts and "connect" in (entry.reason or "") for entry in Journal(path).entries())


async def test_an_unknown_provider_is_the_reason_and_stops_nobody(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o) as emulator:
        await crashed(path, emulator, 3)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("UPDATE debt SET provider = 'gone-with-the-plugin' WHERE id = 2")
        assert await trioprov.sweep(path) == SweepReport(deleted=2, owed=1)
        (entry,) = Journal(path).entries()
        assert entry.reason == "there is no provider 'gone-with-the-plugin' here"
        assert not entry.alive


class Broken(H2o):
    """A provider that another package brings, and that cannot be made any more."""

    name = "broken"
    fails: type[Exception] = OSError

    def __post_init__(self) -> None:
        raise self.fails("the plugin wants a configuration")


@pytest.mark.parametrize("fails", [OSError, ValueError, AttributeError, ImportError, AssertionError])
async def test_a_provider_that_cannot_be_made_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: type[Exception]
) -> None:
    path = tmp_path / "owed.db"
    monkeypatch.setattr(Broken, "fails", fails)
    monkeypatch.setattr(trioprov.PROVIDERS, "_classes", {**vars(trioprov.PROVIDERS)["_classes"], "broken": Broken})
    async with open_emulator(H2o) as emulator:
        await crashed(path, emulator, 3)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("UPDATE debt SET provider = 'broken' WHERE id = 2")
        assert await trioprov.sweep(path) == SweepReport(deleted=2, owed=1)
        (entry,) = Journal(path).entries()
        assert "the plugin wants a configuration" in (entry.reason or "")


async def test_a_provider_that_cannot_be_imported_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "owed.db"
    entry_point = importlib.metadata.EntryPoint("broken", "no_such_module:Nobody", "trioprov.providers")

    def others(_: object) -> dict[str, importlib.metadata.EntryPoint]:
        return {"broken": entry_point}

    monkeypatch.setattr(type(trioprov.PROVIDERS), "_others", others)
    async with open_emulator(H2o) as emulator:
        await crashed(path, emulator, 3)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("UPDATE debt SET provider = 'broken' WHERE id = 2")
        assert await trioprov.sweep(path) == SweepReport(deleted=2, owed=1)
        (entry,) = Journal(path).entries()
        assert "no_such_module" in (entry.reason or "")


async def test_backoff_binds_the_background_and_not_who_asks_for_a_sweep(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o, faults=[Fault(on="delete", status=403)]) as emulator:
        await crashed(path, emulator)
        async with trioprov.open_client(journal=path):
            await until(lambda: Journal(path).entries()[0].attempts)
        for _ in range(2):
            async with trioprov.open_client(journal=path):
                await trio.sleep(0.2)
        assert deletes(emulator).total() == 1
        assert len(Journal(path).entries()) == 1
        age(path)
        async with trioprov.open_client(journal=path):
            await until(lambda: not Journal(path).entries())
        assert_no_orphans(emulator)

        emulator.add_fault(Fault(on="delete", status=403))
        await crashed(path, emulator)
        assert await trioprov.sweep(path) == SweepReport(owed=1)
        assert await trioprov.sweep(path) == SweepReport(deleted=1)


async def test_backoff_does_not_last_for_years_because_a_clock_was_set_back(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o, faults=[Fault(on="delete", status=403)]) as emulator:
        await crashed(path, emulator)
        assert await trioprov.sweep(path) == SweepReport(owed=1)
        age(path, -3 * 365 * 24 * 3600)
        async with trioprov.open_client(journal=path):
            await until(lambda: not Journal(path).entries())
        assert_no_orphans(emulator)


async def test_backoff_grows_and_has_an_end(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o, faults=[Fault(on="delete", status=403, times=math.inf)]) as emulator:
        await crashed(path, emulator)
        pauses: list[float] = []
        for _ in range(40):
            await trioprov.sweep(path)
            with closing(sqlite3.connect(path)) as db:
                pauses.append(db.execute("SELECT due FROM debt").fetchone()[0] - time.time())
        assert 10 < pauses[0] < 300
        assert pauses[3] > 1.5 * pauses[0]
        assert all(later > before - 1 for before, later in itertools.pairwise(pauses))
        assert pauses[-1] <= 24 * 3600


async def test_an_outage_of_a_minute_is_not_a_matter_of_hours(tmp_path: Path) -> None:
    """The tries of one session are one failure, however many they were."""
    path = tmp_path / "owed.db"
    async with open_emulator(H2o, faults=[Fault(on="delete", status=503, times=math.inf)]) as emulator:
        async with trioprov.open_client(journal=path, cleanup_timeout=4) as client:
            async with trioprov.open_session(emulator.provider, client=client):
                pass
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT due FROM debt").fetchone()[0] - time.time() < 15 * 60


async def test_a_debt_is_listed_and_can_be_abandoned(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o) as emulator:
        begun = time.time()
        ids = await crashed(path, emulator, 2)
        journal = Journal(path)
        one, two = journal.entries()
        assert [one.conversation_id, two.conversation_id] == sorted(ids, key=ids.index) or {
            one.conversation_id,
            two.conversation_id,
        } == set(ids)
        assert (one.provider, one.base_url, one.attempts, one.reason) == ("h2o", emulator.url, 0, None)
        assert not one.alive
        assert not one.needs_credentials
        assert begun - 1 < one.created < time.time()
        assert "hf-chat" not in repr(one)
        assert journal.abandon(one.id)
        assert not journal.abandon(one.id)
        assert not journal.abandon(12345)
        assert [entry.id for entry in journal.entries()] == [two.id]
        assert await trioprov.sweep(journal) == SweepReport(deleted=1)
        assert emulator.conversations == (one.conversation_id,)


async def test_abandoning_a_living_session_is_harmless(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o) as emulator, trioprov.open_client(journal=path) as client:
        async with trioprov.open_session(emulator.provider, client=client) as session:
            for entry in Journal(path).entries():
                assert Journal(path).abandon(entry.id)
            async with session.ask(QUESTION) as reply:
                assert (await reply.wait()).text
        assert_no_orphans(emulator)
        assert Journal(path).entries() == []


# -- Creates that were never answered ---------------------------------------------------------------------------------


async def killed_in_create(path: Path, emulator: Emulator[Any], cls: type[Provider]) -> None:
    async with host(path, emulator) as other:
        if cls is AllenAI:
            await other.do("open", n=1)
            await other.do("ask soon")
        else:
            await other.do("open soon", n=1)
        await until(lambda: CREATE[cls] in steps(emulator))
        await other.kill()


@pytest.mark.parametrize("seconds", [0, 4, 20, 3600, 30 * 24 * 3600, -3600])
async def test_h2o_a_create_whose_answer_was_lost_is_found_by_its_cookie(tmp_path: Path, seconds: float) -> None:
    """However long ago that was, and whatever became of the clock."""
    path = tmp_path / "owed.db"
    async with open_emulator(H2o, faults=[Fault(on="create", delay_response=60)]) as emulator:
        await killed_in_create(path, emulator, H2o)
        await until(lambda: emulator.conversations)
        (entry,) = Journal(path).entries()
        assert entry.conversation_id is None
        age(path, seconds)
        assert await trioprov.sweep(path) == SweepReport(deleted=1)
        assert_no_orphans(emulator)
        assert Journal(path).entries() == []


async def test_h2o_a_create_that_the_server_is_still_at_does_not_outlive_the_sweep(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o, faults=[Fault(on="create", delay=1)]) as emulator:
        await killed_in_create(path, emulator, H2o)
        assert not emulator.conversations
        report = await trioprov.sweep(path)
        assert report.lost == 0
        await trio.sleep(1.5)
        await trioprov.sweep(path)
        assert_no_orphans(emulator)


async def test_h2o_a_create_that_the_server_is_still_at_does_not_outlive_a_sweep_in_the_background(
    tmp_path: Path,
) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o, faults=[Fault(on="create", delay=1)]) as emulator:
        await killed_in_create(path, emulator, H2o)
        async with trioprov.open_client(journal=path):
            await until(lambda: "delete_all" in steps(emulator))
            await trio.sleep(0.1)
        await trio.sleep(1.2)
        age(path)
        await trioprov.sweep(path)
        assert_no_orphans(emulator)


async def test_open_assistant_a_create_whose_answer_was_lost_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(OpenAssistant, faults=[Fault(on="create", delay_response=60)]) as emulator:
        await killed_in_create(path, emulator, OpenAssistant)
        await until(lambda: emulator.conversations)
        before = len(emulator.requests)
        for attempts in (1, 2):
            assert await trioprov.sweep(path, [emulator.provider]) == SweepReport(lost=1)
            (entry,) = Journal(path).entries()
            assert entry.attempts == attempts
            assert entry.reason
        assert len(emulator.requests) == before  # nothing is deleted by guess
        assert len(emulator.conversations) == 1


async def test_allenai_a_thread_that_was_never_named_is_lost_until_it_expires(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(AllenAI, faults=[Fault(on="stream", delay_response=60)]) as emulator:
        await killed_in_create(path, emulator, AllenAI)
        assert await trioprov.sweep(path) == SweepReport(lost=1)
        with closing(sqlite3.connect(path)) as db:
            (expires,) = db.execute("SELECT expires FROM debt").fetchone()
        assert 23.9 * 3600 < expires - time.time() <= 24 * 3600
        age(path, 25 * 3600)
        before = len(emulator.requests)
        assert await trioprov.sweep(path) == SweepReport(already_gone=1)
        assert len(emulator.requests) == before
        assert Journal(path).entries() == []


async def test_what_expired_is_deleted_all_the_same_if_its_id_is_known(tmp_path: Path) -> None:
    """The clock may have been wrong when it was written, or be wrong now."""
    path = tmp_path / "owed.db"
    async with open_emulator(AllenAI) as emulator:
        await crashed(path, emulator, 2)
        age(path, 25 * 3600)
        assert await trioprov.sweep(path) == SweepReport(deleted=2)
        assert_no_orphans(emulator)
        assert Journal(path).entries() == []


@pytest.mark.parametrize("more", [{}, {"headers": {"X-Team": "blue"}}])
async def test_what_expired_and_cannot_be_deleted_vanishes(tmp_path: Path, more: dict[str, Any]) -> None:
    """Because the server says no, or because nobody is here who could ask it."""
    path = tmp_path / "owed.db"
    async with open_emulator(AllenAI, faults=[Fault(on="delete", status=403, times=math.inf)]) as emulator:
        await crashed(path, emulator, 2, **more)
        age(path, 25 * 3600)
        assert await trioprov.sweep(path) == SweepReport(already_gone=2)
        assert len(deletes(emulator)) == (0 if more else 2)
        assert Journal(path).entries() == []


async def test_what_an_anonymous_user_left_expires_and_a_known_one_does_not(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(AllenAI) as emulator:
        async with host(path, emulator, headers={"Authorization": "Bearer x"}) as other:
            await other.do("open", n=1)
            emulator.add_fault(Fault(on="stream", hang=True))
            await other.do("ask soon")
            await until(lambda: "stream" in steps(emulator))
            await other.kill()
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT expires FROM debt").fetchone() == (None,)


# -- The client -------------------------------------------------------------------------------------------------------


async def test_a_client_with_a_journal_sweeps_in_the_background_when_it_opens(tmp_path: Path) -> None:
    for cls in (H2o, AllenAI):
        path = tmp_path / f"{cls.name}.db"
        async with open_emulator(cls) as emulator:
            ids = await crashed(path, emulator, 3)
            emulator.add_fault(Fault(on="delete", delay_response=0.8, times=3))
            begun = time.monotonic()
            async with trioprov.open_client(journal=path) as client:
                assert time.monotonic() - begun < 0.7
                assert len(emulator.conversations) == 3
                async with trioprov.open_session(emulator.provider, client=client) as session:
                    async with session.ask(QUESTION) as reply:
                        assert (await reply.wait()).text
                await until(lambda: not Journal(path).entries())
            assert_no_orphans(emulator)
            assert {id: count for id, count in deletes(emulator).items() if id in ids} == dict.fromkeys(ids, 1)


async def test_what_needs_the_user_stays_for_him_after_a_sweep_in_the_background(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(OpenAssistant) as emulator:
        ids = await crashed(path, emulator, 2, asked=False)
        async with trioprov.open_client(journal=path):
            await until(lambda: all(entry.reason for entry in Journal(path).entries()))
        assert list(emulator.conversations) == ids
        assert await trioprov.sweep(path, [emulator.provider]) == SweepReport(deleted=2)


async def test_closing_a_client_does_not_wait_for_its_sweep(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o, faults=[Fault(on="delete", hang=True, times=5)]) as emulator:
        await crashed(path, emulator, 5)
        begun = time.monotonic()
        async with trioprov.open_client(journal=path):
            await until(lambda: "delete" in steps(emulator))
            begun = time.monotonic()
        assert time.monotonic() - begun < 1
        entries = Journal(path).entries()
        assert len(entries) == 5
        assert not any(entry.alive for entry in entries)
        assert await trioprov.sweep(path) == SweepReport(deleted=5)
        assert_no_orphans(emulator)


async def test_a_sweep_in_the_background_does_not_hold_up_a_sessions_cleanup(tmp_path: Path) -> None:
    """A hundred dead debts at a server that is slow to delete; the living session is not put at the end of the line."""
    path = tmp_path / "owed.db"
    async with open_emulator(H2o) as emulator:
        await crashed(path, emulator, 100, asked=False)
        emulator.add_fault(Fault(on="delete", delay_response=1, times=100))
        async with trioprov.open_client(journal=path) as client:
            await until(lambda: "delete" in steps(emulator))
            begun = time.monotonic()
            async with trioprov.open_session(emulator.provider, client=client):
                pass
            assert time.monotonic() - begun < 4


async def test_waiting_for_young_creates_does_not_hold_up_a_sessions_cleanup(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o, faults=[Fault(on="create", delay_response=60, times=40)]) as emulator:
        async with host(path, emulator) as other:
            await other.do("open soon", n=40)
            await until(lambda: len(emulator.conversations) == 40)
            await other.kill()
        async with trioprov.open_client(journal=path) as client:
            await until(lambda: steps(emulator).count("delete_all") >= 16)
            begun = time.monotonic()
            async with trioprov.open_session(emulator.provider, client=client):
                pass
            assert time.monotonic() - begun < 2


async def test_with_a_journal_an_owed_debt_is_no_error_and_a_later_sweep_pays_it(
    service: type[Provider], tmp_path: Path
) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(service, faults=[Fault(on="delete", status=503, times=math.inf)]) as emulator:
        async with trioprov.open_client(journal=path, cleanup_timeout=0.5) as client:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                async with session.ask(QUESTION) as reply:
                    assert (await reply.wait()).text
            assert session.cleanup is not None
            assert session.cleanup.outcome == "owed"
            await session.aclose()
        (entry,) = Journal(path).entries()
        assert entry.attempts == 1  # of the session, however often it tried
        assert "503" in (entry.reason or "")
        assert not entry.alive
    assert len(emulator.conversations) == 1


async def test_the_owed_debt_of_a_living_client_can_be_paid_by_anybody(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o, faults=[Fault(on="delete", status=401)]) as emulator:
        async with trioprov.open_client(journal=path) as client:
            async with trioprov.open_session(emulator.provider, client=client) as session:
                pass
            assert session.cleanup is not None
            assert session.cleanup.outcome == "owed"
            assert [entry.alive for entry in Journal(path).entries()] == [False]
            assert await trioprov.sweep(path) == SweepReport(deleted=1)
        assert_no_orphans(emulator)


async def test_a_lost_debt_is_an_error_even_with_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(AllenAI, faults=[Fault(on="stream", lose_response=True)]) as emulator:
        async with trioprov.open_client(journal=path) as client:
            with pytest.raises(trioprov.CleanupFailed) as caught:
                async with trioprov.open_session(emulator.provider, client=client) as session:
                    with pytest.raises(trioprov.ConnectionFailed):
                        async with session.ask(QUESTION) as reply:
                            await reply.wait()
        assert caught.value.report.outcome == "lost"
        (entry,) = Journal(path).entries()
        assert entry.conversation_id is None


# -- Leaving early ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("company", ["alone", "with a client open"])
async def test_a_cancelled_sweep_leaves_its_rows_to_the_next(tmp_path: Path, company: str) -> None:
    path = tmp_path / "owed.db"
    async with (
        open_emulator(H2o, faults=[Fault(on="delete", hang=True, times=16)]) as emulator,
        AsyncExitStack() as stack,
    ):
        await crashed(path, emulator, 30, asked=False)
        if company != "alone":
            age(path, -7200)  # not to be swept by the client
            with closing(sqlite3.connect(path, isolation_level=None)) as db:
                db.execute("UPDATE debt SET due = ?", [time.time() + 3600])
            await stack.enter_async_context(trioprov.open_client(journal=path))
        begun = time.monotonic()
        with trio.move_on_after(0.5) as scope:
            await trioprov.sweep(path)
        assert scope.cancelled_caught
        assert time.monotonic() - begun < 1.5
        entries = Journal(path).entries()
        assert len(entries) == 30
        assert not any(entry.alive for entry in entries)
        assert await trioprov.sweep(path) == SweepReport(deleted=30)
        assert_no_orphans(emulator)


async def test_a_sweep_cancelled_under_a_lock_leaves_its_rows_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o, faults=[Fault(on="delete", hang=True, times=3)]) as emulator:
        await crashed(path, emulator, 3, asked=False)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("UPDATE debt SET due = ?", [time.time() + 3600])
        async with trioprov.open_client(journal=path):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trioprov.sweep, path)
                    await until(lambda: deletes(emulator).total() == 3)
                    locker = await locked(path)
                    scope.cancel()
                    begun = time.monotonic()
            assert time.monotonic() - begun < 3
            await locker()
            await trio.sleep(0.5)
            assert await trioprov.sweep(path) == SweepReport(deleted=3)


async def test_a_sweep_cancelled_under_a_lock_that_is_soon_given_up_leaves_its_rows_to_other_processes(
    tmp_path: Path,
) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o, faults=[Fault(on="delete", hang=True, times=3)]) as emulator:
        await crashed(path, emulator, 3, asked=False)
        with Journal(path).open():  # this process lives on, and has the journal open
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trioprov.sweep, path)
                    await until(lambda: deletes(emulator).total() == 3)
                    free = await locked(path)
                    scope.cancel()
                    with trio.CancelScope(shield=True):
                        await trio.sleep(0.3)
                        await free()
            async with child("sweep", journal=str(path), providers=[]) as other:
                assert (await other.do("sweep"))["deleted"] == 3
        assert_no_orphans(emulator)


@pytest.mark.parametrize("lock", ["nobody", "somebody"])
async def test_what_a_cancelled_sweep_left_is_claimed_by_one_of_the_next_here(tmp_path: Path, lock: str) -> None:
    """Also where somebody had the lock, so that it could not be written down."""
    path = tmp_path / "owed.db"
    async with open_emulator(H2o, faults=[Fault(on="delete", hang=True, times=3)]) as emulator:
        ids = await crashed(path, emulator, 3, asked=False)
        with Journal(path).open():
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trioprov.sweep, path)
                    await until(lambda: deletes(emulator).total() == 3)
                    free = None if lock == "nobody" else await locked(path)
                    scope.cancel()
            if free is not None:
                await free()
            emulator.add_fault(Fault(on="delete", delay_response=0.5, times=3))
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(trioprov.sweep, path)
                await until(lambda: deletes(emulator).total() == 6)
                assert await trioprov.sweep(path) == NOTHING
        assert deletes(emulator) == dict.fromkeys(ids, 2)
        assert_no_orphans(emulator)
        assert Journal(path).entries() == []


async def test_a_cancelled_sweep_closes_its_connections_and_waits_for_no_long_goodbye(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """httpx may have to say something to a proxy, and may begin by looking whether it is cancelled."""
    aclose = httpx.AsyncClient.aclose

    async def slowly(self: httpx.AsyncClient) -> None:
        await trio.lowlevel.checkpoint()
        await aclose(self)
        with trio.move_on_after(5):
            await trio.sleep_forever()

    monkeypatch.setattr(httpx.AsyncClient, "aclose", slowly)
    path = tmp_path / "owed.db"
    async with open_emulator(H2o, faults=[Fault(on="delete", hang=True)]) as emulator:
        await crashed(path, emulator, 2, asked=False)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trioprov.sweep, path)
                await until(lambda: deletes(emulator).total() == 2 and len(emulator.conversations) == 1)
                scope.cancel()
                begun = time.monotonic()
        assert time.monotonic() - begun < 3
        await until(lambda: emulator.connections == 0)


async def locked(path: Path) -> Callable[[], Any]:
    """Hold the write lock in another process, until what is returned is called."""
    context = child("lock", journal=str(path), how="IMMEDIATE")
    other = await context.__aenter__()

    async def free() -> None:
        await other.do("free")
        await context.__aexit__(None, None, None)

    return free


async def test_a_sweep_that_cannot_write_raises_bare_or_says_owed(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(H2o, faults=[Fault(on="delete", delay_response=3, times=3)]) as emulator:
        await crashed(path, emulator, 3, asked=False)
        outcome: SweepReport | BaseException = NOTHING

        async def swept() -> None:
            nonlocal outcome
            try:
                outcome = await trioprov.sweep(path)
            except trioprov.JournalError as exc:
                outcome = exc

        async with trio.open_nursery() as nursery:
            nursery.start_soon(swept)
            await until(lambda: deletes(emulator).total() == 3)
            free = await locked(path)  # before the answers come
            await trio.sleep(9)
            await free()
        assert isinstance(outcome, trioprov.JournalError) or outcome == SweepReport(owed=3)
        assert await trioprov.sweep(path) == SweepReport(already_gone=3)


async def test_a_sweep_that_is_cancelled_before_it_begins_touches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    with trio.CancelScope() as scope:
        scope.cancel()
        await trioprov.sweep(path)
    assert scope.cancelled_caught
    assert not path.exists()


def test_a_report_is_a_value() -> None:
    assert asdict(SweepReport(deleted=1)) == {"deleted": 1, "already_gone": 0, "owed": 0, "lost": 0}


async def test_a_journal_that_was_never_used_owes_nothing_and_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "typo.db"
    assert await trioprov.sweep(path) == NOTHING
    assert Journal(path).entries() == []
    assert not Journal(path).abandon(1)
    assert not list(tmp_path.iterdir())
    with pytest.raises(trioprov.JournalError, match="nowhere"):
        await trioprov.sweep(tmp_path / "nowhere" / "owed.db")


@pytest.mark.parametrize("wrong", [[H2o], ["h2o"], H2o()], ids=["class", "name", "one"])
async def test_what_is_no_provider_is_refused_and_not_taken_for_one_that_cannot_pay(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        await trioprov.sweep(tmp_path / "owed.db", wrong)
