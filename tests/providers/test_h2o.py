"""H2o by hand: what it says to chat-ui, and what it makes of the answers, the errors and the stream."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
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
    H2o,
    IncompleteReply,
    InvalidRequest,
    ModelNotSupported,
    Overloaded,
    ProviderError,
    RateLimited,
    RemoteProtocolError,
    Usage,
)
from trioprov.providers import Response, checked_messages
from trioprov.providers._tgi import TGIDecoder

MODEL = "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-40b-v1"
ID = "64c0ffee64c0ffee64c0ffee"
SETTLED = Response(status=200, body=b'{"type":"redirect","status":303,"location":"/"}')
CREATED = Response(status=200, body=b'{"conversationId":"%s"}' % ID.encode())
MINTED = Conversation(provider="h2o", identity={"hf-chat": "mine"})


def opened(provider: H2o | None = None, **changes: Any) -> Conversation:
    """A conversation of a provider's that has been created."""
    conversation = MINTED.replace(id=ID)
    return conversation.replace(credential=(provider or H2o()).credential(conversation), **changes)


def set_cookie(*values: str, base: Response = SETTLED) -> Response:
    return Response(status=base.status, body=base.body, headers=[("set-cookie", value) for value in values])


class TestOpen:
    def test_it_accepts_the_terms_then_creates(self, drive: Any, new_id: Any) -> None:
        requests, conversations, _, value = drive(H2o().open(MINTED, new_id), SETTLED, CREATED)
        settings, create = requests
        assert (settings.method, settings.path) == ("POST", "/settings")
        assert settings.form == {"ethicsModalAccepted": "true", "activeModel": MODEL}
        assert not settings.creates
        assert (create.method, create.path, create.json) == ("POST", "/conversation", {"model": MODEL})
        assert create.creates
        for request in requests:
            assert request.headers["cookie"] == "hf-chat=mine"
            assert request.headers["referer"] == "https://gpt-gm.h2o.ai/"
            assert request.headers["origin"] == "https://gpt-gm.h2o.ai"
        assert conversations == [MINTED.replace(session_cookie="hf-chat")]
        assert value == MINTED.replace(session_cookie="hf-chat", id=ID)

    def test_consent_to_share_is_given_only_when_asked_for(self, drive: Any, new_id: Any) -> None:
        steps = H2o("falcon-7b", share_with_model_authors=True).open(MINTED, new_id)
        assert drive(steps, SETTLED, CREATED).requests[0].form == {
            "ethicsModalAccepted": "true",
            "activeModel": "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-7b-v3",
            "shareConversationsWithModelAuthors": "true",
        }

    @pytest.mark.parametrize("status", [200, 303])
    def test_a_form_is_accepted_by_200_and_by_303(self, status: int, drive: Any, new_id: Any) -> None:
        assert drive(H2o().open(MINTED, new_id), Response(status=status), CREATED).value.id == ID

    @pytest.mark.parametrize("kind", ["error", "failure"])
    def test_a_form_that_failed_inside_a_200_has_failed(self, kind: str, drive: Any, new_id: Any) -> None:
        body = b'{"type":"%s","error":{"message":"Internal Error"}}' % kind.encode()
        with pytest.raises(ProviderError, match="Internal Error"):
            drive(H2o().open(MINTED, new_id), Response(status=200, body=body))

    @pytest.mark.parametrize(
        ("answers", "kind"),
        [
            ([Response(status=405, body=b"You need to accept the welcome modal first")], InvalidRequest),
            ([Response(status=302)], ProviderError),
            ([SETTLED, Response(status=500, body=b'{"message":"Internal Error"}')], ProviderError),
            ([SETTLED, Response(status=401, body=b"You have to be logged in.")], AuthenticationError),
            ([SETTLED, Response(status=303)], ProviderError),
        ],
    )
    def test_a_refusal_is_raised(self, answers: list[Response], kind: type[Exception], drive: Any, new_id: Any) -> None:
        with pytest.raises(kind):
            drive(H2o().open(MINTED, new_id), *answers)

    @pytest.mark.parametrize(
        "body",
        [
            *(b"", b"null", b"[]", b"{}", b"<html>", b'{"conversationId":5}', b'{"conversationId":null}'),
            *(
                b'{"conversationId":""}',
                b'{"conversationId":"."}',
                b'{"conversationId":".."}',
                b'{"conversationId":["a"]}',
            ),
            b'{"conversationId":"' + b"x" * 129 + b'"}',
        ],
    )
    def test_a_create_that_names_no_id_breaks_the_protocol(self, body: bytes, drive: Any, new_id: Any) -> None:
        with pytest.raises(RemoteProtocolError, match="did not say its id"):
            drive(H2o().open(MINTED, new_id), SETTLED, Response(status=200, body=body))

    def test_the_session_is_known_even_if_the_id_is_not(self, new_id: Any) -> None:
        """What `recover` needs, when the server's own cookie comes with an answer that is nonsense."""
        steps = H2o().open(MINTED, new_id)
        next(steps)
        steps.send(SETTLED)
        steps.send(None)
        step = steps.send(set_cookie("other=theirs", base=Response(status=200, body=b"{}")))
        assert isinstance(step, Conversation)
        assert step.identity == {"hf-chat": "mine", "other": "theirs"}

    @pytest.mark.parametrize("given", ["a/b", "../settings", "a\r\nb", "ид", "a?b#c", "a b", "%2e", "...", "x" * 128])
    def test_any_other_id_is_one_path_segment(self, given: str, drive: Any, new_id: Any) -> None:
        created = Response(status=200, body=json.dumps({"conversationId": given}).encode())
        conversation = drive(H2o().open(MINTED, new_id), SETTLED, created).value
        assert conversation.id == given
        path = drive(H2o().close(conversation), Response(status=200)).requests[0].path
        assert path.count("/") == 2
        assert path.isascii()
        assert path.isprintable()
        assert not set(" ?#") & set(path)


