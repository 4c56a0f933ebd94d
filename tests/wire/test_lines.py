"""`LineSplitter`: where a line ends, and that neither cuts nor sizes change it."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioprov import wire
from trioprov._errors import RemoteProtocolError
from trioprov.wire import LineSplitter

NOT_ENDS = ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c", "\x1d", "\x1e"]

PIECES = st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b"bc", b"", *(end.encode() for end in NOT_ENDS)])
STREAMS = st.lists(PIECES, max_size=40).map(b"".join)


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut the data at these places (those beyond the end wrap around; a place named twice gives an empty chunk)."""
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(marks)]


def split(chunks: Iterable[bytes], *, bare_cr: bool, max_line: int = 1000) -> tuple[list[bytes], bytes]:
    splitter = LineSplitter(bare_cr=bare_cr, max_line=max_line)
    lines = [line for chunk in chunks for line in splitter.receive_data(chunk)]
    return lines, splitter.receive_eof()


CASES: list[tuple[str, bytes, bool, list[bytes], bytes]] = [
    # (name, bytes, bare_cr, lines, rest)
    ("nothing", b"", False, [], b""),
    ("lf", b"a\nb\n", False, [b"a", b"b"], b""),
    ("crlf", b"a\r\nb\r\n", False, [b"a", b"b"], b""),
    ("mixed", b"a\r\nb\nc\r\n", False, [b"a", b"b", b"c"], b""),
    ("empty-lines", b"\n\r\n\n", False, [b"", b"", b""], b""),
    ("rest", b"a\nb", False, [b"a"], b"b"),
    ("a-cr-is-content", b"a\rb\n\rc\n", False, [b"a\rb", b"\rc"], b""),
    ("only-one-cr-belongs-to-the-end", b"a\r\r\n", False, [b"a\r"], b""),
    ("a-cr-without-lf-stays", b"a\r", False, [], b"a\r"),
    ("bare-cr", b"a\rb\r\r", True, [b"a", b"b", b""], b""),
    ("bare-cr-before-crlf", b"a\r\r\n", True, [b"a", b""], b""),
    ("bare-lf-before-crlf", b"a\n\r\n", True, [b"a", b""], b""),
    ("bare-cr-after-crlf", b"a\r\n\rb", True, [b"a", b""], b"b"),
    ("bare-cr-nothing", b"", True, [], b""),
    ("bare-cr-rest", b"a\rb", True, [b"a"], b"b"),
]


@pytest.mark.parametrize(("data", "bare_cr", "lines", "rest"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
def test_lines_end_where_they_should_however_they_come(
    data: bytes, bare_cr: bool, lines: list[bytes], rest: bytes
) -> None:
    assert split([data], bare_cr=bare_cr) == (lines, rest)
    assert split([data[i : i + 1] for i in range(len(data))], bare_cr=bare_cr) == (lines, rest)
    for place in range(len(data) + 1):
        assert split([data[:place], b"", data[place:]], bare_cr=bare_cr) == (lines, rest)


@pytest.mark.parametrize("bare_cr", [False, True])
@pytest.mark.parametrize("character", NOT_ENDS, ids=ascii)
def test_what_only_unicode_calls_an_end_is_content(character: str, bare_cr: bool) -> None:
    line = f"a{character}b".encode()
    assert split([line + b"\n"], bare_cr=bare_cr) == ([line], b"")


@given(STREAMS, st.lists(st.integers(0, 100)), st.booleans())
def test_cuts_never_change_the_lines(data: bytes, places: list[int], bare_cr: bool) -> None:
    assert split(cut(data, places), bare_cr=bare_cr) == split([data], bare_cr=bare_cr)


@given(STREAMS)
def test_no_byte_but_the_ends_is_lost(data: bytes) -> None:
    lines, rest = split([data], bare_cr=False)
    assert b"\n".join([*lines, rest]) == data.replace(b"\r\n", b"\n")
    lines, rest = split([data], bare_cr=True)
    assert b"\n".join([*lines, rest]) == data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def test_a_cr_ends_its_line_before_the_next_byte_comes() -> None:
    """An event must not wait for the event after it."""
    splitter = LineSplitter(bare_cr=True)
    assert splitter.receive_data(b"a\r") == [b"a"]
    assert splitter.receive_data(b"") == []
    assert splitter.receive_data(b"\n") == []
    assert splitter.receive_data(b"\n") == [b""]


def test_the_rest_is_given_once() -> None:
    splitter = LineSplitter()
    assert splitter.receive_data(b"a\nb") == [b"a"]
    assert splitter.receive_eof() == b"b"
    assert splitter.receive_eof() == b""


@pytest.mark.parametrize("bare_cr", [False, True])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_line_may_be_as_long_as_the_limit(end: bytes, bare_cr: bool) -> None:
    data = b"x" * 10 + end + b"y" * 10 + end
    for size in range(1, len(data) + 1):
        chunks = [data[i : i + size] for i in range(0, len(data), size)]
        assert split(chunks, bare_cr=bare_cr, max_line=10) == ([b"x" * 10, b"y" * 10], b"")


@pytest.mark.parametrize("bare_cr", [False, True])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\rz", b"\r\r\n"])
def test_a_longer_line_raises_wherever_it_stands_and_however_it_comes(end: bytes, bare_cr: bool) -> None:
    for before in (b"", b"a\n"):
        long = b"x" * (11 if bare_cr or not end.startswith(b"\r") or end == b"\r\n" else 10)
        data = before + long + end
        for size in range(1, len(data) + 1):
            chunks = [data[i : i + size] for i in range(0, len(data), size)]
            with pytest.raises(RemoteProtocolError, match="limit of 10 bytes"):
                split(chunks, bare_cr=bare_cr, max_line=10)


def test_a_long_chunk_of_short_lines_is_fine() -> None:
    assert split([b"abc\n" * 1000], bare_cr=False, max_line=3) == ([b"abc"] * 1000, b"")


def test_the_limit_is_one_mebibyte_unless_told() -> None:
    splitter = LineSplitter()
    assert splitter.receive_data(b"x" * 2**20) == []
    with pytest.raises(RemoteProtocolError, match="1048576"):
        splitter.receive_data(b"x")


def test_no_more_than_the_limit_is_kept_even_if_the_error_is_ignored() -> None:
    splitter = LineSplitter(max_line=1000)
    tracemalloc.start()
    try:
        for _ in range(1000):
            with pytest.raises(RemoteProtocolError):
                splitter.receive_data(b"x" * 100_000)
        kept, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000
    assert len(splitter.receive_eof()) <= 1000


@pytest.mark.parametrize("bare_cr", [False, True])
def test_single_bytes_take_linear_time(bare_cr: bool) -> None:
    """Four times the bytes, four times the work; sixteen times if every byte has the line copied or searched anew."""

    def seconds(size: int) -> float:
        splitter = LineSplitter(bare_cr=bare_cr)
        start = time.process_time()
        for _ in range(size):
            splitter.receive_data(b"x")
        return time.process_time() - start

    small = min(seconds(100_000) for _ in range(3))
    large = min(seconds(400_000) for _ in range(2))
    assert large < 9 * small


def test_the_floor_shows_these_names_and_each_says_what_it_is() -> None:
    public = {name for name in vars(wire) if not name.startswith("_")} - {"annotations"}
    assert public == {
        *("LineSplitter", "NDJSONDecoder", "NDJSONValues", "SSEDecoder", "SSEValues", "ServerSentEvent"),
        *("loads", "reader"),
    }
    assert all(vars(wire)[name].__doc__ for name in public)
