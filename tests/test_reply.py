"""A reply alone, without a service: its clock, its text, its limits, and the ways to read it."""

from __future__ import annotations

import gc
import inspect
import math
import weakref
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

import trioprov
from trioprov import (
    Answer,
    Deadlines,
    Finish,
    FirstTokenTimeout,
    IdleTimeout,
    Lagged,
    Notice,
    ProviderError,
    Queued,
    RemoteProtocolError,
    Reply,
    TotalTimeout,
    Usage,
)
from trioprov._events import Event
from trioprov._transcript import Transcript

FOREVER = Deadlines(first_token=None, idle=None)
STOP = Finish("stop")


class Session:
    """What a reply wants of its session."""

    def __init__(self) -> None:
        self.conversation = SimpleNamespace(id="c1")
        self.cleanup = SimpleNamespace(outcome="deleted")


def new_reply(deadlines: Deadlines = FOREVER, max_bytes: float = 2**24) -> tuple[Transcript, Reply]:
    transcript = Transcript(deadlines, max_bytes)
    provider: Any = SimpleNamespace(name="stand-in")
    session: Any = Session()
    return transcript, Reply(provider, session, transcript)


async def finished_reply(*events: Event, server_text: str | None = None) -> Reply:
    transcript, reply = new_reply()
    await transcript.write(events, server_text)
    return reply


async def events_of(reply: Reply) -> list[Event]:
    with reply.subscribe() as events:
        return [event async for event in events]


async def tokens_of(reply: Reply) -> list[str]:
    return [token async for token in reply]


async def nothing(_: Transcript) -> None:
    """A service that never says a word."""


async def ends(
    deadlines: Deadlines, service: Callable[[Transcript], Awaitable[None]] = nothing
) -> tuple[float, type[Exception] | None]:
    """When a reply ends, in seconds from the question, if its clock is heeded; and with what."""
    transcript, _ = new_reply(deadlines)
    changed = trio.lowlevel.ParkingLot()

    def poke() -> None:
        changed.unpark_all()

    transcript.changed = poke
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service, transcript)
        while transcript.finish is None:
            due, kind = transcript.due()
            if due <= trio.current_time():
                transcript.fail(kind("late"))
            else:
                with trio.CancelScope(deadline=due):
                    await changed.park()
        nursery.cancel_scope.cancel()
    error = transcript.finish.error
    return round(trio.current_time() - begun, 6), None if error is None else type(error)


# A step of a scripted service: what it says, after how many seconds.
Step = tuple[float, list[Event]]


def says(*steps: Step) -> Callable[[Transcript], Awaitable[None]]:
    async def service(transcript: Transcript) -> None:
        for seconds, events in steps:
            await trio.sleep(seconds)
            await transcript.write(events)

    return service


# -- Deadlines ---------------------------------------------------------------------------------------------------------


def test_without_a_word_a_reply_has_60_seconds_to_begin_and_to_go_on_and_no_limit_in_all() -> None:
    assert Deadlines() == Deadlines(first_token=60.0, idle=60.0, total=None)


@pytest.mark.parametrize("name", ["first_token", "idle", "total"])
def test_deadlines_are_seconds_or_none(name: str) -> None:
    for good in (None, 1, 0.001, 1e9, math.inf):
        limits: dict[str, Any] = {name: good}
        assert getattr(Deadlines(**limits), name) == good
    for wrong in (0, 0.0, -1, -math.inf, math.nan):
        with pytest.raises(ValueError, match=f"{name} must be more than 0 seconds"):
            Deadlines(**{name: wrong})
    for wrong in ("60", b"1", True, [1], 1j):
        limits = {name: wrong}
        with pytest.raises(TypeError, match=f"{name} must be a number of seconds or None"):
            Deadlines(**limits)


def test_deadlines_are_frozen_values_without_positions() -> None:
    limits: Any = Deadlines
    with pytest.raises(TypeError):
        limits(1.0)
    with pytest.raises(AttributeError):
        limits().idle = 1.0
    assert hash(Deadlines()) == hash(Deadlines())