class TestCookies:
    def test_the_session_is_chosen_here_unless_the_user_brings_one(self, new_id: Any) -> None:
        assert H2o().mint(new_id) == {"hf-chat": "00000000-0000-4000-8000-000000000001"}
        assert H2o(cookie_name="chat").mint(new_id) == {"chat": "00000000-0000-4000-8000-000000000002"}
        assert H2o(cookies={"hf-chat": "u"}).mint(new_id) == {}
        assert H2o(cookies={"cf": "u"}).mint(new_id) == {"hf-chat": "00000000-0000-4000-8000-000000000003"}

    def test_the_user_s_cookies_and_the_session_s_are_sent_together(self, drive: Any, new_id: Any) -> None:
        provider = H2o(cookies={"cf": "u", "hf-chat": "u"})
        requests = drive(provider.open(MINTED, new_id), SETTLED, CREATED).requests
        assert requests[0].headers["cookie"] == "cf=u; hf-chat=mine"

    def test_a_server_s_cookie_of_another_name_is_adopted(self, drive: Any, new_id: Any) -> None:
        settled = set_cookie("h2o-chat=theirs; Path=/; HttpOnly; Secure; SameSite=None; Partitioned; Priority=High")
        driven = drive(H2o().open(MINTED, new_id), settled, CREATED)
        assert driven.requests[1].headers["cookie"] == "hf-chat=mine; h2o-chat=theirs"
        assert driven.value.identity == {"hf-chat": "mine", "h2o-chat": "theirs"}
        closed = drive(H2o().close(driven.value), Response(status=200))
        assert closed.requests[0].headers["cookie"] == "hf-chat=mine; h2o-chat=theirs"

    def test_the_server_does_not_speak_for_names_that_are_spoken_for(self, drive: Any, new_id: Any) -> None:
        settled = set_cookie("hf-chat=theirs; Path=/", "cf=theirs")
        value = drive(H2o(cookies={"cf": "u"}).open(MINTED, new_id), settled, CREATED).value
        assert value.identity == {"hf-chat": "mine"}

    @pytest.mark.parametrize(
        "value",
        [
            *("", "a", "=b", "a=", "a=; Path=/", "a b=c", "a=x\x00y", "a=я", "a=" + "x" * 9000, "a=b; Max-Age=0"),
            *("a=b; max-age=-1", "a=b; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "; a=b"),
        ],
    )
    def test_a_cookie_that_is_none_or_deleted_is_not_adopted(self, value: str, drive: Any, new_id: Any) -> None:
        assert drive(H2o().open(MINTED, new_id), set_cookie(value), CREATED).value.identity == {"hf-chat": "mine"}

    @given(st.lists(st.text(), max_size=3))
    def test_no_set_cookie_can_make_it_raise_or_break_a_header(self, values: list[str]) -> None:
        steps = H2o().open(MINTED, str)
        next(steps)
        steps.send(set_cookie(*values))
        request: Any = steps.send(None)
        assert request.headers["cookie"].isprintable()
        assert request.headers["cookie"].isascii()


class TestAsk:
    def asked(self, drive: Any, new_id: Any, options: Any = (), provider: H2o | None = None, **changes: Any) -> Any:
        provider = provider or H2o()
        steps = provider.ask(opened(**changes), checked_messages("Привет"), provider.options(dict(options)), new_id)
        driven = drive(steps)
        assert driven.requests == []
        return driven.value

    def test_the_body_is_what_the_web_client_sends(self, drive: Any, new_id: Any) -> None:
        request = self.asked(drive, new_id).request
        assert (request.method, request.path) == ("POST", f"/conversation/{ID}")
        assert request.json == {
            "inputs": "Привет",
            "parameters": {
                "temperature": 0.4,
                "truncate": 2048,
                "max_new_tokens": 1024,
                "do_sample": True,
                "repetition_penalty": 1.2,
                "return_full_text": False,
            },
            "stream": True,
            "options": {
                "id": "00000000-0000-4000-8000-000000000001",
                "response_id": "00000000-0000-4000-8000-000000000002",
                "is_retry": False,
                "use_cache": False,
                "web_search_id": "",
            },
        }
        assert not request.creates
        assert not request.must_answer

    def test_the_ids_of_the_messages_can_be_given_and_are_no_parameters(self, drive: Any, new_id: Any) -> None:
        body = self.asked(drive, new_id, {"id": "a", "response_id": "b", "top_k": 5}).request.json
        assert (body["options"]["id"], body["options"]["response_id"]) == ("a", "b")
        assert body["parameters"]["top_k"] == 5
        assert not {"id", "response_id"} & body["parameters"].keys()

    def test_none_leaves_a_default_out(self, drive: Any, new_id: Any) -> None:
        body = self.asked(drive, new_id, {"truncate": None, "temperature": 0}).request.json
        assert "truncate" not in body["parameters"]
        assert body["parameters"]["temperature"] == 0

    def test_the_caller_s_options_stay_as_they_were(self, drive: Any, new_id: Any) -> None:
        options = dict(H2o().options({"id": "a"}))
        drive(H2o().ask(opened(), checked_messages("?"), options, new_id))
        assert options == H2o().options({"id": "a"})

    def test_from_the_request_on_the_server_generates(self, drive: Any, new_id: Any) -> None:
        assert self.asked(drive, new_id).decoder.conversation == opened(generating=True)

    def test_a_conversation_that_was_never_created_is_lost(self, drive: Any, new_id: Any) -> None:
        with pytest.raises(ConversationLost):
            drive(H2o().ask(MINTED, checked_messages("?"), {}, new_id))


class TestClose:
    DELETE = ("DELETE", f"/conversation/{ID}")
    STOP = ("POST", f"/conversation/{ID}/stop-generating")

    def test_what_does_not_generate_is_deleted(self, drive: Any) -> None:
        driven = drive(H2o().close(opened()), Response(status=200))
        assert [(request.method, request.path) for request in driven.requests] == [self.DELETE]
        assert driven.value == "deleted"

    @pytest.mark.parametrize("stopped", [Response(status=200), Response(status=500), ConnectionFailed("no")])
    def test_what_generates_is_stopped_first_as_well_as_can_be(self, stopped: Any, drive: Any) -> None:
        driven = drive(H2o().close(opened(generating=True)), stopped, Response(status=200))
        assert [(request.method, request.path) for request in driven.requests] == [self.STOP, self.DELETE]
        assert [request.best_effort for request in driven.requests] == [True, False]
        assert driven.value == "deleted"

    def test_a_404_is_gone_for_the_session_that_created_it(self, drive: Any) -> None:
        missing = Response(status=404, body=b'{"message":"Conversation not found"}')
        assert drive(H2o().close(opened()), missing).value == "already_gone"

    def test_a_404_is_gone_on_a_page_too_if_it_is_chat_ui_that_says_so(self, drive: Any) -> None:
        page = b"<!DOCTYPE html><html><head><title>Conversation not found</title></head></html>"
        assert drive(H2o().close(opened()), Response(status=404, body=page)).value == "already_gone"
        with pytest.raises(InvalidRequest):
            drive(H2o().close(opened()), Response(status=404, body=b"<title>404 Not Found</title>"))

    @pytest.mark.parametrize(
        ("provider", "conversation"),
        [
            (H2o(cookies={"x": "1"}), opened()),
            (H2o(), opened(H2o(cookies={"x": "1"}))),
            (H2o(), opened(identity={"hf-chat": "another"})),
            (H2o(), Conversation(id=ID)),
        ],
    )
    def test_a_404_proves_nothing_to_anybody_else(self, provider: H2o, conversation: Any, drive: Any) -> None:
        missing = Response(status=404, body=b'{"message":"Conversation not found"}')
        with pytest.raises(ConversationLost) as caught:
            drive(provider.close(conversation), missing)
        assert caught.value.status == 404

    @pytest.mark.parametrize("status", [401, 403, 405, 429, 500, 503])
    def test_any_other_answer_is_a_refusal(self, status: int, drive: Any) -> None:
        with pytest.raises(ProviderError) as caught:
            drive(H2o().close(opened()), Response(status=status))
        assert caught.value.status == status

    def test_nothing_is_owed_for_what_was_not_created(self, drive: Any) -> None:
        assert drive(H2o().close(MINTED)).value == "nothing_owed"


class TestStopAndRecover:
    def test_what_generates_is_stopped_once(self, drive: Any) -> None:
        stopped = drive(H2o().stop(opened(generating=True)), Response(status=200))
        assert [request.path for request in stopped.requests] == [f"/conversation/{ID}/stop-generating"]
        assert stopped.value == opened()
        assert drive(H2o().stop(stopped.value)).value == opened()

    def test_a_stop_that_fails_says_so(self, drive: Any) -> None:
        missing = Response(status=404, body=b'{"message":"Conversation not found"}')
        with pytest.raises(ConversationLost):
            drive(H2o().stop(opened(generating=True)), missing)

    @pytest.mark.parametrize("status", [200, 303])
    def test_a_lost_create_is_recovered_by_deleting_all_of_the_minted_session(self, status: int, drive: Any) -> None:
        driven = drive(H2o().recover(MINTED), Response(status=status))
        (request,) = driven.requests
        assert (request.method, request.path, request.form) == ("POST", "/conversations?/delete", {})
        assert request.headers["cookie"] == "hf-chat=mine"
        assert request.headers["referer"] == "https://gpt-gm.h2o.ai/"
        assert driven.value == "deleted"

    @pytest.mark.parametrize(
        "provider",
        [
            H2o(cookies={"hf-chat": "u"}),
            H2o(cookies={"h2o-chat": "u"}),
            H2o(headers={"Authorization": "Bearer x"}),
            H2o(cookie_name="chat"),
        ],
        ids=["session", "session-of-another-name", "token", "another-name"],
    )
    def test_nothing_of_a_user_s_is_deleted_by_guess(self, provider: H2o, drive: Any) -> None:
        """The user's own session may hold conversations that this one did not create."""
        driven = drive(provider.recover(MINTED))
        assert driven.requests == []
        assert driven.value == "lost"

    def test_a_recovery_that_fails_says_so(self, drive: Any) -> None:
        with pytest.raises(ProviderError, match="Internal Error"):
            drive(
                H2o().recover(MINTED),
                Response(status=200, body=b'{"type":"error","error":{"message":"Internal Error"}}'),
            )


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "body", "kind", "message", "code"),
        [
            (404, b'{"message":"Conversation not found"}', ConversationLost, "Conversation not found", None),
            (404, b"<html><title>404</title></html>", InvalidRequest, "404", None),
            (410, b'{"message":"Model not available anymore"}', ModelNotSupported, "Model not available anymore", None),
            (500, b'{"message":"Conversation not found"}', ProviderError, "Conversation not found", None),
            (500, b'{"message":"Model not available anymore"}', ProviderError, "Model not available anymore", None),
            (410, b'{"message":"Gone"}', InvalidRequest, "Gone", None),
            (400, b'{"message":"Please refer to us"}', InvalidRequest, "Please refer to us", None),
            (429, b'{"error":"Too many"}', RateLimited, "Too many", None),
            (503, b"<html><title>503 Service</title></html>", Overloaded, "503 Service", None),
            (503, b'{"error":["a","b"]}', Overloaded, "a; b", None),
            (422, b"Failed to parse", InvalidRequest, "Failed to parse", None),
            (422, b'{"error":"bad","error_type":"validation"}', InvalidRequest, "bad", "validation"),
            (500, b'{"message":"Internal Error"}', ProviderError, "Internal Error", None),
            (401, b'{"error":"You have to be logged in."}', AuthenticationError, "You have to be logged in.", None),
            (413, b"Invalid request body", InvalidRequest, "Invalid request body", None),
            (500, b'{"detail":"x"}', ProviderError, "HTTP status 500", None),
        ],
    )
    def test_three_shapes_of_bodies_are_understood(
        self, status: int, body: bytes, kind: type[ProviderError], message: str, code: str | None
    ) -> None:
        error = H2o().refusal(Response(status=status, body=body))
        assert (type(error), error.status, error.message, error.code) == (kind, status, message, code)

    @pytest.mark.parametrize(
        "body", [b"Non-JSON form requests need to have a referer", b"Invalid referer for POST request"]
    )
    def test_a_refused_referer_is_explained(self, body: bytes) -> None:
        error = H2o(base_url="http://localhost:3000").refusal(Response(status=403, body=body))
        assert type(error) is InvalidRequest
        assert "PUBLIC_ORIGIN must be http://localhost:3000" in error.message

    def test_a_model_that_is_loading_says_for_how_long(self) -> None:
        body = b'{"error":"Model x is currently loading","estimated_time":20.5}'
        assert H2o().refusal(Response(status=503, body=body)).retry_after == 20.5
        assert H2o().refusal(Response(status=503, body=body, retry_after=3)).retry_after == 3


