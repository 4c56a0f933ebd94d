"""However a task is stopped, on whichever loop, nothing is alive on the server when it has ended."""

from __future__ import annotations

import asyncio
import gc
import math
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import trioprov.anyio as trioprov
from trioprov.providers import Provider
from trioprov.testing import Emulator, Fault, assert_no_orphans

if TYPE_CHECKING:
    from .conftest import Emulated, Run

QUESTION = "Why is the sky blue?"

# A server that takes its time at every step.
SLOW: dict[str, Any] = {
    "first_delay": 0.03,
    "token_delay": 0.003,
    "faults": [Fault(on=step, delay_response=0.02, times=math.inf) for step in ("create", "stop", "delete")],
}

# Seconds into a session on a slow server: in the create, in the stream, in the cleanup.
INSTANTS = {"create": 0.01, "stream": 0.08, "late": 0.15}

Body = Callable[[], Coroutine[Any, Any, None]]
Way = Callable[[Body, float], Coroutine[Any, Any, None]]


async def times(body: Body, after: float, count: int) -> None:
    """``task.cancel()``, so often."""
    task = asyncio.ensure_future(body())
    await asyncio.sleep(after)
    for _ in range(count):
        task.cancel()
        await asyncio.sleep(0.002)
    with suppress(asyncio.CancelledError):
        await task
    assert task.done()


async def once(body: Body, after: float) -> None:
    await times(body, after, 1)


async def twice(body: Body, after: float) -> None:
    await times(body, after, 2)


async def ten_times(body: Body, after: float) -> None:
    await times(body, after, 10)


async def nested_timeouts(body: Body, after: float) -> None:
    """Both expire while the block is being left; the outer one is the one that is raised."""
    try:
        async with asyncio.timeout(after + 0.004):
            try:
                async with asyncio.timeout(after):
                    await body()
            finally:
                await asyncio.sleep(1)
    except TimeoutError:
        pass
    else:
        raise AssertionError("it was not late")
    assert cancelling() == 0


async def wait_for(body: Body, after: float) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(body(), after)
    assert cancelling() == 0


async def sibling_fails(body: Body, after: float) -> None:
    async def fail() -> None:
        await asyncio.sleep(after)
        raise LookupError

    async def forever() -> None:
        await body()
        await asyncio.sleep(5)

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(forever())
            group.create_task(fail())

    with pytest.RaisesGroup(LookupError):
        await both()


async def anyio_scope_then_natively(body: Body, after: float) -> None:
    async def in_scope() -> None:
        with anyio.move_on_after(after):
            await body()

    await times(in_scope, after + 0.003, 2)


async def anyio_scope(body: Body, after: float) -> None:
    with anyio.move_on_after(after):
        await body()


async def anyio_group_fails(body: Body, after: float) -> None:
    async def fail() -> None:
        await anyio.sleep(after)
        raise LookupError

    async def both() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(body)
            group.start_soon(fail)

    with pytest.RaisesGroup(LookupError):
        await both()


def cancelling() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


NATIVE = [once, twice, ten_times, nested_timeouts, wait_for, sibling_fails, anyio_scope_then_natively]
COMMON = [anyio_scope, anyio_group_fails]


def session(emulator: Emulator[Any], client: trioprov.Client | None) -> Body:
    async def body() -> None:
        async with trioprov.open_session(emulator.provider, client=client) as session, session.ask(QUESTION) as reply:
            async for _ in reply:
                pass
            await anyio.sleep(0.05)

    return body


def fan_out(emulator: Emulator[Any], client: trioprov.Client | None) -> Body:
    async def body() -> None:
        async with trioprov.fan_out(QUESTION, [emulator.provider] * 3, client=client) as fan:
            async for _ in fan:
                pass
            await anyio.sleep(0.05)

    return body


def whole_calls(emulator: Emulator[Any], client: trioprov.Client | None) -> Body:
    async def body() -> None:
        await trioprov.ask(QUESTION, emulator.provider, client=client)
        await trioprov.gather(QUESTION, [emulator.provider] * 2, client=client)

    return body