@pytest.mark.parametrize(
    ("deadlines", "expected"),
    [
        (Deadlines(), (60, FirstTokenTimeout)),
        (Deadlines(first_token=5), (5, FirstTokenTimeout)),
        (Deadlines(first_token=5, total=3), (3, TotalTimeout)),
        (Deadlines(first_token=None, total=300), (300, TotalTimeout)),
        (Deadlines(first_token=None, idle=1, total=300), (300, TotalTimeout)),
    ],
)
async def test_a_service_that_never_says_a_word_is_late(
    autojump_clock: trio.testing.MockClock, deadlines: Deadlines, expected: tuple[float, type[Exception]]
) -> None:
    assert await ends(deadlines) == expected


LIMITS = Deadlines(first_token=10, idle=2, total=100)
WAITING: list[Step] = [(1, [Queued(position)]) for position in (3, 3, 3, 3)]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([(9, ["a"]), (1.9, ["b"]), (1.9, [STOP])], (12.8, None), id="in time"),
        pytest.param([(9, ["a"])], (11, IdleTimeout), id="idle begins with the first token"),
        pytest.param([(1, ["a"]), (1, ["b"])], (4, IdleTimeout), id="a token restarts idle"),
        pytest.param([(1, ["a"])] * 200, (100, TotalTimeout), id="total counts whatever comes"),
        pytest.param([(1, ["a"]), (1, [Notice("x", "y")])], (3, IdleTimeout), id="a notice does not restart idle"),
        pytest.param([(1, ["a"]), (1, [Queued(2)]), (0.5, [Queued(1)])], (3, IdleTimeout), id="nor a queue position"),
        pytest.param([(1, ["a"]), (1, ["b", Notice("x", "y")])], (4, IdleTimeout), id="a token and a notice do"),
        pytest.param([(1, [Notice("x", "y")])] * 20, (10, FirstTokenTimeout), id="a notice is no token"),
        pytest.param([(1, [Queued(3)])] * 20, (10, FirstTokenTimeout), id="a queue that stands still counts"),
        pytest.param([(1, [Queued(n)]) for n in range(20)], (10, FirstTokenTimeout), id="a rising one counts"),
        pytest.param([(1, [Queued(9 - n)]) for n in range(10)], (19, FirstTokenTimeout), id="a falling one does not"),
        pytest.param([*WAITING, (1, [Queued(2)])], (14, FirstTokenTimeout), id="whether told once or every second"),
        pytest.param([(9, [Queued(3)]), (0.5, [Queued(2)])], (10.5, FirstTokenTimeout), id="what was before it counts"),
        pytest.param([(1, [Queued(5), Queued(4)]), (5, [Queued(4)])], (10, FirstTokenTimeout), id="two at once"),
        pytest.param([(1, [Queued(n)]) for n in (3, 5, 4, 3, 4)], (10, FirstTokenTimeout), id="up and down is no way"),
        pytest.param([(5, [Queued(1)]), (4, [Queued(0)]), (4, ["a"])], (15, IdleTimeout), id="then a token"),
    ],
)
async def test_the_clock_heeds_only_what_counts(
    autojump_clock: trio.testing.MockClock, steps: list[Step], expected: tuple[float, type[Exception] | None]
) -> None:
    steps = [*steps, (1000, [])] if expected[1] else [*steps[:-1], (steps[-1][0], [STOP])]
    assert await ends(LIMITS, says(*steps)) == expected


def held(seconds: float, *steps: Step) -> Callable[[Transcript], Awaitable[None]]:
    """A service whose second event at once fills the buffer of a reader that sleeps for ``seconds`` before it reads."""

    async def service(transcript: Transcript) -> None:
        reader = trioprov.Subscription(
            transcript.log, transcript.log.subscribe(buffer=1, when_full="wait", replay=True)
        )

        async def read() -> None:
            await trio.sleep(seconds)
            async for _ in reader:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await says(*steps)(transcript)
            await trio.sleep(1000)

    return service