# -- The stream --------------------------------------------------------------------------------------------------------


def sse(*events: Any, space: str = "") -> bytes:
    return b"".join(f"data:{space}{json.dumps(event, ensure_ascii=False)}\n\n".encode() for event in events)


def token(text: str, *, special: bool = False, **more: Any) -> dict[str, Any]:
    piece = {"id": 11, "text": text, "logprob": None, "special": special}
    return {"token": piece, "generated_text": None, "details": None, **more}


def read(data: bytes | Iterable[bytes], *, stop: Sequence[str] = ()) -> tuple[list[Event], TGIDecoder]:
    decoder = TGIDecoder(opened(generating=True), stop)
    events: list[Event] = []
    for chunk in [data] if isinstance(data, bytes) else data:
        events += decoder.receive_data(chunk)
    return events + decoder.receive_eof(), decoder


def seen(event: Event) -> Any:
    """An event that can be compared: errors by what they say."""
    if isinstance(event, Finish) and event.error is not None:
        return type(event.error), str(event.error), event.usage
    return event


HELLO = sse(
    token("Hello"),
    token(" мир\u2028\u0085"),
    token("<s>", special=True),
    token("\n\n"),
    token("<|endoftext|>", special=True, generated_text="Hello мир\u2028\u0085\n\n"),
)
STREAMS = {
    "whole": HELLO,
    "space": HELLO.replace(b"data:", b"data: "),
    "crlf": HELLO.replace(b"\n\n", b"\r\n\r\n"),
    "heartbeats": b":\n\n" + HELLO.replace(b"\n\ndata", b"\n\n:\n\ndata"),
    "error": sse(token("a"), {"error": "Model is overloaded", "error_type": "overloaded"}, token("b")),
    "nonsense": sse(token("a"), token("b")) + b"data:nonsense\n\n" + sse(token("c")),
    "cut": sse(token("a"), token("b"))[:-1],
    "endless line": sse(token("a")),
}


