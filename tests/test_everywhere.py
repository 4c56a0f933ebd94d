"""Every scenario, on every service, struck at every step of the scheduler: nothing stays behind.

Run as a program, this prints the figure: ``python tests/test_everywhere.py``. It and the tests spread the sweeps over
the processors, each in a process that is fed names.
"""

from __future__ import annotations

import concurrent.futures
import json
import logging
import os
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Literal, TypedDict, cast

import httpx
import pytest
import trio
import trio.testing

import trioprov
from trioprov import AllenAI, Client, H2o, OpenAssistant
from trioprov.providers import Provider
from trioprov.testing import EverywhereReport, Fault, Struck, cancel_everywhere
from trioprov.testing._memory import MemoryNetwork, MemorySocket

SERVICES: tuple[type[Provider], ...] = (H2o, OpenAssistant, AllenAI)

QUESTION = "Why is the sky blue?"

# Virtual seconds: enough for each token to arrive in a packet, and at an instant, of its own.
SCRIPT: dict[str, Any] = {"tokens": ["Light", " scatters."], "first_delay": 1.0, "token_delay": 0.5}


async def open_and_exit(provider: Provider, client: Client) -> None:
    async with trioprov.open_session(provider, client=client):
        pass


async def ask_and_read(provider: Provider, client: Client) -> None:
    async with trioprov.open_session(provider, client=client) as session, session.ask(QUESTION) as reply:
        assert "".join([token async for token in reply]) == "Light scatters."


async def without_client(provider: Provider, _: Client) -> None:
    async with trioprov.open_reply(QUESTION, provider) as reply:
        assert (await reply.wait()).text == "Light scatters."


async def break_early(provider: Provider, client: Client) -> None:
    async with trioprov.open_session(provider, client=client) as session, session.ask(QUESTION) as reply:
        async for _ in reply:
            break


