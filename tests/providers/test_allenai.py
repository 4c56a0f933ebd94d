"""AllenAI by hand: what it says to olmo-api, and what it makes of the trees, the chunks and the error lines."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trioprov import (
    AllenAI,
    AuthenticationError,
    Conversation,
    ConversationLost,
    Event,
    Finish,
    IncompleteReply,
    InvalidRequest,
    ModelNotSupported,
    Overloaded,
    ProviderError,
    RemoteProtocolError,
    TrioprovError,
)
from trioprov.providers import Response, checked_messages
from trioprov.providers._olmo import OlmoDecoder

MINTED = Conversation(provider="allenai", identity={"user": "me"})
THREAD = MINTED.replace(id="msg_A", parent="msg_C", started=True)
GONE = Response(status=404, body=b'{"error":{"code":404,"message":"Message not found"}}')
DELETED = Response(status=200, body=b"null")


def ask(
    conversation: Conversation, provider: AllenAI | None = None, text: Any = "Привет\r\n", **parameters: Any
) -> Any:
    provider = provider or AllenAI()
    return provider.ask(conversation, checked_messages(text), provider.options(parameters), str)


class TestAsk:
    def test_one_multipart_request_creates_the_thread_and_streams(self, drive: Any) -> None:
        request = drive(ask(MINTED)).value.request
        assert (request.method, request.path) == ("POST", "/v4/message/stream")
        assert request.multipart == [
            ("model", "tulu3-405b"),
            ("host", "inferd"),
            ("content", "Привет\r\n"),
            ("private", "true"),
        ]
        assert request.headers["x-anonymous-user-id"] == "me"
        assert request.creates

    def test_parameters_are_fields_and_lists_are_repeated_fields(self, drive: Any) -> None:
        steps = ask(
            MINTED,
            AllenAI("olmoe-0125", private=False),
            max_tokens=7,
            temperature=0,
            top_p=0.95,
            stop=["a", "б"],
            logprobs=None,
            flag=True,
            shape={"a": [None]},
            several=[1, None],
        )
        assert drive(steps).value.request.multipart == [
            *(("model", "olmoe-0125"), ("host", "modal"), ("content", "Привет\r\n"), ("private", "false")),
            *(("max_tokens", "7"), ("temperature", "0"), ("top_p", "0.95"), ("stop", "a"), ("stop", "б")),
            *(("flag", "true"), ("shape", '{"a": [null]}'), ("several", "1"), ("several", "null")),
        ]

    def test_a_later_question_hangs_on_the_answer_before_and_creates_nothing(self, drive: Any) -> None:
        request = drive(ask(THREAD)).value.request
        assert ("parent", "msg_C") in request.multipart
        assert not request.creates

    def test_a_thread_that_cannot_be_continued_is_lost_and_no_second_one_is_begun(self, drive: Any) -> None:
        with pytest.raises(ConversationLost):
            drive(ask(THREAD.replace(parent=None)))


class TestClose:
    def test_the_thread_is_deleted_by_its_root(self, drive: Any) -> None:
        driven = drive(AllenAI().close(THREAD), DELETED)
        (request,) = driven.requests
        assert (request.method, request.path) == ("DELETE", "/v3/message/msg_A")
        assert request.headers["x-anonymous-user-id"] == "me"
        assert driven.value == "deleted"

    def test_a_404_is_gone(self, drive: Any) -> None:
        assert drive(AllenAI().close(THREAD), GONE).value == "already_gone"

    @pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
    def test_any_other_answer_is_a_refusal(self, status: int, drive: Any) -> None:
        with pytest.raises(ProviderError) as caught:
            drive(AllenAI().close(THREAD), Response(status=status))
        assert caught.value.status == status

    @pytest.mark.parametrize(
        ("answers", "outcome"),
        [
            ([DELETED, DELETED, DELETED], "deleted"),
            ([GONE, DELETED, GONE], "deleted"),
            ([GONE, GONE, GONE], "already_gone"),
        ],
    )
    def test_every_thread_that_the_server_began_is_deleted(
        self, answers: list[Response], outcome: str, drive: Any
    ) -> None:
        driven = drive(AllenAI().close(THREAD.replace(strays=["msg_X", "msg_Y"])), *answers)
        assert [request.path for request in driven.requests] == [
            *("/v3/message/msg_A", "/v3/message/msg_X", "/v3/message/msg_Y")
        ]
        assert driven.value == outcome

    @pytest.mark.parametrize("statuses", [(403, 500, 200), (500, 200, 403), (404, 403, 500)])
    def test_one_that_is_refused_hides_none_and_the_one_to_try_again_is_told(
        self, statuses: tuple[int, ...], drive: Any
    ) -> None:
        answers = [Response(status=status) for status in statuses]
        with pytest.raises(ProviderError) as caught:
            drive(AllenAI().close(THREAD.replace(strays=["msg_X", "msg_Y"])), *answers)
        assert caught.value.status == 500

    @pytest.mark.parametrize("root", ["a/b", "a\r\nb", "ид", "a?b#c", "../v4"])
    def test_any_root_is_one_path_segment(self, root: str, drive: Any) -> None:
        path = drive(AllenAI().close(THREAD.replace(id=root)), DELETED).requests[0].path
        assert path.startswith("/v3/message/")
        assert path.count("/") == 3
        assert path.isascii()
        assert not set(" ?#\r\n") & set(path)

    def test_nothing_is_owed_for_what_was_not_created(self, drive: Any) -> None:
        assert drive(AllenAI().close(MINTED)).value == "nothing_owed"

    def test_a_lost_create_cannot_be_found(self, drive: Any) -> None:
        driven = drive(AllenAI().recover(MINTED))
        assert (driven.requests, driven.value) == ([], "lost")


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "body", "kind", "message", "code"),
        [
            (
                400,
                {"error": {"code": 400, "message": "model x is not available on modal"}},
                *(ModelNotSupported, "model x is not available on modal", None),
            ),
            (
                400,
                {"error": {"code": 400, "message": "inappropriate_prompt"}},
                *(InvalidRequest, "inappropriate_prompt", "inappropriate_prompt"),
            ),
            (
                400,
                {"error": {"code": 400, "message": "Bad", "validation_errors": ["n: no"]}},
                *(InvalidRequest, "Bad: ['n: no']", None),
            ),
            (403, {"error": {"message": "The current thread is over 30 days."}}, AuthenticationError, None, None),
            (401, {"error": {"message": "No identity"}}, AuthenticationError, "No identity", None),
            (404, {"error": {"message": "Message not found"}}, ConversationLost, "Message not found", None),
            (404, {}, ConversationLost, None, None),
            (
                404,
                {"error": {"code": 404, "message": "The requested URL was not found on the server. If …"}},
                InvalidRequest,
                "the server has no /v4/message/stream: it is no olmo-api, or one from after October 2025",
                None,
            ),
            (
                400,
                {"error": {"code": 400, "message": "Value error, Parent message msg_A not found"}},
                *(ConversationLost, "the thread does not exist any more: Value error, Parent message msg_A not found"),
                None,
            ),
            (400, {"error": {"message": "Parent message is empty"}}, InvalidRequest, "Parent message is empty", None),
            (400, {"error": {"message": "file not found"}}, InvalidRequest, "file not found", None),
            (500, {"error": {"message": "Parent message not found"}}, ProviderError, "Parent message not found", None),
            (
                500,
                {"error": {"message": "is not available on modal"}},
                ProviderError,
                "is not available on modal",
                None,
            ),
            (404, {"error": {"message": None}}, ConversationLost, "the thread does not exist any more", None),
            (418, {"error": {"code": 418}}, InvalidRequest, "HTTP status 418", None),
            (500, {"error": "plain"}, ProviderError, "plain", None),
        ],
    )
    def test_the_envelope_is_understood(
        self, status: int, body: Any, kind: type[ProviderError], message: str | None, code: str | None
    ) -> None:
        error = AllenAI().refusal(Response(status=status, body=json.dumps(body).encode()))
        assert (type(error), error.status, error.code) == (kind, status, code)
        assert error.message == (message or error.message) != ""

    def test_a_page_where_a_message_should_be_is_no_lost_thread(self) -> None:
        error = AllenAI().refusal(Response(status=404, body=b" <html><title>Not here</title></html>"))
        assert type(error) is InvalidRequest


# -- The lines ---------------------------------------------------------------------------------------------------------


def lines(*said: Any) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in said)


def chunk(content: Any, **more: Any) -> dict[str, Any]:
    return {"message": "msg_C", "content": content, "logprobs": [], **more}


def failed(reason: str, error: str | None = None) -> dict[str, Any]:
    return {"message": "msg_C", "error": error or reason, "reason": reason}


def leaf(content: str = "", **more: Any) -> dict[str, Any]:
    return {"id": "msg_C", "role": "assistant", "content": content, "root": "msg_A", "children": None, **more}


def tree(content: str = "", **more: Any) -> dict[str, Any]:
    """A thread of a model that has a system prompt."""
    user = {"id": "msg_B", "role": "user", "root": "msg_A", "children": [leaf(content, **more)]}
    return {"id": "msg_A", "role": "system", "root": "msg_A", "final": "finish_reason" in more, "children": [user]}


def short(content: str = "", root: Any = "msg_A", **more: Any) -> dict[str, Any]:
    """One of a model that has none; and, with another root than its id, a follow-up's."""
    return {"id": "msg_A", "role": "user", "root": root, "children": [leaf(content, **more)]}


