"""However a program ends, or its loop: the DELETEs are sent, nothing hangs, nothing is said."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trioprov.testing import Fault, assert_no_orphans

if TYPE_CHECKING:
    from .conftest import Emulated

# What a program may take, in seconds; it takes one.
PATIENCE = 30

OPENED = """
    import asyncio, gc, os, sys, threading, time
    import trioprov.anyio as trioprov

    provider = trioprov.H2o(base_url=sys.argv[1])
    new_loop = asyncio.new_event_loop
    if sys.argv[2] == "uvloop":
        import uvloop
        new_loop = uvloop.new_event_loop
    kept = []

    async def open_all():
        "A client with a session of its own, and a session without a client; both being answered."
        client = await keep(trioprov.open_client(**OPTIONS))
        for given in (client, None):
            session = await keep(trioprov.open_session(provider, client=given))
            reply = await keep(session.ask("Why?"))
            await anext(aiter(reply))

    async def keep(manager):
        kept.append(manager)
        value = await manager.__aenter__()
        kept.append(value)
        return value

    OPTIONS = {}

    def run(main):
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(main)
"""

ENDINGS = {
    "asyncio.run returns": """
        async def main():
            await open_all()
        run(main())
        print("alive" if len(threading.enumerate()) > 1 else "alone")
    """,
    "asyncio.run raises": """
        async def main():
            await open_all()
            raise LookupError
        try:
            run(main())
        except LookupError:
            print("alone")
    """,
    "sys.exit": """
        async def main():
            await open_all()
            print("alone")
            sys.exit()
        run(main())
    """,
    "tasks are left": """
        async def inside():
            async with trioprov.open_client() as client, trioprov.open_session(provider, client=client) as session:
                async with session.ask("Why?") as reply, trioprov.open_reply("Why?", provider) as other:
                    async for _ in reply:
                        ready.set()

        async def main():
            global ready
            ready = asyncio.Event()
            kept.append(asyncio.ensure_future(inside()))
            await ready.wait()
        run(main())
        print("alive" if len(threading.enumerate()) > 1 else "alone")
    """,
    "loop.stop": """
        async def main():
            await open_all()
            loop.stop()
        loop = new_loop()
        kept.append(loop.create_task(main()))
        loop.run_forever()
        print("alone")
    """,
    "loop.stop in a block": """
        async def main():
            async with trioprov.open_session(provider) as session, session.ask("Why?") as reply:
                async for _ in reply:
                    loop.stop()
        loop = new_loop()
        task = loop.create_task(main())
        loop.run_forever()
        print("alone")
        task._log_destroy_pending = False
    """,
    "the loop is closed": """
        loop = new_loop()
        loop.run_until_complete(open_all())
        loop.close()
        until = time.monotonic() + 10
        while len(threading.enumerate()) > 1 and time.monotonic() < until:
            time.sleep(0.01)
        print("alive" if len(threading.enumerate()) > 1 else "alone")
    """,
    "many loops, one after another": """
        for _ in range(5):
            loop = new_loop()
            loop.run_until_complete(open_all())
            loop.close()
        print("alone")
    """,
    "nobody refers to it": """
        async def main():
            await open_all()
            kept.clear()
            gc.collect()
            until = time.monotonic() + 10
            while len(threading.enumerate()) > 1 and time.monotonic() < until:
                await asyncio.sleep(0.01)
            print("alive" if len(threading.enumerate()) > 1 else "alone")
        run(main())
    """,
    "the interpreter ends in a thread's program": """
        def program():
            run(forever())

        async def forever():
            await open_all()
            started.set()
            await asyncio.sleep(3600)
        started = threading.Event()
        threading.Thread(target=program, daemon=True).start()
        started.wait()
        print("alone")
    """,
}


def program(text: str, ending: str) -> str:
    return textwrap.dedent(text) + textwrap.dedent(ending)


def start(url: str, loop: str, ending: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program(OPENED, ending), url, loop],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_left_when(ending: str, loop: str, emulated: Emulated) -> None:
    with emulated(token_delay=0.01, forever=True) as emulator:
        process = start(emulator.url, loop, ENDINGS[ending])
        output, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, output, errors) == (0, "alone\n", "")
        assert len([request for request in emulator.requests if request.method == "DELETE"]) >= 1


INTERRUPTED = """
    async def main():
        try:
            async with trioprov.open_session(provider) as session, session.ask("Why?") as reply:
                async for _ in reply:
                    print("ready", flush=True)
                    await asyncio.sleep(3600)
        finally:
            print("left", flush=True)
    try:
        run(main())
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_nothing_is_left_by_ctrl_c(count: int, loop: str, emulated: Emulated) -> None:
    with emulated(token_delay=0.01, forever=True) as emulator:
        process = start(emulator.url, loop, INTERRUPTED)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(count):
            process.send_signal(signal.SIGINT)
            time.sleep(0.004)
        process.communicate(timeout=PATIENCE)
        until = time.monotonic() + 5
        while emulator.conversations and time.monotonic() < until:
            time.sleep(0.01)
        assert_no_orphans(emulator)


