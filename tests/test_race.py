"""A race: who wins, what the others did, and that nothing of them is left."""

from __future__ import annotations

import functools
import gc
import math
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
import trio

import trioprov
from trioprov import AllenAI, AllFailed, Deadlines, Finish, H2o, OpenAssistant, Reply
from trioprov.providers import Provider, Steps, Stream
from trioprov.testing import Emulator, Fault, assert_no_orphans, open_emulator

QUESTION = "Why is the sky blue?"
STREAM = {"h2o": "generate", "openassistant": "events", "allenai": "stream"}


class Servers:
    """One emulator for each script; afterwards nothing is alive on any."""

    def __init__(self, *scripts: tuple[type[Provider], dict[str, Any]]) -> None:
        self._scripts = scripts
        self._stack = AsyncExitStack()
        self.all: list[Emulator[Any]] = []

    @property
    def providers(self) -> list[Provider]:
        return [emulator.provider for emulator in self.all]

    async def __aenter__(self) -> Servers:
        for cls, script in self._scripts:
            self.all.append(await self._stack.enter_async_context(open_emulator(cls, **script)))
        return self

    async def __aexit__(self, kind: Any, exc: Any, trace: Any) -> None:
        if exc is None:
            for emulator in self.all:
                assert_no_orphans(emulator)
        await self._stack.__aexit__(kind, exc, trace)


async def gone(*emulators: Emulator[Any]) -> None:
    """Wait until nothing is alive, where the client cleans up in the background."""
    with trio.fail_after(10):
        while any(emulator.conversations for emulator in emulators):  # noqa: ASYNC110 - in an emulator's thread
            await trio.sleep(0.01)
            gc.collect()


def slow(cls: type[Provider] = H2o, **script: Any) -> tuple[type[Provider], dict[str, Any]]:
    return cls, {"first_delay": 30.0, **script}


def failing(cls: type[Provider] = H2o, status: int = 503, **fault: Any) -> tuple[type[Provider], dict[str, Any]]:
    return cls, {"faults": [Fault(on=STREAM[cls.name], status=status, **fault)]}


# -- Who wins ---------------------------------------------------------------------------------------------------------


async def test_the_first_token_wins_and_the_reply_is_whole(service: type[Provider]) -> None:
    async with Servers(slow(), (service, {}), slow(AllenAI)) as servers:
        async with trioprov.race(QUESTION, servers.providers) as reply:
            assert reply.provider is servers.providers[1]
            streamed = [token async for token in reply]
            answer = await reply.wait()
        assert "".join(streamed) == answer.text == reply.text
        assert answer.finish_reason == "stop"
        assert [lane.provider for lane in reply.lanes] == servers.providers
        assert reply.lanes[1].reply is reply


async def test_text_of_two_providers_is_never_mixed() -> None:
    scripts = [(H2o, {"tokens": [letter] * 30, "token_delay": 0.001}) for letter in "abc"]
    async with Servers(*scripts) as servers:
        async with trioprov.race(QUESTION, servers.providers) as reply:
            answer = await reply.wait()
        assert len(set(answer.text)) == 1
        for lane, letter in zip(reply.lanes, "abc", strict=True):
            assert set(lane.reply.text) <= {letter}


async def test_an_empty_token_of_a_provider_that_sends_such_wins_nothing() -> None:
    class Stuttering(H2o):
        def ask(self, *args: Any, **how: Any) -> Steps[Stream]:
            stream = yield from super().ask(*args, **how)
            receive = stream.decoder.receive_data
            stream.decoder.receive_data = lambda data: ["", *receive(data)]
            return stream

    early: tuple[type[Provider], dict[str, Any]] = (Stuttering, {"tokens": [" ", "late"], "token_delay": 0.3})
    other: tuple[type[Provider], dict[str, Any]] = (AllenAI, {"first_delay": 0.1})
    async with Servers(early, other) as servers, trioprov.race(QUESTION, servers.providers) as reply:
        assert reply.provider is servers.providers[1]


