"""The duties of every provider, as far as they can be checked of a class alone: without a network, a clock, a loop."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ...providers import Provider
from . import _cleanup, _flows, _options, _shape, _stream, _value
from ._subject import Complaint, Duty, Subject, ids

# Whoever fails in one of these cannot be asked for the next.
_DUTIES: tuple[tuple[Duty, ...], ...] = (
    _shape.FIRST,
    _shape.THEN,
    (*_value.DUTIES, *_options.DUTIES, *_flows.DUTIES, *_stream.DUTIES, *_cleanup.DUTIES),
)
_HERE = Path(__file__).parent
_HOUSE = _HERE.parent.parent
_MOST = 3  # complaints about one duty; the others are more of the same


def check_provider(
    provider_class: type[Provider],
    *,
    streams: Sequence[bytes] = (),
    answer: Mapping[str, Any] | None = None,
    **fields: Any,
) -> None:
    """Check that a provider class does what every provider must, for your own tests: ``check_provider(Acme)``.

    That it is a value and keeps secrets; that its parameters are checked and its flows do no I/O, mark what creates,
    and survive whatever a server says; that its decoder does not raise, gives one `Finish`, and gives it last; that
    ``close`` ends for every answer, and says "deleted" or "already gone" only of what is. It takes half a second,
    uses no network and no event loop, and runs in any test function. It cannot know what the service really says: that
    is for a test with a server.

    Args:
        provider_class: the class.
        streams: bodies of whole answers, recorded or written by hand. Each is decoded, cut anywhere and damaged: only
            the whole may end well.
        answer: the JSON object with which the service answers a request that succeeds, if its id is under a name of
            its own; what is usual (``id``, ``conversation_id``, …) is tried anyway.
        fields: what the constructor needs besides the fields of every provider.

    Raises:
        AssertionError: for each duty that is not done: what it is, what was seen, and what is wanted.
        TypeError: what is given is not a class, or ``streams`` is not a list of bytes.
    """
    if not isinstance(provider_class, type):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"check_provider wants a class, not {provider_class!r}")
    if isinstance(streams, (bytes, str)) or not all(
        isinstance(one, bytes) and one for one in cast("list[object]", streams)
    ):
        raise TypeError("streams must be a list of bytes, each the body of a whole answer, and not empty")
    subject = Subject(provider_class, fields, {**ids(), **(answer or {})}, tuple(streams))
    found = next((found for duties in _DUTIES if (found := _complaints(duties, subject))), None)
    if found:
        raise AssertionError("\n  ".join([f"{provider_class.__qualname__} fails as a provider:", *found]))


def _complaints(duties: Sequence[Duty], subject: Subject) -> list[str]:
    """The lines of a report: each duty that is not done, what was seen, and what is wanted."""
    lines: list[str] = []
    for duty in duties:
        complaints: list[Complaint] = []
        try:
            complaints.extend(duty(subject))
        except Exception as exc:
            complaints.append((_told(exc), "no such exception"))
        if complaints:
            lines.append(duty.__doc__ or duty.__name__)
            for seen, wanted in complaints[:_MOST]:
                lines += [f"  seen:   {seen}", f"  wanted: {wanted}"]
        if len(complaints) > _MOST:
            lines.append(f"  … and {len(complaints) - _MOST} more like it")
    return lines


def _told(exc: Exception) -> str:
    """An exception, and where in the author's code it came from."""
    frames = traceback.extract_tb(exc.__traceback__)
    written = [frame for frame in frames if not frame.filename.startswith("<")]  # a dataclass's __init__ is not
    theirs = [frame for frame in written if not Path(frame.filename).is_relative_to(_HOUSE)]
    where = [*frames[:1], *(frame for frame in frames if not Path(frame.filename).is_relative_to(_HERE)), *theirs][-1]
    return f"{type(exc).__name__}: {exc} (in {where.name}, {where.filename}:{where.lineno})"
