"""Real processes with real sessions, killed with SIGKILL at hundreds of random instants; then one sweep.

``python -m pytest tests/test_crash.py -s`` prints the figures, ``python tests/test_crash.py [KILLS [SEED]]`` too.

What may be left is known beforehand. H2o: nothing, since the client chooses under which name it owns what it creates.
Open Assistant and AllenAI: a create that was on its way has no name yet, so at most one conversation for each row
without an id; those rows say `lost`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio
from children import spoken_with

import trioprov
from trioprov import AllenAI, H2o, Journal, OpenAssistant, SweepReport
from trioprov.providers import Provider
from trioprov.testing import Emulator, Fault, open_emulator

ZYGOTE = Path(__file__).parent / "crash" / "zygote.py"
KILLS = 208
SEED = 20240229
AT_ONCE = 6
COOKIE = "next-auth.session-token"
ACCOUNTS = tuple(f"account-{n}" for n in range(AT_ONCE))

# Where a server takes its time, so that the instants fall everywhere.
SLOW: dict[type[Provider], dict[str, float]] = {
    H2o: {"settings": 0.003, "create": 0.01, "delete": 0.01, "stop": 0.003},
    OpenAssistant: {"create": 0.01, "prompter": 0.003, "assistant": 0.003, "delete": 0.01},
    AllenAI: {"stream": 0.01, "delete": 0.01},
}


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What came of it.

    Attributes:
        kills: processes that were killed.
        created: conversations that the server created in all.
        alive: of these, on the server when the last process had died.
        rows: debts in the journal then.
        nameless: of these, without an id: a create was on its way.
        swept: what the sweep said.
        orphans: conversations on the server after the sweep.
        unaccounted: of these, how many are not explained by a row without an id.
        lost: rows in the journal after the sweep.
        again: requests to delete a conversation that another had been sent for before.
        seconds: what the killing and the sweep took.
    """

    service: str
    kills: int
    created: int
    alive: int
    rows: int
    nameless: int
    swept: SweepReport
    orphans: int
    unaccounted: int
    lost: int
    again: int
    seconds: tuple[float, float]

    def __str__(self) -> str:
        window = f"; window (rows without an id): {self.nameless}" if self.nameless else ""
        return (
            f"{self.service}: {self.kills} kills, {self.created} conversations, {self.alive} alive after the last, "
            f"{self.rows} rows{window}; sweep: {self.swept}; orphans: {self.orphans}; "
            f"{self.seconds[0]:.1f} s of killing, {self.seconds[1]:.1f} s of sweeping, {self.again} DELETEs repeated"
        )


async def born(mother: trio.Process, lock: trio.Lock, order: dict[str, Any]) -> int:
    """A new child; its pid."""
    assert mother.stdin is not None
    assert mother.stdout is not None
    async with lock:
        await mother.stdin.send_all(json.dumps(order).encode() + b"\n")
        said = b""
        with trio.fail_after(30):
            while not said.endswith(b"\n"):
                data = await mother.stdout.receive_some()
                assert data, "the zygote has died"
                said += data
    return int(said)


async def kill_at_random(emulator: Emulator[Any], journal: Path, kills: int, seed: int, pace: float) -> None:
    chance = random.Random(seed)
    accounts = list(ACCOUNTS)
    async with spoken_with(ZYGOTE) as mother:
        lock, limit = trio.Lock(), trio.CapacityLimiter(AT_ONCE)

        async def one(number: int) -> None:
            async with limit:
                account = accounts.pop()
                cookies = {COOKIE: account} if emulator.name == "openassistant" else {}
                order = {"service": emulator.name, "url": emulator.url, "cookies": cookies}
                pid = await born(mother, lock, {**order, "journal": str(journal), "seed": f"{seed}-{number}"})
                try:
                    await trio.sleep(lives[number])
                finally:
                    os.kill(pid, signal.SIGKILL)
                await death(pid)
                accounts.append(account)

        lives = [pace * chance.uniform(0.05, 0.5) for _ in range(kills)]
        async with trio.open_nursery() as nursery:
            for number in range(kills):
                nursery.start_soon(one, number)


