"""JSON lines: everything that happens, for programs. README has the table of it, which the tests hold it to."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from .. import CleanupReport, Event, Finish, Lane, Notice, ProviderError, Queued
from ._course import Course, Opened
from ._output import Output

# What may stand in JSON as it is, but not on a terminal (`_text`), or not within a line for everybody who splits them.
_RISKY = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
# Half a character, which UTF-8 cannot carry, nor strict readers accept as an escape.
_HALF = re.compile("[\ud800-\udfff]")


def line(record: Mapping[str, Any]) -> str:
    """One JSON object, on one line, that can be written as UTF-8."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    text = _RISKY.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return _HALF.sub("\ufffd", text) + "\n"


class JsonView:
    """Says on standard output what happens, in the order in which it does, and nothing else."""

    apart = False

    def __init__(self) -> None:
        self._out = Output("utf-8")
        self._course: Course | None = None
        self._introduced = 0
        self._winner_told = False
        # How many tokens, and how many other events, of each lane.
        self._told = Counter[tuple[int, bool]]()

    async def run(self, opened: Opened, begin: Callable[[Course], None]) -> None:
        """Tell what happens until every lane has ended.

        Raises:
            OutputFailed: standard output is gone.
        """
        async with opened as course:
            begin(course)
            self._course = course
            await self._introduce(course)
            async for lane, event in course.events:
                await self._tell(course, lane, event)

    async def conclude(self) -> None:
        """Tell what an interruption left untold, and what became of the conversations.

        Raises:
            OutputFailed: standard output is gone.
        """
        course = self._course
        if course is not None:
            await self._introduce(course)
            for lane in course.lanes:
                await self._catch_up(course, lane)
            for lane in course.lanes:
                await self._write(_record("cleanup", lane, **_cleanup(lane)))

    async def _introduce(self, course: Course) -> None:
        for lane in course.lanes[self._introduced :]:
            self._introduced += 1
            provider = lane.provider
            await self._write(_record("start", lane, model=provider.model, base_url=provider.base_url))

    async def _catch_up(self, course: Course, lane: Lane) -> None:
        passed = Counter[bool]()
        with lane.reply.subscribe() as events:
            async for event in events:
                token = isinstance(event, str)
                passed[token] += 1
                if passed[token] > self._told[lane.index, token] and (course.counts(lane) or not token):
                    await self._tell(course, lane, event)

    async def _tell(self, course: Course, lane: Lane, event: Event) -> None:
        # Counted before it is written: what a cancelled write leaves is written by the next one.
        self._told[lane.index, isinstance(event, str)] += 1
        records: list[Mapping[str, Any]] = []
        if lane is course.winner and not self._winner_told:
            self._winner_told = True
            records.append(_record("winner", lane))
        match event:
            case str():
                records.append(_record("token", lane, text=event))
            case Queued():
                records.append(_record("queued", lane, position=event.position, size=event.size))
            case Notice():
                records.append(_record("notice", lane, kind=event.kind, text=event.text))
            case Finish():
                records.append(_record("finish", lane, **_finish(lane, event)))
                if course.race is not None and lane is not course.winner:
                    records.append(_record("lost", lane, why=course.standing(lane), error=_error(lane.error)))
            case _:
                pass
        await self._write(*records)

    async def _write(self, *records: Mapping[str, Any]) -> None:
        await self._out.write("".join(map(line, records)))


def _record(kind: str, lane: Lane, /, **fields: Any) -> Mapping[str, Any]:
    return {"type": kind, "lane": lane.index, "provider": lane.provider.name, **fields}


def _finish(lane: Lane, finish: Finish) -> Mapping[str, Any]:
    usage = finish.usage
    return {
        "reason": finish.reason,
        "tokens": lane.tokens,
        "first_token": _seconds(lane.time_to_first_token),
        "seconds": _seconds(lane.duration),
        "input_tokens": usage and usage.input_tokens,
        "output_tokens": usage and usage.output_tokens,
        "error": _error(finish.error),
    }


def _cleanup(lane: Lane) -> Mapping[str, Any]:
    # One that is not settled when the client has given up was not confirmed, which is what `owed` means.
    report = lane.cleanup or CleanupReport(outcome="owed")
    return {
        "outcome": report.outcome,
        "conversation": lane.reply.session.conversation.id,
        "attempts": report.attempts,
        "expires_at": report.expires_at and report.expires_at.isoformat(),
        "error": _error(report.error),
    }


def _error(error: Exception | None) -> Mapping[str, Any] | None:
    if error is None:
        return None
    facts: dict[str, Any] = {"status": None, "code": None, "retry_after": None}
    message = str(error)
    if isinstance(error, ProviderError):
        message = error.message
        facts = {"status": error.status, "code": error.code, "retry_after": _seconds(error.retry_after)}
    return {"class": type(error).__name__, "message": message, **facts}


def _seconds(seconds: float | None) -> float | None:
    return None if seconds is None or not math.isfinite(seconds) else round(seconds, 3)