HELLO = lines(
    tree(), chunk("Hi"), chunk(""), chunk("\n\n"), chunk(" мир\u2028"), tree("Hi\n\n мир\u2028", finish_reason="stop")
)
STREAMS = {
    "whole": HELLO,
    "crlf": HELLO.replace(b"\n", b"\r\n"),
    "blank lines": b"\n \n" + HELLO.replace(b"\n", b"\n\n"),
    "no last newline": HELLO[:-1],
    "start": lines({"type": "start", "message": "msg_A"}) + HELLO,
    "error": lines(tree(), chunk("a"), failed("model overloaded"), tree("a", finish_reason="model overloaded")),
    "error and cut": lines(tree(), chunk("a"), failed("finalization failure"), chunk("b"))[:-5],
    "length and cut": lines(tree(), chunk("a"), failed("length"))[:-1],
    "cut": lines(tree(), chunk("a"), chunk("b"))[:-5],
    "nonsense": lines(tree(), chunk("a")) + b"nonsense\n" + HELLO,
    "nulls": lines(tree(), chunk("a", type=None, id=None, role=None, children=None, error=None), tree("a")),
    "another root": lines(short(root="msg_X"), chunk("a"), short("a", root="msg_X", finish_reason="stop")),
}


def read(data: bytes | Iterable[bytes], conversation: Conversation = MINTED) -> tuple[list[Event], OlmoDecoder]:
    decoder = OlmoDecoder(conversation)
    events: list[Event] = []
    for piece in [data] if isinstance(data, bytes) else data:
        events += decoder.receive_data(piece)
    return events + decoder.receive_eof(), decoder