@pytest.mark.parametrize(
    ("seconds", "steps", "expected"),
    [
        pytest.param(50, [(1, ["a", "b"])], (52, IdleTimeout), id="idle stands still while held"),
        pytest.param(50, [(1, ["a"]), (1, ["b"])], (52, IdleTimeout), id="also between two tokens"),
        pytest.param(500, [(1, ["a", "b"])], (100, TotalTimeout), id="total does not"),
        pytest.param(50, [(1, [Queued(3), Queued(3)])], (59, FirstTokenTimeout), id="first_token stands still"),
        pytest.param(
            50, [(1, [Queued(3), Queued(3)]), (3, [Queued(2)])], (62, FirstTokenTimeout), id="and is put back once"
        ),
    ],
)
async def test_time_in_which_our_own_readers_hold_the_stream_back_counts_for_total_only(
    autojump_clock: trio.testing.MockClock, seconds: float, steps: list[Step], expected: tuple[float, type[Exception]]
) -> None:
    assert await ends(LIMITS, held(seconds, *steps)) == expected


async def test_without_limits_nothing_is_ever_due(autojump_clock: trio.testing.MockClock) -> None:
    transcript, _ = new_reply(FOREVER)
    assert transcript.due()[0] == math.inf
    await transcript.write(["a"])
    assert transcript.due()[0] == math.inf


async def test_the_clock_can_begin_anew_for_a_question_that_had_to_wait_for_its_turn(
    autojump_clock: trio.testing.MockClock,
) -> None:
    transcript, reply = new_reply(LIMITS)
    await trio.sleep(9)
    transcript.begin()
    assert transcript.due() == (trio.current_time() + 10, FirstTokenTimeout)
    await trio.sleep(3)
    await transcript.write(["a", STOP])
    assert (await reply.wait()).time_to_first_token == 3


# -- Text --------------------------------------------------------------------------------------------------------------


async def test_the_text_is_the_tokens_joined_with_every_blank_and_nothing_else() -> None:
    transcript, reply = new_reply()
    assert reply.text == ""
    await transcript.write([Queued(1), "  a", "\n", Notice("thought", "x"), " ", "<|endoftext|"])
    assert reply.text == "  a\n <|endoftext|"
    await transcript.write(["", "b\r\n"])
    await transcript.write([])
    assert reply.text == "  a\n <|endoftext|b\r\n"
    assert reply.finish is None
    await transcript.write([STOP])
    assert (reply.text, reply.finish) == ("  a\n <|endoftext|b\r\n", STOP)
    assert (await reply.wait()).text == reply.text


async def test_the_text_so_far_is_there_after_a_stop() -> None:
    transcript, reply = new_reply()
    await transcript.write(["a", "b"])
    reply.stop()
    await transcript.write(["c", STOP])
    assert (reply.text, reply.finish) == ("ab", Finish("interrupted"))


async def test_the_text_so_far_is_there_after_a_failure_and_in_its_error() -> None:
    transcript, reply = new_reply()
    await transcript.write(["a"])
    await transcript.write(["b", Finish("error", ProviderError("no"))])
    assert reply.text == "ab"
    assert reply.finish is not None
    assert isinstance(reply.finish.error, ProviderError)
    assert reply.finish.error.partial == "ab"
    with pytest.raises(ProviderError) as caught:
        await reply.wait()
    assert caught.value.partial == "ab"


async def test_any_exception_may_end_a_reply() -> None:
    transcript, reply = new_reply()
    transcript.fail(ValueError("not that"))
    with pytest.raises(ValueError, match="not that"):
        await reply.wait()


async def test_only_the_first_end_counts() -> None:
    transcript, reply = new_reply()
    transcript.fail(ProviderError("first"))
    finish = reply.finish
    transcript.fail(ProviderError("second"))
    transcript.stop()
    await transcript.write(["late", STOP])
    assert reply.finish is finish
    assert await events_of(reply) == [finish]


