"""`SSEDecoder` against the standard: its published cases, a literal reading of its text, and every way to cut."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trioprov._errors import RemoteProtocolError
from trioprov.wire import ServerSentEvent, SSEDecoder

X = b"x" * 2048


class Case(NamedTuple):
    """A stream, the (data, event, id) of the events it holds, and the reconnection time after it."""

    name: str
    stream: bytes
    events: list[tuple[str, str, str]]
    retry: int | None = None


# Restated from web-platform-tests, eventsource/ (https://github.com/web-platform-tests/wpt, 3-Clause BSD License).
WPT = [
    Case(
        "bom", b"\xef\xbb\xbfdata:1\n\n\xef\xbb\xbfdata:2\n\ndata:3\n\n\n", [("1", "message", ""), ("3", "message", "")]
    ),
    Case(
        "double-bom",
        b"\xef\xbb\xbf\xef\xbb\xbfdata:1\n\ndata:2\n\ndata:3\n\n\n",
        [("2", "message", ""), ("3", "message", "")],
    ),
    Case(
        "comments",
        b"data:1\r:\0\n:\r\ndata:2\n:" + X + b"\rdata:3\n:data:fail\r:" + X + b"\ndata:4\n\n",
        [("1\n2\n3\n4", "message", "")],
    ),
    Case(
        "data-before-final-empty-line",
        b"retry:1000\ndata:test1\n\nid:test\ndata:test2\n",
        [("test1", "message", "")],
        1000,
    ),
    Case(
        "field-data",
        b"data:\n\ndata\ndata\n\ndata:test\n\n\n",
        [("", "message", ""), ("\n", "message", ""), ("test", "message", "")],
    ),
    Case("field-event-empty", b"event: \ndata:data\n\n\n", [("data", "message", "")]),
    Case("field-event", b"event:test\ndata:x\n\ndata:x\n\n\n", [("x", "test", ""), ("x", "message", "")]),
    Case("field-id", b"id: \xe2\x80\xa6\nretry: 200\ndata: hello\n\n", [("hello", "message", "…")], 200),
    Case("field-id-null-0", b"id: \0\0\nretry: 200\ndata: hello\n\n", [("hello", "message", "")], 200),
    Case("field-id-null-1", b"id: x\0\nretry: 200\ndata: hello\n\n", [("hello", "message", "")], 200),
    Case("field-id-null-2", b"id: \0x\nretry: 200\ndata: hello\n\n", [("hello", "message", "")], 200),
    Case("field-id-null-3", b"id: x\0x\nretry: 200\ndata: hello\n\n", [("hello", "message", "")], 200),
    Case("field-id-null-4", b"id:  \0\nretry: 200\ndata: hello\n\n", [("hello", "message", "")], 200),
    Case(
        "id-persists",
        b"id: 1\ndata: 1\n\ndata: 2\n\nid: 2\ndata:3\n\ndata:4\n\n",
        [("1", "message", "1"), ("2", "message", "1"), ("3", "message", "2"), ("4", "message", "2")],
    ),
    Case(
        "id-resets",
        b"id: 1\ndata: 1\n\nid:\ndata:2\n\ndata:3\n\n",
        [("1", "message", "1"), ("2", "message", ""), ("3", "message", "")],
    ),
    Case(
        "id-resets-no-colon",
        b"id: 1\ndata: 1\n\nid\ndata:2\n\ndata:3\n\n",
        [("1", "message", "1"), ("2", "message", ""), ("3", "message", "")],
    ),
    Case(
        "field-parsing",
        b"data:\0\ndata:  2\rData:1\ndata\0:2\ndata:1\r\0data:4\n"
        b"da-ta:3\rdata_5\ndata:3\rdata:\r\n data:32\ndata:4\n\n",
        [("\0\n 2\n1\n3\n\n4", "message", "")],
    ),
    Case("retry", b"retry:03000\ndata:x\n\n\n", [("x", "message", "")], 3000),
    Case("retry-bogus", b"retry:3000\nretry:1000x\ndata:x\n\n\n", [("x", "message", "")], 3000),
    Case("retry-empty", b"retry\ndata:test\n\n\n", [("test", "message", "")]),
    Case(
        "unknown-fields",
        b"data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\ndata:test\n\n\n",
        [("test\n\ntest", "message", "")],
    ),
    Case("leading-space", b"data:\ttest\rdata: \ndata:test\n\n\n", [("\ttest\n\ntest", "message", "")]),
    Case("newlines", b"data:test\r\ndata\ndata:test\r\n\r\n", [("test\n\ntest", "message", "")]),
    Case("null-character", b"data:\0\n\n\n\n\n", [("\0", "message", "")]),
    Case("utf-8", b"data:ok\xe2\x80\xa6\n\n\n", [("ok…", "message", "")]),
    Case("message", b"data: data\n\n\n", [("data", "message", "")]),
    Case(
        "event-data",
        b"data:msg\ndata: msg\n\n:\nfalsefield:msg\n\nfalsefield:msg\nData:data\n\ndata\n\ndata:end\n\n",
        [("msg\nmsg", "message", ""), ("", "message", ""), ("end", "message", "")],
    ),
]

OURS = [
    Case("nothing", b"", []),
    Case("only-a-bom", b"\xef\xbb\xbf", []),
    Case("half-a-bom", b"\xef\xbbdata:1\n\ndata:2\n\n", [("2", "message", "")]),
    Case("bom-and-end", b"\xef\xbb\xbf\ndata:1\n\n", [("1", "message", "")]),
    Case("cr-only", b"data:1\r\rdata:2\r\r", [("1", "message", ""), ("2", "message", "")]),
    Case("crlf-only", b"data:1\r\n\r\ndata:2\r\n\r\n", [("1", "message", ""), ("2", "message", "")]),
    Case("ends-mixed", b"data:1\r\n\ndata:2\n\r\ndata:3\r\r\n", [(n, "message", "") for n in "123"]),
    Case(
        "empty-lines-before-and-between",
        b"\n\n\ndata:1\n\n\n\n\ndata:2\n\n",
        [("1", "message", ""), ("2", "message", "")],
    ),
    Case("an-event-without-data-is-none", b"event:ping\n\nevent:ping\nid:1\n\ndata:x\n\n", [("x", "message", "1")]),
    Case("event-without-a-value", b"event:a\nevent\ndata:x\n\n", [("x", "message", "")]),
    Case("the-last-event-line-counts", b"event:a\nevent:b\ndata:x\n\n", [("x", "b", "")]),
    Case("an-id-with-nul-keeps-the-former", b"id:1\nid:2\0\ndata:x\n\n", [("x", "message", "1")]),
    Case("names-are-case-sensitive", b"DATA:1\nEvent:a\nID:1\nRetry:1\n\n", []),
    Case("names-are-not-stripped", b" data:1\ndata :1\nid :1\n\n", []),
    Case("two-spaces", b"data:  1\nevent:  a\nid:  1\n\n", [(" 1", " a", " 1")]),
    Case("a-colon-in-the-value", b"data:a:b\nevent:c:d\nid::\n\n", [("a:b", "c:d", ":")]),
    Case(
        "unicode-line-ends",
        "data:a\u2028b\u2029c\x85d\ve\ff\n\n".encode(),
        [("a\u2028b\u2029c\x85d\ve\ff", "message", "")],
    ),
    Case("keep-alives", b":\n\n: ping - 12:00\r\n\r\ndata:x\n\n:\n\n", [("x", "message", "")]),
    *(
        Case(f"retry-{name}", b"retry:" + value + b"\n\n", [])
        for name, value in [
            ("negative", b"-5"),
            ("plus", b"+5"),
            ("underscore", b"1_000"),
            ("second-space", b"  5"),
            ("space-after", b"5 "),
            ("float", b"5.0"),
            ("arabic", "\u0665".encode()),
            ("superscript", "\xb2".encode()),
            ("not-utf-8", b"5\xff"),
            ("longer-than-python-allows", b"9" * 5000),
        ]
    ),
    Case("retry-without-data", b"retry: 7\n", [], 7),
    Case("retry-last-counts", b"retry:1\n\nretry:2\n\n", [], 2),
]

# What the UTF-8 decoder of the Encoding standard makes of broken sequences (its "maximal subparts").
UTF8 = [
    (b"\xff", "\ufffd"),
    (b"\x80\xbf", "\ufffd\ufffd"),
    (b"\xc0\xaf", "\ufffd\ufffd"),
    (b"\xe2\x80", "\ufffd"),
    (b"\xe2\x80A", "\ufffdA"),
    (b"\xe2(\xa1", "\ufffd(\ufffd"),
    (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
    (b"\xf0\x80\x80\x80", "\ufffd\ufffd\ufffd\ufffd"),
    (b"\xf0\x9f\x98", "\ufffd"),
    (b"\xf0\x9f\x98\x80", "😀"),
    (b"\xf4\x90\x80\x80", "\ufffd\ufffd\ufffd\ufffd"),
    (b"\xf4\x8f\xbf\xbf", "\U0010ffff"),
    (b"\xef\xbb\xbf", "\ufeff"),
]


def decode(chunks: Iterable[bytes], *, max_event: int = 2**20) -> tuple[list[ServerSentEvent], int | None, str]:
    decoder = SSEDecoder(max_event=max_event)
    events = [event for chunk in chunks for event in decoder.receive_data(chunk)]
    events += decoder.receive_eof()
    return events, decoder.retry, decoder.last_event_id


def one_by_one(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def by_the_book(stream: bytes) -> tuple[list[ServerSentEvent], int | None, str]:
    """The standard's algorithm, written down in its own order and at its own pace."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    *lines, _unfinished = re.split("\r\n|\n|\r", text)
    data = event = id_ = last_id = ""
    retry = event_retry = None
    events: list[ServerSentEvent] = []
    for line in lines:
        if line == "":
            last_id = id_
            if data != "":
                events.append(ServerSentEvent(data[:-1], event or "message", id_, event_retry))
            data, event, event_retry = "", "", None
            continue
        name, _, value = line.partition(":")
        if value[:1] == " ":
            value = value[1:]
        if name == "event":
            event = value
        elif name == "data":
            data += value + "\n"
        elif name == "id" and "\0" not in value:
            id_ = value
        elif name == "retry" and re.fullmatch("[0-9]+", value):
            retry = event_retry = int(value)
    return events, retry, last_id


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in WPT + OURS])
def test_the_events_are_those_of_the_standard_however_they_come(case: Case) -> None:
    whole = decode([case.stream])
    assert [(event.data, event.event, event.id) for event in whole[0]] == case.events
    assert whole[1] == case.retry
    assert decode(one_by_one(case.stream)) == whole
    for place in range(0, len(case.stream) + 1, 1 + len(case.stream) // 200):
        assert decode([case.stream[:place], b"", case.stream[place:]]) == whole


@pytest.mark.parametrize(("raw", "text"), UTF8, ids=[raw.hex() for raw, _ in UTF8])
def test_what_is_not_utf_8_is_replaced_however_it_is_cut(raw: bytes, text: str) -> None:
    stream = b"data:<" + raw + b"\nevent:<" + raw + b"\nid:<" + raw + b"\n\n"
    expected = [ServerSentEvent(f"<{text}", f"<{text}", f"<{text}")]
    assert decode([stream])[0] == expected
    assert decode(one_by_one(stream))[0] == expected


PIECES = st.sampled_from(
    b"data|data:|data: x|event|event:e|id|id:1|retry|retry:5|:| |0|\0|\n|\n\n|\r|\r\n|\r\n\r\n|\v|\f|\xc2\x85|"
    b"\xe2\x80\xa8|\xef\xbb\xbf|\xf0\x9f\x98\x80|\xf0\x9f|\xe2\x80|\xff|\xed\xa0\x80".split(b"|")
)
STREAMS = st.lists(PIECES, max_size=40).map(b"".join)


@given(STREAMS)
@example(b"data:" + b"9" * 30 + b"\n\n")
def test_the_events_are_those_of_a_literal_reading_of_the_standard(stream: bytes) -> None:
    assert decode([stream]) == by_the_book(stream)


@given(STREAMS, st.lists(st.integers(0, 200)))
def test_cuts_never_change_the_events(stream: bytes, places: list[int]) -> None:
    marks = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    chunks = [stream[start:end] for start, end in pairwise(marks)]
    assert decode(chunks) == decode([stream])
    assert decode(one_by_one(stream)) == decode([stream])


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n")), st.sampled_from(["\n", "\r\n", "\r"])
)
def test_any_text_on_one_line_arrives_as_it_is(text: str, end: str) -> None:
    stream = f"data: {text}{end}{end}".encode()
    assert decode(one_by_one(stream))[0] == [ServerSentEvent(text)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_an_event_comes_with_the_first_byte_that_ends_it(end: bytes) -> None:
    """A token must not wait for the token after it."""
    decoder = SSEDecoder()
    assert decoder.receive_data(b"data:1" + end) == []
    assert decoder.receive_data(end[:1]) == [ServerSentEvent("1")]
    assert decoder.receive_data(end[1:] + b"data:2" + end) == []
    assert decoder.receive_data(end[:1]) == [ServerSentEvent("2")]


def test_an_event_carries_the_retry_that_came_with_it_and_no_other() -> None:
    decoder = SSEDecoder()
    assert decoder.receive_data(b"retry:1\ndata:a\n\ndata:b\n\n") == [
        ServerSentEvent("a", retry=1),
        ServerSentEvent("b"),
    ]
    assert decoder.receive_data(b"retry:2\n\ndata:c\n\n") == [ServerSentEvent("c")]
    assert decoder.retry == 2


def test_the_id_to_reconnect_with_is_that_of_the_last_complete_event() -> None:
    decoder = SSEDecoder()
    decoder.receive_data(b"id:1\ndata:a\n")
    assert decoder.last_event_id == ""
    decoder.receive_data(b"\nid:2\ndata:b\n")
    assert decoder.last_event_id == "1"
    assert decoder.receive_eof() == []
    assert decoder.last_event_id == "1"


def test_an_event_the_stream_did_not_end_is_discarded() -> None:
    decoder = SSEDecoder()
    assert decoder.receive_data(b"data:a\ndata:b") == []
    assert decoder.receive_eof() == []
    assert decoder.receive_data(b"\n\n") == []


def test_an_id_without_data_counts_for_reconnecting() -> None:
    decoder = SSEDecoder()
    assert decoder.receive_data(b"id:1\n\n") == []
    assert decoder.last_event_id == "1"


def test_an_event_is_a_small_value() -> None:
    event = ServerSentEvent("a")
    assert (event.data, event.event, event.id, event.retry) == ("a", "message", "", None)
    assert event == ServerSentEvent("a")
    assert len({event, ServerSentEvent("a")}) == 1
    assert not hasattr(event, "__dict__")
    with pytest.raises(AttributeError):
        event.data = "b"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    "stream", [b"data:" + b"x" * 16, b":" + b"x" * 20 + b"\n", b"data:xx\n" * 3 + b"\n", b"data\n" * 6]
)
def test_a_line_or_an_event_over_the_limit_raises_however_it_comes(stream: bytes) -> None:
    for size in range(1, len(stream) + 1):
        with pytest.raises(RemoteProtocolError, match="limit of 20 bytes"):
            decode((stream[i : i + size] for i in range(0, len(stream), size)), max_event=20)


