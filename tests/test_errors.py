"""The whole tree of errors, each class against each service that can produce it: what it says, and to whom."""

from __future__ import annotations

import dataclasses
import math
import socket
import sqlite3
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import trio

import trioprov
from trioprov import (
    AllenAI,
    AuthenticationError,
    CleanupFailed,
    ConnectionFailed,
    ConversationLost,
    Deadlines,
    FirstTokenTimeout,
    H2o,
    IdleTimeout,
    IncompleteReply,
    InvalidRequest,
    JournalError,
    ModelNotSupported,
    OpenAssistant,
    Overloaded,
    ProviderError,
    RateLimited,
    RemoteProtocolError,
    Reply,
    Session,
    TotalTimeout,
    TrioprovError,
)
from trioprov.providers import Provider
from trioprov.testing import Emulator, Fault, assert_no_orphans, open_emulator

QUESTION = "Why is the sky blue?"
STREAM = {H2o: "generate", OpenAssistant: "events", AllenAI: "stream"}
DELETE = "delete"
# The first event of each stream that is no token.
BEFORE = {H2o: 0, OpenAssistant: 0, AllenAI: 1}
BEGINS = {H2o: "The sky", OpenAssistant: "Sunlight", AllenAI: "Sunlight looks"}
QUICK = Deadlines(first_token=0.3, idle=0.3)