BODIES = [session, fan_out, whole_calls]


async def left(
    way: Way, body: Callable[[Emulator[Any], trioprov.Client | None], Body], emulator: Emulator[Any], after: float
) -> None:
    """One way, with a client and without; what is cancelled waits for its cleanup only without."""
    await way(body(emulator, None), after)
    assert_no_orphans(emulator)
    async with trioprov.open_client() as client:
        await way(body(emulator, client), after)
    assert_no_orphans(emulator)


@pytest.mark.parametrize("after", INSTANTS.values(), ids=INSTANTS)
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("way", COMMON)
def test_nothing_is_left_by_what_every_loop_has(
    run: Run, emulated: Emulated, way: Way, body: Any, after: float
) -> None:
    with emulated(**SLOW) as emulator:
        run(lambda: left(way, body, emulator, after))


@pytest.mark.parametrize("after", INSTANTS.values(), ids=INSTANTS)
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("way", NATIVE)
def test_nothing_is_left_by_what_asyncio_adds(
    run_asyncio: Run, emulated: Emulated, way: Way, body: Any, after: float
) -> None:
    with emulated(**SLOW) as emulator:
        run_asyncio(lambda: left(way, body, emulator, after))


@pytest.mark.parametrize("way", [anyio_scope, ten_times])
def test_nothing_is_left_on_any_service(
    emulated: Emulated, slow: dict[str, Any], service: type[Provider], way: Way
) -> None:
    with emulated(service, **slow) as emulator:
        asyncio.run(left(way, session, emulator, INSTANTS["stream"]))


