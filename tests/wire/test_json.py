"""`loads` and `reader`: what is JSON is read, and everything else is one error."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioprov._errors import RemoteProtocolError
from trioprov.wire import loads, reader

# The texts of JSONTestSuite; source and licence stand in the file.
CASES = json.loads(Path(__file__).with_name("json_cases.json").read_text())

# Of the texts a parser may accept or not, those we accept: what Python can hold and write again.
ACCEPTED_EITHER = {
    "i_number_double_huge_neg_exp",
    "i_number_real_underflow",
    "i_number_too_big_neg_int",
    "i_number_too_big_pos_int",
    "i_number_very_big_negative_int",
    "i_structure_500_nested_arrays",
}


def of(verdict: str) -> list[Any]:
    """The texts of one verdict, as parameters."""
    texts = dict(CASES[verdict])
    texts.update(
        (name, text) for name, text in CASES["either"].items() if (name in ACCEPTED_EITHER) == (verdict == "accept")
    )
    return [pytest.param(text.encode("latin-1"), id=name) for name, text in texts.items()]


class Size(enum.Enum):
    """An enumeration; what is not in it gets quoted in full by msgspec."""

    SMALL = "small"


class Sample(msgspec.Struct):
    """A type with a field of each kind."""

    number: float = 0.0
    integer: int = 0
    text: str = ""
    size: Size | None = None
    children: list[Sample] = []


class OtherSample(msgspec.Struct):
    """A second one; untagged, the two cannot be told apart."""


read_sample = reader(Sample)


def refused(text: bytes | str) -> RemoteProtocolError:
    """Read the text, untyped and typed, and return the (untyped) error."""
    for read in (read_sample, reader(list[Any]), loads):
        with pytest.raises(RemoteProtocolError) as caught:
            read(text)
        assert caught.value.__cause__ is not None
        assert len(str(caught.value)) <= 200
        str(caught.value).encode()
    return caught.value  # pyright: ignore[reportPossiblyUnboundVariable]


@pytest.mark.parametrize("text", of("accept"))
def test_what_is_json_is_read(text: bytes) -> None:
    assert repr(loads(text)) == repr(json.loads(text)).replace("[-0]", "[0]")
    assert repr(loads(text.decode())) == repr(loads(text))


@pytest.mark.parametrize("text", of("accept"))
def test_what_is_json_may_stand_in_a_field_that_is_not_read(text: bytes) -> None:
    assert read_sample(b'{"unknown":' + text + b',"text":"a"}') == Sample(text="a")


@pytest.mark.parametrize("text", of("reject"))
def test_what_is_not_json_is_one_error(text: bytes) -> None:
    refused(text)


@pytest.mark.parametrize("text", of("reject"))
def test_what_is_not_json_is_an_error_even_in_a_field_that_is_not_read(text: bytes) -> None:
    """Only the size of a number is not looked at there: it is JSON, and nobody has to hold it."""
    wrapped = b'{"unknown":' + text + b',"text":"a"}'
    try:
        value = read_sample(wrapped)
    except RemoteProtocolError:
        return
    assert value == Sample(text="a")
    # The standard library reads it too: as infinity, or because the wrapping made a whole of it.
    json.loads(wrapped)


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize(
    ("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"":', b"}]"), (b'{"children":[', b"]}")]
)
def test_nesting_without_end_is_one_error(opening: bytes, closing: bytes, closed: bool) -> None:
    """However deep, and whether or not anybody would have read it."""
    depth = 100_000
    text = opening * depth + (b"0" + closing * depth if closed else b"")
    assert isinstance(refused(text).__cause__, RecursionError)
    with pytest.raises(RemoteProtocolError):
        read_sample(b'{"unknown":' + text + b"}")
    with pytest.raises(RemoteProtocolError):
        read_sample(b'{"children":[' + text + b"]}")


@pytest.mark.parametrize(
    "text",
    [
        *(
            b"",
            b" ",
            b"\0",
            b"\v1",
            b"\xc2\xa01",
            b"\xef\xbb\xbf{}",
            b"{} x",
            b"1 2",
            b"[1,]",
            b"'a'",
            b"// a\n1",
            b"True",
        ),
        *(
            b"NaN",
            b"Infinity",
            b"-Infinity",
            b"01",
            b"+1",
            b".5",
            b"1e999",
            b"-1e999",
            b"9" * 5000,
            b"1e" + b"9" * 5000,
        ),
        *(b'"\0"', b'"\t"', b'"\xff"', b'{"\xff":1}', b'"\xed\xa0\x80"'),
        *(b'"\\ud800"', b'{"\\ud800":1}', b'"\\udc00\\ud800"'),
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_what_other_readers_let_pass_is_an_error(text: bytes) -> None:
    refused(text)


@pytest.mark.parametrize("text", ["\ufeff1", '"\ud800"', '{"\udc00":1}', "\ud800", ""], ids=ascii)
def test_a_str_that_is_not_json_is_an_error_too(text: str) -> None:
    refused(text)


@pytest.mark.parametrize(
    "bad", [b'"\xff"', b'{"\xff":1}', b'"\xed\xa0\x80"', b'"\\ud800"', b"NaN", b"Infinity"], ids=ascii
)
def test_a_field_that_is_not_read_must_be_json_too(bad: bytes) -> None:
    """msgspec alone would let invalid UTF-8 pass here."""
    with pytest.raises(RemoteProtocolError):
        read_sample(b'{"unknown":' + bad + b"}")


def test_a_number_no_python_can_hold_may_stand_in_a_field_that_is_not_read() -> None:
    assert read_sample(b'{"unknown":[1e999,' + b"9" * 5000 + b"]}") == Sample()


@pytest.mark.parametrize(
    "text",
    [
        b"[]",
        b"null",
        b'"text"',
        b'{"number":"1"}',
        b'{"number":1e999}',
        b'{"number":' + b"9" * 400 + b"}",
        b'{"integer":1.5}',
        b'{"integer":1e999}',
        b'{"integer":' + b"9" * 5000 + b"}",
        b'{"text":null}',
        b'{"text":["a"]}',
        b'{"text":"\xff"}',
        b'{"size":"large"}',
        b'{"children":[{"number":true}]}',
    ],
    ids=lambda text: ascii(text[:24]),
)
def test_json_of_another_type_is_the_same_error(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        read_sample(text)
    assert len(str(caught.value)) <= 200


def test_the_message_says_what_and_shows_the_start() -> None:
    assert "trailing characters" in str(refused(b'{"a":1} and more'))
    assert "b'{\"a\":1} and more'" in str(refused(b'{"a":1} and more'))
    with pytest.raises(RemoteProtocolError, match=r"Expected `str`, got `int`.*\$\.text"):
        read_sample('{"text":1}')


@pytest.mark.parametrize(
    "text", [b"\xff" * 9999, "\ud800" * 9999, "\U000e0001" * 9999, b'{"size":"' + b"x" * 9999 + b'"}']
)
def test_the_message_is_short_however_long_the_text(text: bytes | str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        read_sample(text)
    assert len(str(caught.value)) <= 200
    str(caught.value).encode()


def test_a_reader_reads_its_type_and_skips_what_that_does_not_know() -> None:
    @dataclasses.dataclass
    class Point:
        x: int
        y: float = 0.5

    assert reader(Point)(b'{"x":1,"z":[{"deep":null}]}') == Point(1)
    assert reader(list[int])("[1,2]") == [1, 2]
    assert reader(dict[str, int])(b'{"a":1}') == {"a": 1}
    assert read_sample('{"children":[{"text":"\u2028"}]}') == Sample(children=[Sample(text="\u2028")])


def test_a_type_that_cannot_be_read_is_the_callers_mistake() -> None:
    with pytest.raises(TypeError, match="must be tagged"):
        reader(list[Sample | OtherSample])


def test_of_a_name_given_twice_the_last_counts() -> None:
    """RFC 8259 §4 leaves it open; so does JavaScript, and this is what it does."""
    assert loads(b'{"a":1,"a":2}') == {"a": 2}


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**50), 10**50)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=10,
)


@given(VALUES, st.booleans())
def test_what_python_writes_is_read_back(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert loads(text) == value
    assert loads(text.encode()) == value


@given(st.binary() | st.text() | st.text('[]{}",:\\u0123456789deEfalnrstu+-. \t\n'))
def test_no_text_raises_another_error(text: bytes | str) -> None:
    try:
        value = loads(text)
    except RemoteProtocolError:
        return
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    assert value == json.loads(text)


@given(VALUES, st.integers(0, 10**6), st.binary(max_size=3), st.integers(0, 3))
def test_no_damage_to_a_text_raises_another_error(value: Any, place: int, inserted: bytes, removed: int) -> None:
    text = json.dumps(value).encode()
    place %= len(text) + 1
    damaged = text[:place] + inserted + text[place + removed :]
    for read in (loads, read_sample):
        try:
            value = read(damaged)
        except RemoteProtocolError:
            continue
        assert not isinstance(value, float) or math.isfinite(value)