def test_the_limit_is_for_one_event_not_for_the_stream() -> None:
    decoder = SSEDecoder(max_event=20)
    stream = b"data:xxxx\ndata:xxxx\n\n:comment\n\nevent:e\ndata:xxxxxxxxxxxxxxx\n\n" * 100
    assert len(decoder.receive_data(stream)) == 200
    assert sum(len(decoder.receive_data(byte)) for byte in one_by_one(stream)) == 200


def test_the_limit_is_one_mebibyte_unless_told() -> None:
    assert len(SSEDecoder().receive_data(b"data:" + b"x" * (2**20 - 5) + b"\n\n")) == 1
    with pytest.raises(RemoteProtocolError, match="1048576"):
        SSEDecoder().receive_data(b"data:" + b"x" * (2**20 - 4))
    line = b"data:" + b"x" * 1019 + b"\n"
    assert len(SSEDecoder().receive_data(line * 1024 + b"\n")) == 1
    with pytest.raises(RemoteProtocolError, match="1048576"):
        SSEDecoder().receive_data(line * 1025)


def test_single_bytes_and_many_data_lines_take_linear_time() -> None:
    """Four times the bytes, four times the work; sixteen times if each byte or line had the event copied anew."""

    def seconds(stream: bytes, count: int) -> float:
        decoder = SSEDecoder()
        chunks = [stream] * count
        start = time.process_time()
        for chunk in chunks:
            decoder.receive_data(chunk)
        return time.process_time() - start

    for chunk, count in ((b"x", 100_000), (b"data:\n", 40_000)):
        small = min(seconds(chunk, count) for _ in range(3))
        large = min(seconds(chunk, count * 4) for _ in range(2))
        assert large < 9 * small
