"""What an HTTP client hears of an event, and of an error."""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from typing import Any

import anyio
import pytest
import trio
import trio.testing

import trioprov
import trioprov.anyio
from trioprov import Finish, Lagged, Notice, Queued
from trioprov.asgi import SSEResponse, TextResponse, open_replies
from trioprov.asgi._failures import failure
from trioprov.asgi._held import Held, Reader
from trioprov.asgi._outlet import Outlet
from trioprov.asgi._wire import block, prelude

TOKENS = ["a", "", " ", "\n", "\r\n\r\n", "\u2028", "data: x\n\nid: 7\n", "🌌", "\ud83c", "\x00", '"\\']


@pytest.mark.parametrize("token", TOKENS)
def test_a_token_is_one_line_and_comes_back_as_it_was(token: str) -> None:
    lines = block(token, "name", 7).decode().split("\n")
    assert lines[:2] == ["id: name:7", "event: token"]
    assert json.loads(lines[2].removeprefix("data: ")) == token
    assert lines[3:] == ["", ""]
    assert not any("\r" in line for line in lines)


async def test_half_of_a_surrogate_pair_is_no_text_and_stops_none() -> None:
    opening = trioprov.anyio.open_reply("Why?", trioprov.H2o())
    response, held = TextResponse(opening), Held(opening)
    pieces = [response._piece(token, held, 1) for token in ("a", "\ud83c", "b")]  # pyright: ignore[reportPrivateUsage]
    assert pieces == [b"a", b"?", b"b"]


@pytest.mark.parametrize(
    ("event", "name", "data"),
    [
        (Queued(3, 9), "queued", {"position": 3, "size": 9}),
        (Notice("title", "Sky"), "notice", {"kind": "title", "text": "Sky"}),
        (Finish("length"), "finish", {"reason": "length", "usage": None, "error": None}),
        (
            Finish("stop", usage=trioprov.Usage(output_tokens=3)),
            "finish",
            {"reason": "stop", "usage": {"input_tokens": None, "output_tokens": 3}, "error": None},
        ),
    ],
)
def test_every_other_event_is_an_object(event: trioprov.Event, name: str, data: object) -> None:
    fields = dict(line.split(": ", 1) for line in block(event, "", 1).decode().splitlines() if line)
    assert fields["event"] == name
    assert json.loads(fields["data"]) == data
    assert fields["id"] == (":end" if name == "finish" else ":1")


def test_what_cannot_happen_to_a_reader_that_waits_is_not_sent() -> None:
    assert block(Lagged(3), "name", 7) == b""


def test_the_beginning_names_the_reply_and_is_no_event() -> None:
    assert prelude("name", 5, resumable=True) == b"retry: 1000\nid: name:5\n\n"
    assert prelude("", 0, resumable=False) == b"id: :0\n\n"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (trioprov.RateLimited("key sk-secret"), 429),
        (trioprov.Overloaded("at 10.0.0.7: secret"), 503),
        (trioprov.FirstTokenTimeout("secret"), 504),
        (trioprov.InvalidRequest("secret"), 400),
        (trioprov.AuthenticationError("secret", status=401), 502),
        (trioprov.ConversationLost("secret"), 502),
        (trioprov.IncompleteReply("secret", partial="secret"), 502),
        (trioprov.ConnectionFailed("secret"), 502),
        (trioprov.JournalError("secret"), 500),
        (ZeroDivisionError("secret"), 500),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_is_a_status_a_name_and_a_sentence_of_ours(error: Exception, status: int) -> None:
    said = failure(error)
    assert said.status == status
    assert said.type == type(error).__name__
    assert said.message
    assert "secret" not in json.dumps(said.said)
    assert said.headers == {}


def test_the_seconds_to_wait_are_whole_ones() -> None:
    assert failure(trioprov.RateLimited(retry_after=1.2)).headers == {"retry-after": "2"}


def test_a_race_that_nobody_won_has_the_status_that_all_have() -> None:
    busy, limited = trioprov.Overloaded(retry_after=9), trioprov.RateLimited(retry_after=5)
    assert failure(trioprov.AllFailed("no", [busy, busy])).status == 503
    mixed = failure(trioprov.AllFailed("no", [busy, limited, ZeroDivisionError()]))
    assert (mixed.status, mixed.retry_after) == (502, 5)


@pytest.mark.parametrize("seconds", [0.1, 10.0])
async def test_a_farewell_is_said_though_its_task_is_cancelled_and_not_waited_for_long(
    seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    sent: list[str] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        await trio.sleep(seconds)
        sent.append(message["type"])

    begun = trio.current_time()
    with trio.CancelScope() as scope:
        scope.cancel()
        await Outlet(send, Reader(), 60).farewell(499)
    assert sent == (["http.response.start", "http.response.body"] if seconds < 1 else [])
    assert trio.current_time() - begun == pytest.approx(min(2 * seconds, 1))  # pyright: ignore[reportUnknownMemberType]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_response_that_comes_when_the_replies_were_left_is_told_so(backend: str) -> None:
    async def nobody(message: object = None) -> Any:
        await anyio.sleep_forever()
        raise AssertionError

    async def main() -> None:
        async with open_replies() as replies:
            pass
        response = SSEResponse(trioprov.anyio.open_reply("Why?", trioprov.H2o()), replies=replies)
        with pytest.raises(anyio.ClosedResourceError, match="replies are closed"):
            await response({"type": "http", "method": "GET", "path": "/", "headers": []}, nobody, nobody)

    anyio.run(main, backend=backend)
