"""What is said on stderr when a question is over: who failed and why, what may be left, and who did what in a race."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .. import CleanupReport, Lane
from ._advice import advice, described
from ._course import Course, Standing
from ._options import Question
from ._text import Voice, one_line

if TYPE_CHECKING:
    from ..providers import Provider
    from ..testing import Emulator

_STANDINGS: Mapping[Standing, str] = {
    "won": "won",
    "beaten": "lost",
    "failed": "failed",
    "not_started": "not started",
    "interrupted": "stopped",
}


class Telling:
    """Tells how a question ended.

    Args:
        question: what was asked.
        voice: stderr.
        records: whether standard output has told everything to a program, so that people need only what went wrong.

    Attributes:
        course: the lanes, once there are any.
        emulators: the bundled servers that were asked, by name.
        stopped: whether the lanes were interrupted by whoever asked.
    """

    def __init__(self, question: Question, voice: Voice, *, records: bool) -> None:
        self._question = question
        self._voice = voice
        self._records = records
        self.course: Course | None = None
        self.emulators: dict[str, Emulator[Provider]] = {}
        self.stopped = False

    def tell(self, *, interrupted: bool) -> None:
        """Tell all of it.

        Args:
            interrupted: whether a signal has ended it.
        """
        lanes = self._lanes
        if self.course is not None:
            for lane in lanes:
                self._tell_lane(self.course, lane)
            if self.course.race is not None and not self._records:
                self._tell_race(self.course)
        if any(lane.cleanup is None or lane.cleanup.outcome == "owed" for lane in lanes):
            for line in self._payment():
                self._voice.say(line, wrap=False)
        if self._question.emulated:
            self._tell_emulated()
        elif interrupted and lanes:
            outcomes = Counter(map(_outcome, lanes))
            said = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
            self._voice.say(f"trioprov: conversations: {said}")

    def owed(self) -> list[str]:
        """What leaving at once may leave behind; called from a signal handler."""
        settled = ("deleted", "already_gone", "nothing_owed", "kept", "unsupported")
        lines = [
            f"  {lane.provider.label}: {_left(lane, lane.cleanup)}"
            for lane in self._lanes
            if lane.cleanup is None or lane.cleanup.outcome not in settled
        ]
        return [*lines, *self._payment()] if lines else []

    @property
    def _lanes(self) -> Sequence[Lane]:
        return self.course.lanes if self.course else ()

    def _tell_lane(self, course: Course, lane: Lane) -> None:
        """How a lane failed or fell short, and what to do about it."""
        provider, finish, label = lane.provider, lane.reply.finish, lane.provider.label
        if course.winner is not None and lane is not course.winner:
            pass  # its failure changes nothing; it is in the table
        elif finish is None or (finish.reason == "interrupted" and self.stopped):
            pass
        elif lane.error is not None:
            above = lane.reply.text and course.counts(lane) and not self._records
            partial = " (the answer above is not complete)" if above else ""
            self._voice.say(f"trioprov: {label}: {described(lane.error)}{partial}")
            if hint := advice(provider, lane.error):
                self._voice.say(f"  {hint}")
        elif finish.reason == "interrupted":
            self._voice.say(f"trioprov: {label}: ended without an answer")
        elif finish.reason == "length":
            self._voice.say(f"trioprov: {label}: the answer was cut at the token limit; -o max_tokens=N moves it")
        report = lane.cleanup
        if report is None or report.outcome in ("owed", "lost"):
            self._voice.say(f"trioprov: {label}: {_left(lane, report)}")

    def _tell_race(self, course: Course) -> None:
        """What each lane did; why one failed only if that was not told above."""
        told = course.winner is None
        self._say_table(
            "The race:",
            [
                (
                    lane.provider.name,
                    _STANDINGS[course.standing(lane)],
                    "1 token" if lane.tokens == 1 else f"{lane.tokens} tokens",
                    "" if lane.duration is None else f"{lane.duration:.2f} s",
                    _outcome(lane),
                    "" if lane.error is None or told or lane is course.winner else described(lane.error),
                )
                for lane in course.lanes
            ],
        )

    def _tell_emulated(self) -> None:
        self._say_table(
            "Conversations on the emulated servers:",
            [
                (lane.provider.name, _outcome(lane), lane.reply.session.conversation.id or "(none was created)")
                for lane in self._lanes
            ],
        )
        alive = {emulator.name: emulator.conversations for emulator in self.emulators.values()}
        left = [f"{name}: {', '.join(ids)}" for name, ids in alive.items() if ids]
        self._voice.say(f"Still alive there: {'; '.join(left)}" if left else "None is left on any of these servers.")

    def _say_table(self, heading: str, rows: Sequence[Sequence[str]]) -> None:
        self._voice.say(heading)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
            self._voice.say(f"  {'  '.join(cells)}".rstrip())

    def _payment(self) -> list[str]:
        """How to delete later what may be left: no create leaves before it is written down."""
        if self._question.journal is None:
            return []
        return ["trioprov: the journal has it; this deletes it:", f"  {self._question.paid_by}"]


def _outcome(lane: Lane) -> str:
    return lane.cleanup.outcome.replace("_", " ") if lane.cleanup else "not settled"


def _left(lane: Lane, report: CleanupReport | None) -> str:
    """What may still be on a server."""
    conversation = lane.reply.session.conversation.id
    what = f"conversation {one_line(conversation)}" if conversation else "a conversation whose id is not known"
    why = f" ({report.error})" if report and report.error else ""
    until = (
        f"; the service deletes it by {report.expires_at:%Y-%m-%d %H:%M} UTC" if report and report.expires_at else ""
    )
    return f"{what} may still be on {lane.provider.base_url}{why}{until}"
