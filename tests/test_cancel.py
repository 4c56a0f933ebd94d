"""A cancellation, an exception, a crash of a sibling, at many instants of a session's life: nothing stays behind."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import math
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import pytest
import trio

import trioprov
from trioprov import H2o, OpenAssistant
from trioprov._owner import Owner
from trioprov.providers import Provider
from trioprov.testing import Fault, assert_no_orphans, open_emulator

T = TypeVar("T")

INSTANTS = 60


async def converse(provider: Provider, client: trioprov.Client | None) -> None:
    async with (
        trioprov.open_session(provider, client=client) as session,
        session.ask("Why is the sky blue?") as reply,
    ):
        async for _ in reply:
            pass


async def life_of_a_session(provider: Provider) -> float:
    begun = trio.current_time()
    await converse(provider, None)
    return trio.current_time() - begun


async def cancelled(provider: Provider, client: trioprov.Client | None, after: float) -> None:
    with trio.move_on_after(after):
        await converse(provider, client)


class Crash(Exception):
    pass


async def crashed_beside(provider: Provider, client: trioprov.Client | None, after: float) -> None:
    async def crash() -> None:
        await trio.sleep(after)
        raise Crash

    with pytest.RaisesGroup(Crash):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash)
            nursery.start_soon(converse, provider, client)


async def session_in_nursery(  # noqa: ASYNC128 - passed on
    provider: Provider,
    client: trioprov.Client | None,
    *,
    task_status: trio.TaskStatus[trioprov.Session] = trio.TASK_STATUS_IGNORED,
) -> None:
    await trioprov.run_session(provider, client=client, task_status=task_status)


async def nursery_cancelled(provider: Provider, client: trioprov.Client | None, after: float) -> None:
    async def ask(session: trioprov.Session) -> None:
        async with session.ask("Why is the sky blue?") as reply:
            await reply.wait()

    with trio.move_on_after(after):
        async with trio.open_nursery() as nursery:
            session = await nursery.start(session_in_nursery, provider, client)
            nursery.start_soon(ask, session)


WAYS = [cancelled, crashed_beside, nursery_cancelled]


@pytest.mark.parametrize("with_client", [False, True], ids=["alone", "client"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_whatever_the_instant_nothing_stays_on_the_server(
    service: type[Provider],
    slow: dict[str, Any],
    way: Callable[[Provider, trioprov.Client | None, float], Awaitable[None]],
    with_client: bool,
) -> None:
    accounts = {"accounts": [str(number) for number in range(INSTANTS)]} if service is OpenAssistant else {}
    async with open_emulator(service, **slow, **accounts) as emulator:
        life = await life_of_a_session(emulator.provider) * 1.1
        limit = trio.CapacityLimiter(10)

        async def one(client: trioprov.Client | None, instant: int) -> None:
            provider = emulator.provider
            if accounts:  # a second question of an account cancels the first
                provider = dataclasses.replace(provider, cookies={"next-auth.session-token": str(instant)})
            async with limit:
                await way(provider, client, life * instant / INSTANTS)

        async with trioprov.open_client() as client, trio.open_nursery() as nursery:
            for instant in range(INSTANTS):
                nursery.start_soon(one, client if with_client else None, instant)
        assert_no_orphans(emulator)
        assert len([request for request in emulator.requests if request.step in ("create", "stream")]) > INSTANTS / 2
        assert emulator.worker_crashes == 0


async def test_a_create_that_is_cancelled_after_it_was_sent_is_finished_and_deleted(service: type[Provider]) -> None:
    creates = "stream" if service.name == "allenai" else "create"
    async with open_emulator(service, faults=[Fault(on=creates, delay_response=0.3)]) as emulator:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(converse, emulator.provider, None)
            while creates not in [request.step for request in emulator.requests]:  # noqa: ASYNC110
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert nursery.cancel_scope.cancelled_caught
        assert_no_orphans(emulator)
        assert [request.step for request in emulator.requests][-1] == "delete"


async def test_leaving_by_cancellation_with_a_client_returns_at_once(service: type[Provider]) -> None:
    faults = [Fault(on="delete", delay_response=1.0, times=math.inf)]
    async with open_emulator(service, token_delay=0.01, faults=faults) as emulator:
        async with trioprov.open_client() as client:
            begun = trio.current_time()
            with trio.move_on_after(0.1):
                await converse(emulator.provider, client)
            assert trio.current_time() - begun < 0.8
        assert_no_orphans(emulator)


async def test_several_cancellations_in_a_group_are_one_and_are_not_waited_for_either(service: type[Provider]) -> None:
    faults = [Fault(on="delete", delay_response=1.0)]
    async with open_emulator(service, faults=faults) as emulator:
        async with trioprov.open_client() as client:
            begun = 0.0
            with trio.CancelScope() as scope:
                async with trioprov.open_session(emulator.provider, client=client) as session:
                    async with session.ask("Why is the sky blue?") as reply:
                        await reply.wait()
                    scope.cancel()
                    begun = trio.current_time()
                    try:
                        await trio.lowlevel.checkpoint()
                    except trio.Cancelled as exc:
                        raise BaseExceptionGroup("as from a nursery", [exc, BaseExceptionGroup("", [exc])]) from None
            assert scope.cancelled_caught
            assert trio.current_time() - begun < 0.8
        assert_no_orphans(emulator)


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------

WATCHED = {
    inspect.getfile(trioprov.Client): {"host", "_host", "aclose", "_settled", "close"},
    inspect.getfile(trioprov.Session): {"run_session", "_close_collected", "_Asking.__aenter__", "_Asking.__aexit__"},
    inspect.getfile(trioprov.Subscription): {"_leave"},
    inspect.getfile(trioprov.FanOut): {"__anext__"},
    inspect.getfile(Owner): {"close", "submit", "aclose", "run", "_supervise", "_live", "_answer"},
}


@contextmanager
def interrupted_at(place: tuple[str, int] | None) -> Generator[list[tuple[str, int]]]:
    """Ctrl-C before the first run of that line; the value holds all the lines that come by."""
    seen: list[tuple[str, int]] = []

    def trace(frame: FrameType, event: str, _: object) -> Any:
        here = frame.f_code.co_filename, frame.f_lineno
        if WATCHED.get(here[0], set()).isdisjoint({frame.f_code.co_name, frame.f_code.co_qualname}):
            return None
        if event == "line" and here not in seen:
            seen.append(here)
            if here == place:
                signal.raise_signal(signal.SIGINT)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield seen
    finally:
        sys.settrace(before)


def step(coroutine: Coroutine[Any, Any, T]) -> T:
    """What one that never waits returns."""
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    return stop.value.value


def hangs(*_: object) -> None:
    raise AssertionError("it hangs")


def is_open_here(path: Path) -> bool:
    """Whether a file is open in this process."""
    found = path.stat()
    for fd in range(256):
        with suppress(OSError):
            if os.path.samestat(os.fstat(fd), found):
                return True
    return False


def test_ctrl_c_while_something_dropped_is_closed_is_not_swallowed_by_the_collector() -> None:
    running = open_emulator(H2o)
    emulator = step(running.__aenter__())

    async def main() -> None:
        async with trioprov.open_reply("Why is the sky blue?", emulator.provider) as reply:
            reply.subscribe()
        await trioprov.open_session(emulator.provider).__aenter__()
        await trio.lowlevel.checkpoint()

    try:
        with interrupted_at(None) as lines:
            trio.run(main)
        places = [line for line in lines if line[0] != inspect.getfile(Owner)]
        assert {inspect.getfile(trioprov.Session), inspect.getfile(trioprov.Subscription)} <= {
            file for file, _ in places
        }
        for place in places:
            with pytest.raises(KeyboardInterrupt), interrupted_at(place):
                trio.run(main)
            assert not emulator.conversations, place
    finally:
        step(running.__aexit__(None, None, None))


def test_ctrl_c_at_any_line_of_asking_leaves_a_session_that_can_be_asked_again() -> None:
    running = open_emulator(H2o)
    emulator = step(running.__aenter__())
    answers: list[str] = []

    async def main() -> None:
        answers.clear()
        async with trioprov.open_session(emulator.provider) as session:
            for _ in range(2):
                with suppress(KeyboardInterrupt):
                    async with session.ask("Why is the sky blue?"):
                        pass
            async with session.ask("Why is the sky blue?") as reply:
                answers.append((await reply.wait()).text)

    try:
        with interrupted_at(None) as lines:
            trio.run(main)
        for place in [line for line in lines if line[0] == inspect.getfile(trioprov.Session)]:
            gc.collect()  # else a session of the last round's may be what runs that line, before this one asks
            with suppress(KeyboardInterrupt), interrupted_at(place):
                trio.run(main)
            assert answers, place
    finally:
        step(running.__aexit__(None, None, None))


def test_ctrl_c_at_any_line_of_a_merged_loop_takes_no_event_from_who_goes_on() -> None:
    running = open_emulator(H2o, tokens=["a", "b", "c"])
    emulator = step(running.__aenter__())
    got: list[trioprov.Event] = []

    async def main() -> None:
        got.clear()
        async with trioprov.fan_out("Why is the sky blue?", [emulator.provider]) as fan:
            events = aiter(fan)
            while True:
                try:
                    got.append((await anext(events))[1])
                except KeyboardInterrupt:
                    pass
                except StopAsyncIteration:
                    break

    try:
        with interrupted_at(None) as lines:
            trio.run(main)
        assert got == ["a", "b", "c", trioprov.Finish("stop")]
        for place in [line for line in lines if line[0] == inspect.getfile(trioprov.FanOut)]:
            with suppress(KeyboardInterrupt), interrupted_at(place):
                trio.run(main)
            assert got == ["a", "b", "c", trioprov.Finish("stop")], place
    finally:
        step(running.__aexit__(None, None, None))


@pytest.mark.parametrize("whose", ["ours", "a nursery's", "a client's"])
def test_ctrl_c_at_any_line_of_beginning_and_ending_is_the_main_tasks_and_loses_nothing(
    whose: str, tmp_path: Path
) -> None:
    running = open_emulator(H2o, forever=True, token_delay=0.002)
    emulator = step(running.__aenter__())

    async def use(session: trioprov.Session) -> None:
        async with session.ask("Why is the sky blue?") as reply:
            async for _ in reply:
                break
        session.close()

    async def main() -> None:
        if whose == "ours":
            async with trioprov.open_session(emulator.provider) as session:
                await use(session)
        elif whose == "a client's":
            async with trioprov.open_client(journal=tmp_path / "owed.db") as client, trio.open_nursery() as nursery:
                async with trioprov.open_session(emulator.provider, client=client) as session:
                    await use(session)
                await use(await nursery.start(session_in_nursery, emulator.provider, client))
        else:
            async with trio.open_nursery() as nursery:
                await use(await nursery.start(trioprov.run_session, emulator.provider))

    before = signal.signal(signal.SIGALRM, hangs)
    try:
        with interrupted_at(None) as lines:
            trio.run(main)
        assert len(lines) > 30
        for place in lines:
            signal.alarm(10)
            try:
                with interrupted_at(place):
                    trio.run(main)
            except* KeyboardInterrupt:
                pass
            assert not emulator.conversations, place
            if whose == "a client's":
                assert not is_open_here(tmp_path / "owed.db-owners"), place
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        step(running.__aexit__(None, None, None))