@pytest.mark.parametrize(
    ("tokens", "server_text", "expected"),
    [
        (["Hel"], "Hello", ["Hel", "lo"]),
        (["Hel", "lo"], "Hello", ["Hel", "lo"]),
        ([], "Hello", ["Hello"]),
        (["Hello"], None, ["Hello"]),
        (["Hello", " "], "Hello", ["Hello", " "]),
        ([" Hello"], "Hello there", [" Hello"]),
        (["Hello"], "Bye, and more", ["Hello"]),
        (["Hello"], "", ["Hello"]),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
async def test_only_a_final_text_that_continues_the_tokens_adds_one(
    tokens: list[Event], server_text: str | None, expected: list[str], at_once: bool
) -> None:
    transcript, reply = new_reply()
    if at_once:
        await transcript.write([*tokens, STOP], server_text)
    else:
        await transcript.write(tokens)
        await transcript.write([STOP], server_text)
    assert await events_of(reply) == [*expected, STOP]
    answer = await reply.wait()
    assert (answer.text, answer.server_text) == ("".join(expected), server_text)


async def test_a_final_text_before_the_end_adds_nothing() -> None:
    transcript, reply = new_reply()
    await transcript.write(["Hel"], "Hello")
    assert reply.text == "Hel"


async def test_a_reply_whose_only_token_is_its_final_text_has_a_first_token(
    autojump_clock: trio.testing.MockClock,
) -> None:
    transcript, reply = new_reply()
    await trio.sleep(2)
    await transcript.write([STOP], "Hello")
    assert (await reply.wait()).time_to_first_token == 2


async def test_the_tail_waits_for_its_turn_like_every_token() -> None:
    transcript, reply = new_reply()
    events = reply.subscribe(buffer=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transcript.write, ["Hel", STOP], "Hello")
        await trio.testing.wait_all_tasks_blocked()
        assert (reply.text, reply.finish) == ("Hel", None)
        assert [event async for event in events] == ["Hel", "lo", STOP]


# -- Limits ------------------------------------------------------------------------------------------------------------


def test_a_reply_may_have_16_mib_unless_the_client_says_otherwise() -> None:
    assert inspect.signature(trioprov.open_client).parameters["max_reply_bytes"].default == 16 * 2**20


@pytest.mark.parametrize(
    ("max_bytes", "tokens", "fitting"),
    [
        (6, ["abc", "def"], "abcdef"),
        (5, ["abc", "def"], "abc"),
        (2, ["abc", "def"], ""),
        (6, ["äö", "ü"], "äöü"),
        (5, ["äö", "ü", "x"], "äö"),
        (7, ["😀", "😀"], "😀"),
        (8, ["😀", "😀"], "😀😀"),
        (3, ["a", "b", "c", "d", "e"], "abc"),
        (1, ["\ud83d"], "\ud83d"),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_reply_that_is_too_long_is_cut_after_the_last_token_that_fits(
    max_bytes: int, tokens: list[Event], fitting: str, at_once: bool
) -> None:
    transcript, reply = new_reply(max_bytes=max_bytes)
    for batch in [[*tokens, STOP]] if at_once else [*([token] for token in tokens), [STOP]]:
        await transcript.write(batch)
    assert reply.text == fitting
    if fitting == "".join(str(token) for token in tokens):
        assert reply.finish == STOP
    else:
        with pytest.raises(RemoteProtocolError, match=rf"longer than max_reply_bytes \({max_bytes} bytes\)") as caught:
            await reply.wait()
        assert caught.value.partial == fitting
    assert "".join(event for event in await events_of(reply) if isinstance(event, str)) == fitting


async def test_the_tail_counts_like_every_token() -> None:
    transcript, reply = new_reply(max_bytes=4)
    await transcript.write(["Hel", STOP], "Hello")
    with pytest.raises(RemoteProtocolError):
        await reply.wait()
    assert reply.text == "Hel"


async def test_queue_notices_cannot_fill_the_memory() -> None:
    transcript, reply = new_reply(max_bytes=2**16)
    await transcript.write(["a" * 2**15])
    for position in range(10_000):
        await transcript.write([Queued(position)])
    with pytest.raises(RemoteProtocolError):
        await reply.wait()
    assert 100 < len(await events_of(reply)) <= 2**15 / 16


async def test_a_few_notices_leave_nearly_all_of_the_room_to_the_text() -> None:
    transcript, reply = new_reply(max_bytes=2**16)
    await transcript.write([Notice("thought", "x"), Queued(1), "a" * (2**16 - 200), STOP])
    assert reply.finish == STOP


# -- stop --------------------------------------------------------------------------------------------------------------


async def test_stop_ends_the_reply_at_once_from_any_task_and_as_often_as_one_likes() -> None:
    transcript, reply = new_reply()
    pokes: list[bool] = []
    transcript.changed = lambda: pokes.append(trio.lowlevel.currently_ki_protected())
    await transcript.write(["a"])
    pokes.clear()

    async def stop() -> None:
        reply.stop()
        reply.stop()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop)
        nursery.start_soon(stop)
        answer = await reply.wait()
    assert (answer.text, answer.finish_reason, answer.error) == ("a", "interrupted", None)
    assert await events_of(reply) == ["a", Finish("interrupted")]
    assert pokes == [True], "its owner hears of it once, and Ctrl-C does not come between"


async def test_stop_after_the_end_changes_nothing() -> None:
    reply = await finished_reply("a", STOP)
    reply.stop()
    assert reply.finish == STOP


async def test_stop_sets_a_writer_free_that_a_reader_held_back() -> None:
    transcript, reply = new_reply()
    events = reply.subscribe(buffer=1)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transcript.write, ["a", "b", STOP], "ab")
            await trio.testing.wait_all_tasks_blocked()
            reply.stop()
    assert [event async for event in events] == ["a", Finish("interrupted")]
    answer = await reply.wait()
    assert (answer.text, answer.server_text) == ("a", None)


# -- wait and Answer ---------------------------------------------------------------------------------------------------


async def test_everybody_who_waits_gets_an_error_of_their_own_whose_cause_is_the_original() -> None:
    transcript, reply = new_reply()
    errors: list[ProviderError] = []

    async def wait() -> None:
        with pytest.raises(ProviderError, match="no") as caught:
            await reply.wait()
        errors.append(caught.value)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        original = ProviderError("no", status=400, code="x", retry_after=1.5)
        await transcript.write(["a", Finish("error", original)])
    with pytest.raises(ProviderError) as caught:
        await tokens_of(reply)
    errors.append(caught.value)
    assert len({id(error) for error in [original, *errors]}) == 5
    for error in errors:
        assert error.__cause__ is original
        facts = (error.status, error.code, error.retry_after, error.message, error.partial)
        assert facts == (400, "x", 1.5, "no", "a")
    assert original.__traceback__ is None


async def test_waiting_is_a_checkpoint_reads_nothing_and_can_be_cancelled() -> None:
    transcript, reply = new_reply()
    events = reply.subscribe(buffer=math.inf)
    with trio.move_on_after(0) as scope:
        await reply.wait()
    assert scope.cancelled_caught
    assert reply.finish is None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reply.wait)
        await trio.testing.wait_all_tasks_blocked()
        with trio.testing.assert_no_checkpoints():
            await transcript.write(["a"] * 1000)
            await transcript.write([STOP])
    with trio.testing.assert_checkpoints():
        await reply.wait()
    assert events.statistics().current_buffer_used == 1001


async def test_an_answer_tells_all_about_the_reply(autojump_clock: trio.testing.MockClock) -> None:
    transcript, reply = new_reply()
    await trio.sleep(2)
    await transcript.write([Queued(1)])
    await trio.sleep(1)
    await transcript.write(["Hel"])
    await trio.sleep(4)
    finish = Finish("length", usage=Usage(input_tokens=7))
    await transcript.write([finish], "Hello")
    await trio.sleep(100)
    answer = await reply.wait()
    assert answer == Answer(
        provider=reply.provider,
        text="Hello",
        server_text="Hello",
        finish_reason="length",
        usage=Usage(input_tokens=7, output_tokens=None),
        error=None,
        time_to_first_token=3.0,
        duration=7.0,
        conversation=reply.session.conversation,
        cleanup=reply.session.cleanup,
    )


async def test_what_is_not_known_is_none_and_not_0(autojump_clock: trio.testing.MockClock) -> None:
    reply = await finished_reply(STOP)
    await trio.sleep(5)
    answer = await reply.wait()
    assert (answer.usage, answer.time_to_first_token, answer.server_text, answer.error) == (None, None, None, None)
    assert (answer.text, answer.duration) == ("", 0.0)
    assert Usage() == Usage(input_tokens=None, output_tokens=None)


async def test_where_errors_are_values_the_answer_holds_the_error_and_the_text() -> None:
    transcript, reply = new_reply()
    error = ProviderError("no")
    await transcript.write(["a", Finish("error", error)])
    answer = transcript.answer(reply.provider)
    assert (answer.text, answer.error, answer.finish_reason, answer.conversation) == ("a", error, "error", None)


# -- async for ---------------------------------------------------------------------------------------------------------


async def test_every_loop_starts_at_the_first_token_and_skips_what_is_none() -> None:
    transcript, reply = new_reply()
    await transcript.write([Queued(2), "a", Notice("thought", "x"), "b"])
    async for token in reply:
        assert token == "a"
        break
    loops: list[list[str]] = []

    async def loop() -> None:
        loops.append(await tokens_of(reply))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop)
        nursery.start_soon(loop)
        await trio.testing.wait_all_tasks_blocked()
        await transcript.write(["c", STOP])
    assert [*loops, await tokens_of(reply)] == [["a", "b", "c"]] * 3


