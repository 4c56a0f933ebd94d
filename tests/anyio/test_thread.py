"""The thread beside the loop: that it begins and ends, and that the loop is told of whatever happens there."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import gc
import math
import threading
import weakref
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trio

import trioprov.anyio as trioprov
from trioprov._broadcast import Broadcast
from trioprov.anyio._bridge import Bridge
from trioprov.anyio._crossing import Mailbox, absorbed
from trioprov.testing import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Emulated, Run

QUESTION = "Why is the sky blue?"


@pytest.mark.parametrize("timeout", [1e10, math.inf])
def test_a_client_may_have_all_the_time_in_the_world_to_end(run: Run, emulated: Emulated, timeout: float) -> None:
    async def main() -> None:
        async with trioprov.open_client(shutdown_timeout=timeout) as client:
            assert (await trioprov.ask(QUESTION, emulator.provider, client=client)).text

    with emulated() as emulator:
        run(main)


def test_a_client_that_was_closed_is_forgotten_by_its_loop(run_asyncio: Run) -> None:
    async def main() -> None:
        async with Bridge(None) as world:
            mailbox = weakref.ref(world._mailbox)
        del world
        while mailbox() is not None:  # a loop that goes on to serve it has it in its list
            await anyio.sleep(0.01)
            gc.collect()

    run_asyncio(main)


def no_more_threads(monkeypatch: pytest.MonkeyPatch) -> type[Exception]:
    def refuse(thread: threading.Thread) -> None:
        if thread.name == "trioprov":
            raise RuntimeError("can't start new thread")
        start(thread)

    start: Callable[[threading.Thread], None] = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", refuse)
    return RuntimeError


def no_more_files(monkeypatch: pytest.MonkeyPatch) -> type[Exception]:
    def refuse(*args: Any, **options: Any) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(trio, "run", refuse)
    return OSError


@pytest.mark.parametrize("lack", [no_more_threads, no_more_files])
def test_a_thread_that_cannot_begin_raises_where_it_was_wanted_and_hangs_nowhere(
    run_asyncio: Run, lack: Callable[[pytest.MonkeyPatch], type[Exception]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        with pytest.raises(expected):
            async with trioprov.open_client():
                pass
        with pytest.raises(expected):
            await trioprov.ask(QUESTION, trioprov.H2o(base_url="http://nowhere.test"))

    with monkeypatch.context() as patched:
        expected = lack(patched)
        run_asyncio(main)
    gc.collect()


def test_ctrl_c_while_something_is_handed_over_makes_nobody_wait_for_ever() -> None:
    def interrupted() -> None:
        if not told:
            told.append("interrupted")
            raise KeyboardInterrupt

    told: list[str] = []
    loop = asyncio.new_event_loop()
    mailbox = Mailbox(loop)
    mailbox.post(interrupted)
    mailbox.expect(loop.stop)
    mailbox.end()
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    loop.call_later(5, told.append, "nobody")
    loop.call_later(5, loop.stop)
    loop.run_forever()
    loop.close()
    assert told == ["interrupted"]


def test_whoever_must_be_told_is_told_also_if_ctrl_c_swallowed_the_wake_up() -> None:
    class Forgetful(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(self, callback: Any, *args: Any, **options: Any) -> asyncio.Handle:
            handle = super().call_soon_threadsafe(callback, *args, **options)
            handle.cancel()
            return handle

    async def main() -> None:
        mailbox = Mailbox(asyncio.get_running_loop())
        over: asyncio.Future[None] = mailbox.loop.create_future()
        mailbox.expect(lambda: over.set_result(None))
        mailbox.end()
        await absorbed(mailbox, over)

    with asyncio.Runner(loop_factory=Forgetful) as runner:
        runner.run(asyncio.wait_for(main(), 5))


def test_a_fan_out_that_is_looked_at_in_the_instant_of_an_error_raises_it(run_asyncio: Run, emulated: Emulated) -> None:
    async def main() -> None:
        async with trioprov.open_client() as client:
            opened = trioprov.fan_out(QUESTION, [emulator.provider], client=client, on_error="cancel")
            async with opened as fan:
                log = fan.lanes[0].reply._transcript.log
                log.alarms.append(hold)
                await anyio.to_thread.run_sync(held.wait, 5)
                assert log.closed
                asyncio.get_running_loop().call_later(0.05, go_on.set)
                with pytest.raises(trioprov.ProviderError):
                    await fan.wait()

    def hold() -> None:
        """In trio, between the end of the log and whatever follows from it."""
        held.set()
        go_on.wait(5)

    held, go_on = threading.Event(), threading.Event()
    with emulated(faults=[Fault(on="create", delay=0.1, status=500)]) as emulator:
        run_asyncio(main)


def test_an_alarm_that_is_set_while_others_sound_is_not_lost() -> None:
    def ring() -> None:
        rung.append(len(log))

    rung: list[int] = []
    log: Broadcast[int] = Broadcast(lambda missed: missed)
    alarms = log.alarms  # a reader in another thread has got so far
    alarms.append(ring)
    log.publish([1])
    alarms.append(ring)
    log.publish([2])
    assert rung == [1, 2]