def error_of(events: list[Event]) -> TrioprovError:
    finish = events[-1]
    assert isinstance(finish, Finish)
    assert finish.reason == "error"
    assert isinstance(finish.error, TrioprovError)
    return finish.error


def seen(event: Event) -> Any:
    if isinstance(event, Finish) and event.error is not None:
        return type(event.error), str(event.error)
    return event


class TestLines:
    def test_chunks_are_literal_and_the_second_tree_is_the_end(self) -> None:
        events, decoder = read(HELLO)
        assert events == ["Hi", "\n\n", " мир\u2028", Finish("stop")]
        assert decoder.server_text == "Hi\n\n мир\u2028"

    @pytest.mark.parametrize("name", ["crlf", "blank lines", "no last newline", "start"])
    def test_it_is_the_same_in_every_way_of_writing_it(self, name: str) -> None:
        events, decoder = read(STREAMS[name])
        assert events == read(HELLO)[0]
        assert decoder.conversation == THREAD

    @pytest.mark.parametrize("conversation", [MINTED, THREAD], ids=["new", "follow-up"])
    @pytest.mark.parametrize("data", STREAMS.values(), ids=STREAMS.keys())
    def test_byte_by_byte_it_is_the_same(self, data: bytes, conversation: Conversation) -> None:
        whole = read(data, conversation)
        pieces = read((data[at : at + 1] for at in range(len(data))), conversation)
        assert [seen(event) for event in pieces[0]] == [seen(event) for event in whole[0]]
        assert pieces[1].conversation == whole[1].conversation
        assert pieces[1].server_text == whole[1].server_text

    @given(st.sampled_from([*STREAMS.values()]), st.lists(st.integers(0, 1200)), st.sampled_from([MINTED, THREAD]))
    def test_cut_anywhere_it_is_the_same(self, data: bytes, cuts: list[int], conversation: Conversation) -> None:
        places = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
        chunks = [data[start:end] for start, end in pairwise(places)]
        whole, pieces = read(data, conversation), read(chunks, conversation)
        assert [seen(event) for event in pieces[0]] == [seen(event) for event in whole[0]]
        assert pieces[1].conversation == whole[1].conversation

    def test_what_comes_after_the_end_is_ignored(self) -> None:
        assert read(HELLO + b"nonsense\n" + HELLO)[0] == read(HELLO)[0]

    @pytest.mark.parametrize("size", [4096, 2**24])
    def test_the_last_line_may_repeat_the_log_probabilities_of_a_long_answer(self, size: int) -> None:
        """As many as can be asked for: ten for each of 2,048 tokens (``create_output_from_chunks`` in olmo-api)."""
        probability = {"token_id": 100_000, "text": "\U0001f324", "logprob": -12.345678901234567}
        data = lines(tree(), chunk("a"), tree("a", logprobs=[[probability] * 10] * 2048))
        assert len(data) > 2**20
        assert read(data[at : at + size] for at in range(0, len(data), size))[0] == ["a", Finish("stop")]

    def test_null_is_as_good_as_not_there(self) -> None:
        assert read(STREAMS["nulls"])[0] == ["a", Finish("stop")]

    def test_lines_of_other_types_are_passed_over(self) -> None:
        more = lines(
            tree(), {"type": "end", "message": "msg_A"}, {"type": "x", "content": "y"}, {}, chunk("a"), tree("a")
        )
        assert read(more)[0] == ["a", Finish("stop")]