async def death(pid: int) -> None:
    """On a busy machine it takes a while; until then the process is alive, and what it owes is its own."""
    with suppress(ProcessLookupError):
        while True:
            os.kill(pid, 0)
            await trio.sleep(0.01)


def nameless(journal: Path) -> int:
    with closing(sqlite3.connect(journal)) as db:
        texts = [text for (text,) in db.execute("SELECT conversation FROM debt")]
    return sum(json.loads(text).get("id") is None for text in texts)


def created(emulator: Emulator[Any]) -> int:
    return sum(request.step == {"allenai": "stream"}.get(emulator.name, "create") for request in emulator.requests)


async def crashed(cls: type[Provider], place: Path, **how: Any) -> Figures:
    """The same, at the pace of the machine: on a busy one a process takes longer to get as far as its create."""
    for pace in (1, 3, 9):
        figures = await crash(cls, place / f"owed-{pace}.db", pace=pace, **how)
        if figures.created > figures.kills / 3:
            break
    return figures


async def crash(
    cls: type[Provider], journal: Path, *, kills: int = KILLS, seed: int = SEED, pace: float = 1
) -> Figures:
    """So many processes killed, one sweep, and what is left then."""
    faults = [Fault(on=step, delay_response=delay, times=float("inf")) for step, delay in SLOW[cls].items()]
    script: dict[str, Any] = {"faults": faults, "tokens": ["Blue", " it", " is", "."], "token_delay": 0.03}
    if cls is OpenAssistant:
        script |= {"accounts": ACCOUNTS, "worker_wait": 0.01}
    async with open_emulator(cls, **script) as emulator:
        begun = time.monotonic()
        await kill_at_random(emulator, journal, kills, seed, pace)
        await trio.sleep(0.2)  # what the last ones had sent reaches the server
        killed = time.monotonic()
        providers: list[Provider] = (
            [cls(base_url=emulator.url, cookies={COOKIE: account}) for account in ACCOUNTS]
            if cls is OpenAssistant
            else []
        )
        figures = Figures(
            service=cls.name,
            kills=kills,
            created=created(emulator),
            alive=len(emulator.conversations),
            rows=len(Journal(journal).entries()),
            nameless=nameless(journal),
            swept=await trioprov.sweep(journal, providers),
            orphans=len(emulator.conversations),
            unaccounted=max(0, len(emulator.conversations) - nameless(journal)),
            lost=len(Journal(journal).entries()),
            again=0,
            seconds=(killed - begun, time.monotonic() - killed),
        )
        deleted = Counter(
            request.query.get("chat_id") or request.path for request in emulator.requests if request.step == "delete"
        )
        return replace(figures, again=sum(count - 1 for count in deleted.values()))


def explained(figures: Figures) -> None:
    """What has to be true whatever the service."""
    assert figures.kills >= 200
    assert figures.created > figures.kills / 4
    assert figures.alive > 0
    assert figures.swept.owed == 0
    assert figures.swept.deleted > 0


async def test_h2o_killed_at_hundreds_of_instants_leaves_nothing(tmp_path: Path) -> None:
    figures = await crashed(H2o, tmp_path)
    print(figures)
    explained(figures)
    assert figures.orphans == 0
    assert figures.lost == 0
    assert figures.swept.lost == 0


@pytest.mark.parametrize("cls", [OpenAssistant, AllenAI])
async def test_where_the_server_chooses_the_name_only_a_create_on_its_way_is_left(
    cls: type[Provider], tmp_path: Path
) -> None:
    figures = await crashed(cls, tmp_path)
    print(figures)
    explained(figures)
    assert figures.unaccounted == 0
    assert figures.orphans <= figures.nameless
    assert figures.lost == figures.swept.lost == figures.nameless


def main() -> None:
    kills, seed = [int(given) for given in sys.argv[1:]] + [KILLS, SEED][len(sys.argv) - 1 :]
    for cls in (H2o, OpenAssistant, AllenAI):
        with tempfile.TemporaryDirectory() as place:
            print(trio.run(lambda cls=cls, place=place: crashed(cls, Path(place), kills=kills, seed=seed)))


if __name__ == "__main__":
    main()