async def test_a_blank_token_wins_nothing_but_is_not_dropped() -> None:
    blank: tuple[type[Provider], dict[str, Any]] = (H2o, {"tokens": [" ", "\n", "late"], "token_delay": 0.3})
    early: tuple[type[Provider], dict[str, Any]] = (H2o, {"tokens": ["\n", "early"], "first_delay": 0.1})
    async with Servers(blank, early) as servers, trioprov.race(QUESTION, servers.providers) as reply:
        assert reply.provider is servers.providers[1]
        assert (await reply.wait()).text == "\nearly"


async def test_finished_is_won_by_the_first_complete_answer() -> None:
    talker: tuple[type[Provider], dict[str, Any]] = (H2o, {"tokens": ["la"], "forever": True, "token_delay": 0.005})
    async with Servers(talker, (H2o, {"tokens": ["short"], "first_delay": 0.1})) as servers:
        async with trioprov.race(QUESTION, servers.providers, until="finished") as reply:
            assert reply.finish is not None
            assert reply.text == "short"
        assert reply.lanes[0].tokens > 0
        assert reply.lanes[0].reply.finish == Finish("interrupted")


async def test_a_predicate_sees_the_reply_after_each_token_and_at_the_end() -> None:
    seen: list[tuple[str, Finish | None]] = []

    def never(reply: Reply) -> bool:
        seen.append((reply.text, reply.finish))
        return False

    async with Servers((H2o, {"tokens": ["a", "b", "c"]})) as servers:
        with pytest.raises(AllFailed) as caught:
            async with trioprov.race(QUESTION, servers.providers, until=never):
                pass
    assert [text for text, _ in seen] == ["a", "ab", "abc", "abc"]
    assert [finish is not None for _, finish in seen] == [False, False, False, True]
    [error] = caught.value.exceptions
    assert "without winning" in str(error)
    assert isinstance(error, trioprov.TrioprovError)
    assert error.partial == "abc"


async def test_a_predicate_is_not_asked_about_a_place_in_the_queue() -> None:
    seen: list[str] = []

    def ever(reply: Reply) -> bool:
        seen.append(reply.text)
        return reply.finish is not None

    script = {"pending": [2, 1], "pending_interval": 0.05, "tokens": ["a", "b"]}
    async with Servers((OpenAssistant, script)) as servers:
        async with trioprov.race(QUESTION, servers.providers, until=ever) as reply:
            kinds = [type(event) async for event in reply.subscribe()]
        assert kinds == [trioprov.Queued, trioprov.Queued, str, str, Finish]
    assert seen == ["a", "ab", "ab"]


async def test_a_predicate_decides_in_the_middle_of_an_answer() -> None:
    scripts = [(H2o, {"tokens": ["no ", "no"]}), (H2o, {"tokens": ["well ", "yes ", "it is"], "token_delay": 0.02})]
    async with Servers(*scripts) as servers:
        async with trioprov.race(QUESTION, servers.providers, until=lambda reply: "yes" in reply.text) as reply:
            assert reply.text == "well yes "
            assert (await reply.wait()).text == "well yes it is"
        assert reply.lanes[0].error is not None


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
async def test_what_a_predicate_raises_comes_out_bare_and_ends_every_lane(error: type[BaseException]) -> None:
    def broken(reply: Reply) -> bool:
        raise error

    async with Servers((H2o, {}), slow()) as servers:
        with pytest.raises(error):
            async with trioprov.race(QUESTION, servers.providers, until=broken):
                pass


@pytest.mark.parametrize("how", ["stop", "close"])
async def test_a_predicate_may_end_the_reply_with_which_it_is_content(how: str) -> None:
    def enough(reply: Reply) -> bool:
        if len(reply.text) > 10:
            (reply.stop if how == "stop" else reply.session.close)()
        return len(reply.text) > 10

    async with Servers((H2o, {"token_delay": 0.002}), slow()) as servers:
        async with trioprov.race(QUESTION, servers.providers, until=enough) as reply:
            assert (await reply.wait()).finish_reason == "interrupted"
            assert len(reply.text) > 10
        assert [lane.error for lane in reply.lanes] == [None, None]


async def test_an_answer_without_content_wins_nothing() -> None:
    async with Servers((H2o, {"tokens": [" "]}), (H2o, {"first_delay": 0.2})) as servers:
        async with trioprov.race(QUESTION, servers.providers, until="finished") as reply:
            assert reply.provider is servers.providers[1]
        assert "without content" in str(reply.lanes[0].error)