async def two_consumers(provider: Provider, client: Client) -> None:
    """One reads; one holds the stream back for a while."""

    async def read(events: trioprov.Subscription[trioprov.Event], delay: float) -> None:
        await trio.sleep(delay)
        with events:
            async for _ in events:
                pass

    async with (
        trioprov.open_session(provider, client=client) as session,
        session.ask(QUESTION) as reply,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(read, reply.subscribe(), 0)
        nursery.start_soon(read, reply.subscribe(buffer=0), 10)
        await reply.wait()


async def follow_up(provider: Provider, client: Client) -> None:
    async with trioprov.open_session(provider, client=client) as session:
        for _ in range(2):
            async with session.ask(QUESTION) as reply:
                await reply.wait()


async def stop_and_go_on(provider: Provider, client: Client) -> None:
    async with trioprov.open_session(provider, client=client) as session:
        async with session.ask(QUESTION) as reply:
            async for _ in reply:
                reply.stop()
        async with session.ask(QUESTION) as reply:
            await reply.wait()


async def keep_and_delete(provider: Provider, client: Client) -> None:
    """What is kept is continued, and in any case deleted."""
    kept: trioprov.Session | None = None
    try:
        async with trioprov.open_session(provider, client=client) as session:
            async with session.ask(QUESTION) as reply:
                await reply.wait()
            session.keep()
            kept = session
        async with trioprov.open_session(provider, client=client, conversation=session.conversation) as session:
            session.keep()
            kept = session
            async with session.ask(QUESTION) as reply:
                await reply.wait()
    finally:
        if kept is not None:
            with trio.CancelScope(shield=True):
                await kept.aclose()  # it may be reading on, where the service cannot stop
                await trioprov.delete_conversation(provider, kept.conversation, client=client)


async def in_a_nursery(provider: Provider, client: Client) -> None:
    async with trio.open_nursery() as nursery:
        session: trioprov.Session = await nursery.start(run_session, provider, client)
        async with session.ask(QUESTION) as reply:
            await reply.wait()
        session.close()


async def run_session(  # noqa: ASYNC128 - passed on
    provider: Provider, client: Client, *, task_status: trio.TaskStatus[trioprov.Session] = trio.TASK_STATUS_IGNORED
) -> None:
    await trioprov.run_session(provider, client=client, task_status=task_status)


async def fan_out(providers: tuple[Provider, ...], client: Client) -> None:
    async with trioprov.fan_out(QUESTION, providers, client=client) as fan:
        async for _ in fan:
            pass


async def gather_one_by_one(providers: tuple[Provider, ...], client: Client) -> None:
    answers = await trioprov.gather(QUESTION, providers, client=client, max_concurrent=1)
    assert [answer.text for answer in answers] == ["Light scatters."] * len(providers)


async def race(providers: tuple[Provider, ...], client: Client) -> None:
    async with trioprov.race(QUESTION, providers, client=client, stagger=0.2) as reply:
        assert (await reply.wait()).text == "Light scatters."


async def race_without_client(providers: tuple[Provider, ...], _: Client) -> None:
    async with trioprov.race(QUESTION, providers, until="finished") as reply:
        assert reply.text == "Light scatters."


async def again(provider: Provider, _: Client) -> None:
    """The server has no time at first."""
    async with trioprov.open_client(retry=trioprov.Retry(delay=3)) as client:
        assert (await trioprov.ask(QUESTION, provider, client=client)).text == "Light scatters."


async def through_httpx(provider: Provider, _: Client) -> None:
    """As with a proxy, or a transport of the user's."""
    async with trioprov.open_client(transport=httpx.AsyncHTTPTransport(verify=False)) as client:
        assert (await trioprov.ask(QUESTION, provider, client=client)).text == "Light scatters."


ALONE: Sequence[Callable[[Provider, Client], Awaitable[object]]] = (
    open_and_exit,
    ask_and_read,
    without_client,
    break_early,
    two_consumers,
    follow_up,
    stop_and_go_on,
    keep_and_delete,
    in_a_nursery,
    through_httpx,
)

# The request that a server which has no time refuses.
BUSY: dict[type[Provider], str] = {H2o: "generate", OpenAssistant: "assistant", AllenAI: "stream"}

SWEEPS: Mapping[str, Callable[[], Awaitable[EverywhereReport]]] = {
    # The longest first, so that no processor is left with one at the end.
    "fan_out, all": lambda: cancel_everywhere(fan_out, SERVICES, **SCRIPT),
    "race, all": lambda: cancel_everywhere(race, SERVICES, **SCRIPT),
    "race_without_client, two": lambda: cancel_everywhere(race_without_client, (H2o, OpenAssistant), **SCRIPT),
    "gather_one_by_one, two": lambda: cancel_everywhere(gather_one_by_one, (H2o, AllenAI), **SCRIPT),
    **{
        f"{scenario.__name__}, {service.name}": partial(cancel_everywhere, scenario, service, **SCRIPT)
        for scenario in ALONE
        for service in SERVICES
    },
    **{
        f"again, {service.name}": partial(
            cancel_everywhere, again, service, faults=[Fault(on=BUSY[service], status=503)], **SCRIPT
        )
        for service in SERVICES
    },
    **{
        f"ask_and_read, {service.name}, sockets": partial(
            cancel_everywhere, ask_and_read, service, sockets=True, tokens=SCRIPT["tokens"]
        )
        for service in SERVICES
    },
}


class Figure(TypedDict):
    points: int
    orphans: int
    problems: int
    text: str


def work() -> None:
    """Sweep what is named on standard input, one figure a line."""
    for line in sys.stdin:
        try:
            report = trio.run(SWEEPS[line.strip()])
            text = "\n".join(str(leftover) for leftover in (*report.orphans, *report.problems)[:20])
            figure = Figure(points=report.points, orphans=len(report.orphans), problems=len(report.problems), text=text)
        except Exception:
            figure = Figure(points=0, orphans=0, problems=1, text=traceback.format_exc())
        print(json.dumps(figure), flush=True)


@contextmanager
def figures(names: Sequence[str]) -> Generator[Mapping[str, concurrent.futures.Future[Figure]]]:
    """The sweeps' figures, made by a process for each processor."""
    mine = threading.local()
    processes: list[subprocess.Popen[str]] = []

    def start() -> None:
        command = [sys.executable, __file__, "--work"]
        mine.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(mine.process)

    def figure(name: str) -> Figure:
        mine.process.stdin.write(f"{name}\n")
        mine.process.stdin.flush()
        line = mine.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that swept {name!r} died, with status {mine.process.wait()}")
        return json.loads(line)

    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1, initializer=start)
    try:
        yield {name: pool.submit(figure, name) for name in names}
    finally:
        for process in processes:
            process.kill()
        pool.shutdown(cancel_futures=True)
        for process in processes:
            process.communicate()


