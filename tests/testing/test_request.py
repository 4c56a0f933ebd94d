"""`RecordedRequest`: what a test and a handler read out of a request."""

import pytest

from trioprov.testing import RecordedRequest
from trioprov.testing._request import negotiate, parse_query

JSON_OR_PAGE = ("application/json", "text/html")


def form(content_type: str, body: bytes) -> list[tuple[str, str]]:
    return RecordedRequest(method="POST", path="/", headers={"content-type": content_type}, body=body).form


def test_an_urlencoded_form_keeps_order_blanks_and_repetitions() -> None:
    assert form("application/x-www-form-urlencoded", b"a=1&b=&a=%D0%B6+x") == [("a", "1"), ("b", ""), ("a", "ж x")]


def test_a_multipart_value_is_kept_to_the_byte() -> None:
    body = (
        b'--X\r\nContent-Disposition: form-data; name="content"\r\n\r\n line\r\nnext\n \xd0\xb6--X\r\n'
        b'--X\r\nContent-Disposition: form-data; name="stop"; filename="f"\r\nContent-Type: a/b\r\n\r\n\r\n--X--\r\n'
    )
    assert form("multipart/form-data; boundary=X", body) == [("content", " line\r\nnext\n ж--X"), ("stop", "")]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=X", b"--X\r\n\r\nvalue\r\n"),
        ("multipart/form-data; boundary=X", b"--X\r\nno end of headers\r\n--X--"),
    ],
)
def test_a_malformed_multipart_body_is_a_value_error(content_type: str, body: bytes) -> None:
    with pytest.raises(ValueError, match="multipart"):
        form(content_type, body)


def test_the_first_of_repeated_cookies_and_query_fields_counts() -> None:
    request = RecordedRequest(method="GET", path="/", headers={"cookie": 'a="1"; junk; b=2=3; a=9'})
    assert request.cookies == {"a": "1", "b": "2=3"}
    assert parse_query("/delete&a=1&a=2") == {"/delete": "", "a": "1"}


def test_json_is_decoded_as_utf_8() -> None:
    assert RecordedRequest(method="POST", path="/", body='{"a":"ж"}'.encode()).json == {"a": "ж"}


@pytest.mark.parametrize(
    ("accept", "wins"),
    [
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("text/html", "text/html"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html"),
        ("text/html;q=0.1, application/*", "application/json"),
        ("text/event-stream", None),
        ("application/json;q=bad", "application/json"),
        ("nonsense", None),
    ],
)
def test_accept_is_negotiated_by_weight_and_then_by_precision(accept: str, wins: str | None) -> None:
    """sveltejs/kit 1.20, ``utils/http.js``."""
    assert negotiate(accept, JSON_OR_PAGE) == wins


def test_json_that_is_nested_too_deeply_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        _ = RecordedRequest(method="POST", path="/", body=b"[" * 100_000).json