def test_leaving_by_a_cancellation_with_a_client_returns_at_once(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        async with trioprov.open_client() as client:
            with anyio.CancelScope() as scope:
                async with trioprov.open_session(emulator.provider, client=client):
                    scope.cancel()
                    await anyio.sleep_forever()
            assert len(emulator.conversations) == 1
        assert_no_orphans(emulator)

    with emulated(faults=[Fault(on="delete", delay=0.2)]) as emulator:
        run(main)


def test_a_create_that_is_cancelled_is_finished_and_deleted(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        with anyio.move_on_after(0.5) as scope:
            async with trioprov.open_session(emulator.provider):
                raise AssertionError
        assert scope.cancelled_caught
        assert [request.path for request in emulator.requests if request.method == "DELETE"]

    with emulated(faults=[Fault(on="create", delay_response=1.0)]) as emulator:
        run(main)


def test_a_waiter_that_is_cancelled_leaves_the_reply_as_it_is(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        async with trioprov.open_session(emulator.provider) as session, session.ask(QUESTION) as reply:
            for _ in range(3):
                with anyio.move_on_after(0.01) as scope:
                    await reply.wait()
                assert scope.cancelled_caught
                assert reply.finish is None
            with reply.subscribe(replay=False) as events, anyio.move_on_after(0):
                await events.receive()
            assert (await reply.wait()).finish_reason == "stop"

    with emulated(token_delay=0.005) as emulator:
        run(main)


def test_a_handle_nobody_refers_to_is_closed(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        async with trioprov.open_client() as client:
            for given in (client, None):
                opened = trioprov.open_session(emulator.provider, client=given)
                session = await opened.__aenter__()
                asking = session.ask(QUESTION)
                reply = await asking.__aenter__()
                tokens = aiter(reply)
                await anext(tokens)
                del session, opened
                gc.collect()
                await anyio.sleep(0.02)
                assert len(emulator.conversations) == 1
                del reply, asking, tokens
                await gone(emulator)

    with emulated(token_delay=0.005) as emulator:
        run(main)


def test_a_generator_abandoned_at_its_yield_leaves_nothing(run_asyncio: Run, emulated: Emulated) -> None:
    async def tokens() -> AsyncGenerator[str, None]:
        async with trioprov.open_session(emulator.provider) as session, session.ask(QUESTION) as reply:
            async for token in reply:
                yield token

    async def main() -> None:
        async for _ in tokens():
            break
        await gone(emulator)

    async def ends() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        for _ in range(8):
            kept.append(tokens())
            await anext(kept[-1])

    kept: list[AsyncGenerator[str, None]] = []
    failures: list[dict[str, Any]] = []
    with emulated(token_delay=0.005) as emulator:
        run_asyncio(main)
        run_asyncio(ends)
        assert_no_orphans(emulator)
    assert not failures


def test_a_cancellation_is_counted_once_for_each_that_was_sent(run_asyncio: Run, emulated: Emulated) -> None:
    async def main() -> None:
        async def body() -> None:
            try:
                async with trioprov.open_session(emulator.provider):
                    await asyncio.sleep(5)
            finally:
                counts.append(cancelling())

        counts: list[int] = []
        task = asyncio.ensure_future(body())
        await asyncio.sleep(0.05)
        for _ in range(3):
            task.cancel("mine")
            await asyncio.sleep(0.01)
        with pytest.raises(asyncio.CancelledError, match="mine"):
            await task
        assert counts == [3]

    with emulated(faults=[slow_at("delete")]) as emulator:
        run_asyncio(main)


def test_a_scope_and_a_timeout_of_asyncio_recognise_their_own_cancellations_in_either_order(
    run_asyncio: Run, emulated: Emulated
) -> None:
    async def ask() -> None:
        await trioprov.ask(QUESTION, emulator.provider)

    async def converse() -> None:
        async with trioprov.open_session(emulator.provider):
            await asyncio.sleep(5)

    async def main() -> None:
        for body in (ask, converse):
            with anyio.move_on_after(0.1) as scope:
                async with asyncio.timeout(0.2):
                    await body()
            assert scope.cancelled_caught
            with pytest.raises(TimeoutError), anyio.move_on_after(0.2):
                async with asyncio.timeout(0.1):
                    await body()
            assert cancelling() == 0

    with emulated(token_delay=5, faults=[Fault(on="delete", times=4, delay_response=0.3)]) as emulator:
        run_asyncio(main)


def slow_at(step: str) -> Fault:
    return Fault(on=step, delay_response=0.2)


def test_whoever_waits_for_a_cleanup_keeps_nobody_else_waiting(run_asyncio: Run, emulated: Emulated) -> None:
    async def main() -> None:
        async def body() -> None:
            async with trioprov.open_session(emulator.provider):
                entered.set()
                await asyncio.sleep(5)

        entered = asyncio.Event()
        task = asyncio.ensure_future(body())
        await entered.wait()
        late = 0.0
        for _ in range(10):
            task.cancel()
            before = asyncio.get_running_loop().time()
            await asyncio.sleep(0.01)
            late = max(late, asyncio.get_running_loop().time() - before)
        assert late < 0.3
        assert not task.done()
        with suppress(asyncio.CancelledError):
            await task

    with emulated(faults=[Fault(on="delete", delay=0.6)]) as emulator:
        run_asyncio(main)


async def gone(emulator: Emulator[Any]) -> None:
    with anyio.fail_after(5):
        while emulator.conversations:
            gc.collect()
            await anyio.sleep(0.005)


def test_the_loop_rests_while_a_cancelled_scope_waits_for_the_cleanup(
    run_asyncio: Run, emulated: Emulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait: Any = asyncio.wait
    waits = 0

    async def counted(*args: Any, **how: Any) -> Any:
        nonlocal waits
        waits += 1
        return await wait(*args, **how)

    async def main() -> None:
        with anyio.move_on_after(0.1) as scope:
            async with trioprov.open_session(emulator.provider):
                pass
        assert scope.cancelled_caught

    monkeypatch.setattr(asyncio, "wait", counted)
    with emulated(faults=[Fault(on="create", delay_response=0.6)]) as emulator:
        run_asyncio(main)
    assert waits < 20  # and not once in every turn of the loop, in which anyio cancels again