@pytest.fixture(scope="module")
def sweeps(request: pytest.FixtureRequest) -> Iterator[Mapping[str, concurrent.futures.Future[Figure]]]:
    chosen = {item.name.partition("[")[2][:-1] for item in request.session.items}
    with figures([name for name in SWEEPS if name in chosen]) as found:
        yield found


@pytest.mark.parametrize("sweep", SWEEPS)
def test_nothing_stays_behind(sweep: str, sweeps: Mapping[str, concurrent.futures.Future[Figure]]) -> None:
    figure = sweeps[sweep].result()
    assert (figure["orphans"], figure["problems"]) == (0, 0), figure["text"]
    assert figure["points"] > 20


@pytest.mark.parametrize("service", [H2o, AllenAI])
async def test_a_generation_that_would_go_on_for_ever_is_stopped(service: type[Provider]) -> None:
    report = await cancel_everywhere(break_early, service, how=["cancel"], forever=True, token_delay=5)
    report.check()


# -- The tool itself, as a user would use it ---------------------------------------------------------------------------


async def naive(provider: H2o, client: Client) -> None:
    """Create, stream, and delete after the loop: what every client does."""
    headers = {"cookie": "hf-chat=me"}
    async with httpx.AsyncClient(base_url=provider.base_url, headers=headers, verify=False) as http:
        response = await http.post("/conversation", json={"model": provider.model})
        path = f"/conversation/{response.json()['conversationId']}"
        async with http.stream("POST", path, json={"inputs": QUESTION, "stream": True}) as stream:
            async for _ in stream.aiter_bytes():
                pass
        await http.delete(path)


NAIVE: dict[str, Any] = {"disclaimer": False, "tokens": ["Light"], "token_delay": 1}


async def test_what_every_client_does_leaves_orphans() -> None:
    report = await cancel_everywhere(naive, H2o, **NAIVE)
    assert 50 < len(report.orphans) < report.points
    assert {leftover.how for leftover in report.orphans} == {"cancel", "exception", "crash"}
    orphan = report.orphans[0]
    assert "on h2o" in orphan.what
    assert f"cancel at point {orphan.point} ({orphan.where}): conversation" in str(orphan)
    with pytest.raises(AssertionError, match=r"(?s)\d+ points, \d+ orphans.*cancel at point .*… and \d+ more"):
        report.check()


async def test_one_point_can_be_looked_at_again() -> None:
    report = await cancel_everywhere(naive, H2o, how=["cancel"], **NAIVE)
    orphan = report.orphans[10]
    again = await cancel_everywhere(naive, H2o, how=["cancel"], at=[orphan.point], **NAIVE)
    assert again.points == 1
    assert again.orphans[0].where == orphan.where


async def test_a_step_is_the_same_one_in_every_run() -> None:
    reports = [await cancel_everywhere(naive, H2o, seed=seed, **NAIVE) for seed in (0, 0, 1)]
    first, second, other = ([(one.how, one.point, one.where) for one in report.orphans] for report in reports)
    assert first == second != other
    assert reports[0].points == reports[1].points