async def test_a_loop_raises_the_failure_at_its_end_and_is_over_then() -> None:
    error = ProviderError("no")
    reply = await finished_reply("a", "b", Finish("error", error))
    for _ in range(2):
        iterator = aiter(reply)
        assert aiter(iterator) is iterator
        assert [await anext(iterator), await anext(iterator)] == ["a", "b"]
        with pytest.raises(ProviderError) as caught:
            await anext(iterator)
        assert caught.value is not error
        assert caught.value.__cause__ is error
        for _ in range(2):
            with pytest.raises(StopAsyncIteration):
                await anext(iterator)


async def test_a_loop_ends_normally_after_a_stop() -> None:
    transcript, reply = new_reply()
    await transcript.write(["a", "b"])
    tokens: list[str] = []
    async for token in reply:
        tokens.append(token)
        if token == "b":
            reply.stop()
    assert tokens == ["a", "b"]


async def test_a_loop_never_holds_the_stream_back() -> None:
    transcript, reply = new_reply()
    await transcript.write(["a"])
    iterator = aiter(reply)
    assert await anext(iterator) == "a"
    with trio.testing.assert_no_checkpoints():
        await transcript.write(["b"] * 100_000)
    assert await anext(iterator) == "b"


async def test_a_loop_has_a_checkpoint_when_it_waits_and_at_least_at_every_64th_event() -> None:
    transcript, reply = new_reply()
    tokens = [str(number) for number in range(5000)]
    await transcript.write(tokens)
    iterator = aiter(reply)
    got: list[str] = []
    with trio.testing.assert_no_checkpoints():
        got.append(await anext(iterator))
    for _ in range(20):
        before = len(got)
        with trio.CancelScope() as scope:
            scope.cancel()
            while True:
                got.append(await anext(iterator))
        assert scope.cancelled_caught
        assert len(got) - before <= 64
        with trio.testing.assert_checkpoints():
            got += [await anext(iterator) for _ in range(65)]
    assert got == tokens[: len(got)]
    async with trio.open_nursery() as nursery:
        while len(got) < 5000:
            got.append(await anext(iterator))
        nursery.start_soon(write_later, transcript)
        with trio.testing.assert_checkpoints():
            assert await anext(iterator) == "late"