class TestStream:
    def test_the_tokens_come_as_they_were_cut_and_the_end_is_one_event(self) -> None:
        events, decoder = read(HELLO)
        assert events == ["Hello", " мир\u2028\u0085", "\n\n", Finish("stop")]
        assert decoder.server_text == "Hello мир\u2028\u0085\n\n"
        assert decoder.conversation == opened(started=True)

    @pytest.mark.parametrize("name", ["space", "crlf", "heartbeats"])
    def test_it_is_the_same_in_every_way_of_writing_it(self, name: str) -> None:
        assert read(STREAMS[name])[0] == read(HELLO)[0]

    @pytest.mark.parametrize("data", STREAMS.values(), ids=STREAMS.keys())
    def test_byte_by_byte_it_is_the_same(self, data: bytes) -> None:
        whole, pieces = read(data), read(data[at : at + 1] for at in range(len(data)))
        assert [seen(event) for event in pieces[0]] == [seen(event) for event in whole[0]]
        assert pieces[1].conversation == whole[1].conversation
        assert pieces[1].server_text == whole[1].server_text

    @given(st.sampled_from([*STREAMS.values()]), st.lists(st.integers(0, 600)))
    def test_cut_anywhere_it_is_the_same(self, data: bytes, cuts: list[int]) -> None:
        places = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
        chunks = [data[start:end] for start, end in pairwise(places)]
        whole, pieces = read(data), read(chunks)
        assert [seen(event) for event in pieces[0]] == [seen(event) for event in whole[0]]
        assert pieces[1].conversation == whole[1].conversation

    def test_what_comes_after_the_end_is_ignored(self) -> None:
        assert read(HELLO + b"data:nonsense\n\n" + HELLO)[0] == read(HELLO)[0]

    @pytest.mark.parametrize("size", [1, 7, 1000])
    def test_the_json_lines_of_a_newer_server_are_told_at_once(self, size: int) -> None:
        data = b' \n{"type":"status","status":"started"}\n{"type":"stream","token":"Hi"}\n'
        decoder = TGIDecoder(Conversation())
        events = [event for at in range(0, len(data), size) for event in decoder.receive_data(data[at : at + size])]
        (finish,) = events
        assert isinstance(finish, Finish)
        assert isinstance(finish.error, RemoteProtocolError)
        assert "newer than v0.6" in str(finish.error)

    def test_a_stream_without_an_end_is_incomplete(self) -> None:
        events, decoder = read(sse(token("a")))
        assert events[0] == "a"
        assert isinstance(events[1], Finish)
        assert events[1].reason == "error"
        assert isinstance(events[1].error, IncompleteReply)
        assert decoder.conversation == opened(generating=True, started=True)

    def test_special_tokens_and_the_end_of_text_are_not_emitted_and_end_nothing(self) -> None:
        data = sse(token("<s>", special=True), token("<|endoftext|>"), token("a"), token(""), token("", special=True))
        assert read(data + sse(token("b", generated_text="ab")))[0] == ["a", "b", Finish("length")]

    def test_text_that_only_looks_like_an_end_is_text(self) -> None:
        data = sse(token("data: x"), token(" <|endoftext|>"), token("[DONE]"), token("!", generated_text="x"))
        assert read(data)[0][:-1] == ["data: x", " <|endoftext|>", "[DONE]", "!"]

    @pytest.mark.parametrize(
        ("last", "whole"),
        [
            (token("<|endoftext|>"), "a<|endoftext|>"),
            (token("<|endoftext|>", special=True), "a<|endoftext|><|endoftext|>"),
            (token("</s>", special=True), "a</s>"),
            (token("</s>", special=True), "a<|endoftext|></s>"),
            (token("</s>", special=True), "a"),
            (token("", special=True), "a"),
        ],
    )
    def test_an_end_mark_that_was_not_emitted_is_no_missing_tail_either(self, last: Any, whole: str) -> None:
        events, decoder = read(sse(token("a"), {**last, "generated_text": whole}))
        assert events[0] == "a"
        assert len(events) == 2
        assert decoder.server_text == "a"

    def test_the_server_s_text_stays_what_it_is_otherwise(self) -> None:
        assert read(sse(token("a", generated_text="the prompt a\n")))[1].server_text == "the prompt a\n"


