"""What a provider's decoder makes of bytes."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, cast, get_args

from ..._conversation import Conversation
from ..._errors import TrioprovError
from ..._events import Event, Finish, FinishReason, Lagged, Notice, Queued
from ...providers import Decoder, Stream
from ._flows import HOSTILE, REFUSALS
from ._subject import QUESTION, Complaint, Subject, broken, counted, drive, shown

_ROUNDS = 100
_HOARD = 16  # MiB
_PLACES = 300  # at which a recorded stream is cut; a longer one at so many of its bytes
_VALUES: tuple[Any, ...] = (None, 5, -1e300, True, "", "x", [], {}, [[]], {"a": None})


def _fresh(subject: Subject) -> Callable[[], Decoder] | None:
    """Makes decoders for the first answer of a new conversation, if asking comes to that."""
    provider = subject.make()
    opening = drive(provider.open(subject.minted(provider), counted()), subject.answers()).value
    options = provider.options({})

    def stream() -> object:
        return drive(provider.ask(opening, QUESTION, options, counted()), subject.answers()).value

    def fresh() -> Decoder:
        found = stream()
        assert isinstance(found, Stream)
        return found.decoder

    found = stream() if isinstance(opening, Conversation) else None
    return fresh if isinstance(found, Stream) and isinstance(found.decoder, Decoder) else None  # pyright: ignore[reportUnnecessaryIsInstance]


def _decoded(decoder: Decoder, data: bytes, size: int = 0) -> list[Event]:
    """All events of a body, whole or in pieces of ``size`` bytes."""
    events: list[Event] = []
    for start in range(0, len(data), size or max(1, len(data))):
        events += decoder.receive_data(data[start : start + size] if size else data)
    return [*events, *decoder.receive_eof()]


def _gist(events: list[Event]) -> list[str]:
    """The events, with tokens that follow on each other joined, and errors as what they say."""
    gist: list[str] = []
    text = ""
    for event in events:
        if isinstance(event, str):
            text += event
            continue
        gist += [repr(text)] if text else []
        text = ""
        told = event.error if isinstance(event, Finish) else None
        gist.append(f"{event.reason}: {type(told).__name__} {told}" if isinstance(event, Finish) else repr(event))
    return [*gist, *([repr(text)] if text else [])]


def _damaged(streams: tuple[bytes, ...]) -> Iterator[bytes]:
    """Bodies that no server means: noise, JSON of every shape in every frame, and recorded ones with a part wrong."""
    chance = random.Random(0)
    for body in HOSTILE:
        yield from (body, body + b"\n", b"data:" + body + b"\n\n", b"data: " + body + b"\r\n\r\n")
    alphabet = b'\n\r\n :{}[]",0ae\\u\x00\xe2\x80\xa8\xff'
    for _ in range(_ROUNDS):
        yield bytes(chance.choices(alphabet, k=chance.randrange(60)))
        yield b"".join(
            f"data: {json.dumps(_value(chance))}\n\n{json.dumps(_value(chance))}\n".encode()
            for _ in range(chance.randrange(4))
        )
    for stream in streams:
        yield from _variations(stream, chance)


def _value(chance: random.Random, depth: int = 0) -> Any:
    names = ("token", "text", "content", "message", "error", "type", "id", "choices", "delta", "done", "finish_reason")
    if depth > 2 or chance.random() < 0.4:
        return chance.choice(_VALUES)
    if chance.random() < 0.3:
        return [_value(chance, depth + 1) for _ in range(chance.randrange(3))]
    return {name: _value(chance, depth + 1) for name in chance.sample(names, 3)}


def _variations(stream: bytes, chance: random.Random) -> Iterator[bytes]:
    lines = stream.splitlines(keepends=True)
    for _ in range(_ROUNDS):
        at = chance.randrange(len(stream))
        yield stream[:at] + bytes([chance.randrange(256)]) + stream[at + chance.randrange(3) :]
        line = chance.randrange(len(lines))
        yield b"".join([*lines[:line], *lines[line + chance.randrange(2) :], lines[line]])
    yield stream + stream
    # Each value of each JSON text, one after the other, as something else.
    for number, line in enumerate(lines):
        frame, brace, rest = line.partition(b"{")
        body = (brace + rest).rstrip(b"\r\n")
        try:
            text: object = json.loads(body)
        except ValueError:
            continue
        end = line[len(frame) + len(body) :]
        for changed in _changed(text):
            yield b"".join([*lines[:number], frame, json.dumps(changed).encode(), end, *lines[number + 1 :]])


def _changed(value: object) -> Iterator[object]:
    yield from _VALUES
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        for name, inner in fields.items():
            yield {key: item for key, item in fields.items() if key != name}
            for other in _changed(inner):
                yield {**fields, name: other}
    elif isinstance(value, list):
        items = cast("list[object]", value)
        for at, inner in enumerate(items):
            for other in _changed(inner):
                yield [*items[:at], other, *items[at + 1 :]]


def _any_bytes(subject: Subject) -> Iterator[Complaint]:
    """Its decoder takes any bytes without raising, and gives one Finish, which is the last event."""
    fresh = _fresh(subject)
    if fresh is None:
        return
    for body in _damaged(tuple(subject.streams)):
        decoder = fresh()
        try:
            events = _decoded(decoder, body)
        except Exception as exc:
            yield f"{shown(body)} raised {type(exc).__name__}: {exc}", "RemoteProtocolError (wire.reader raises it)"
            continue
        finishes = [event for event in events if isinstance(event, Finish)]
        if len(finishes) != 1 or events[-1] is not finishes[0]:
            yield f"{shown(body)} gave {shown(events)}", "one Finish, at the end"
        elif odd := [one for one in events if not isinstance(one, (str, Queued, Notice, Finish))]:
            yield f"{shown(body)} gave {shown(odd[0])}", "a token, Queued, Notice or Finish"
        elif "" in events:
            yield f"{shown(body)} gave an empty token", "none"
        elif any(isinstance(event, Lagged) for event in events):
            yield f"{shown(body)} gave Lagged", "that is for subscribers to see"
        elif finishes[0].reason not in get_args(FinishReason) or not _exception(finishes[0].error):
            yield f"{shown(body)} gave {finishes[0]!r}", f"one of {', '.join(get_args(FinishReason))}; an exception"
        elif finishes[0].reason == "interrupted" or (finishes[0].error is None) == (finishes[0].reason == "error"):
            yield f"{shown(body)} gave {finishes[0]!r}", "an error with the reason 'error', and with no other"
        elif decoder.receive_data(body) or decoder.receive_eof() or decoder.receive_eof():
            yield f"{shown(body)} gave more events after the Finish", "nothing"
        if not isinstance(decoder.conversation, Conversation):  # pyright: ignore[reportUnnecessaryIsInstance]
            yield f"its conversation has become {shown(decoder.conversation)}", "self.conversation.replace(…)"
            return
        json.dumps(decoder.conversation)


def _exception(error: object) -> bool:
    return error is None or isinstance(error, Exception)


def _appends(subject: Subject) -> Iterator[Complaint]:
    """Its decoder appends to the list that it is given: what it returns or yields, nobody looks at."""
    fresh = _fresh(subject)
    if fresh is None:
        return
    for body in subject.streams or (b"",):
        decoder = fresh()
        returned: dict[str, object] = {}
        with suppress(Exception):  # other duties tell of it
            returned["decode"] = cast("object", decoder.decode(body, []))
            returned["decode_eof"] = cast("object", decoder.decode_eof([]))
        for name, value in returned.items():
            if value is not None:
                yield f"{name} returned {shown(value)}", "events.append(…), and no return or yield of an event"


def _cut_anywhere(subject: Subject) -> Iterator[Complaint]:
    """Its decoder gives the same events wherever the bytes were cut."""
    fresh = _fresh(subject)
    if fresh is None:
        return
    for body in _damaged(tuple(subject.streams)):
        if len(body) > 2000:
            continue
        whole, cut = _gist(_decoded(fresh(), body)), _gist(_decoded(fresh(), body, 1))
        if whole != cut:
            yield f"{shown(body)} gave {shown(whole)}, and byte by byte {shown(cut)}", "the same"


def _complete(subject: Subject) -> Iterator[Complaint]:
    """A stream ends well by its own end mark alone: without it, the answer is an IncompleteReply."""
    fresh = _fresh(subject)
    if fresh is None:
        return
    if _ended_well(events := _decoded(fresh(), b"")):
        yield f"a stream without a byte gave {events!r}", "an error"
    for stream in subject.streams:
        events = _decoded(fresh(), stream)
        if not _ended_well(events):
            yield f"a recorded stream gave {_gist(events)[-1]}", "a Finish without an error"
            continue
        whole = _gist(events)
        for at in range(0, len(stream), len(stream) // _PLACES + 1):
            part = _decoded(fresh(), stream[:at])
            if _ended_well(part) and _gist(part) != whole:
                yield f"cut after {at} bytes, a recorded stream gave {shown(_gist(part))}", "an error: it is not all"


def _changes_nothing(subject: Subject) -> Iterator[Complaint]:
    """No flow and no decoder changes the conversation that it is given: whoever holds it would not be told."""
    provider, fresh = subject.make(), _fresh(subject)
    minted, opened = subject.minted(provider), subject.opened(provider)
    decoders = [fresh() for _ in subject.streams] if fresh is not None else []
    given = [minted, opened, *(decoder.conversation for decoder in decoders)]
    before = copy.deepcopy(given)
    drive(provider.open(minted, counted()), subject.answers())
    for flow in (provider.ask(opened, QUESTION, {}, counted()), provider.stop(opened), provider.close(opened)):
        drive(flow, subject.answers())
    for decoder, stream in zip(decoders, subject.streams, strict=False):
        _decoded(decoder, stream)
    for was, now in zip(before, given, strict=True):
        if was != now:
            yield f"{shown(dict(was))} has become {shown(dict(now))}", "conversation.replace(…), which makes a new one"


def _ended_well(events: list[Event]) -> bool:
    last = events[-1] if events else None
    return isinstance(last, Finish) and last.error is None


def _bounded(subject: Subject) -> Iterator[Complaint]:
    """What its decoder keeps back is bounded, however long a line is that never ends."""
    fresh = _fresh(subject)
    if fresh is None:
        return
    for start in (b"data: ", b'{"'):
        decoder = fresh()
        events = decoder.receive_data(start)
        for _ in range(_HOARD):
            events += decoder.receive_data(b"x" * (1 << 20))
        if not events:
            yield (
                f"of {_HOARD} MiB without a line's end it made nothing",
                "an error (the decoders of wire have a limit)",
            )


def _after_stream(subject: Subject) -> Iterator[Complaint]:
    """What it makes of a stream without an end mark is a Finish, or an error of ours, whatever the server says."""
    provider = subject.make()
    fresh = _fresh(subject)
    if fresh is None:
        return
    answers = [subject.answers(), broken, *(subject.answers(status) for status in REFUSALS)]
    for answer in [*answers, *(subject.answers(200, body) for body in HOSTILE)]:
        driven = drive(provider.after_stream(fresh()), answer)
        events: Any = driven.value
        if not isinstance(driven.error, TrioprovError) and not (
            isinstance(events, list) and events and isinstance(events[-1], Finish)
        ):
            yield f"after_stream returned {shown(driven.value)}", "events, with a Finish at the end"


DUTIES = (_any_bytes, _appends, _cut_anywhere, _changes_nothing, _complete, _bounded, _after_stream)