Change = Callable[[Provider], Provider]
Between = Callable[[Emulator[Provider], Session], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One failure: how it comes about, and what is to be seen of it."""

    cls: type[Provider]
    error: type[TrioprovError]
    says: str
    status: int | None = None
    code: str | None = None
    retry_after: float | None = None
    partial: str = ""
    script: Mapping[str, Any] = field(default_factory=dict[str, Any])
    fault: Fault | None = None
    change: Change = lambda provider: provider
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    deadlines: Deadlines = Deadlines()  # noqa: RUF009 - a value
    between: Between | None = None

    def __str__(self) -> str:
        return f"{self.cls.name} {self.error.__name__}: {self.says}"


def replaced(**fields: Any) -> Change:
    return lambda provider: dataclasses.replace(provider, **fields)


async def deleted_by_another(emulator: Emulator[Provider], session: Session) -> None:
    report = await trioprov.delete_conversation(emulator.provider, dict(session.conversation))
    assert report.outcome == "deleted"


async def nothing_happens(emulator: Emulator[Provider], session: Session) -> None:
    pass


def nobody_there(provider: Provider) -> Provider:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return dataclasses.replace(provider, base_url=f"http://127.0.0.1:{port}")


# A date, which comes nearer while the tests run.
HOUR = 3600
IN_AN_HOUR = formatdate(time.time() + HOUR, usegmt=True)
PAGE = "<html><head><title>503 Service Temporarily Unavailable</title></head><body>nginx</body></html>"

ROWS: list[Row] = [
    # -- H2o: chat-ui in front of TGI
    Row(
        cls=H2o,
        error=AuthenticationError,
        fault=Fault(on="create", status=401, body='{"error":"You have to be logged in."}'),
        status=401,
        says="You have to be logged in. (401)",
    ),
    Row(
        cls=H2o,
        error=RateLimited,
        script={"messages_per_minute": 1},
        between=nothing_happens,
        status=429,
        says="You are sending too many messages. Try again later. (429)",
    ),
    Row(
        cls=H2o,
        error=Overloaded,
        script={"error_event": ("Model is overloaded", "overloaded"), "error_after": 2},
        code="overloaded",
        partial="The sky",
        says="Model is overloaded",
    ),
    Row(
        cls=H2o,
        error=Overloaded,
        fault=Fault(
            on="generate",
            status=503,
            body='{"error":"Model h2o is currently loading","estimated_time":20.0}',
        ),
        status=503,
        retry_after=20,
        says="Model h2o is currently loading (503)",
    ),
    Row(
        cls=H2o,
        error=InvalidRequest,
        parameters={"temperature": 0},
        code="validation",
        says="`temperature` must be strictly positive",
    ),
    Row(
        cls=H2o,
        error=InvalidRequest,
        script={"https_origin": True},
        status=403,
        says="the server's ORIGIN or PUBLIC_ORIGIN must be http://127.0.0.1:",
    ),
    Row(
        cls=H2o,
        error=InvalidRequest,
        parameters={"decoder_input_details": "yes"},
        status=422,
        says='parameters.decoder_input_details: invalid type: string "yes", expected a boolean',
    ),
    Row(
        cls=H2o,
        error=ModelNotSupported,
        fault=Fault(on="generate", status=410, body='{"message":"Model not available anymore"}'),
        status=410,
        says="Model not available anymore (410)",
    ),
    Row(
        cls=H2o,
        error=ProviderError,
        change=replaced(model="gpt-5"),
        status=500,
        says="Internal Error, which it also answers if it has no model 'gpt-5' or is newer than v0.6 (500)",
    ),
    Row(
        cls=H2o,
        error=ProviderError,
        script={"error_event": ("Request failed during generation: CUDA error", "generation"), "error_after": 2},
        code="generation",
        partial="The sky",
        says="Request failed during generation: CUDA error",
    ),
    Row(
        cls=H2o,
        error=ConversationLost,
        between=deleted_by_another,
        status=404,
        says="Conversation not found (404)",
    ),
    Row(
        cls=H2o,
        error=RemoteProtocolError,
        fault=Fault(on="create", status=200, body="<html>welcome</html>"),
        says="the server created a conversation and did not say its id",
    ),
    Row(
        cls=H2o,
        error=RemoteProtocolError,  # v0.7 never closes its streams, so nobody could wait for their end
        fault=Fault(on="generate", status=200, body='{"type":"status","status":"started"}\n'),
        says="the server streams JSON lines: it is a chat-ui newer than v0.6, whose protocol is another",
    ),
    # -- Open Assistant: the website in front of the inference server
    Row(
        cls=OpenAssistant,
        error=AuthenticationError,
        change=replaced(cookies={}),
        says="Open Assistant needs the cookies of a login: OpenAssistant(cookies={…})",
    ),
    Row(
        cls=OpenAssistant,
        error=AuthenticationError,
        change=replaced(cookies={"next-auth.session-token": "somebody-else"}),
        status=403,
        says="not logged in: the cookies are missing, expired or another server's (403)",
    ),
    Row(
        cls=OpenAssistant,
        error=RateLimited,
        script={"rate_limited": True},
        status=500,
        says="rate limit or internal error (500)",
    ),
    Row(
        cls=OpenAssistant,
        error=Overloaded,
        script={"queue_full": True},
        status=503,
        says="The server is currently busy. Please try again later. (503)",
    ),
    Row(
        cls=OpenAssistant,
        error=Overloaded,
        script={"error_event": "Timeout"},
        says="Timeout: no worker took the question from the queue in time",
    ),
    Row(
        cls=OpenAssistant,
        error=InvalidRequest,
        script={"max_content": 3},
        status=413,
        says="Message content exceeds max length (413)",
    ),
    Row(
        cls=OpenAssistant,
        error=InvalidRequest,
        fault=Fault(
            on="assistant",
            status=422,
            body='{"message":[{"loc":["body","sampling_parameters","top_k"],"msg":"value is not a valid integer"}]}',
        ),
        status=422,
        says="body.sampling_parameters.top_k: value is not a valid integer (422)",
    ),
    Row(
        cls=OpenAssistant,
        error=InvalidRequest,  # the inference server itself, without the website
        fault=Fault(on="create", status=404, body='{"detail":"Not Found"}'),
        status=404,
        says="Not Found (404)",
    ),
    Row(
        cls=OpenAssistant,
        error=ModelNotSupported,
        change=replaced(model="gpt-5"),
        status=422,
        says="Model gpt-5 not found (422)",
    ),
    Row(
        cls=OpenAssistant,
        error=ProviderError,
        script={"error_event": "Aborted due to worker error.", "error_after": 2},
        partial="Sunlight",
        says="Aborted due to worker error.",
    ),
    Row(
        cls=OpenAssistant,
        error=ConversationLost,
        between=deleted_by_another,
        status=500,
        says="the chat does not exist any more (500)",
    ),
    Row(
        cls=OpenAssistant,
        error=RemoteProtocolError,
        fault=Fault(on="assistant", status=200, body="{}"),
        says="the server created something and did not say its id",
    ),
    Row(
        cls=OpenAssistant,
        error=FirstTokenTimeout,
        script={"pending": math.inf, "pending_interval": 0.05},
        deadlines=QUICK,
        says="no content within 0.3 s",
    ),
    # -- AllenAI: olmo-api
    Row(
        cls=AllenAI,
        error=AuthenticationError,
        change=replaced(headers={"Authorization": "Bearer expired-token-1"}),
        status=401,
        says="The server could not verify that you are authorized to access the URL requested. (401)",
    ),
    Row(
        cls=AllenAI,
        error=Overloaded,
        script={"error_reason": "model overloaded", "error_after": 2},
        code="model overloaded",
        partial="Sunlight looks",
        says="model overloaded",
    ),
    Row(
        cls=AllenAI,
        error=InvalidRequest,
        script={"inappropriate": ["sky"]},
        status=400,
        code="inappropriate_prompt",
        says="inappropriate_prompt (400)",
    ),
    Row(
        cls=AllenAI,
        error=InvalidRequest,
        fault=Fault(
            on="stream",
            status=404,
            body='{"error":{"code":404,"message":"The requested URL was not found on the server."}}',
        ),
        status=404,
        says="the server has no /v4/message/stream: it is no olmo-api, or one from after October 2025 (404)",
    ),
    Row(
        cls=AllenAI,
        error=ModelNotSupported,
        change=replaced(host="modal"),
        status=400,
        says="model tulu3-405b is not available on modal (400)",
    ),
    Row(
        cls=AllenAI,
        error=ProviderError,
        script={"error_reason": "grpc inference failed", "error_after": 2},
        code="grpc inference failed",
        partial="Sunlight looks",
        says="inference failed: <_InactiveRpcError of RPC that terminated>",
    ),
    Row(
        cls=AllenAI,
        error=ProviderError,  # the reason is said before the body is cut, and is the better one
        script={"error_reason": "finalization failure", "error_after": 2},
        code="finalization failure",
        partial="Sunlight looks",
        says="failed to finalize message",
    ),
    Row(
        cls=AllenAI,
        error=ConversationLost,
        between=deleted_by_another,
        status=400,
        says="the thread does not exist any more: Value error, Parent message msg_",
    ),
]

for _cls in (H2o, OpenAssistant, AllenAI):
    _on, _two = STREAM[_cls], BEFORE[_cls] + 2
    _refusing = {H2o: "create", OpenAssistant: "create", AllenAI: "stream"}[_cls]
    _noise = b"{nonsense\n" if _cls is AllenAI else b"data: {nonsense\n\n"
    ROWS.extend(
        [
            Row(
                cls=_cls,
                error=RateLimited,
                fault=Fault(on=_refusing, status=429, headers={"Retry-After": "7"}),
                status=429,
                retry_after=7,
                says="too many requests (429)",
            ),
            Row(
                cls=_cls,
                error=RateLimited,
                fault=Fault(on=_on, status=429, body="Slow down", headers={"Retry-After": IN_AN_HOUR}),
                status=429,
                retry_after=HOUR,
                says="Slow down (429)",
            ),
            Row(
                cls=_cls,
                error=Overloaded,
                fault=Fault(on=_on, status=503, body=PAGE, headers={"Retry-After": "3"}),
                status=503,
                retry_after=3,
                says="503 Service Temporarily Unavailable",
            ),
            Row(
                cls=_cls,
                error=AuthenticationError,
                fault=Fault(on=_refusing, status=401),
                status=401,
                says="credentials are missing or not accepted (401)",
            ),
            Row(
                cls=_cls,
                error=InvalidRequest,
                change=replaced(cookies={"session": "the-cookie-of-mine"}),
                fault=Fault(on=_refusing, status=400, body="bad session: the-cookie-of-mine"),
                status=400,
                says="bad session: *** (400)",
            ),
            Row(
                cls=_cls,
                error=ProviderError,
                fault=Fault(on=_refusing, status=302, headers={"Location": "https://sso.example/login?state=x"}),
                status=302,
                says="the server redirects to https://sso.example: check base_url, or who you are to it (302)",
            ),
            Row(
                cls=_cls,
                error=RemoteProtocolError,
                fault=Fault(on=_on, inject=_noise, inject_at=_two),
                partial=BEGINS[_cls],
                says="unacceptable JSON",
            ),
            Row(
                cls=_cls,
                error=RemoteProtocolError,
                fault=Fault(on=_on, inject=b"data: " + b"x" * (5 << 20) + b"\n\n", inject_at=_two),
                partial=BEGINS[_cls],
                says="a line of the reply is longer than the limit of ",
            ),
            Row(
                cls=_cls,
                error=IncompleteReply,
                fault=Fault(on=_on, cut_after=_two),
                partial=BEGINS[_cls],
                says="the connection was closed in the middle of the reply",
            ),
            Row(
                cls=_cls,
                error=IncompleteReply,
                fault=Fault(on=_on, end_after=_two),
                partial=BEGINS[_cls],
                says="the stream ended before the service said that the reply was complete",
            ),
            Row(
                cls=_cls,
                error=ConnectionFailed,
                fault=Fault(on=_on, reset_after=_two),
                partial=BEGINS[_cls],
                says="Connection reset by peer",
            ),
            Row(
                cls=_cls,
                error=ConnectionFailed,
                fault=Fault(on="prompter" if _cls is OpenAssistant else _on, drop=True),
                says="the server closed the connection: the server disconnected without an answer",
            ),
            Row(cls=_cls, error=ConnectionFailed, change=nobody_there, says="Connection refused"),
            Row(
                cls=_cls,
                error=FirstTokenTimeout,
                fault=Fault(on=_on, stall_after=BEFORE[_cls]),
                deadlines=QUICK,
                says="no content within 0.3 s",
            ),
            Row(
                cls=_cls,
                error=IdleTimeout,
                fault=Fault(on=_on, stall_after=_two),
                deadlines=QUICK,
                partial=BEGINS[_cls],
                says="no further content for 0.3 s",
            ),
            Row(
                cls=_cls,
                error=TotalTimeout,
                fault=Fault(on=_on, stall_after=_two),
                deadlines=Deadlines(total=0.3),
                partial=BEGINS[_cls],
                says="not complete within 0.3 s",
            ),
        ]
    )

EVERYWHERE = {
    *(AuthenticationError, RateLimited, Overloaded, InvalidRequest, ModelNotSupported, ConversationLost),
    *(ProviderError, RemoteProtocolError, IncompleteReply, ConnectionFailed),
    *(FirstTokenTimeout, IdleTimeout, TotalTimeout),
}


def test_every_class_is_produced_against_every_service(service: type[Provider]) -> None:
    assert {row.error for row in ROWS if row.cls is service} == EVERYWHERE


def test_every_class_there_is_is_in_this_file() -> None:
    found = {cls for cls in vars(trioprov).values() if isinstance(cls, type) and issubclass(cls, TrioprovError)}
    abstract = {TrioprovError, trioprov.DeadlineExceeded}
    assert found - abstract == {*EVERYWHERE, CleanupFailed, JournalError, trioprov.AllFailed}


@asynccontextmanager
async def failing(row: Row) -> AsyncGenerator[tuple[Reply, Emulator[Provider]]]:
    """A reply that fails as the row says, and the server it comes from."""
    async with open_emulator(row.cls, **row.script, faults=[row.fault] if row.fault else []) as emulator:
        provider = row.change(emulator.provider)
        async with trioprov.open_client(cleanup_timeout=1) as client:
            if row.between is None:
                async with trioprov.open_reply(
                    QUESTION, provider, client=client, deadlines=row.deadlines, **row.parameters
                ) as reply:
                    yield reply, emulator
            else:
                async with trioprov.open_session(provider, client=client) as session:
                    async with session.ask(QUESTION) as reply:
                        await reply.wait()
                    await row.between(emulator, session)
                    async with session.ask("And at night?", deadlines=row.deadlines, **row.parameters) as reply:
                        yield reply, emulator
        assert_no_orphans(emulator)


async def all_waiters(reply: Reply) -> list[TrioprovError]:
    """What two that wait and two that iterate from the start get, and two that come when it is over."""
    caught: list[TrioprovError] = []

    async def wait() -> None:
        with pytest.raises(TrioprovError) as error:
            await reply.wait()
        caught.append(error.value)

    async def iterate() -> None:
        with pytest.raises(TrioprovError) as error:
            async for _ in reply:
                pass
        caught.append(error.value)

    async with trio.open_nursery() as nursery:
        for waiter in (wait, wait, iterate, iterate):
            nursery.start_soon(waiter)
    await wait()
    await iterate()
    return caught


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_an_error_says_what_happened_to_everybody_who_waits(row: Row) -> None:
    async with failing(row) as (reply, emulator):
        with trio.fail_after(10):
            errors = await all_waiters(reply)
        for error in errors:
            assert type(error) is row.error
            assert error.partial == reply.text == row.partial
            assert row.says in str(error)
            assert len(str(error)) < 400
            assert "\n" not in str(error)
            assert isinstance(error, TimeoutError) == (row.error in (FirstTokenTimeout, IdleTimeout, TotalTimeout))
            if isinstance(error, ProviderError):
                assert (error.status, error.code) == (row.status, row.code)
                assert error.retry_after == pytest.approx(
                    row.retry_after, abs=HOUR / 2 if row.retry_after == HOUR else 0
                )
            else:
                assert (row.status, row.code, row.retry_after) == (None, None, None)
        # Each has one of their own, with a traceback of their own; the original is everybody's cause.
        assert len({id(error) for error in errors}) == len(errors) == 6
        assert reply.finish is not None
        original = reply.finish.error
        assert original is not None
        assert all(error.__cause__ is original and error is not original for error in errors)
        assert str(original) == str(errors[0])
        if row.error is ConnectionFailed or row.says == "unacceptable JSON":
            assert original.__cause__ is not None
        # Nothing that lets anybody in is in what people will paste into a report.
        told = f"{errors!r} {[str(error) for error in errors]} {original!r} {original.__cause__!r}"
        provider = row.change(emulator.provider)
        assert not [secret for secret in provider.secrets(reply.session.conversation) if secret in told]


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.between is None and row.partial and row.deadlines == Deadlines()], ids=str
)
async def test_gather_has_the_same_error_as_a_value(row: Row) -> None:
    async with open_emulator(row.cls, **row.script, faults=[row.fault] if row.fault else []) as emulator:
        provider = row.change(emulator.provider)
        (answer,) = await trioprov.gather(QUESTION, [provider], **row.parameters)
        assert type(answer.error) is row.error
        assert isinstance(answer.error, TrioprovError)
        assert (answer.error.partial, answer.text, answer.finish_reason) == (row.partial, row.partial, "error")
        assert row.says in str(answer.error)
        assert_no_orphans(emulator)


# -- What fails besides an answer --------------------------------------------------------------------------------------


async def test_a_cleanup_that_is_refused_says_where_and_why(service: type[Provider]) -> None:
    fault = Fault(on=DELETE, times=math.inf, status=403, body='{"message":"no","error":{"message":"no"}}')
    async with open_emulator(service, faults=[fault]) as emulator:
        with pytest.raises(CleanupFailed) as caught:
            async with trioprov.open_session(emulator.provider) as session, session.ask(QUESTION) as reply:
                await reply.wait()
        report = caught.value.report
        assert (report.outcome, report.attempts) == ("owed", 1)
        assert isinstance(report.error, AuthenticationError)
        assert caught.value.__cause__ is report.error
        assert str(caught.value) == f"a conversation may still be on {service.label} (owed): no (403)"
        with pytest.raises(AssertionError):
            assert_no_orphans(emulator)


async def test_a_cleanup_that_fails_for_a_while_is_tried_again_and_says_how_often(service: type[Provider]) -> None:
    faults = [Fault(on=DELETE, times=math.inf, status=503, headers={"Retry-After": "0"})]
    async with open_emulator(service, faults=faults) as emulator, trioprov.open_client(cleanup_timeout=1) as client:
        with pytest.raises(CleanupFailed) as caught:
            async with (
                trioprov.open_session(emulator.provider, client=client) as session,
                session.ask(QUESTION) as reply,
            ):
                await reply.wait()
        assert caught.value.report.attempts > 1
        assert isinstance(caught.value.report.error, Overloaded)
        assert "the server has no capacity at the moment (503)" in str(caught.value)


@pytest.mark.parametrize(("cls", "step"), [(OpenAssistant, "create"), (AllenAI, "stream")])
async def test_a_create_that_nobody_will_hear_of_is_a_note_on_what_failed(cls: type[Provider], step: str) -> None:
    async with open_emulator(cls, faults=[Fault(on=step, lose_response=True)]) as emulator:
        with pytest.raises(ConnectionFailed) as caught:
            async with trioprov.open_session(emulator.provider) as session, session.ask(QUESTION) as reply:
                await reply.wait()
        (note,) = caught.value.__notes__
        assert f"a conversation may still be on {cls.label} (lost" in note
        assert ("it expires at" in note) == (cls is AllenAI)


async def test_what_cannot_be_written_down_is_not_sent(service: type[Provider], tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    async with open_emulator(service) as emulator, trioprov.open_client(journal=path) as client:
        with sqlite3.connect(path) as ledger:
            for name in ("debt", "secret"):
                ledger.execute(f"DROP TABLE {name}")
        ledger.close()
        async with trioprov.open_reply(QUESTION, emulator.provider, client=client) as reply:
            errors = await all_waiters(reply)
        assert {type(error) for error in errors} == {JournalError}
        assert str(path) in str(errors[0])
        assert emulator.conversations == ()
        creates = {"create", "stream"}
        assert not [request for request in emulator.requests if request.step in creates]


async def test_a_journal_that_is_none_says_which_file(tmp_path: Path) -> None:
    path = tmp_path / "owed.db"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(JournalError, match=r"owed\.db"):
        async with trioprov.open_client(journal=path):
            pass