# -- Who starts when --------------------------------------------------------------------------------------------------


async def test_with_no_stagger_all_start_at_once() -> None:
    async with Servers(slow(), slow(), (H2o, {"first_delay": 0.2})) as servers:
        async with trioprov.race(QUESTION, servers.providers):
            pass
        assert all(emulator.requests for emulator in servers.all)


async def test_a_fallback_starts_the_next_only_when_one_has_failed() -> None:
    async with Servers(failing(), (OpenAssistant, {}), (AllenAI, {})) as servers:
        async with trioprov.race(QUESTION, servers.providers, stagger=math.inf) as reply:
            await reply.wait()
        first, second, third = reply.lanes
        assert isinstance(first.error, trioprov.Overloaded)
        assert reply is second.reply
        assert servers.all[2].requests == ()
        assert (third.tokens, third.duration, third.error) == (0, None, None)
        assert third.reply.finish == Finish("interrupted")
        assert third.cleanup is not None
        assert third.cleanup.outcome == "nothing_owed"


async def test_a_hedge_starts_the_next_after_the_stagger() -> None:
    async with Servers(slow(), (H2o, {}), (H2o, {})) as servers:
        begun = trio.current_time()
        async with trioprov.race(QUESTION, servers.providers, stagger=0.4) as reply:
            assert 0.4 <= trio.current_time() - begun < 5
            assert reply.provider is servers.providers[1]
        assert servers.all[2].requests == ()


@pytest.mark.parametrize("status", [401, 422, 429, 500, 503])
async def test_every_failure_brings_the_next_lane_forward_at_once(status: int) -> None:
    async with Servers(failing(status=status), failing(AllenAI, status=status), (H2o, {})) as servers:
        with trio.fail_after(5):
            async with trioprov.race(QUESTION, servers.providers, stagger=60.0) as reply:
                assert reply.provider is servers.providers[2]
        assert all(isinstance(lane.error, trioprov.ProviderError) for lane in reply.lanes[:2])


async def test_a_value_that_one_provider_refuses_is_that_lanes_failure() -> None:
    async with Servers((AllenAI, {}), (H2o, {})) as servers:
        async with trioprov.race(QUESTION, servers.providers, stagger=math.inf, temperature=1.7) as reply:
            assert reply.provider is servers.providers[1]
        assert isinstance(reply.lanes[0].error, ValueError)
        assert servers.all[0].requests == ()


async def test_a_lane_takes_no_other_question_before_its_own_is_answered() -> None:
    async with Servers((H2o, {"first_delay": 3}), (H2o, {})) as servers:
        race = trioprov.race(QUESTION, servers.providers, stagger=0.2)
        later = race.lanes[1].reply.session

        async def ask_too_early() -> None:
            with pytest.raises(trio.BusyResourceError):
                async with later.ask("And at night?"):
                    raise AssertionError

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_too_early)
            with trio.fail_after(5):
                async with race as reply:
                    assert reply.session is later
                    await reply.wait()
                    async with later.ask("And at night?") as second:
                        assert (await second.wait()).finish_reason == "stop"


async def test_a_race_whose_lanes_all_run_only_waits() -> None:
    class Steps(trio.abc.Instrument):
        count = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.count += task is me

    me, steps = trio.lowlevel.current_task(), Steps()
    async with Servers((H2o, {"first_delay": 0.5})) as servers:
        trio.lowlevel.add_instrument(steps)
        async with trioprov.race(QUESTION, servers.providers):
            trio.lowlevel.remove_instrument(steps)
    assert steps.count < 50


async def test_a_deadline_that_passes_brings_the_next_lane_forward() -> None:
    async with Servers(slow(), (H2o, {})) as servers:
        deadlines = Deadlines(first_token=0.3)
        async with trioprov.race(QUESTION, servers.providers, stagger=math.inf, deadlines=deadlines) as reply:
            assert reply.provider is servers.providers[1]
        assert isinstance(reply.lanes[0].error, trioprov.FirstTokenTimeout)


