"""Open Assistant by hand: what it says to the website, and what it makes of the answers, the errors and the events."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trioprov import (
    AuthenticationError,
    ConnectionFailed,
    Conversation,
    ConversationLost,
    Event,
    Finish,
    IncompleteReply,
    InvalidRequest,
    ModelNotSupported,
    Notice,
    OpenAssistant,
    Overloaded,
    ProviderError,
    Queued,
    RateLimited,
    RemoteProtocolError,
)
from trioprov.providers import Response, checked_messages
from trioprov.providers._oasst import OpenAssistantDecoder

OA = OpenAssistant(cookies={"next-auth.session-token": "mine"})
CHAT = Conversation(provider="openassistant", base_url=OA.base_url, id="chat", credential=OA.credential(Conversation()))
OK = Response(status=200)
WENT_WRONG = Response(status=500, body=b'{"message":"Something went wrong"}')
DEFAULTS = {
    "top_k": 50,
    "top_p": None,
    "typical_p": None,
    "temperature": 0.35,
    "repetition_penalty": 1.1111111111111112,
    "max_new_tokens": 1024,
}


def answer(**fields: Any) -> Response:
    return Response(status=200, body=json.dumps(fields).encode())


PROMPTED, ANSWERING = answer(id="p1", role="prompter"), answer(id="a1", role="assistant", state="pending", content=None)


def ask(conversation: Conversation, text: Any = "Привет", provider: OpenAssistant = OA, **parameters: Any) -> Any:
    return provider.ask(conversation, checked_messages(text), provider.options(parameters), str)


def told(driven: Any) -> list[tuple[str, str, Any, Any]]:
    return [(request.method, request.path, request.query, request.json) for request in driven.requests]


class TestOpen:
    def test_it_creates_a_chat_with_the_user_s_cookies(self, drive: Any) -> None:
        driven = drive(OA.open(OA.new_conversation(), str), answer(id="chat", title=None))
        assert told(driven) == [("POST", "/api/chat", None, None)]
        assert driven.requests[0].creates
        assert driven.requests[0].headers["cookie"] == "next-auth.session-token=mine"
        assert driven.value == OA.new_conversation().replace(id="chat")

    def test_without_cookies_nothing_is_sent(self, drive: Any) -> None:
        provider = OpenAssistant()
        with pytest.raises(AuthenticationError, match="cookies"):
            drive(provider.open(provider.new_conversation(), str))

    def test_who_is_not_logged_in_gets_a_403_without_a_body(self, drive: Any) -> None:
        with pytest.raises(AuthenticationError, match="not logged in") as caught:
            drive(OA.open(OA.new_conversation(), str), Response(status=403))
        assert caught.value.status == 403

    @pytest.mark.parametrize(
        "body", [b"", b"[]", b"{}", b'{"id":5}', b'{"id":""}', b'{"id":".."}', b'{"id":null}', b'{"id":"' + b"x" * 129]
    )
    def test_a_create_that_names_no_id_breaks_the_protocol(self, body: bytes, drive: Any) -> None:
        with pytest.raises(RemoteProtocolError):
            drive(OA.open(OA.new_conversation(), str), Response(status=200, body=body))


class TestAsk:
    def test_the_prompt_the_answer_and_its_events_are_three_requests(self, drive: Any) -> None:
        driven = drive(ask(CHAT), PROMPTED, ANSWERING)
        assert told(driven) == [
            ("POST", "/api/chat/prompter_message", None, {"chat_id": "chat", "content": "Привет", "parent_id": None}),
            (
                "POST",
                "/api/chat/assistant_message",
                None,
                {
                    "chat_id": "chat",
                    "parent_id": "p1",
                    "model_config_name": "OA_SFT_Llama_30B_6",
                    "sampling_parameters": DEFAULTS,
                    "plugins": [],
                },
            ),
        ]
        assert [request.must_answer for request in driven.requests] == [False, True]
        stream = driven.value.request
        assert (stream.method, stream.path, stream.json) == ("POST", "/api/chat/events", None)
        assert stream.query == {"chat_id": "chat", "message_id": "a1"}

    def test_what_is_of_the_message_and_not_of_the_sampling_stands_beside_it(self, drive: Any) -> None:
        texts: dict[str, Any] = {"system_prompt": "s", "user_profile": "u", "user_response_instructions": "r"}
        driven = drive(ask(CHAT, plugins=[{"url": "x"}], temperature=0, top_k=None, **texts), PROMPTED, ANSWERING)
        body = driven.requests[1].json
        assert body["plugins"] == [{"url": "x"}]
        assert {name: body[name] for name in texts} == texts
        assert body["sampling_parameters"] == {
            **{name: DEFAULTS[name] for name in DEFAULTS if name != "top_k"},
            "temperature": 0,
        }

    def test_a_later_prompt_hangs_on_the_answer_before(self, drive: Any) -> None:
        driven = drive(ask(CHAT.replace(started=True, parent="a0")), PROMPTED, ANSWERING)
        assert driven.requests[0].json["parent_id"] == "a0"

    def test_each_step_is_remembered(self, drive: Any) -> None:
        driven = drive(ask(CHAT), PROMPTED, ANSWERING)
        prompted, answering = driven.conversations
        assert prompted["unanswered"] == "p1"
        assert answering == driven.value.decoder.conversation == prompted.replace(pending="a1")

    def test_a_prompt_that_is_there_already_is_not_sent_again(self, drive: Any) -> None:
        prompted, _ = drive(ask(CHAT), PROMPTED, ANSWERING).conversations
        assert [request.path for request in drive(ask(prompted), ANSWERING).requests] == ["/api/chat/assistant_message"]

    def test_another_prompt_after_an_unanswered_first_one_cannot_be_asked(self, drive: Any) -> None:
        """The server takes one message without a parent, into an empty chat."""
        prompted, _ = drive(ask(CHAT), PROMPTED, ANSWERING).conversations
        with pytest.raises(ConversationLost, match="open a new session"):
            drive(ask(prompted, "Something else"))

    def test_a_prompt_whose_id_was_lost_cannot_be_answered(self, drive: Any) -> None:
        """The answer to it never arrived, so that it is sent again, into a chat that holds it already."""
        refused = Response(status=400, body=b'{"message": "Trying to add first message to non-empty chat"}')
        with pytest.raises(ConversationLost, match="open a new session"):
            drive(ask(CHAT), refused)

    @pytest.mark.parametrize(
        ("status", "message"), [(400, "Parent message not found"), (413, "no room in this non-empty chat")]
    )
    def test_another_refusal_of_a_prompt_is_no_lost_conversation(self, status: int, message: str, drive: Any) -> None:
        with pytest.raises(InvalidRequest, match=message):
            drive(ask(CHAT), Response(status=status, body=json.dumps({"message": message}).encode()))

    def test_another_prompt_after_an_unanswered_later_one_can(self, drive: Any) -> None:
        before = CHAT.replace(started=True, parent="a0", unanswered="p0", unanswered_prompt="x")
        driven = drive(ask(before, "Something else"), PROMPTED, ANSWERING)
        assert driven.requests[0].json["parent_id"] == "a0"
        assert driven.requests[1].json["parent_id"] == "p1"

    def test_a_chat_that_was_never_created_is_lost(self, drive: Any) -> None:
        with pytest.raises(ConversationLost):
            drive(ask(CHAT.replace(id=None)))

    @pytest.mark.parametrize(
        ("state", "parent"), [("complete", "a0"), ("aborted_by_worker", None), ("cancelled", None), ("timeout", None)]
    )
    def test_an_answer_that_was_left_is_waited_for(self, state: str, parent: str | None, drive: Any) -> None:
        waiting = [answer(id="a0", state=said) for said in ("pending", "in_progress", state)]
        driven = drive(ask(CHAT.replace(pending="a0")), *waiting, PROMPTED, ANSWERING)
        look = ("GET", "/api/chat/message", {"chat_id": "chat", "message_id": "a0"}, None)
        assert told(driven)[:3] == [look] * 3
        assert len(driven.pauses) == 2
        assert driven.requests[3].json["parent_id"] == parent
        assert "pending" not in driven.conversations[0]

    @pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"state":5}', b'{"state":null}', b"<html>"])
    def test_nonsense_about_an_answer_that_was_left_breaks_the_protocol(self, body: bytes, drive: Any) -> None:
        with pytest.raises(RemoteProtocolError):
            drive(ask(CHAT.replace(pending="a0")), Response(status=200, body=body))

    def test_a_refusal_to_say_what_became_of_it_is_that_refusal(self, drive: Any) -> None:
        with pytest.raises(AuthenticationError):
            drive(ask(CHAT.replace(pending="a0")), Response(status=403))


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "body", "kind", "message"),
        [
            (
                413,
                b'{"message":"Message content exceeds max length"}',
                InvalidRequest,
                "Message content exceeds max length",
            ),
            (400, b'{"message":"Parent message not found"}', InvalidRequest, "Parent message not found"),
            (422, b'{"message":"Model x not found"}', ModelNotSupported, "Model x not found"),
            (503, b'{"message":"The server is currently busy."}', Overloaded, "The server is currently busy."),
            (403, b'{"message":"You are banned"}', AuthenticationError, "You are banned"),
            (429, b"", RateLimited, "too many requests"),
            (500, b"Internal Server Error", ProviderError, "Internal Server Error"),
            (404, b"", InvalidRequest, "the server has nothing there: check base_url"),
            (
                422,
                b'{"message":[{"loc":["body","content"],"msg":"field required"},{"msg":"x"},"y",{"a":1}]}',
                InvalidRequest,
                "body.content: field required; x; y; {'a': 1}",
            ),
        ],
    )
    def test_the_message_is_a_string_or_a_list(
        self, status: int, body: bytes, kind: type[ProviderError], message: str
    ) -> None:
        error = OA.refusal(Response(status=status, body=body))
        assert (type(error), error.status, error.message) == (kind, status, message)

    def test_a_rate_limit_comes_as_a_500_on_the_answer(self, drive: Any) -> None:
        with pytest.raises(RateLimited, match="rate limit or internal error") as caught:
            drive(ask(CHAT), PROMPTED, WENT_WRONG)
        assert caught.value.status == 500

    @pytest.mark.parametrize(
        "response", [Response(status=500), Response(status=502, body=b'{"message":"Something went wrong"}')]
    )
    def test_and_not_as_anything_else(self, response: Response, drive: Any) -> None:
        with pytest.raises(ProviderError) as caught:
            drive(ask(CHAT), PROMPTED, response)
        assert type(caught.value) is ProviderError

    def test_and_not_on_the_prompt(self, drive: Any) -> None:
        with pytest.raises(ProviderError, match="Something went wrong") as caught:
            drive(ask(CHAT), WENT_WRONG, OK)
        assert type(caught.value) is ProviderError

    def test_a_500_on_the_prompt_of_a_chat_that_is_gone_is_a_lost_conversation(self, drive: Any) -> None:
        driven = ask(CHAT)
        with pytest.raises(ConversationLost):
            drive(driven, WENT_WRONG, Response(status=404))

    def test_a_full_queue_is_overload_and_the_prompt_is_remembered(self, drive: Any) -> None:
        steps = ask(CHAT)
        assert next(steps).path == "/api/chat/prompter_message"
        prompted = steps.send(PROMPTED)
        steps.send(None)
        with pytest.raises(Overloaded):
            steps.send(Response(status=503, body=b'{"message":"The server is currently busy."}'))
        assert prompted["unanswered"] == "p1"


class TestClose:
    LOOK = ("GET", "/api/chat", {"chat_id": "chat"}, None)
    DELETE = ("DELETE", "/api/chat", {"chat_id": "chat"}, None)

    def test_the_chat_is_named_in_the_query(self, drive: Any) -> None:
        driven = drive(OA.close(CHAT), OK)
        assert told(driven) == [self.DELETE]
        assert driven.value == "deleted"

    def test_a_500_for_a_chat_that_is_gone_is_gone(self, drive: Any) -> None:
        driven = drive(OA.close(CHAT), Response(status=500, body=b"Internal Server Error"), Response(status=404))
        assert told(driven) == [self.DELETE, self.LOOK]
        assert driven.value == "already_gone"

    @pytest.mark.parametrize("status", [200, 403, 500])
    def test_a_500_for_a_chat_that_is_there_is_a_refusal_worth_another_try(self, status: int, drive: Any) -> None:
        with pytest.raises(ProviderError) as caught:
            drive(OA.close(CHAT), Response(status=500), Response(status=status))
        assert caught.value.status == 500

    def test_another_account_s_not_found_proves_nothing(self, drive: Any) -> None:
        other = OpenAssistant(cookies={"next-auth.session-token": "another"})
        with pytest.raises(ProviderError):
            drive(other.close(CHAT), Response(status=500), Response(status=404))

    @pytest.mark.parametrize("status", [403, 404, 400])
    def test_any_other_refusal_is_one_without_asking(self, status: int, drive: Any) -> None:
        with pytest.raises(ProviderError) as caught:
            drive(OA.close(CHAT), Response(status=status))
        assert caught.value.status == status

    def test_an_answer_that_is_still_given_is_waited_for(self, drive: Any) -> None:
        waiting = [answer(state="pending"), answer(state="complete")]
        driven = drive(OA.close(CHAT.replace(pending="a0")), *waiting, OK)
        assert [request.path for request in driven.requests] == ["/api/chat/message", "/api/chat/message", "/api/chat"]
        assert driven.value == "deleted"

    @pytest.mark.parametrize("failure", [ConnectionFailed("no"), Response(status=500), Response(status=200)])
    def test_and_what_cannot_be_waited_for_is_deleted_all_the_same(self, failure: Any, drive: Any) -> None:
        assert drive(OA.close(CHAT.replace(pending="a0")), failure, OK).value == "deleted"

    def test_nothing_is_owed_for_what_was_not_created(self, drive: Any) -> None:
        assert drive(OA.close(CHAT.replace(id=None))).value == "nothing_owed"

    def test_a_lost_create_cannot_be_found(self, drive: Any) -> None:
        driven = drive(OA.recover(CHAT.replace(id=None)))
        assert (driven.requests, driven.value) == ([], "lost")

    def test_there_is_no_way_to_stop_an_answer(self, drive: Any) -> None:
        assert drive(OA.stop(CHAT.replace(pending="a0"))).requests == []


# -- The events --------------------------------------------------------------------------------------------------------


def sse(*events: Any, end: str = "\r\n") -> bytes:
    return b"".join(f"data: {json.dumps(event)}{end}{end}".encode() for event in events)


PENDING = CHAT.replace(pending="a1", unanswered="p1", unanswered_prompt="x")
COMPLETE = {"id": "a1", "role": "assistant", "state": "complete", "content": "Hi мир"}
HELLO = sse(
    {"event_type": "pending", "queue_position": 2, "queue_size": 5},
    {"event_type": "pending", "queue_position": 0, "queue_size": 5},
    {"event_type": "plugin_intermediate", "current_plugin_thought": "hm", "current_plugin_action_taken": "look"},
    {"event_type": "token", "text": ""},
    {"event_type": "token", "text": "Hi"},
    {"event_type": "token", "text": " мир"},
    {"event_type": "message", "message": COMPLETE},
)
STREAMS = {
    "whole": HELLO,
    "lf": HELLO.replace(b"\r\n", b"\n"),
    "pings": b": ping - 2023-07-01 00:00:00\r\n\r\n" + HELLO.replace(b"\n\r\n", b"\n\r\n: ping\r\n\r\n"),
    "error": sse({"event_type": "token", "text": "a"}, {"event_type": "error", "error": "Timeout", "message": None}),
    "nonsense": sse({"event_type": "token", "text": "a"}) + b"data: nonsense\r\n\r\n",
    "cut": sse({"event_type": "token", "text": "a"}),
}


def read(data: bytes | Iterable[bytes]) -> tuple[list[Event], OpenAssistantDecoder]:
    decoder = OpenAssistantDecoder(PENDING)
    events: list[Event] = []
    for chunk in [data] if isinstance(data, bytes) else data:
        events += decoder.receive_data(chunk)
    return events + decoder.receive_eof(), decoder


def seen(event: Event) -> Any:
    if isinstance(event, Finish) and event.error is not None:
        return type(event.error), str(event.error)
    return event


class TestEvents:
    def test_queue_plugins_tokens_and_message_are_told_in_order(self) -> None:
        events, decoder = read(HELLO)
        assert events == [Queued(2, 5), Queued(0, 5), Notice("plugin", "hm · look"), "Hi", " мир", Finish("stop")]
        assert decoder.server_text == "Hi мир"
        assert decoder.conversation == CHAT.replace(parent="a1", started=True)

    @pytest.mark.parametrize("name", ["lf", "pings"])
    def test_it_is_the_same_in_every_way_of_writing_it(self, name: str) -> None:
        assert read(STREAMS[name])[0] == read(HELLO)[0]

    @pytest.mark.parametrize("data", STREAMS.values(), ids=STREAMS.keys())
    def test_byte_by_byte_it_is_the_same(self, data: bytes) -> None:
        whole, pieces = read(data), read(data[at : at + 1] for at in range(len(data)))
        assert [seen(event) for event in pieces[0]] == [seen(event) for event in whole[0]]
        assert pieces[1].conversation == whole[1].conversation

    @given(st.sampled_from([*STREAMS.values()]), st.lists(st.integers(0, 700)))
    def test_cut_anywhere_it_is_the_same(self, data: bytes, cuts: list[int]) -> None:
        places = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
        chunks = [data[start:end] for start, end in pairwise(places)]
        whole, pieces = read(data), read(chunks)
        assert [seen(event) for event in pieces[0]] == [seen(event) for event in whole[0]]
        assert pieces[1].conversation == whole[1].conversation

    @pytest.mark.parametrize(
        ("error", "kind", "message"),
        [
            ("Timeout", Overloaded, "Timeout: no worker took the question from the queue in time"),
            ("Aborted due to worker error.", ProviderError, "Aborted due to worker error."),
            (None, ProviderError, ""),
            ({"a": 1}, ProviderError, "{'a': 1}"),
        ],
    )
    @pytest.mark.parametrize(
        "message_of", [None, {"state": "aborted_by_worker", "content": None}, {"state": "complete", "content": "a"}]
    )
    def test_an_error_is_the_end_and_nothing_can_be_built_on_it(
        self, error: Any, kind: type[ProviderError], message: str, message_of: Any
    ) -> None:
        data = sse({"event_type": "token", "text": "a"}, {"event_type": "error", "error": error, "message": message_of})
        events, decoder = read(data + HELLO)
        assert events[0] == "a"
        assert isinstance(events[1], Finish)
        assert isinstance(events[1].error, ProviderError)
        assert (type(events[1].error), events[1].error.message) == (kind, message)
        assert decoder.conversation == PENDING.replace(pending=None)

    def test_a_stream_that_ends_in_the_middle_is_incomplete_and_its_answer_still_pending(self) -> None:
        events, decoder = read(STREAMS["cut"])
        assert isinstance(events[-1], Finish)
        assert isinstance(events[-1].error, IncompleteReply)
        assert decoder.conversation == PENDING

    def test_an_event_nobody_knows_is_passed_over(self) -> None:
        events, _ = read(sse({"event_type": "safe_prompt", "message": {"id": "x"}, "safe_prompt": "y"}) + HELLO)
        assert events == read(HELLO)[0]

    @pytest.mark.parametrize("message", [None, {}, {"content": None}, {"content": 5}, "x", []])
    def test_a_complete_answer_without_content_breaks_the_protocol(self, message: Any) -> None:
        events, decoder = read(sse({"event_type": "message", "message": message}))
        assert isinstance(events[-1], Finish)
        assert isinstance(events[-1].error, RemoteProtocolError)
        assert not decoder.conversation.started

    def test_a_queue_without_numbers_is_a_queue(self) -> None:
        assert read(sse({"event_type": "pending"}))[0][0] == Queued(0, None)


class TestEmptyStream:
    """The events of an answer that had ended before are none, with status 200."""

    def after(self, drive: Any, response: Response, *chunks: bytes) -> tuple[Any, OpenAssistantDecoder]:
        decoder = OpenAssistantDecoder(PENDING)
        for chunk in chunks:
            assert decoder.receive_data(chunk) == []
        return drive(OA.after_stream(decoder), response), decoder

    @pytest.mark.parametrize("chunks", [(), (b": ping\r\n\r\n",), (b'data: {"event_type": "to',)])
    def test_the_answer_is_read_from_its_message(self, chunks: tuple[bytes, ...], drive: Any) -> None:
        driven, decoder = self.after(drive, answer(**COMPLETE), *chunks)
        assert told(driven) == [("GET", "/api/chat/message", {"chat_id": "chat", "message_id": "a1"}, None)]
        assert driven.value == [Finish("stop")]
        assert decoder.server_text == "Hi мир"
        assert decoder.conversation == CHAT.replace(parent="a1", started=True)

    @pytest.mark.parametrize("state", ["aborted_by_worker", "cancelled", "timeout"])
    def test_an_answer_that_failed_has_failed(self, state: str, drive: Any) -> None:
        for content in (None, "As far as it"):
            driven, decoder = self.after(drive, answer(state=state, content=content))
            (finish,) = driven.value
            assert isinstance(finish.error, ProviderError)
            assert state in str(finish.error)
            assert "pending" not in decoder.conversation

    @pytest.mark.parametrize("state", ["pending", "in_progress"])
    def test_an_answer_that_goes_on_is_incomplete_and_still_pending(self, state: str, drive: Any) -> None:
        driven, decoder = self.after(drive, answer(state=state, content=None))
        (finish,) = driven.value
        assert isinstance(finish.error, IncompleteReply)
        assert decoder.conversation == PENDING

    def test_a_stream_with_events_is_not_read_again(self, drive: Any) -> None:
        decoder = OpenAssistantDecoder(PENDING)
        decoder.receive_data(STREAMS["cut"])
        driven = drive(OA.after_stream(decoder))
        assert driven.requests == []
        assert isinstance(driven.value[-1].error, IncompleteReply)

    @pytest.mark.parametrize("response", [Response(status=500), Response(status=200, body=b"{}"), Response(status=403)])
    def test_a_message_that_cannot_be_read_is_an_error_of_ours(self, response: Response, drive: Any) -> None:
        with pytest.raises((ProviderError, RemoteProtocolError)):
            self.after(drive, response)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KINDS = st.sampled_from(["token", "pending", "plugin_intermediate", "message", "error", "safe_prompt"])
FIELDS = [
    *("text", "queue_position", "queue_size", "error", "message", "current_plugin_thought"),
    "current_plugin_action_input",
]


def an_event(kind: Any, fields: dict[str, Any]) -> dict[str, Any]:
    return {"event_type": kind, **fields}


MESSAGES = st.builds(an_event, KINDS | JSON, st.dictionaries(st.sampled_from(FIELDS), JSON))


class TestHostile:
    def check(self, events: list[Event]) -> None:
        assert [event for event in events if isinstance(event, Finish)] == events[-1:]
        finish = events[-1]
        assert isinstance(finish, Finish)
        assert (finish.reason == "error") == (finish.error is not None)

    @given(st.lists(MESSAGES, max_size=4))
    @example([{"event_type": "pending", "queue_position": 1.5}])
    @example([{"event_type": "pending", "queue_position": 10**30}])
    @example([{"event_type": "token", "text": ["a"]}])
    @example([{"event_type": "error", "message": {"state": 5}}])
    def test_no_message_can_make_it_raise(self, messages: list[Any]) -> None:
        self.check(read(sse(*messages))[0])

    @given(st.lists(st.binary() | st.sampled_from([b"data:", b"\r\n", b"\n", b"{", HELLO[:40], b"\xff"])))
    def test_no_bytes_can_make_it_raise(self, chunks: list[bytes]) -> None:
        self.check(read(chunks)[0])

    @pytest.mark.parametrize(
        "data",
        [
            *(b"data:[]\n\n", b"data:5\n\n", b"data:{}\n\n", b"data:" + b"[" * 100_000 + b"\n\n"),
            b'data:{"event_type":"error","error":' + b"[" * 900 + b"]" * 900 + b"}\n\n",
            b'data:{"event_type":"error","error":' + b"9" * 4200 + b"}\n\n",
            b'data:{"event_type":"token","text":"' + b"a" * 10_000_000 + b'"}\n\n',
        ],
        ids=lambda data: f"{data[:12]!r}…{len(data)}",
    )
    def test_nonsense_of_any_size_is_an_error_at_the_end(self, data: bytes) -> None:
        for chunks in ([data], [data[at : at + 65536] for at in range(0, len(data), 65536)]):
            events, _ = read(chunks)
            self.check(events)
            assert isinstance(events[-1], Finish)
            assert events[-1].error is not None
            assert len(str(events[-1].error)) < 500

    def test_a_decoder_of_a_conversation_that_awaits_nothing_does_not_raise(self) -> None:
        assert OpenAssistantDecoder(Conversation()).receive_data(HELLO)[-1] == Finish("stop")
