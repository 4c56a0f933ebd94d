"""A provider that is written wrongly: whose fault it is, and that nothing is left, nobody waits, nobody else is hurt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import trioprov
from trioprov import H2o, InvalidRequest
from trioprov.providers import Decoder, Provider, Stream
from trioprov.testing import Fault, assert_no_orphans, open_emulator

QUESTION = "Why is the sky blue?"


def decoding(service: type[Provider], change: Callable[[Decoder], None]) -> type[Provider]:
    """The provider, with decoders that do something else besides when they have read some of their stream."""

    class Wrong(service):
        def ask(self, *args: Any, **given: Any) -> Any:
            stream: Stream = yield from super().ask(*args, **given)
            decoder, decode = stream.decoder, stream.decoder.decode

            def wrongly(data: bytes, events: list[trioprov.Event]) -> None:
                decode(data, events)
                change(decoder)

            decoder.decode = wrongly
            return stream

    return Wrong


async def test_what_a_decoder_learnt_before_it_crashed_is_deleted(service: type[Provider]) -> None:
    def crash(decoder: Decoder) -> None:
        raise KeyError("text")

    async with open_emulator(decoding(service, crash)) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            async with session.ask(QUESTION) as reply:
                with pytest.raises(KeyError, match="text"):
                    await reply.wait()
        assert session.cleanup is not None
        assert session.cleanup.outcome == "deleted"
        assert_no_orphans(emulator)


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