async def test_a_step_is_the_same_one_whatever_another_trio_does() -> None:
    async def restless() -> None:
        while True:
            await trio.lowlevel.checkpoint()

    alone = await cancel_everywhere(naive, H2o, how=["cancel"], **NAIVE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(restless)
        nursery.start_soon(restless)
        beside = await cancel_everywhere(naive, H2o, how=["cancel"], **NAIVE)
        nursery.cancel_scope.cancel()
    assert [(one.point, one.where) for one in beside.orphans] == [(one.point, one.where) for one in alone.orphans]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(on="create", lose_response=True),
        Fault(on="delete", lose_response=True),
        Fault(on="delete", drop=True),
        Fault(on="delete", status=503),
    ],
)
async def test_a_bad_day_of_the_server_does_not_matter_where_the_conversation_can_be_found(fault: Fault) -> None:
    async def ask(provider: H2o, client: Client) -> None:
        with suppress(trioprov.ConnectionFailed):
            await trioprov.ask(QUESTION, provider, client=client)

    (await cancel_everywhere(ask, H2o, how=["cancel"], faults=[fault])).check()


async def test_the_exception_is_raised_in_the_scenario_and_the_crash_beside_it() -> None:
    seen: list[str] = []

    async def watch(provider: Provider, client: Client) -> None:
        try:
            await ask_and_read(provider, client)
        except BaseException as exc:
            seen.append(type(exc).__name__)
            raise

    ways: Sequence[tuple[Literal["cancel", "exception", "crash"], str]]
    ways = [("cancel", "Cancelled"), ("exception", "Struck"), ("crash", "Cancelled")]
    for how, name in ways:
        seen.clear()
        report = await cancel_everywhere(watch, AllenAI, how=[how], **SCRIPT)
        report.check()
        assert set(seen) == {name}
        assert len(seen) > report.points / 3


async def test_an_exception_reaches_a_nursery_as_its_own_block_would_raise_it() -> None:
    seen: list[BaseException] = []

    async def watch(provider: Provider, client: Client) -> None:
        try:
            await two_consumers(provider, client)
        except BaseException as exc:
            seen.append(exc)
            raise

    (await cancel_everywhere(watch, AllenAI, how=["exception"], **SCRIPT)).check()
    groups = [cast("ExceptionGroup[Exception]", exc) for exc in seen if isinstance(exc, ExceptionGroup)]
    assert len(groups) > 10
    assert all(isinstance(exc, Struck) for group in groups for exc in group.exceptions)


async def test_what_is_kept_on_purpose_is_no_orphan_and_must_not_be_gone() -> None:
    kept: set[str | None] = set()

    async def keep(provider: H2o, client: Client) -> None:
        async with trioprov.open_session(provider, client=client) as session:
            kept.add(session.keep().id)

    (await cancel_everywhere(keep, H2o, kept=kept)).check()
    forgotten = await cancel_everywhere(keep, H2o, how=["cancel"])
    assert len(forgotten.orphans) > 5
    assert forgotten.orphans[0].point == 0  # undisturbed, too

    async def not_really(provider: H2o, client: Client) -> None:
        async with trioprov.open_session(provider, client=client) as session:
            kept.add(session.conversation.id)

    gone = await cancel_everywhere(not_really, H2o, how=["cancel"], kept=kept)
    assert not gone.orphans
    assert "was kept, and is gone" in gone.problems[0].what


async def test_whatever_else_goes_wrong_is_told() -> None:
    async def bad(provider: H2o, _: Client) -> None:
        trio.lowlevel.spawn_system_task(trio.sleep_forever, name="stray")
        warnings.warn("mind the gap", stacklevel=1)
        logging.getLogger("trioprov").error("a bug")
        await httpx.AsyncClient(base_url=provider.base_url).get("/")  # it stays open

    report = await cancel_everywhere(bad, H2o, how=["cancel"], at=[0])
    told = " ".join(leftover.what for leftover in report.problems)
    for word in ("a task goes on: stray", "UserWarning: mind the gap", "logged: a bug", "connections to h2o are open"):
        assert word in told


async def test_another_exception_than_the_one_delivered_is_a_problem() -> None:
    async def confused(_: Provider, __: Client) -> None:
        try:
            await trio.sleep(1)
        except Struck:
            raise LookupError("what?") from None

    report = await cancel_everywhere(confused, H2o, how=["exception"])
    assert {leftover.what for leftover in report.problems} == {"it raised LookupError('what?')"}