async def write_later(transcript: Transcript) -> None:
    await trio.testing.wait_all_tasks_blocked()
    await transcript.write(["late"])


READERS: dict[str, Callable[[Reply], object]] = {"async for": aiter, "subscribe": lambda reply: reply.subscribe()}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
async def test_whoever_reads_keeps_the_session_alive(read: Callable[[Reply], object]) -> None:
    transcript, reply = new_reply()
    session, readers = weakref.ref(reply.session), [read(reply)]
    del reply
    gc.collect()
    assert session() is not None
    readers.clear()
    gc.collect()
    assert session() is None
    assert transcript.finish is None


# -- subscribe and forward ---------------------------------------------------------------------------------------------


async def test_subscribers_get_every_event_with_one_finish_at_the_end() -> None:
    transcript, reply = new_reply()
    events: list[Event] = [Queued(1, 2), "a", Notice("thought", "x"), "b"]
    early = reply.subscribe()
    await transcript.write(events)
    late, live = reply.subscribe(), reply.subscribe(replay=False)
    await transcript.write(["c", STOP])
    after, end = reply.subscribe(), reply.subscribe(replay=False)
    for channel, expected in [(early, events), (late, events), (after, events), (live, [])]:
        assert [event async for event in channel] == [*expected, "c", STOP]
    assert [event async for event in end] == [STOP]