class TestThreads:
    def test_with_a_system_prompt_the_answer_is_two_levels_down(self) -> None:
        assert read(lines(tree()))[1].conversation == THREAD

    def test_without_one_it_is_one_level_down(self) -> None:
        assert read(lines(short()))[1].conversation == THREAD

    def test_the_start_line_names_the_thread_before_the_tree_does(self) -> None:
        assert read(lines({"type": "start", "message": "msg_A"}))[1].conversation == MINTED.replace(id="msg_A")

    def test_a_tree_without_root_is_its_own_root(self) -> None:
        top = {name: value for name, value in tree().items() if name != "root"}
        assert read(lines(top))[1].conversation == THREAD

    def test_a_follow_up_knows_the_thread_by_its_root_only(self) -> None:
        top = {"id": "msg_D", "role": "user", "root": "msg_A", "children": [leaf() | {"id": "msg_E"}]}
        events, decoder = read(lines(top, chunk("a"), top), THREAD)
        assert events == ["a", Finish("stop")]
        assert decoder.conversation == THREAD.replace(parent="msg_E")
        del top["root"]
        assert read(lines(top), THREAD)[1].conversation == THREAD.replace(parent="msg_E")

    @pytest.mark.parametrize(
        "stream",
        [
            lines(short(root="msg_X"), chunk("a"), short("a", root="msg_X")),
            lines({"type": "start", "message": "msg_X"}, short(root="msg_X"), chunk("a"), short("a")),
        ],
        ids=["tree", "start"],
    )
    def test_a_thread_that_the_server_began_besides_is_remembered_and_the_end(self, stream: bytes) -> None:
        events, decoder = read(stream, THREAD)
        assert len(events) == 1
        assert type(error_of(events)) is RemoteProtocolError
        assert decoder.conversation == THREAD.replace(strays=["msg_X"])
        assert Conversation.from_json(decoder.conversation.to_json()) == decoder.conversation
        again = read(stream, decoder.conversation)[1].conversation
        assert again == decoder.conversation
        more = read(stream.replace(b"msg_X", b"msg_Y"), again)[1].conversation
        assert more == THREAD.replace(strays=["msg_X", "msg_Y"])
        assert decoder.conversation == THREAD.replace(strays=["msg_X"])

    def test_a_new_thread_with_two_names_is_two_threads(self) -> None:
        events, decoder = read(lines({"type": "start", "message": "msg_X"}, tree()))
        assert type(error_of(events)) is RemoteProtocolError
        assert (decoder.conversation.id, decoder.conversation["strays"]) == ("msg_X", ["msg_A"])

    @pytest.mark.parametrize("root", [5, "", ".", "..", "x" * 129, ["a"], {"a": 1}, True])
    def test_a_new_thread_without_a_root_breaks_the_protocol(self, root: Any) -> None:
        for line in (short(root=root) | {"id": None}, {"type": "start", "message": root}):
            events, decoder = read(lines(line))
            assert "root" in str(error_of(events))
            assert decoder.conversation == MINTED

    @pytest.mark.parametrize("children", [None, [], "x", [5], [None], {"a": 1}, [{"role": "user", "id": "msg_U"}]])
    def test_an_answer_that_is_nowhere_leaves_nothing_to_continue_from(self, children: Any) -> None:
        top = {"id": "msg_A", "role": "user", "root": "msg_A", "children": children}
        assert read(lines(top))[1].conversation == THREAD.replace(parent=None)

    def test_the_answer_is_the_last_child_and_the_deepest(self) -> None:
        other = leaf() | {"id": "msg_old"}
        top = {"id": "msg_A", "role": "assistant", "root": "msg_A", "children": [other, leaf()]}
        assert read(lines(top))[1].conversation["parent"] == "msg_C"

    def test_a_tree_of_any_depth_costs_no_stack(self) -> None:
        top: dict[str, Any] = leaf()
        for _ in range(300):
            top = {"id": "msg_A", "role": "user", "root": "msg_A", "children": [top]}
        assert read(lines(top))[1].conversation.id == "msg_A"