async def test_a_scenario_that_fails_undisturbed_raises() -> None:
    async def broken(_: Provider, __: Client) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await cancel_everywhere(broken, H2o)


async def test_what_it_cannot_emulate_is_an_error() -> None:
    with pytest.raises(LookupError, match="no emulator"):
        await cancel_everywhere(follow_up, type("Foreign", (H2o,), {"name": "mistral"}))
    with pytest.raises(TypeError, match="tokns"):
        await cancel_everywhere(follow_up, H2o, tokns=["a"])


async def test_two_at_once_and_a_cancelled_one() -> None:
    reports: list[EverywhereReport] = []

    async def one() -> None:
        reports.append(await cancel_everywhere(open_and_exit, AllenAI))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one)
        nursery.start_soon(one)
        with trio.move_on_after(0.05) as scope:
            await cancel_everywhere(naive, H2o, **NAIVE)
    assert scope.cancelled_caught
    assert reports[0] == reports[1]
    assert str(reports[0] + reports[1]) == f"{2 * reports[0].points} points, 0 orphans, 0 other problems"


# -- The network in memory ---------------------------------------------------------------------------------------------


async def connected() -> tuple[trio.SocketStream, trio.SocketStream]:
    network = MemoryNetwork()
    others: list[trio.SocketStream] = []
    network.servers[80] = others.append
    trio.socket.set_custom_socket_factory(network)
    try:
        return await trio.open_tcp_stream("127.0.0.1", 80), others[0]
    finally:
        trio.socket.set_custom_socket_factory(None)


async def test_memory_carries_bytes_both_ways_to_the_end() -> None:
    ours, theirs = await connected()
    await ours.send_all(b"ping")
    assert await theirs.receive_some(2) == b"pi"
    assert theirs.socket.is_readable()
    assert await theirs.receive_some() == b"ng"
    await theirs.send_all(b"pong")
    await theirs.send_eof()
    assert await ours.receive_some() == b"pong"
    assert await ours.receive_some() == b""
    await ours.send_all(b"still")
    assert await theirs.receive_some() == b"still"
    await ours.aclose()
    assert await theirs.receive_some() == b""
    with pytest.raises(trio.ClosedResourceError):
        await theirs.send_all(b"late")


async def test_memory_refuses_breaks_and_wakes_like_the_real_thing() -> None:
    with pytest.raises(ConnectionRefusedError):
        await MemorySocket(MemoryNetwork()).connect(("127.0.0.1", 81))
    ours, theirs = await connected()
    await theirs.send_all(b"unread")
    await ours.aclose()  # with something unread: a reset
    with pytest.raises(trio.BrokenResourceError):
        await theirs.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await theirs.send_all(b"x")
    ours, theirs = await connected()
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await ours.receive_some()

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        await ours.aclose()


async def test_memory_holds_a_writer_back() -> None:
    ours, theirs = await connected()
    with trio.move_on_after(0.05) as scope:
        await ours.send_all(bytes(100_000))
    assert scope.cancelled_caught
    assert len(await theirs.receive_some(100_000)) == 65536
    with trio.CancelScope() as cancelled:
        cancelled.cancel()
        await connected()
    assert cancelled.cancelled_caught


def main() -> None:
    """Print the figure."""
    began = time.perf_counter()
    points = orphans = problems = 0
    columns = "{:40}{:>8}{:>9}{:>10}"
    print(columns.format("scenario, service", "points", "orphans", "problems"))
    with figures(list(SWEEPS)) as found:
        for name, future in found.items():
            figure = future.result()
            print(columns.format(name, figure["points"], figure["orphans"], figure["problems"]), figure["text"])
            points, orphans = points + figure["points"], orphans + figure["orphans"]
            problems += figure["problems"]
    print(columns.format("in all", points, orphans, problems), f"in {time.perf_counter() - began:.0f} s")
    sys.exit(bool(orphans or problems))


if __name__ == "__main__":
    work() if sys.argv[1:] == ["--work"] else main()