async def test_a_lane_that_fails_after_content_has_still_lost_where_a_whole_answer_is_wanted() -> None:
    cut = Fault(on="generate", end_after=2)
    async with Servers((H2o, {"faults": [cut]}), (H2o, {})) as servers:
        race = trioprov.race(QUESTION, servers.providers, until="finished", stagger=math.inf)
        async with race as reply:
            assert reply.provider is servers.providers[1]
        lost = reply.lanes[0]
        assert isinstance(lost.error, trioprov.IncompleteReply)
        assert lost.tokens == 2
        assert lost.time_to_first_token is not None
        assert lost.duration is not None
        assert 0 < lost.time_to_first_token <= lost.duration


# -- Failures ---------------------------------------------------------------------------------------------------------


async def test_when_all_fail_every_error_is_in_the_group() -> None:
    async with Servers(failing(H2o), failing(OpenAssistant, 401), failing(AllenAI, 429)) as servers:
        with pytest.raises(AllFailed) as caught:
            async with trioprov.race(QUESTION, servers.providers):
                pass
    kinds = [type(error) for error in caught.value.exceptions]
    assert kinds == [trioprov.Overloaded, trioprov.AuthenticationError, trioprov.RateLimited]
    assert isinstance(caught.value, trioprov.TrioprovError)


async def test_entering_a_race_is_a_checkpoint_also_when_nobody_can_be_asked() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        async with trioprov.race(QUESTION, [AllenAI()], temperature=1.7):
            raise AssertionError
    assert scope.cancelled_caught


async def test_what_every_lane_did_is_known_also_when_nobody_won() -> None:
    async with Servers(failing(H2o), failing(AllenAI, 429)) as servers:
        race = trioprov.race(QUESTION, servers.providers)
        assert [lane.provider for lane in race.lanes] == servers.providers
        with pytest.raises(AllFailed) as caught:
            async with race:
                pass
    assert race.winner is None
    assert [lane.error for lane in race.lanes] == list(caught.value.exceptions)
    assert all(lane.cleanup is not None for lane in race.lanes)


async def test_the_winner_is_known_in_the_instant_of_the_deciding_token() -> None:
    async with Servers((H2o, {"tokens": ["word"]})) as servers:
        race = trioprov.race(QUESTION, servers.providers)
        (lane,) = race.lanes
        assert race.winner is None
        async with race as reply:
            assert race.winner is lane
            assert reply is lane.reply


async def test_a_winner_that_fails_later_fails_as_any_reply_does() -> None:
    async with Servers((H2o, {"faults": [Fault(on="generate", end_after=3)], "token_delay": 0.02}), slow()) as servers:
        with pytest.raises(trioprov.IncompleteReply) as caught:
            async with trioprov.race(QUESTION, servers.providers) as reply:
                await reply.wait()
        assert caught.value.partial


async def test_wrong_options_are_refused_before_anything_is_sent() -> None:
    async with Servers((H2o, {})) as servers:
        race = functools.partial(trioprov.race, QUESTION, servers.providers)
        with pytest.raises(ValueError, match="at least one"):
            trioprov.race(QUESTION, [])
        for wrong in (-1, math.nan):
            with pytest.raises(ValueError, match="stagger"):
                race(stagger=wrong)
        with pytest.raises(TypeError, match="stagger"):
            race(stagger="2")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="stagger"):
            race(stagger=True)
        with pytest.raises(ValueError, match="until"):
            race(until="first")  # type: ignore[arg-type]

        async def awaited(reply: Reply) -> bool:
            return True

        with pytest.raises(TypeError, match="async"):
            race(until=awaited)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="provider"):
            trioprov.race(QUESTION, ["h2o"])  # type: ignore[list-item]
        assert servers.all[0].requests == ()


# -- What is left -----------------------------------------------------------------------------------------------------


async def test_losers_never_delay_the_winner_nor_with_a_client_its_exit() -> None:
    def begun_by_the_loser(reply: Reply) -> bool:
        return bool(servers.all[0].conversations)

    stubborn = slow(faults=[Fault(on="delete", delay=3.0)])
    async with Servers(stubborn, (H2o, {"tokens": ["x"] * 100, "token_delay": 0.01})) as servers:
        begun = trio.current_time()
        async with trioprov.open_client() as client:
            async with trioprov.race(QUESTION, servers.providers, until=begun_by_the_loser, client=client) as reply:
                await reply.wait()
            assert trio.current_time() - begun < 2.7
            assert reply.lanes[1].cleanup is not None
            assert reply.lanes[0].cleanup is None
        assert reply.lanes[0].cleanup is not None


