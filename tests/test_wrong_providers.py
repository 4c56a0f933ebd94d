"""A provider that is written wrongly: whose fault it is, that nothing is left, and that nobody waits."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

import trioprov
from trioprov import H2o, InvalidRequest
from trioprov.providers import Decoder, Provider, Stream
from trioprov.testing import Fault, assert_no_orphans, open_emulator

QUESTION = "Why is the sky blue?"


def decoding(service: type[Provider], change: Callable[[Decoder], object]) -> type[Provider]:
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
        async with trioprov.open_session(emulator.provider) as session, session.ask(QUESTION) as reply:
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


async def test_bytes_that_a_decoder_takes_for_text_are_not_the_connection_s_fault(service: type[Provider]) -> None:
    async with open_emulator(decoding(service, lambda _: b"\xff".decode())) as emulator:
        with pytest.raises(UnicodeDecodeError):
            await trioprov.ask(QUESTION, emulator.provider)
        assert_no_orphans(emulator)


def returning(flow: str, value: object) -> type[H2o]:
    """H2o, with a flow that says what it should and returns something else."""

    def wrong(self: H2o, *args: Any) -> Any:
        yield from getattr(H2o, flow)(self, *args)
        return value

    wrong.__qualname__ = f"Wrong.{flow}"
    return type("Wrong", (H2o,), {flow: wrong})


def yielding(flow: str, step: object) -> type[H2o]:
    """H2o, with a flow that begins with something that is no step."""

    def wrong(self: H2o, *args: Any) -> Any:
        yield step
        yield from getattr(H2o, flow)(self, *args)

    wrong.__qualname__ = f"Wrong.{flow}"
    return type("Wrong", (H2o,), {flow: wrong})


def no_flow(*args: object) -> str:
    return "r-1"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (returning("ask", None), "Wrong.ask must return a Stream, and not NoneType"),
        (returning("after_stream", None), "Wrong.after_stream must return a list, and not NoneType"),
        (yielding("open", None), "Wrong.open must yield a Request, a Conversation or a Pause, and not NoneType"),
        (yielding("ask", {"path": "/"}), "Wrong.ask must yield a Request, a Conversation or a Pause, and not dict"),
        (type("Wrong", (H2o,), {"open": no_flow}), "a provider's flow must be a generator, and not str"),
    ],
)
async def test_a_flow_that_yields_or_returns_what_it_must_not_is_named(wrong: type[H2o], says: str) -> None:
    async with open_emulator(wrong, faults=[Fault(on="generate", end_after=1)]) as emulator:
        with pytest.raises(TypeError, match=re.escape(says)):
            await trioprov.ask(QUESTION, emulator.provider)
        assert_no_orphans(emulator)


@pytest.mark.parametrize("value", [None, {"id": "1"}])
async def test_a_decoder_that_loses_the_conversation_is_named_and_the_conversation_deleted(value: Any) -> None:
    def lose(decoder: Decoder) -> None:
        decoder.conversation = value

    async with open_emulator(decoding(H2o, lose)) as emulator:
        with pytest.raises(TypeError, match=r"a decoder of .*Wrong must keep a Conversation, and not (NoneType|dict)"):
            await trioprov.ask(QUESTION, emulator.provider)
        assert_no_orphans(emulator)


@pytest.mark.parametrize("value", [None, True, "gone"])
async def test_a_cleanup_that_comes_to_no_outcome_is_not_taken_for_one(value: object) -> None:
    async with open_emulator(returning("close", value)) as emulator:
        answer = await trioprov.ask(QUESTION, emulator.provider)
    assert answer.cleanup is not None
    assert answer.cleanup.outcome == "owed"
    assert isinstance(answer.cleanup.error, TypeError)
    assert str(answer.cleanup.error) == f"Wrong must say that its cleanup came to an Outcome, not {value!r}"


async def test_a_prompt_that_crashes_is_its_own_lane_s_error() -> None:
    def crash(self: H2o, *args: object) -> str:
        raise AttributeError("strip")

    wrong = type("Wrong", (H2o,), {"prompt": crash})
    async with open_emulator(H2o) as emulator:
        answers = await trioprov.gather(QUESTION, [wrong(base_url=emulator.url), emulator.provider])
        async with trioprov.race(QUESTION, [wrong(base_url=emulator.url), emulator.provider]) as reply:
            assert reply.provider is emulator.provider
    assert isinstance(answers[0].error, AttributeError)
    assert answers[1].error is None


@pytest.mark.parametrize("keep", [False, True])
async def test_a_stop_that_crashes_is_logged_and_nobody_else_s_trouble(
    keep: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_emulator(returning("stop", None), token_delay=0.01) as emulator:
        async with trioprov.open_session(emulator.provider) as session:
            for _ in range(2):
                async with session.ask(QUESTION) as reply:
                    await anext(aiter(reply))
            if keep:
                session.keep()
        assert session.cleanup is not None
        assert session.cleanup.outcome == ("kept" if keep else "deleted")
    assert {record.message for record in caplog.records if record.levelno > logging.INFO} == {
        "h2o: telling the server to stop crashed"
    }


async def test_a_recover_that_crashes_does_not_hide_why_there_is_nothing_to_recover() -> None:
    def crash(self: H2o, conversation: trioprov.Conversation) -> Any:
        raise KeyError("owner")

    async with open_emulator(type("Wrong", (H2o,), {"recover": crash})) as emulator:
        emulator.add_fault(Fault(on="create", status=503))
        with pytest.raises(trioprov.Overloaded):
            await trioprov.ask(QUESTION, emulator.provider)


def no_secrets(self: H2o, conversation: trioprov.Conversation) -> None:
    """A list of secrets whose author forgot to return it."""


def lost_secrets(self: H2o, conversation: trioprov.Conversation) -> tuple[str, ...]:
    return (conversation["key"],)


@pytest.mark.parametrize("crash", [no_secrets, lost_secrets])
async def test_secrets_that_crash_do_not_hide_the_error_nor_show_what_is_known(crash: object) -> None:
    wrong = type("Wrong", (H2o,), {"secrets": crash})
    fault = Fault(on="generate", status=400, body='{"message": "no, my-login-cookie"}')
    async with open_emulator(wrong, faults=[fault]) as emulator:
        with pytest.raises(InvalidRequest, match=r"^no, \*\*\* \(400\)$"):
            await trioprov.ask(QUESTION, wrong(base_url=emulator.url, cookies={"hf-chat": "my-login-cookie"}))
        assert_no_orphans(emulator)


@pytest.mark.parametrize("path", ["@evil.example/x", ".evil.example/x", "https://evil.example/x", "x", ""])
async def test_a_path_that_could_name_another_host_carries_no_credentials_there(path: str) -> None:
    class Follows(H2o):
        def open(self, conversation: trioprov.Conversation, new_id: Callable[[], str]) -> Any:
            yield self.request(conversation, "POST", path, creates=True)

    async def handle(request: httpx.Request) -> httpx.Response:
        raise AssertionError(f"{request.url.host} was asked")

    provider = Follows(cookies={"hf-chat": "my-login-cookie"})
    async with trioprov.open_client(transport=httpx.MockTransport(handle)) as client:
        with pytest.raises(ValueError, match="a path from the first slash"):
            await trioprov.ask(QUESTION, provider, client=client)