async def test_subscribers_who_fall_behind_are_told() -> None:
    transcript, reply = new_reply()
    forgetful = reply.subscribe(buffer=1, when_full="drop_oldest")
    impatient = reply.subscribe(buffer=1, when_full="detach")
    await transcript.write(["a", "b", "c", STOP])
    assert [event async for event in forgetful] == [Lagged(2), "c", STOP]
    assert [event async for event in impatient] == ["a", Lagged(3)]


async def test_a_subscriber_holds_back_256_events_unless_it_says_otherwise() -> None:
    transcript, reply = new_reply()
    events = reply.subscribe()
    assert events.statistics().max_buffer_size == 256
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transcript.write, [*("a" * 1000), STOP])
        await trio.testing.wait_all_tasks_blocked()
        assert len(reply.text) == 256
        assert [event async for event in events] == [*("a" * 1000), STOP]


@pytest.mark.parametrize("buffer", [1.0, 0.5, "1", None, True, math.nan, -math.inf])
async def test_a_buffer_that_is_no_whole_number_is_refused(buffer: Any) -> None:
    with pytest.raises(TypeError, match="buffer must be a whole number"):
        new_reply()[1].subscribe(buffer=buffer)


async def test_a_buffer_below_0_is_refused() -> None:
    with pytest.raises(ValueError, match="buffer must be at least 0, not -1"):
        new_reply()[1].subscribe(buffer=-1)


@pytest.mark.parametrize("when_full", ["", "drop", "WAIT", None, ["wait"]])
async def test_an_unknown_policy_is_refused(when_full: Any) -> None:
    with pytest.raises(ValueError, match="when_full must be 'wait', 'drop_oldest' or 'detach'"):
        new_reply()[1].subscribe(when_full=when_full)


async def test_a_refused_subscription_holds_nothing_back() -> None:
    transcript, reply = new_reply()
    wrong: Any = "drop"
    with pytest.raises(ValueError, match="when_full"):
        reply.subscribe(buffer=0, when_full=wrong)
    with trio.testing.assert_no_checkpoints():
        await transcript.write(["a"])


async def test_subscribing_is_no_checkpoint_and_has_no_positional_arguments() -> None:
    subscribe: Any = new_reply()[1].subscribe
    with trio.testing.assert_no_checkpoints():
        subscribe()
    with pytest.raises(TypeError):
        subscribe(1)