async def test_without_a_client_the_exit_waits_for_the_losers(service: type[Provider]) -> None:
    async with Servers((service, {"token_delay": 0.01}), (service, {"token_delay": 0.01})) as servers:
        async with trioprov.race(QUESTION, servers.providers) as reply:
            pass
        assert all(lane.cleanup is not None for lane in reply.lanes)
        for emulator in servers.all:
            assert_no_orphans(emulator)


@pytest.mark.parametrize("private", [True, False])
async def test_a_race_that_is_cancelled_before_it_is_won_leaves_nothing(private: bool, service: type[Provider]) -> None:
    scripts = [slow(service, first_delay=0.5)] * 2
    async with Servers(*scripts) as servers, trioprov.open_client() as client:
        with trio.move_on_after(0.2):
            async with trioprov.race(QUESTION, servers.providers, client=None if private else client):
                raise AssertionError
        if private:
            for emulator in servers.all:
                assert_no_orphans(emulator)
        await gone(*servers.all)


@pytest.mark.parametrize("when", ["before it begins", "before it is won", "as it is won", "after it is won"])
async def test_a_race_that_is_cancelled_is_over_though_somebody_holds_on_to_it(when: str) -> None:
    def until(reply: Reply) -> bool:
        if when == "as it is won":
            scope.cancel()
        return when != "before it is won"

    forever = (H2o, {"forever": True, "token_delay": 0.01})
    async with Servers(forever, forever) as servers, trioprov.open_client() as client:
        race = trioprov.race(QUESTION, servers.providers, client=client, until=until)
        with trio.CancelScope() as scope:
            if when == "before it begins":
                scope.cancel()
            scope.deadline = trio.current_time() + (0.3 if when == "before it is won" else math.inf)
            async with race:
                assert when == "after it is won"
                scope.cancel()
                await trio.sleep_forever()
        assert (race.winner is not None) == (when == "after it is won")
        with trio.fail_after(10):
            for lane in race.lanes:
                await lane.wait()
            while any(emulator.conversations for emulator in servers.all):  # noqa: ASYNC110 - in another thread
                await trio.sleep(0.01)
        assert any(emulator.requests for emulator in servers.all) == (when != "before it begins")


@pytest.mark.parametrize("when", ["before it is won", "after it is won"])
async def test_a_cancelled_race_with_a_client_is_left_at_once(when: str) -> None:
    stubborn = {"faults": [Fault(on="delete", delay=1.5)], "forever": True, "token_delay": 0.01}
    async with Servers((H2o, stubborn), (H2o, stubborn)) as servers, trioprov.open_client() as client:
        with trio.CancelScope() as scope:
            until = "finished" if when == "before it is won" else "first_token"
            scope.deadline = trio.current_time() + 0.5
            async with trioprov.race(QUESTION, servers.providers, client=client, until=until):
                await trio.sleep_forever()
        assert trio.current_time() < scope.deadline + 1