class TestFinish:
    @pytest.mark.parametrize(("said", "reason"), [("stop", "stop"), (None, "stop"), ("length", "length")])
    def test_the_answer_says_why(self, said: Any, reason: str) -> None:
        assert read(lines(tree(), chunk("a"), tree("a", finish_reason=said)))[0][-1] == Finish(reason)  # pyright: ignore[reportArgumentType]

    def test_modal_never_says_why_which_is_no_error(self) -> None:
        assert read(lines(tree(), chunk("a"), tree("a")))[0][-1] == Finish("stop")

    @pytest.mark.parametrize(
        ("said", "kind", "code"),
        [
            ("model overloaded", Overloaded, "model overloaded"),
            *((word, ProviderError, word) for word in ("aborted", "unclosed stream", "bad connection")),
            *((5, ProviderError, None), (["stop"], ProviderError, None), ({}, ProviderError, None)),
        ],
    )
    def test_every_other_reason_is_an_error(self, said: Any, kind: type[ProviderError], code: Any) -> None:
        error = error_of(read(lines(tree(), chunk("a"), tree("a", finish_reason=said)))[0])
        assert type(error) is kind
        assert isinstance(error, ProviderError)
        assert error.code == code

    @pytest.mark.parametrize("last", [tree("a", finish_reason="stop"), tree("a"), None])
    def test_an_error_line_makes_any_end_an_error(self, last: Any) -> None:
        said = [tree(), chunk("a"), failed("grpc inference failed", "inference failed: x"), failed("aborted")]
        events, _ = read(lines(*said, *([last] if last else [])))
        error = error_of(events)
        assert events[0] == "a"
        assert isinstance(error, ProviderError)
        assert (error.message, error.code, error.status) == ("inference failed: x", "grpc inference failed", None)

    def test_overload_comes_as_an_error_line_too(self) -> None:
        events, decoder = read(STREAMS["error"])
        assert type(error_of(events)) is Overloaded
        assert decoder.conversation == THREAD

    def test_an_error_line_that_was_followed_by_a_cut_is_the_reason(self) -> None:
        error = error_of(read(STREAMS["error and cut"])[0])
        assert isinstance(error, ProviderError)
        assert error.code == "finalization failure"

    @pytest.mark.parametrize(
        "last", [[tree("a", finish_reason="stop")], [tree("a", finish_reason="length")], [tree("a")], []]
    )
    def test_length_is_no_error_however_it_is_told(self, last: list[Any]) -> None:
        assert read(lines(tree(), chunk("a"), failed("length", "too large"), *last))[0] == ["a", Finish("length")]

    def test_length_and_an_error_is_an_error(self) -> None:
        error = error_of(read(lines(tree(), failed("length"), failed("aborted"), tree()))[0])
        assert isinstance(error, ProviderError)
        assert error.code == "aborted"

    @pytest.mark.parametrize("data", [b"", lines(tree()), lines(tree(), chunk("a")), STREAMS["cut"]])
    def test_a_stream_without_its_second_tree_is_incomplete(self, data: bytes) -> None:
        assert type(error_of(read(data)[0])) is IncompleteReply

    def test_content_that_is_no_text_is_not_the_server_s_text(self) -> None:
        assert read(lines(tree(), {**short(), "children": [leaf() | {"content": 5}]}))[1].server_text is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ["id", "role", "root", "children", "content", "finish_reason", "error", "reason", "type", "message", "final"]
