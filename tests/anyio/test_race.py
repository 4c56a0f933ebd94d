"""A race on each of the loops: the winner, the losers, and what is left of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anyio
import pytest

import trioprov.anyio as trioprov
from trioprov import AllenAI
from trioprov.anyio import Finish
from trioprov.testing import Fault

if TYPE_CHECKING:
    from .conftest import Emulated, Run

QUESTION = "Why is the sky blue?"


@pytest.mark.parametrize("shared", [True, False])
def test_the_first_token_wins_and_the_losers_are_gone(run: Run, emulated: Emulated, shared: bool) -> None:
    async def main() -> None:
        async with trioprov.open_client() as client:
            race = trioprov.race(
                QUESTION, [slow.provider, quick.provider], client=client if shared else None, deadlines=None
            )
            async with race as reply:
                assert reply.provider == quick.provider
                text = "".join([token async for token in reply])
                assert text == (await reply.wait()).text
        lost, won = reply.lanes
        assert race.winner is won
        assert won.reply is reply
        assert won.tokens > 10
        assert won.duration is not None
        assert lost.reply.finish == Finish("interrupted")
        assert lost.cleanup is not None

    with emulated(first_delay=30) as slow, emulated(AllenAI) as quick:
        run(main)


def test_a_fallback_and_its_failures(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        providers = [failing.provider, fine.provider]
        async with trioprov.race(QUESTION, providers, stagger=math.inf, until="finished") as reply:
            assert reply.finish == Finish("stop", usage=reply.finish.usage if reply.finish else None)
        assert isinstance(reply.lanes[0].error, trioprov.Overloaded)
        race = trioprov.race(QUESTION, [failing.provider])
        with pytest.raises(trioprov.AllFailed):
            async with race:
                pass
        assert isinstance(race.lanes[0].error, trioprov.Overloaded)

    with emulated(faults=[Fault(on="generate", status=503, times=2)]) as failing, emulated() as fine:
        run(main)


def test_what_a_predicate_sees_and_raises(run: Run, emulated: Emulated) -> None:
    def broken(reply: object) -> bool:
        raise ZeroDivisionError

    async def main() -> None:
        async with trioprov.race(QUESTION, [emulator.provider], until=lambda reply: "b" in reply.text) as reply:
            assert reply.text == "ab"
        with pytest.raises(ZeroDivisionError):
            async with trioprov.race(QUESTION, [emulator.provider], until=broken):
                pass
        with pytest.raises(ValueError, match="at least one"):
            async with trioprov.race(QUESTION, []):
                pass

    with emulated(tokens=["a", "b", "c"], token_delay=0.1) as emulator:
        run(main)


def test_a_predicate_that_ends_the_program_harms_no_other_session_of_the_client(run: Run, emulated: Emulated) -> None:
    class Ends(BaseException):
        """Such as `SystemExit`."""

    def ends(reply: object) -> bool:
        raise Ends

    async def main() -> None:
        provider = emulator.provider
        async with trioprov.open_client() as client, trioprov.open_session(provider, client=client) as session:
            with pytest.raises(Ends):
                async with trioprov.race(QUESTION, [provider], until=ends, client=client):
                    pass
            async with session.ask(QUESTION) as reply:
                assert (await reply.wait()).text == "abc"

    with emulated(tokens=["a", "b", "c"]) as emulator:
        run(main)


def test_a_race_that_is_cancelled_before_it_is_won_leaves_nothing(run: Run, emulated: Emulated) -> None:
    async def main() -> None:
        with anyio.move_on_after(0.3) as scope:
            async with trioprov.race(QUESTION, [one.provider, other.provider]):
                raise AssertionError
        assert scope.cancelled_caught

    with emulated(first_delay=30) as one, emulated(first_delay=30) as other:
        run(main)