class RawServer:
    """A chat-ui that is none: it speaks over a bare socket, and its answers are what ``says`` does with it."""

    def __init__(self, says: Callable[[trio.SocketStream], Awaitable[None]]) -> None:
        self.alive = 0
        self._says = says

    async def serve(self, stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            head, _, body = (await stream.receive_some()).partition(b"\r\n\r\n")
            if length := re.search(rb"content-length: (\d+)", head.lower()):
                while len(body) < int(length[1]):
                    body += await stream.receive_some()
            if head.startswith(b"POST /conversation/") and b"stop-generating" not in head:
                await self._says(stream)
            else:
                self.alive += head.startswith(b"POST /conversation ") - head.startswith(b"DELETE")
                answer = b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 22\r\n\r\n{"conversationId":"c"}'
                await stream.send_all(answer)


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def saying(data: bytes, *, again: bytes = b"", reset: bool = False, close: bool = True) -> RawServer:
    async def says(stream: trio.SocketStream) -> None:
        await stream.send_all(data)
        while again:
            await stream.send_all(again)
            await trio.sleep(0.005)
        if reset:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif not close:
            await trio.sleep_forever()

    return RawServer(says)


@pytest.mark.parametrize("until", ["first_token", "finished"])
@pytest.mark.parametrize("private", [True, False])
async def test_whatever_else_the_servers_do_the_one_that_answers_wins(until: Any, private: bool) -> None:
    token, end = b'data:{"token":{"text":"Hi"}}\n\n', b'data:{"token":{"text":"!"},"generated_text":"Hi!"}\n\n'
    bad = [
        saying(OK, close=False),
        saying(OK, again=b":\n\n"),
        saying(OK + token[:12], close=False),
        saying(OK + token[:12]),
        saying(OK + b"data:{nope\n\n"),
        saying(OK, reset=True),
        saying(b"220 ready\r\n\r\n"),
        saying(b"", close=False),
    ]
    servers = [*bad, saying(OK + token + end + end + token, close=False)]
    async with trioprov.open_client() as client, trio.open_nursery() as nursery:
        providers: list[Provider] = []
        for server in servers:
            listen = functools.partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1")
            (listener,) = await nursery.start(listen)
            providers.append(H2o(model="any", base_url=f"http://127.0.0.1:{listener.socket.getsockname()[1]}"))
        with trio.fail_after(10):
            async with trioprov.race(QUESTION, providers, until=until, client=None if private else client) as reply:
                assert reply.provider is providers[-1]
                assert [token async for token in reply] == ["Hi", "!"]
            assert all(lane.reply.finish is not None for lane in reply.lanes)
            client.close()
            while client.tenants:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert [server.alive for server in servers] == [0] * len(servers)
        nursery.cancel_scope.cancel()


async def test_a_winner_that_is_dropped_and_its_losers_are_collected() -> None:
    async with Servers((H2o, {"token_delay": 0.01, "forever": True}), slow(), slow(AllenAI)) as servers:
        reply = await trioprov.race(QUESTION, servers.providers).__aenter__()
        async for _ in reply:
            break
        del reply
        await gone(*servers.all)


async def test_a_race_under_a_closed_client_says_so() -> None:
    async with Servers((H2o, {})) as servers:
        async with trioprov.open_client() as client:
            pass
        with trio.fail_after(2), pytest.raises(trio.ClosedResourceError):
            async with trioprov.race(QUESTION, servers.providers, client=client):
                pass


async def test_losers_are_deleted_while_the_winner_still_speaks() -> None:
    async with (
        open_emulator(H2o, forever=True, token_delay=0.01) as first,
        open_emulator(H2o, forever=True, token_delay=0.01, first_delay=5) as second,
        trioprov.open_client() as client,
        trioprov.race(QUESTION, [first.provider, second.provider], client=client) as reply,
    ):
        with trio.fail_after(4):
            while second.conversations or reply.lanes[1].cleanup is None:
                await trio.sleep(0.01)
        assert reply.finish is None


async def test_a_lane_that_was_never_started_owes_nothing_and_is_not_waited_for() -> None:
    async with open_emulator(H2o) as emulator:
        begun = trio.current_time()
        async with trioprov.race(QUESTION, [emulator.provider] * 2, stagger=math.inf) as reply:
            await reply.wait()
        assert trio.current_time() - begun < 5
        assert reply.lanes[1].cleanup is not None
        assert reply.lanes[1].cleanup.outcome == "nothing_owed"
        with pytest.raises(trio.ClosedResourceError):
            await reply.lanes[1].reply.session.ask(QUESTION).__aenter__()


async def test_a_lane_that_is_closed_before_its_turn_is_not_asked() -> None:
    async with Servers(failing(), (H2o, {})) as servers:
        race = trioprov.race(QUESTION, servers.providers, stagger=math.inf)
        race.lanes[1].close()
        with trio.fail_after(5), pytest.RaisesGroup(trioprov.Overloaded, trioprov.TrioprovError):
            await race.__aenter__()
        assert race.lanes[1].reply.finish == trioprov.Finish("interrupted")
        assert servers.all[1].requests == ()