class TestFinish:
    @pytest.mark.parametrize(
        ("said", "reason"), [("eos_token", "stop"), ("length", "length"), ("stop_sequence", "stop_sequence")]
    )
    def test_the_details_say_why(self, said: str, reason: str) -> None:
        details = {"finish_reason": said, "generated_tokens": 3, "seed": None, "input_length": 7}
        events, _ = read(sse(token("a", generated_text="a", details=details)))
        assert events == ["a", Finish(reason, usage=Usage(input_tokens=7, output_tokens=3))]  # pyright: ignore[reportArgumentType]

    def test_usage_that_is_not_told_is_not_known(self) -> None:
        events, _ = read(sse(token("a", generated_text="a", details={"finish_reason": "length"})))
        assert events[-1] == Finish("length", usage=Usage())

    @pytest.mark.parametrize("details", [None, {}, {"finish_reason": None}])
    @pytest.mark.parametrize(
        ("last", "whole", "stop", "reason"),
        [
            (token("</s>", special=True), "ab", [], "stop"),
            (token("</s>", special=True), "ab", ["b"], "stop"),
            (token("b"), "ab", ["b"], "stop_sequence"),
            (token("b"), "ab", ["x", "ab"], "stop_sequence"),
            (token("b"), "ab", ["a"], "length"),
            (token("b"), "ab", [], "length"),
        ],
    )
    def test_without_details_the_last_token_tells(
        self, last: Any, whole: str, stop: list[str], reason: str, details: Any
    ) -> None:
        events, _ = read(sse({**last, "generated_text": whole, "details": details}), stop=stop)
        assert isinstance(events[-1], Finish)
        assert events[-1].reason == reason

    def test_the_stop_sequences_are_those_that_were_asked_for(self, drive: Any, new_id: Any) -> None:
        steps = H2o().ask(opened(), checked_messages("?"), H2o().options({"stop": "END"}), new_id)
        decoder = drive(steps).value.decoder
        assert decoder.receive_data(sse(token("END", generated_text="x END")))[-1] == Finish("stop_sequence")

    def test_a_reason_nobody_knows_breaks_the_protocol(self) -> None:
        events, _ = read(sse(token("a", generated_text="a", details={"finish_reason": "boredom"})))
        assert isinstance(events[-1], Finish)
        assert isinstance(events[-1].error, RemoteProtocolError)
        assert "boredom" in str(events[-1].error)

    @pytest.mark.parametrize(
        ("event", "kind", "message", "code"),
        [
            (
                {"error": "Model is overloaded", "error_type": "overloaded"},
                Overloaded,
                "Model is overloaded",
                "overloaded",
            ),
            ({"error": "bad", "error_type": "validation"}, InvalidRequest, "bad", "validation"),
            ({"error": "bad", "error_type": "generation"}, ProviderError, "bad", "generation"),
            ({"error": "bad", "error_type": "incomplete_generation"}, ProviderError, "bad", "incomplete_generation"),
            ({"error": "loading"}, ProviderError, "loading", None),
            ({"error": ["a", "b"], "error_type": 5}, ProviderError, "a; b", None),
            ({"error": {"a": 1}, "error_type": "3f2b-1"}, ProviderError, "{'a': 1}", None),
        ],
    )
    def test_an_error_inside_the_stream_is_the_end(
        self, event: Any, kind: type[ProviderError], message: str, code: str | None
    ) -> None:
        events, decoder = read(sse(token("a"), event))
        assert events[0] == "a"
        assert isinstance(events[1], Finish)
        error = events[1].error
        assert isinstance(error, ProviderError)
        assert (type(error), error.message, error.code, error.status) == (kind, message, code, None)
        assert decoder.conversation == opened()

    def test_a_turn_that_failed_is_not_stored_so_it_can_be_asked_again_whole(self) -> None:
        """chat-ui stores both messages when the last line has a ``generated_text``, or when it is stopped."""
        failed = sse(token("a"), {"error": "x"})
        for data in (failed, [failed[at : at + 1] for at in range(len(failed))]):
            assert not read(data)[1].conversation.started
        decoder = TGIDecoder(opened(started=True, generating=True))
        decoder.receive_data(failed)
        assert decoder.conversation == opened(started=True)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ["token", "text", "special", "generated_text", "details", "finish_reason", "generated_tokens", "error"]
