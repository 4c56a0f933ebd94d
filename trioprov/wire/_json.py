"""The one JSON reader of the library: whatever it does not accept is the service's fault, and raises one error."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from .._errors import RemoteProtocolError

T = TypeVar("T")

_UNTYPED = msgspec.json.Decoder()


def loads(data: bytes | str) -> Any:
    """Read one JSON text.

    Accepted is RFC 8259 to the letter, without a byte order mark, as far as Python can hold it: numbers within the
    range of a float or of an int of 4,300 digits, strings that can be encoded again, nesting within the interpreter's
    recursion limit.

    Raises:
        RemoteProtocolError: the text is not that; the reason is its cause.
    """
    return _decode(_UNTYPED, data)


def reader(type_: type[T]) -> Callable[[bytes | str], T]:
    """Return a function that reads one JSON text as a ``type_``, by the rules of `loads`.

    Fields the type does not know are skipped; a number among them may be of any size.

    Args:
        type_: what msgspec can decode: a `msgspec.Struct`, a dataclass, a `TypedDict`, ``list[int]``, …

    Returns:
        A function that raises `RemoteProtocolError` for what is no JSON text, or one of another type.
    """
    decoder = decoder_of(type_)

    def read(data: bytes | str) -> T:
        return _decode(decoder, data)

    return read


@functools.cache
def decoder_of(type_: Any) -> msgspec.json.Decoder[Any]:
    """The one decoder of a type; it raises errors of its own, and does not look at all of what it skips."""
    return msgspec.json.Decoder(type_)


def _decode(decoder: msgspec.json.Decoder[Any], data: bytes | str) -> Any:
    try:
        # RFC 8259 §8.1: "JSON text […] MUST be encoded using UTF-8". msgspec looks at the encoding of strings it keeps,
        # not of those it skips; decoding here makes the verdict on a text the same for every type.
        return decoder.decode(data if isinstance(data, str) else data.decode())
    except (ValueError, RecursionError) as error:
        # `msgspec.DecodeError` and the Unicode errors are ValueErrors.
        raise RemoteProtocolError(_complaint(error, data)) from error


def _complaint(error: Exception, data: bytes | str) -> str:
    # Both parts are cut: the error may quote a whole value, and an escaped character takes up to ten.
    return f"unacceptable JSON ({str(error)[:100]}): {data[:40]!r:.60}"
