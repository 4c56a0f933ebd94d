"""`SSEValues` and `NDJSONValues`: whatever comes, however it is cut, they say what the decoders by the letter say."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trioprov._errors import RemoteProtocolError
from trioprov.wire import NDJSONDecoder, NDJSONValues, SSEDecoder, SSEValues, reader


class Sample(msgspec.Struct):
    """Not every field is read, and one is read as it comes."""

    text: str = ""
    value: Any = None


read_sample = reader(Sample)

Outcome = list[list[Sample] | str]


def tried(values: Iterable[Sample]) -> tuple[list[Sample], bool]:
    """What comes before an error, and whether there is one."""
    came: list[Sample] = []
    try:
        came.extend(values)
    except RemoteProtocolError:
        return came, True
    return came, False


def at_each_chunk(
    receive: Callable[[bytes], Iterable[Sample]], eof: Callable[[], Iterable[Sample]], chunks: Iterable[bytes]
) -> list[tuple[list[Sample], bool]]:
    """What each chunk completes, and the end of the stream, up to the first error."""
    outcomes: list[tuple[list[Sample], bool]] = []
    for chunk in chunks:
        outcomes.append(tried(receive(chunk)))
        if outcomes[-1][1]:
            return outcomes
    return [*outcomes, tried(eof())]


def sse_values(chunks: Iterable[bytes]) -> list[tuple[list[Sample], bool]]:
    values = SSEValues(Sample)
    return at_each_chunk(values.receive_data, values.receive_eof, chunks)


def sse_by_the_letter(chunks: Iterable[bytes]) -> list[tuple[list[Sample], bool]]:
    events = SSEDecoder()
    return at_each_chunk(
        lambda data: map(read_sample, [event.data for event in events.receive_data(data)]), lambda: (), chunks
    )


def ndjson_values(chunks: Iterable[bytes]) -> list[tuple[list[Sample], bool]]:
    values = NDJSONValues(Sample)
    return at_each_chunk(values.receive_data, values.receive_eof, chunks)


def ndjson_by_the_letter(chunks: Iterable[bytes]) -> list[tuple[list[Sample], bool]]:
    lines = NDJSONDecoder()
    return at_each_chunk(
        lambda data: map(read_sample, lines.receive_data(data)), lambda: map(read_sample, lines.receive_eof()), chunks
    )


def cut(stream: bytes, places: Iterable[int]) -> list[bytes]:
    marks = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in pairwise(marks)]


TEXTS = [
    b"{}",
    b'{"text":"a"}',
    b' {"text" : "b"} ',
    '{"text":"\u2028 🌤"}'.encode(),
    b'{"text":"\\u2028\\n"}',
    b'{"skipped":["x",{}],"value":{"deep":[1]}}',
    # Not what it must be.
    *(b"", b"{} {}", b"{}{", b'{"text":', b'"a"}', b"[]", b'{"text":1}', b"data:{}", b"\xef\xbb\xbf{}"),
    # Not UTF-8: in what is read, in what is skipped, in a name.
    *(b'{"text":"\xff"}', b'{"value":["\xe2\x80"]}', b'{"skipped":"\xff"}', b'{"\xff":1}', b'{"te\xc3xt":"a"}'),
]
ENDS = [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n", b"\r\n", b"\r", b"\n\r\n", b""]

PLAIN = st.tuples(st.sampled_from([b"data:", b"data: "]), st.sampled_from(TEXTS[:6])).map(b"".join)
ODD = (
    st.sampled_from(TEXTS).map(lambda text: b"data:" + text)
    | st.sampled_from(
        [b":", b"id:1", b"event: x", b"retry:5", b"data", b"\xef\xbb\xbf", b"\xef", b" data:{}", b"data:{"]
    )
    | st.binary(max_size=3)
)
# Mostly rows of plain events with one kind of end, as servers send them; and everything that is not one.
ROWS = st.tuples(st.lists(PLAIN, min_size=1, max_size=5), st.sampled_from(ENDS[:2])).map(
    lambda row: b"".join(event + row[1] for event in row[0])
)
MIXED = st.lists(st.tuples(PLAIN | ODD, st.sampled_from(ENDS)).map(b"".join), max_size=4).map(b"".join)
STREAMS = st.lists(ROWS | MIXED, max_size=5).map(b"".join)

LINES = st.lists(
    st.tuples(
        st.sampled_from(TEXTS[:6]) | st.sampled_from(TEXTS), st.sampled_from([b"\n", b"\n", b"\r\n", b"\n\n"])
    ).map(b"".join),
    max_size=12,
).map(b"".join)


@given(STREAMS, st.lists(st.integers(0, 1000), max_size=8))
@example(b"data:{}\n\n\xef\xbb\xbfdata:{}\n\ndata:{}\n\n", [9])  # no byte order mark, where it stands
@example(b'data:{"text":\n\ndata:"a"}\n\n', [])  # two halves are no whole
@example(b'data:{}\n\ndata:{}\n\ndata:{"text":\ndata:"a"}\n\n', [9])  # two lines of one event are
@example(b"data:{}\n\ndata:{\n}\n\n", [9])  # a line that is no field is no part of the text
@example(b"data:{}\r\n\r\ndata:{\r}\r\n\r\n", [11])
@example(b"data:{}\n\nDATA:{}\n\n", [9])
@example(b"data:{}\n\ndata:{}\r\n\r\ndata:{}\n\n", [9])
@example(b"data:{}\r\n\r\ndata:{}\r\n\r\ndata:{}\r\n\r\n", [11, 21])  # where an event ends before its last byte
def test_each_chunk_completes_the_events_that_the_decoder_by_the_letter_completes(
    stream: bytes, places: list[int]
) -> None:
    for chunks in ([stream], cut(stream, places), cut(stream, range(len(stream)))):
        assert sse_values(chunks) == sse_by_the_letter(chunks)


@given(LINES | STREAMS, st.lists(st.integers(0, 1000), max_size=8))
@example(b'{} {"text":\n"a"}\n', [])  # as many texts as lines, and neither line is one
@example(b'{}\n{"skipped":"\xff"}\n', [])
def test_each_chunk_completes_the_lines_that_the_decoder_by_the_letter_completes(
    stream: bytes, places: list[int]
) -> None:
    for chunks in ([stream], cut(stream, places), cut(stream, range(len(stream)))):
        assert ndjson_values(chunks) == ndjson_by_the_letter(chunks)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
@pytest.mark.parametrize("size", [1, 7, 1000, 65536])
def test_a_long_stream_of_events_arrives_as_it_was_sent(end: bytes, size: int) -> None:
    expected = [Sample(text=f"token {number} — 🌤") for number in range(3000)]
    stream = b"".join(b"data: " + msgspec.json.encode(sample) + end for sample in expected)
    values = SSEValues(Sample)
    got = [value for at in range(0, len(stream), size) for value in values.receive_data(stream[at : at + size])]
    assert got == expected


@pytest.mark.parametrize("size", [1, 7, 1000, 65536])
def test_a_long_stream_of_lines_arrives_as_it_was_sent(size: int) -> None:
    expected = [Sample(text=f"token {number} — 🌤") for number in range(3000)]
    stream = b"".join(msgspec.json.encode(sample) + b"\n" for sample in expected)
    values = NDJSONValues(Sample)
    got = [value for at in range(0, len(stream), size) for value in values.receive_data(stream[at : at + size])]
    assert got == expected


def test_what_comes_before_an_error_in_the_same_bytes_is_given() -> None:
    assert tried(SSEValues(Sample).receive_data(b"data:{}\n\n" * 3 + b"data:x\n\n")) == ([Sample()] * 3, True)
    assert tried(NDJSONValues(Sample).receive_data(b"{}\n" * 3 + b"x\n")) == ([Sample()] * 3, True)


def test_after_an_event_that_is_not_plain_plain_ones_are_read_again() -> None:
    values = SSEValues(Sample)
    for chunk in (b": hello\n\n", b"event: x\n", b"data:{", b"}\n\ndata:{}\n", b"\n", b"data:{}\n\n"):
        values.receive_data(chunk)
    assert list(values.receive_data(b"data:{}\n\ndata:{}\n\nda")) == [Sample(), Sample()]


@pytest.mark.parametrize("size", [5, 5000, 100_000])
def test_a_text_may_be_long_and_come_in_many_pieces(size: int) -> None:
    text = "x" * 500_000
    event = msgspec.json.encode(Sample(text=text))
    for stream, values in (
        (b"data:" + event + b"\n\n", SSEValues(Sample)),
        (event + b"\n", NDJSONValues(Sample)),
    ):
        got = [value for at in range(0, len(stream), size) for value in values.receive_data(stream[at : at + size])]
        assert got == [Sample(text=text)]


@pytest.mark.parametrize("size", [65536, 2**21])
@pytest.mark.parametrize(("new", "prefix"), [(SSEValues[Sample], b"data:"), (NDJSONValues[Sample], b"")])
def test_an_event_or_a_line_over_the_limit_raises_however_it_comes(
    new: Callable[[type[Sample]], SSEValues[Sample] | NDJSONValues[Sample]], prefix: bytes, size: int
) -> None:
    values = new(Sample)
    assert list(values.receive_data(prefix + b"{}\n\n")) != []
    stream = prefix + b'{"text":"' + b"x" * 2**20 + b'"}\n\n'
    with pytest.raises(RemoteProtocolError, match="1048576"):
        deque(values.receive_data(stream[at : at + size]) for at in range(0, len(stream), size))


@pytest.mark.parametrize("size", [65536, 2**23])
def test_a_line_may_have_as_many_bytes_as_it_is_told(size: int) -> None:
    text = "x" * 2**21
    stream = msgspec.json.encode(Sample(text=text)) + b"\n"
    for limit in (len(stream) - 1, len(stream) - 2):
        values = NDJSONValues(Sample, max_line=limit)
        got = (value for at in range(0, len(stream), size) for value in values.receive_data(stream[at : at + size]))
        if limit == len(stream) - 1:
            assert list(got) == [Sample(text=text)]
        else:
            with pytest.raises(RemoteProtocolError, match=str(limit)):
                list(got)


def test_the_end_discards_an_event_that_has_begun_and_gives_a_line_that_has_no_end() -> None:
    events = SSEValues(Sample)
    assert list(events.receive_data(b"data:{}\n\ndata:{}")) == [Sample()]
    assert list(events.receive_eof()) == []
    lines = NDJSONValues(Sample)
    assert list(lines.receive_data(b"{}\n{}")) == [Sample()]
    assert list(lines.receive_eof()) == [Sample()]
    assert list(lines.receive_eof()) == []


def test_single_bytes_take_linear_time() -> None:
    """Four times the bytes, four times the work; sixteen times if each byte had what came before copied anew."""

    def seconds(new: Callable[[type[Sample]], SSEValues[Sample] | NDJSONValues[Sample]], size: int) -> float:
        values = new(Sample)
        start = time.process_time()
        for _ in range(size):
            values.receive_data(b"x")
        return time.process_time() - start

    for new in (SSEValues[Sample], NDJSONValues[Sample]):
        small = min(seconds(new, 60_000) for _ in range(3))
        large = min(seconds(new, 240_000) for _ in range(2))
        assert large < 9 * small
