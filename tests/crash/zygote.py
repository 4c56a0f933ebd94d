"""The mother of what is killed: ``python zygote.py`` forks a child for each line of its stdin, and says its pid.

A line is a JSON object: ``service``, ``url``, ``cookies``, ``journal``, ``seed``. The child is a process like any
other, only that it need not import everything first; it opens a client with the journal and has sessions, one after
another, for as long as it lives.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from typing import Any

import trio

import trioprov
import trioprov.testing
from trioprov.providers import Provider


async def live(provider: Provider, journal: str, chance: random.Random) -> None:
    async with trioprov.open_client(journal=journal) as client:
        while True:
            patience = chance.choice([0.03, 0.06, 1, 1, 1, 1])
            with trio.move_on_after(patience):
                async with trioprov.open_session(provider, client=client) as session:
                    for _ in range(chance.choice([0, 1, 1, 2])):
                        async with session.ask("Why is the sky blue?") as reply:
                            await reply.wait()
            await trio.sleep(chance.uniform(0, 0.05))


async def warm() -> None:
    """Much is imported by the first session of a process; a child has a fraction of a second to live."""
    async with (
        trioprov.testing.open_emulator(trioprov.H2o) as emulator,
        trioprov.open_session(emulator.provider) as session,
        session.ask("Ready?") as reply,
    ):
        await reply.wait()


def child(order: dict[str, Any]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.close(0)
    os.nice(10)  # the server is another machine, and not to be starved
    provider = trioprov.PROVIDERS[order["service"]](base_url=order["url"], cookies=order["cookies"])
    try:
        trio.run(live, provider, order["journal"], random.Random(order["seed"]))
    except BaseException as exc:
        print(f"a child has failed: {exc!r}", file=sys.stderr, flush=True)
        raise


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead need not be waited for
    trio.run(warm)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                child(json.loads(line))
            finally:
                os._exit(1)
        print(pid, flush=True)


main()