ROLES = st.sampled_from(["assistant", "user", "system", "start", "length", "model overloaded"])
LINES = st.recursive(
    st.dictionaries(st.sampled_from(FIELDS), JSON | ROLES),
    lambda inner: st.dictionaries(st.sampled_from(FIELDS), st.lists(inner, max_size=2) | inner | JSON | ROLES),
    max_leaves=4,
)


class TestHostile:
    def check(self, events: list[Event]) -> None:
        assert [event for event in events if isinstance(event, Finish)] == events[-1:]
        finish = events[-1]
        assert isinstance(finish, Finish)
        assert (finish.reason == "error") == (finish.error is not None)
        assert all(isinstance(event, str) and event for event in events[:-1])

    @given(st.lists(LINES | JSON, max_size=5), st.sampled_from([MINTED, THREAD]))
    @example([tree(), {"error": [[]], "reason": {}}, tree()], MINTED)
    @example([tree(), {"content": {"a": 1}}, {"error": "x", "reason": ["length"]}], MINTED)
    def test_no_line_can_make_it_raise(self, said: list[Any], conversation: Conversation) -> None:
        events, decoder = read(lines(*said), conversation)
        self.check(events)
        assert all(isinstance(decoder.conversation.get(key), str | None) for key in ("id", "parent"))

    @given(st.lists(st.binary() | st.sampled_from([b"\n", b"{", b"}", HELLO[:40], b"\xff", b"[]", b"null"])))
    def test_no_bytes_can_make_it_raise(self, chunks: list[bytes]) -> None:
        self.check(read(chunks)[0])

    @pytest.mark.parametrize(
        "data",
        [
            *(b"[]\n", b"null\n", b"5\n", b"NaN\n", b"[" * 100_000 + b"\n", b'{"children":' * 100_000 + b"\n"),
            *(b'{"error":' + b"[" * 900 + b"]" * 900 + b"}\n", b'{"error":"x","reason":' + b"9" * 4200 + b"}\n"),
            *(b'{"content":"' + b"a" * 10_000_000 + b'"}\n', b"x" * 10_000_000, b"\xff\n"),
        ],
        ids=lambda data: f"{data[:12]!r}…{len(data)}",
    )
    def test_nonsense_of_any_size_is_an_error_at_the_end(self, data: bytes) -> None:
        for chunks in ([data], [data[at : at + 65536] for at in range(0, len(data), 65536)]):
            events, _ = read(chunks)
            self.check(events)
            assert len(str(error_of(events))) < 500
