"""HTTP/1.1 as bytes: what may be sent, where an answer ends, and what is no answer at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trioprov._transport._parser import (
    MAX_BETWEEN,
    MAX_HEAD,
    BadRequest,
    Cut,
    NotHTTP,
    ResponseParser,
    request_bytes,
)

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


class Read(NamedTuple):
    status: int | None
    body: bytes
    ending: str


def read(chunks: Iterable[bytes], method: str = "GET", *, clean: bool = True) -> Read:
    """One answer, and then the end of the connection."""
    parser, body, ending = ResponseParser(method), bytearray(), ""
    try:
        for chunk in chunks:
            body += parser.receive_data(chunk)
            if parser.failure is not None:
                raise parser.failure
        if not parser.complete:
            body += parser.receive_eof(clean=clean)
    except NotHTTP:
        ending = "not HTTP"
    except Cut:
        ending = "cut"
    assert parser.complete or ending
    return Read(
        parser.head.status if parser.head else None,
        bytes(body),
        ending or ("reusable" if parser.reusable else "last"),
    )


def every_way(stream: bytes, method: str = "GET", *, clean: bool = True) -> Read:
    """Whole, byte by byte, and cut once anywhere; it has to come to the same."""
    ways = [[stream], [bytes([byte]) for byte in stream]]
    ways += [[stream[:place], b"", stream[place:]] for place in range(len(stream) + 1)]
    first, *others = [read(way, method, clean=clean) for way in ways]
    assert set(others) == {first}
    return first


ANSWERS: dict[str, tuple[bytes, str, int, bytes, str]] = {
    "length": (OK + b"Content-Length: 5\r\n\r\nhello", "GET", 200, b"hello", "reusable"),
    "blanks around the length": (OK + b"Content-Length: \t 5 \r\n\r\nhello", "GET", 200, b"hello", "reusable"),
    "length of nothing": (OK + b"Content-Length: 0\r\n\r\n", "GET", 200, b"", "reusable"),
    "chunked": (CHUNKED + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", "GET", 200, b"hello", "reusable"),
    "chunked, of nothing": (CHUNKED + b"0\r\n\r\n", "GET", 200, b"", "reusable"),
    "upper-case and padded sizes": (
        CHUNKED + b"00A\r\n0123456789\r\n000\r\n\r\n",
        "GET",
        200,
        b"0123456789",
        "reusable",
    ),
    "chunk extensions": (CHUNKED + b'2;a=b;c="d e"\r\nhi\r\n0;last\r\n\r\n', "GET", 200, b"hi", "reusable"),
    "trailers": (CHUNKED + b"2\r\nhi\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\n", "GET", 200, b"hi", "reusable"),
    "a name in any case": (
        OK + b"TRANSFER-encoding: Chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "GET",
        200,
        b"hi",
        "reusable",
    ),
    "a body that looks like an answer": (
        OK + b"Content-Length: 21\r\n\r\nHTTP/1.1 500 no\r\n\r\n\r\n",
        "GET",
        200,
        b"HTTP/1.1 500 no\r\n\r\n\r\n",
        "reusable",
    ),
    "connection: close": (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi", "GET", 200, b"hi", "last"),
    "close, among others": (OK + b"Connection: x, Close\r\nContent-Length: 2\r\n\r\nhi", "GET", 200, b"hi", "last"),
    "closed, chunked": (
        OK + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "GET",
        200,
        b"hi",
        "last",
    ),
    "until it is closed": (OK + b"\r\nhello", "GET", 200, b"hello", "last"),
    "until it is closed, at once": (OK + b"\r\n", "GET", 200, b"", "last"),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", "GET", 200, b"hi", "last"),
    "HTTP/1.0, kept alive": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
        "GET",
        200,
        b"hi",
        "last",
    ),
    "no reason": (b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", "GET", 200, b"", "reusable"),
    "no reason and no blank": (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "GET", 200, b"", "reusable"),
    "a status of the future": (b"HTTP/1.1 799 ?\r\nContent-Length: 2\r\n\r\nhi", "GET", 799, b"hi", "reusable"),
    "HEAD, with a length": (OK + b"Content-Length: 5\r\n\r\n", "HEAD", 200, b"", "reusable"),
    "HEAD, chunked": (CHUNKED, "HEAD", 200, b"", "reusable"),
    "HEAD, with neither": (OK + b"\r\n", "HEAD", 200, b"", "reusable"),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", "DELETE", 204, b"", "reusable"),
    "204, length of nothing": (
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
        "DELETE",
        204,
        b"",
        "reusable",
    ),
    "204, with a length": (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", "DELETE", 204, b"", "last"),
    "204, chunked": (
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
        "DELETE",
        204,
        b"",
        "last",
    ),
    "204, and close": (b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", "DELETE", 204, b"", "last"),
    "304": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", "GET", 304, b"", "reusable"),
    "205": (b"HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n", "GET", 205, b"", "reusable"),
    "100": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi", "POST", 200, b"hi", "reusable"),
    "many informational": (
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 5 + CHUNKED + b"0\r\n\r\n",
        "GET",
        200,
        b"",
        "reusable",
    ),
    "a short answer after a long informational one": (
        b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\nHTTP/1.1 204 \r\n\r\n",
        "GET",
        204,
        b"",
        "reusable",
    ),
    "a folded header": (OK + b"X: one\r\n \t two\r\nContent-Length:\r\n 2\r\n\r\nhi", "GET", 200, b"hi", "reusable"),
    "bytes above ASCII": (OK + b"X: gr\xfc\xdfe\r\nContent-Length: 2\r\n\r\nhi", "GET", 200, b"hi", "reusable"),
    "an empty header": (OK + b"X:\r\nContent-Length: 2\r\n\r\nhi", "GET", 200, b"hi", "reusable"),
    "an upgrade that is only offered": (
        OK + b"Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nhi",
        "GET",
        200,
        b"hi",
        "reusable",
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_ends_where_it_ends_however_it_is_cut(name: str) -> None:
    stream, method, *expected = ANSWERS[name]
    assert every_way(stream, method) == tuple(expected)


SELF_DELIMITED = [name for name in ANSWERS if not name.startswith("until")]
SURPLUS = (b"\n", b"\r\n", b"x", b"0\r\n\r\n", OK + b"Content-Length: 3\r\n\r\nnot", CHUNKED + b"3\r\nnot\r\n0\r\n\r\n")


@pytest.mark.parametrize("surplus", SURPLUS)
@pytest.mark.parametrize("name", SELF_DELIMITED)
def test_what_comes_after_an_answer_is_not_read_and_spoils_the_connection(name: str, surplus: bytes) -> None:
    stream, method, status, body, _ = ANSWERS[name]
    assert every_way(stream + surplus, method) == (status, body, "last")


@pytest.mark.parametrize("name", SELF_DELIMITED)
def test_an_answer_that_is_cut_anywhere_is_cut(name: str) -> None:
    stream, method, _, body, _ = ANSWERS[name]
    for place in range(len(stream)):
        status, part, ending = read([stream[:place]], method)
        assert ending == "cut"
        assert body.startswith(part)
        assert status is None or part is not None


def test_a_body_until_the_end_needs_an_end_that_was_meant() -> None:
    assert every_way(OK + b"\r\nhel", clean=False) == (200, b"hel", "cut")


NOT_HTTP: dict[str, tuple[bytes, bytes]] = {
    # Two readers of these might disagree where the body ends.
    "length and chunked": (OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b""),
    "chunked and length": (OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n", b""),
    "two lengths": (OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi!", b""),
    "the same length twice": (OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi", b""),
    "a list of lengths": (OK + b"Content-Length: 2, 2\r\n\r\nhi", b""),
    "a length with a sign": (OK + b"Content-Length: +2\r\n\r\nhi", b""),
    "a negative length": (OK + b"Content-Length: -2\r\n\r\nhi", b""),
    "a hexadecimal length": (OK + b"Content-Length: 0x2\r\n\r\nhi", b""),
    "a length with an underscore": (OK + b"Content-Length: 1_0\r\n\r\n0123456789", b""),
    "no number": (OK + b"Content-Length: two\r\n\r\nhi", b""),
    "an empty length": (OK + b"Content-Length:\r\n\r\nhi", b""),
    "a length in two": (OK + b"Content-Length: 1 0\r\n\r\n0123456789", b""),
    "a length that folds": (OK + b"Content-Length: 1\r\n 0\r\n\r\n0123456789", b""),
    "a length without bound": (OK + b"Content-Length: 99999999999999999999999\r\n\r\nhi", b""),
    "chunked twice": (OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b""),
    "chunked, chunked": (OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", b""),
    "chunked, but not last": (OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", b""),
    "another coding first": (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", b""),
    "a coding like chunked": (OK + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", b""),
    "chunked, with parameters": (OK + b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", b""),
    "chunked in quotes": (OK + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n', b""),
    "identity": (OK + b"Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nhi", b""),
    "chunked, and 1.0": (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b""),
    "a blank before the colon": (OK + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", b""),
    "a vertical tab before the value": (OK + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n", b""),
    "a NUL in a header": (OK + b"X: a\0b\r\nContent-Length: 0\r\n\r\n", b""),
    "a bare CR in a header": (OK + b"X: a\rContent-Length: 5\r\n\r\n", b""),
    "a header without a name": (OK + b": a\r\n\r\n", b""),
    "a header without a colon": (OK + b"abc\r\n\r\n", b""),
    "a fold before any header": (OK + b" X: a\r\nContent-Length: 0\r\n\r\n", b""),
    "bare line feeds": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", b""),
    "one bare line feed": (OK + b"Content-Length: 2\r\n\nhi", b""),
    "a size with a prefix": (CHUNKED + b"2\r\nhi\r\n0x2\r\nho\r\n0\r\n\r\n", b"hi"),
    "a size with a sign": (CHUNKED + b"2\r\nhi\r\n+2\r\nho\r\n0\r\n\r\n", b"hi"),
    "a negative size": (CHUNKED + b"2\r\nhi\r\n-2\r\nho\r\n0\r\n\r\n", b"hi"),
    "a size with a blank": (CHUNKED + b"2\r\nhi\r\n2 \r\nho\r\n0\r\n\r\n", b"hi"),
    "a size with an underscore": (CHUNKED + b"2\r\nhi\r\n1_0\r\n0123456789abcdef\r\n0\r\n\r\n", b"hi"),
    "no size": (CHUNKED + b"2\r\nhi\r\n\r\nho\r\n0\r\n\r\n", b"hi"),
    "a size without bound": (CHUNKED + b"2\r\nhi\r\nfffffffffffffffff\r\nho", b"hi"),
    "a chunk that is longer than it says": (CHUNKED + b"2\r\nhi!\r\n0\r\n\r\n", b"hi"),
    "a chunk that ends in a bare line feed": (CHUNKED + b"2\r\nhi\n0\r\n\r\n", b"hi"),
    "a size that ends in a bare line feed": (CHUNKED + b"2\nhi\r\n0\r\n\r\n", b""),
    "an extension that ends in a bare line feed": (CHUNKED + b"2;x\nhi\r\n0\r\n\r\n", b""),
    "a bare CR in an extension": (CHUNKED + b"2;x\rhi\r\nho\r\n0\r\n\r\n", b""),
    "a length among the trailers": (CHUNKED + b"2\r\nhi\r\n0\r\nContent-Length: 9\r\n\r\n", b"hi"),
    "a folded trailer": (CHUNKED + b"2\r\nhi\r\n0\r\nX: y\r\n z\r\n\r\n", b"hi"),
    # What is not for us.
    "a mail server": (b"220 mail.example ESMTP\r\n\r\n", b""),
    "a TLS alert": (b"\x15\x03\x01\x00\x02\x02\x0a", b""),
    "an empty line first": (b"\r\n" + OK + b"Content-Length: 0\r\n\r\n", b""),
    "a request": (b"GET / HTTP/1.1\r\n\r\n", b""),
    "HTTP/0.9": (b"HTTP/0.9 200 OK\r\n\r\n", b""),
    "HTTP/2.0": (b"HTTP/2.0 200 OK\r\n\r\n", b""),
    "HTTP/1.2": (b"HTTP/1.2 200 OK\r\n\r\n", b""),
    "HTTP/1.10": (b"HTTP/1.10 200 OK\r\n\r\n", b""),
    "in lower case": (b"http/1.1 200 OK\r\n\r\n", b""),
    "a status of two digits": (b"HTTP/1.1 20 OK\r\n\r\n", b""),
    "a status of four digits": (b"HTTP/1.1 2000 OK\r\n\r\n", b""),
    "a status below all": (b"HTTP/1.1 099 OK\r\n\r\n", b""),
    "a negative status": (b"HTTP/1.1 -20 OK\r\n\r\n", b""),
    "switching protocols": (b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", b""),
    "switching protocols, without a word": (b"HTTP/1.1 101 Switching\r\n\r\n", b""),
}


@pytest.mark.parametrize("name", NOT_HTTP)
def test_what_is_not_http_or_could_be_read_in_two_ways_is_an_error_however_it_is_cut(name: str) -> None:
    stream, body = NOT_HTTP[name]
    _, part, ending = every_way(stream)
    assert (part, ending) == (body, "not HTTP")


def test_nonsense_is_an_error_at_its_first_byte() -> None:
    with pytest.raises(NotHTTP):
        ResponseParser("GET").receive_data(b"S")


def test_an_end_before_any_answer_is_told_from_one_in_the_middle() -> None:
    with pytest.raises(Cut, match="without an answer"):
        ResponseParser("GET").receive_eof()
    parser = ResponseParser("GET")
    parser.receive_data(OK)
    with pytest.raises(Cut, match="middle of a head"):
        parser.receive_eof()


def test_folds_become_blanks_and_values_come_as_they_are() -> None:
    parser = ResponseParser("GET")
    parser.receive_data(
        b"HTTP/1.1 404 Not  Found \r\nSet-Cookie: a\r\nX:  b \r\n\t c\r\nset-cookie: d\r\nContent-Length: 0\r\n\r\n"
    )
    assert parser.head is not None
    assert parser.head.reason == b"Not  Found "
    assert parser.head.values(b"set-cookie") == [b"a", b"d"]
    assert parser.head.values(b"x")[0].split() == [b"b", b"c"]


# -- Bounds ------------------------------------------------------------------------------------------------------------

ENDLESS_HEADS: dict[str, Sequence[bytes]] = {
    "headers": [OK, *[b"X: y\r\n"] * 100_000],
    "one header": [OK, b"X: ", *[b"y" * 1000] * 1000],
    "a reason": [b"HTTP/1.1 200 ", *[b"y" * 1000] * 1000],
    "blanks": [OK, b"X: ", *[b" " * 1000] * 1000],
    "folds": [OK, b"X: y\r\n", *[b" y\r\n"] * 100_000],
    "informational answers": [b"HTTP/1.1 100 Continue\r\n\r\n"] * 100_000,
}


def fed_until_refused(parser: ResponseParser, chunks: Iterable[bytes]) -> int:
    fed = 0
    for chunk in chunks:
        fed += len(chunk)
        try:
            parser.receive_data(chunk)
        except NotHTTP:
            return fed
    raise AssertionError("it was never refused")


@pytest.mark.parametrize("name", ENDLESS_HEADS)
def test_a_head_without_an_end_is_not_collected_for_ever(name: str) -> None:
    assert fed_until_refused(ResponseParser("GET"), ENDLESS_HEADS[name]) <= MAX_HEAD + 2000


def test_what_of_the_body_comes_with_its_head_is_no_head() -> None:
    body = b"x" * MAX_HEAD
    assert read([OK, b"Content-Length: %d\r\n\r\n" % len(body) + body]) == (200, body, "reusable")


def test_more_headers_than_anybody_has_are_an_error() -> None:
    head = OK + b"".join(b"X-%d: y\r\n" % number for number in range(1000)) + b"\r\n"
    assert len(head) < MAX_HEAD
    assert read([head]).ending == "not HTTP"


@pytest.mark.parametrize("between", [b"2;" + b"x" * 100_000, b"0" * 100_000, b"0\r\n" + b"X: y\r\n" * 20_000])
def test_what_is_between_two_chunks_is_not_read_for_ever(between: bytes) -> None:
    parser = ResponseParser("GET")
    assert parser.receive_data(CHUNKED + b"2\r\nhi\r\n") == b"hi"
    pieces = [between[place : place + 100] for place in range(0, len(between), 100)]
    assert fed_until_refused(parser, pieces) <= MAX_BETWEEN + 200


def test_one_byte_chunks_may_go_on_for_ever() -> None:
    parser = ResponseParser("GET")
    parser.receive_data(CHUNKED)
    assert (
        sum(len(parser.receive_data(b"1;x=y\r\n")) + len(parser.receive_data(b"a\r\n")) for _ in range(20_000))
        == 20_000
    )


def test_a_size_is_taken_at_its_word_and_nothing_is_kept_for_it() -> None:
    parser = ResponseParser("GET")
    assert parser.receive_data(CHUNKED + b"7fffffffffffffff\r\nhi") == b"hi"
    assert parser.receive_data(b"ho") == b"ho"
    with pytest.raises(Cut):
        parser.receive_eof()


# -- Properties --------------------------------------------------------------------------------------------------------


def cut_at(stream: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=50), max_size=8),
    framing=st.sampled_from(["chunked", "length", "close"]),
    places=st.lists(st.integers(0, 10_000), max_size=8),
)
def test_a_body_is_the_same_however_it_is_framed_and_cut(chunks: list[bytes], framing: str, places: list[int]) -> None:
    body = b"".join(chunks)
    stream = {
        "chunked": CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n",
        "length": OK + b"Content-Length: %d\r\n\r\n" % len(body) + body,
        "close": OK + b"\r\n" + body,
    }[framing]
    assert read(cut_at(stream, places)) == (200, body, "last" if framing == "close" else "reusable")


STREAMS = [answer[0] for answer in ANSWERS.values()] + [stream for stream, _ in NOT_HTTP.values()]


@settings(max_examples=500)
@given(
    stream=st.sampled_from(STREAMS),
    where=st.integers(0, 200),
    what=st.one_of(st.binary(max_size=3), st.sampled_from([b"\r", b"\n", b"\r\n", b" ", b":", b";", b"0", b"chunked"])),
    removed=st.integers(0, 3),
    places=st.lists(st.integers(0, 200), max_size=6),
    method=st.sampled_from(["GET", "HEAD"]),
)
def test_what_is_wrong_is_wrong_however_it_is_cut(
    stream: bytes, where: int, what: bytes, removed: int, places: list[int], method: str
) -> None:
    stream = stream[:where] + what + stream[where + removed :]
    whole = read([stream], method)
    assert read(cut_at(stream, places), method) == whole
    assert read([bytes([byte]) for byte in stream], method) == whole


# -- Requests ----------------------------------------------------------------------------------------------------------


def test_a_request_has_the_length_that_its_body_has() -> None:
    headers = [(b"Host", b"a.test"), (b"Content-Length", b"99"), (b"Transfer-Encoding", b"chunked"), (b"X", b"")]
    assert (
        request_bytes(b"POST", b"/p?q=1", headers, b"hello")
        == b"POST /p?q=1 HTTP/1.1\r\nHost: a.test\r\nX: \r\nContent-Length: 5\r\n\r\nhello"
    )
    assert request_bytes(b"GET", b"/", [], b"") == b"GET / HTTP/1.1\r\n\r\n"
    assert (
        request_bytes(b"POST", b"/", [(b"content-length", b"0")], b"")
        == b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
    )


@pytest.mark.parametrize("bad", [b"\r\nX: y", b"\n", b"\r", b"\0"])
def test_nothing_can_end_its_line(bad: bytes) -> None:
    for request in (
        (b"GET" + bad, b"/", [(b"Host", b"a")]),
        (b"GET", b"/" + bad, [(b"Host", b"a")]),
        (b"GET", b"/", [(b"Host", b"a" + bad)]),
        (b"GET", b"/", [(b"Host" + bad, b"a")]),
    ):
        with pytest.raises(BadRequest):
            request_bytes(*request, b"")


def test_who_is_to_blame_is_named() -> None:
    for headers, blamed in (
        ([(b"X", b"y"), (b"A b", b"c")], "'A b'"),
        ([(b"X", b"y"), (b"Z", b"\0")], "'Z'"),
        ([(b"X", b"y")], "the method"),
    ):
        with pytest.raises(BadRequest, match=blamed):
            request_bytes(b"GET", b"/ ", headers, b"")


@pytest.mark.parametrize("bad", [b"", b" ", b"a b", b"\xff"])
def test_what_is_no_name_and_no_address_is_not_sent(bad: bytes) -> None:
    for method, target, name in ((bad, b"/", b"X"), (b"GET", bad, b"X"), (b"GET", b"/", bad), (b"GET", b"/", b"X:")):
        with pytest.raises(BadRequest):
            request_bytes(method, target, [(name, b"x")], b"")
