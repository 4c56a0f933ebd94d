"""A provider that is written wrongly: whose fault it is, and that nothing is left, nobody waits, nobody else is hurt."""

from __future__ import annotations

import pytest
import trio

import trioprov
from trioprov import H2o, InvalidRequest
from trioprov.providers import Provider
from trioprov.testing import Fault, assert_no_orphans, open_emulator

QUESTION = "Why is the sky blue?"


@pytest.mark.parametrize("secret", ["", "*", "***"])
async def test_a_secret_that_is_empty_or_looks_blotted_out_stops_nothing(secret: str) -> None:
    class Keyed(H2o):
        def secrets(self, conversation: trioprov.Conversation) -> tuple[str, ...]:
            return (*super().secrets(conversation), secret)

    fault = Fault(on="generate", status=400, body='{"message": "2 * 3 is **** not a question"}')
    async with open_emulator(Keyed, faults=[fault]) as emulator:
        with pytest.raises(InvalidRequest, match="not a question"):
            await trioprov.ask(QUESTION, emulator.provider)
        assert_no_orphans(emulator)