MESSAGES = st.recursive(
    st.dictionaries(st.sampled_from([*FIELDS, "error_type"]), JSON),
    lambda inner: st.dictionaries(st.sampled_from(FIELDS), inner | JSON),
    max_leaves=4,
)


class TestHostile:
    def check(self, events: list[Event]) -> None:
        assert [event for event in events if isinstance(event, Finish)] == events[-1:]
        finish = events[-1]
        assert isinstance(finish, Finish)
        assert (finish.reason == "error") == (finish.error is not None)
        assert all(isinstance(event, str) and event for event in events[:-1])

    @given(st.lists(MESSAGES, max_size=4))
    @example([{"token": {"text": 5}}])
    @example([{"token": {"text": "\ud800"}}])
    @example([{"token": []}])
    @example([{"details": {"finish_reason": 5}, "generated_text": ""}])
    @example([{"generated_text": "a", "details": {"generated_tokens": 10**30}}])
    def test_no_message_can_make_it_raise(self, messages: list[Any]) -> None:
        data = b"".join(b"data:" + json.dumps(message).encode() + b"\n\n" for message in messages)
        self.check(read(data)[0])

    @given(st.lists(st.binary() | st.sampled_from([b"data:", b"\n\n", b"{", b'"token"', HELLO[:40], b"\xff"])))
    def test_no_bytes_can_make_it_raise(self, chunks: list[bytes]) -> None:
        self.check(read(chunks)[0])

    @pytest.mark.parametrize(
        "data",
        [
            *(b"data:[]\n\n", b"data:null\n\n", b"data:5\n\n", b"data:\n\n", b"data:NaN\n\n", b"data:{}x\n\n"),
            *(b"data:" + b"[" * 100_000 + b"\n\n", b'data:{"error":' + b"[" * 900 + b"]" * 900 + b"}\n\n"),
            *(b'data:{"error":' + b"9" * 4200 + b"}\n\n", b'data:{"error":' + b"9" * 5000 + b"}\n\n"),
            *(b'data:{"token":{"text":"' + b"a" * 10_000_000 + b'"}}\n\n', b"x" * 10_000_000, b"\xff" * 10),
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
