"""`NDJSONDecoder`: one text a line, whatever is in it, however it is cut."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioprov._errors import RemoteProtocolError
from trioprov.wire import NDJSONDecoder, loads

JSON_CASES = json.loads(Path(__file__).with_name("json_cases.json").read_text())
TEXTS: list[bytes] = [
    text.encode("latin-1")
    for verdict in ("accept", "reject", "either")
    for text in JSON_CASES[verdict].values()
    if "\n" not in text and text.strip(" \t\r") and not text.endswith("\r")
]


def decode(chunks: Iterable[bytes], *, max_line: int = 2**20) -> list[bytes]:
    decoder = NDJSONDecoder(max_line=max_line)
    lines = [line for chunk in chunks for line in decoder.receive_data(chunk)]
    lines += decoder.receive_eof()
    assert decoder.receive_eof() == []
    return lines


CASES: list[tuple[str, bytes, list[bytes]]] = [
    ("nothing", b"", []),
    ("lines", b'{"a":1}\n{"b":2}\n', [b'{"a":1}', b'{"b":2}']),
    ("crlf", b"1\r\n2\r\n", [b"1", b"2"]),
    ("the-last-line-needs-no-end", b"1\n2", [b"1", b"2"]),
    ("a-cut-last-line-is-given-too", b'1\n{"a":', [b"1", b'{"a":']),
    ("blank-lines-are-not", b"\n\r\n \n\t\n \t\r\n1\n\n \n2\n \t", [b"1", b"2"]),
    ("whitespace-around-a-text-stays", b" 1 \n\t2\t", [b" 1 ", b"\t2\t"]),
    ("what-json-does-not-call-blank-is-not", b"\v\n\f\n\xa0\n", [b"\v", b"\f", b"\xa0"]),
    ("a-bare-cr-is-whitespace", b"[1,\r2]\n", [b"[1,\r2]"]),
    ("unicode-line-ends", '"a\u2028b\u2029c\x85d"\n'.encode(), ['"a\u2028b\u2029c\x85d"'.encode()]),
    ("bytes-that-are-no-text", b"\xff\xfe\n\0\n", [b"\xff\xfe", b"\0"]),
]


@pytest.mark.parametrize(("stream", "lines"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
def test_the_lines_are_the_same_however_they_come(stream: bytes, lines: list[bytes]) -> None:
    assert decode([stream]) == lines
    assert decode(stream[i : i + 1] for i in range(len(stream))) == lines
    for place in range(len(stream) + 1):
        assert decode([stream[:place], b"", stream[place:]]) == lines


@given(st.lists(st.sampled_from(TEXTS), max_size=6), st.sampled_from([b"\n", b"\r\n"]), st.lists(st.integers(0, 1000)))
def test_framing_changes_no_text_good_or_bad(texts: list[bytes], end: bytes, places: list[int]) -> None:
    stream = end.join([*texts, b""])
    marks = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    assert decode(stream[start:stop] for start, stop in pairwise(marks)) == texts


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8)), st.integers(1, 7))
def test_what_was_written_is_read_wherever_the_utf_8_is_cut(values: list[str], size: int) -> None:
    stream = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()
    assert [loads(line) for line in decode(stream[i : i + size] for i in range(0, len(stream), size))] == values


@pytest.mark.parametrize("stream", [b"x" * 21, b"x" * 21 + b"\n", b"1\n" + b" " * 21 + b"\n"])
def test_a_line_over_the_limit_raises_however_it_comes(stream: bytes) -> None:
    for size in range(1, len(stream) + 1):
        with pytest.raises(RemoteProtocolError, match="limit of 20 bytes"):
            decode((stream[i : i + size] for i in range(0, len(stream), size)), max_line=20)


def test_the_limit_is_one_mebibyte_unless_told() -> None:
    assert NDJSONDecoder().receive_data(b"x" * 2**20 + b"\n") == [b"x" * 2**20]
    with pytest.raises(RemoteProtocolError, match="1048576"):
        NDJSONDecoder().receive_data(b"x" * (2**20 + 1))


def test_single_bytes_take_linear_time() -> None:
    """Four times the bytes, four times the work; sixteen times if each byte had the line looked at anew."""

    def seconds(size: int) -> float:
        decoder = NDJSONDecoder()
        start = time.process_time()
        for _ in range(size):
            decoder.receive_data(b" ")
        return time.process_time() - start

    small = min(seconds(100_000) for _ in range(3))
    large = min(seconds(400_000) for _ in range(2))
    assert large < 9 * small