async def test_forward_feeds_every_event_into_a_channel_and_closes_it() -> None:
    transcript, reply = new_reply()
    await transcript.write([Queued(1), "a"])
    send, receive = trio.open_memory_channel[Event](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reply.forward, send)
        nursery.start_soon(transcript.write, ["b", STOP])
        assert [event async for event in receive] == [Queued(1), "a", "b", STOP]
    with pytest.raises(trio.ClosedResourceError):
        send.send_nowait("c")


async def test_forward_hands_a_failure_over_as_an_event() -> None:
    finish = Finish("error", ProviderError("no"))
    reply = await finished_reply("a", finish)
    send, receive = trio.open_memory_channel[Event](10)
    await reply.forward(send)
    assert [event async for event in receive] == ["a", finish]


async def test_workers_share_the_events_through_clones_of_the_receiving_end() -> None:
    transcript, reply = new_reply()
    send, receive = trio.open_memory_channel[Event](0)
    shares: list[list[Event]] = [[], [], []]

    async def work(channel: trio.MemoryReceiveChannel[Event], share: list[Event]) -> None:
        async with channel:
            share += [event async for event in channel]

    tokens = [str(number) for number in range(300)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reply.forward, send)
        async with receive:
            for share in shares:
                nursery.start_soon(work, receive.clone(), share)
        await transcript.write([*tokens, STOP])
    assert all(shares)
    assert sorted(event for share in shares for event in share if isinstance(event, str)) == sorted(tokens)


async def test_forward_ends_quietly_when_nobody_receives_any_more() -> None:
    transcript, reply = new_reply()
    send, receive = trio.open_memory_channel[Event](0)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reply.forward, send)
            await transcript.write(["a"])
            assert await receive.receive() == "a"
            receive.close()
            await transcript.write(["b"])
        await transcript.write(["c"] * 1000)
        await transcript.write([STOP])
    assert (await reply.wait()).text == "ab" + "c" * 1000


async def test_forward_holds_the_stream_back_while_the_channel_is_full() -> None:
    transcript, reply = new_reply()
    send, receive = trio.open_memory_channel[Event](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reply.forward, send)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(transcript.write, [*("a" * 1000), STOP])
        await trio.testing.wait_all_tasks_blocked()
        assert len(reply.text) == 257  # one is in its hands
        receive.close()
    assert len(reply.text) == 1000


async def test_forward_closes_its_channel_when_it_is_cancelled_and_leaves_the_reply_alone() -> None:
    transcript, reply = new_reply()
    await transcript.write(["a"])
    send, receive = trio.open_memory_channel[Event](10)
    with trio.move_on_after(0) as scope:
        await reply.forward(send)
    assert scope.cancelled_caught
    assert [event async for event in receive][1:] == []
    with trio.testing.assert_no_checkpoints():
        await transcript.write(["b"] * 1000)
    assert reply.finish is None


async def test_forward_into_a_closed_channel_is_misuse() -> None:
    reply = await finished_reply("a", STOP)
    send, _ = trio.open_memory_channel[Event](10)
    send.close()
    with pytest.raises(trio.ClosedResourceError):
        await reply.forward(send)


async def test_a_reply_shows_its_state_and_no_text() -> None:
    transcript, reply = new_reply()
    await transcript.write(["a secret"])
    assert repr(reply) == "<Reply of stand-in: running, 8 characters>"
    reply.stop()
    assert repr(reply) == "<Reply of stand-in: interrupted, 8 characters>"


@pytest.mark.parametrize("readers", [0, 1, 16])
async def test_writing_is_no_checkpoint_unless_a_reader_holds_it_back(readers: int) -> None:
    transcript, reply = new_reply()
    channels: Sequence[object] = [reply.subscribe(buffer=math.inf) for _ in range(readers)]
    with trio.testing.assert_no_checkpoints():
        await transcript.write(["a"] * 1000)
        await transcript.write([STOP])
    assert len(channels) == readers