FORKED = """
    import anyio

    OPTIONS["journal"] = sys.argv[3]

    async def main():
        await open_all()
        client, session, reply = kept[1], kept[3], kept[5]
        events = reply.subscribe()
        child = os.fork()
        if child == 0:
            await tried(client, session, reply, events)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert status == 0, status
        await anext(aiter(reply))
        assert len(client.journal.entries()) == 1
        for manager in (kept[4], kept[2], kept[0], kept[8], kept[6]):
            await manager.__aexit__(None, None, None)
        assert client.journal.entries() == []
        print("alone")

    async def tried(client, session, reply, events):
        "In the child every handle raises; and what is collected here does nothing."
        try:
            before = len(os.listdir("/proc/self/fd"))
            for sync in (client.close, session.close, session.keep, reply.stop, reply.subscribe, events.receive_nowait):
                try:
                    sync()
                except anyio.ClosedResourceError:
                    continue
                os._exit(3)
            for wait in (reply.wait, session.aclose, events.receive, lambda: anext(aiter(reply))):
                try:
                    await wait()
                except anyio.ClosedResourceError:
                    continue
                os._exit(4)
            for manager in kept[0::2]:
                try:
                    await manager.__aexit__(None, None, None)
                except anyio.ClosedResourceError:
                    continue
                os._exit(5)
            for manager in kept[0::2]:
                await manager.__aexit__(LookupError, LookupError(), None)
            del client, session, reply, events, manager, wait, sync
            kept.clear()
            gc.collect()
        except BaseException as exc:
            print(repr(exc), file=sys.stderr, flush=True)
            os._exit(6)

    run(main())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_after_a_fork_the_parent_deletes_and_the_child_can_do_nothing(
    loop: str, emulated: Emulated, tmp_path: Path
) -> None:
    with emulated(token_delay=0.01, forever=True) as emulator:
        command = [sys.executable, "-W", "error", "-c", program(OPENED, FORKED), emulator.url, loop]
        done = subprocess.run(
            [*command, str(tmp_path / "owed.db")], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "alone\n", "")
        assert len([request for request in emulator.requests if request.method == "DELETE"]) == 2


# The program has ended, and Ctrl-C comes while the process waits for the one thread that is left.
INTERRUPTED_AT_EXIT = """
    import signal

    def press():
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)
    loop = new_loop()
    loop.run_until_complete(keep(trioprov.open_session(provider)))
    threading.Thread(target=press, daemon=True).start()
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_nothing_is_left_by_ctrl_c_while_the_interpreter_ends(loop: str, emulated: Emulated) -> None:
    slow = Fault(on="delete", delay=1.0, times=math.inf)
    with emulated(token_delay=0.01, forever=True, faults=[slow]) as emulator:
        start(emulator.url, loop, INTERRUPTED_AT_EXIT).communicate(timeout=PATIENCE)
        assert_no_orphans(emulator)
