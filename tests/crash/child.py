"""Another process: it does as its stdin says, one line of JSON a time, and answers each with one.

``python child.py COMMAND ARGUMENTS`` with the arguments as one JSON object:

- ``host``: a client with a journal, and whatever sessions it is told to open.
- ``lock``: holds a lock on the journal, as some other program would, until it is told to go.
- ``sweep``: one sweep as soon as it is told to; its report is the answer.
- ``fork``: forks while it has the journal open; its child opens it too, and writes when the parent has closed it.
- ``first``: opens journals that nobody has made yet, as soon as it is told to.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import trio

import trioprov
from trioprov.providers import Provider


def made(name: str, fields: dict[str, Any]) -> Provider:
    return trioprov.PROVIDERS[name](**fields)


def say(value: object = None) -> None:
    print(json.dumps(value), flush=True)


async def orders() -> AsyncIterator[dict[str, Any]]:
    async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
        rest = b""
        async for data in stdin:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                yield json.loads(line)


async def host(journal: str, name: str, fields: dict[str, Any], **limits: Any) -> None:
    provider = made(name, fields)
    sessions: list[trioprov.Session] = []
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        client = await stack.enter_async_context(trioprov.open_client(journal=journal, **limits))

        async def ask(session: trioprov.Session) -> None:
            async with session.ask("Why is the sky blue?") as reply:
                await reply.wait()

        say("ready")
        async for order in orders():
            what, number = order["do"], order.get("n", 1)
            answer: object = None
            if what == "open":
                for _ in range(number):
                    sessions.append(await nursery.start(runs, provider, client))
                answer = [session.conversation.id for session in sessions]
            elif what == "open soon":  # its create may never be answered
                for _ in range(number):
                    nursery.start_soon(nursery.start, runs, provider, client)
            elif what == "ask":
                for session in sessions:
                    await ask(session)
                answer = [session.conversation.id for session in sessions]
            elif what == "ask soon":
                for session in sessions:
                    nursery.start_soon(ask, session)
            elif what == "keep":
                answer = [session.keep() for session in sessions]
            elif what == "look":
                answer = [dataclasses.asdict(entry) for entry in trioprov.Journal(journal).entries()]
            elif what == "read":
                for file in os.listdir(os.path.dirname(journal)):
                    with open(os.path.join(os.path.dirname(journal), file), "rb") as stream:
                        stream.read()
            elif what == "fork":
                answer = await forked(client)
            elif what == "fork and stay":
                if (answer := os.fork()) == 0:
                    stays()
            elif what == "close":
                break
            say(answer)
        for session in sessions:
            session.close()
    say("closed")


async def runs(provider: Provider, client: trioprov.Client, task_status: trio.TaskStatus[trioprov.Session]) -> None:
    await trioprov.run_session(provider, client=client, task_status=task_status)


async def forked(client: trioprov.Client) -> str:
    """What a forked child gets when it uses the parent's journal, and then goes without a word."""
    ledger = client.ledger
    assert ledger is not None
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            ledger.strike_now(1)
            said = "it could"
        except trioprov.JournalError as exc:
            said = str(exc)
        except BaseException as exc:
            said = repr(exc)
        ledger.close()
        os.write(writing, said.encode())
        os._exit(0)
    os.waitpid(pid, 0)
    said = os.read(reading, 10_000).decode()
    os.close(reading)
    os.close(writing)
    return said


def stays() -> None:
    """A forked child that is alive, and that is all."""
    signal.alarm(20)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    signal.pause()


def fork(journal: str) -> None:
    """A child that has the journal open for itself, while its parent, who had it too, goes on and closes it."""
    parents = trioprov.Journal(journal).open()
    (from_child, to_parent), (from_parent, to_child) = os.pipe(), os.pipe()
    if os.fork() == 0:
        signal.alarm(10)  # should nobody come for it
        try:
            childs = trioprov.Journal(journal).open()
            os.write(to_parent, b"open\n")
            os.read(from_parent, 1)
            trio.run(childs.intend, trioprov.H2o().new_conversation(), None, None)
            os.write(to_parent, b"written\n")
            os.read(from_parent, 1)
        except trioprov.JournalError:
            os.write(to_parent, b"refused\n")
        os._exit(0)
    said = os.read(from_child, 100).decode().strip()
    parents.close()
    if said == "open":
        os.write(to_child, b"1")
        said = os.read(from_child, 100).decode().strip()
    say(said)
    sys.stdin.readline()
    os.write(to_child, b"1")
    os.wait()
    say("gone")


def lock(journal: str, how: str) -> None:
    with_lock = sqlite3.connect(journal, isolation_level=None, timeout=5)
    if how == "whole file":
        with_lock.execute("PRAGMA locking_mode = EXCLUSIVE")
        with_lock.execute("BEGIN IMMEDIATE")
        with_lock.execute("DELETE FROM debt WHERE id = -1")
    else:
        with_lock.execute(f"BEGIN {how}")
    say("locked")
    sys.stdin.readline()
    if with_lock.in_transaction:
        with_lock.execute("ROLLBACK")
    with_lock.close()
    say("free")


async def sweep(journal: str, providers: list[tuple[str, dict[str, Any]]]) -> None:
    say("ready")
    async for _ in orders():
        report = await trioprov.sweep(journal, [made(name, fields) for name, fields in providers])
        say(dataclasses.asdict(report))
        break


def first(journals: list[str]) -> None:
    say("ready")
    sys.stdin.readline()
    trouble: list[str] = []
    for journal in journals:
        try:
            trioprov.Journal(journal).open().close()
        except Exception as exc:
            trouble.append(repr(exc))
    say(trouble)


def main() -> None:
    command, arguments = sys.argv[1], json.loads(sys.argv[2])
    if command == "host":
        trio.run(lambda: host(**arguments))
    elif command == "sweep":
        trio.run(lambda: sweep(**arguments))
    elif command == "lock":
        lock(**arguments)
    elif command == "fork":
        fork(**arguments)
    else:
        first(**arguments)


main()
