"""Rounds, medians, ratios, goals: what the questions have in common, and how it is written down."""

from __future__ import annotations

import itertools
import random
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from harness import Client, Laboratory, Report

# How often a client is measured that takes long.
_SLOW_ROUNDS = 2

Series = Mapping[str, Sequence[float]]
"""Figures of several clients: by label, one for each round."""


@dataclass(frozen=True)
class Cell:
    """What is measured once in every round.

    Attributes:
        client: who.
        setting: the table it belongs to.
        question: what is asked of it.
        arguments: of the question.
        tls: over TLS.
        check: raises `Failed` if a client did not do its work.
    """

    client: Client
    setting: str
    question: str
    arguments: tuple[str, ...]
    tls: bool = False
    check: Callable[[Report], None] = lambda report: None


Results = Mapping[Cell, Sequence[Report]]


def measured(laboratory: Laboratory, cells: Sequence[Cell], *, rounds: int) -> Results:
    """Every cell, once a round, in another order each time; what cannot run here is left out.

    So whatever the machine does meanwhile, it does to all of them.

    Raises:
        Failed: a client failed, or did something else than it was asked.
    """
    able = [cell for cell in cells if laboratory.can_run(cell.client)]
    results: dict[Cell, list[Report]] = {cell: [] for cell in able if laboratory.has_tls or not cell.tls}
    for number in range(rounds):
        taking_part = [cell for cell in results if number < _SLOW_ROUNDS or not cell.client.slow]
        for cell in random.Random(number).sample(taking_part, len(taking_part)):
            report = laboratory.measure(cell.client, cell.question, *cell.arguments, tls=cell.tls)
            cell.check(report)
            results[cell].append(report)
        print(f"  round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return results


def series(results: Results, setting: str, figure: Callable[[Cell, Report], float]) -> Series:
    """One figure of every client of a setting that was measured."""
    return {
        cell.client.label: [figure(cell, report) for report in reports]
        for cell, reports in results.items()
        if cell.setting == setting
    }


def ratio(rows: Series, label: str, to: str) -> float | None:
    """The median of the rounds' ratios: two that are compared were measured within seconds of each other."""
    if not rows.get(label) or not rows.get(to):
        return None
    return median(mine / theirs for mine, theirs in zip(rows[label], rows[to], strict=False))


def table(rows: Series, unit: str, against: Sequence[str], more: Mapping[str, Series] | None = None) -> str:
    """In Markdown, the cheapest first.

    Args:
        rows: the figure that matters.
        unit: its heading.
        against: whom the clients are compared with.
        more: further figures, by their headings.
    """
    more = more or {}
    against = [label for label in against if label in rows]
    lines = [
        ["", unit, "from – to", *(f"× {short(label)}" for label in against), *more],
        ["---", *["--:"] * (2 + len(against) + len(more))],
    ]
    for label, values in sorted(rows.items(), key=lambda row: median(row[1])):
        ratios = [ratio(rows, label, other) for other in against]
        others = [written(median(figures[label])) if label in figures else "" for figures in more.values()]
        cells = [written(median(values)), f"{written(min(values))} – {written(max(values))}"]
        lines.append([label, *cells, *("" if value is None else f"{value:.2f}" for value in ratios), *others])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def short(label: str) -> str:
    """A label without its marks and its second half."""
    return label.strip("*").partition(",")[0].removeprefix("the ").removesuffix(" by hand")


def written(value: float) -> str:
    """Three digits, or all that stand before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


@dataclass(frozen=True)
class Goal:
    """What a figure should be.

    Attributes:
        what: it is.
        limit: it is at most that.
        value: it is that; `None` if it could not be measured.
        unit: of both.
        least: the limit is one that it should reach.
    """

    what: str
    limit: float
    value: float | None
    unit: str = ""
    least: bool = False

    @property
    def reached(self) -> bool | None:
        """Whether; `None` if nobody knows."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.least else self.value <= self.limit

    def __str__(self) -> str:
        limit = f"{self.what}: at {'least' if self.least else 'most'} {self.limit:g}{self.unit}"
        if self.value is None:
            return f"- {limit}; not measured"
        return f"- {limit}; is {written(self.value)}{self.unit}, {'reached' if self.reached else '**missed**'}"


def at_most(limit: float, rows: Series, mine: Client, to: Client, what: str = "") -> Goal:
    """So many times what another client pays."""
    return Goal(f"{what}× {to.label}", limit, ratio(rows, mine.label, to.label))


def times_less(times: float, rows: Series, mine: Client, to: Client, what: str = "") -> Goal:
    """That part of what another client pays."""
    return Goal(f"{what}times less than {to.label}", times, ratio(rows, to.label, mine.label), least=True)


class Goals(tuple[Goal, ...]):
    """Those of a table, which stand below it."""

    __slots__ = ()

    def __str__(self) -> str:
        return "\n".join(["trioprov, as it should be and as it is:", "", *map(str, self)])


def goals(*goals: Goal) -> Goals:
    """The goals of a table."""
    return Goals(goals)


Part = str | Goals
"""Of an answer: a heading, a table, a sentence, or goals."""


def in_short(answers: Mapping[str, Sequence[Part]]) -> str:
    """How many goals were reached, and which were not, of all questions."""
    asked = [
        (title, goal) for title, parts in answers.items() for part in parts for goal in part if isinstance(goal, Goal)
    ]
    known = [(title, goal) for title, goal in asked if goal.reached is not None]
    missed = [(title, goal) for title, goal in known if not goal.reached]
    lines = [f"trioprov reaches {len(known) - len(missed)} of {len(known)} goals."]
    if missed:
        lines += ["It misses:", "\n".join(f"{goal} ({title})" for title, goal in missed)]
    return "\n\n".join(lines)


def quoting(text: str, report: str) -> str:
    """The text, each table in it (``<!-- table: heading -->`` … ``<!-- /table -->``) as the report has it."""

    def quoted(match: re.Match[str]) -> str:
        _, _, below = report.partition(f"# {match[1]}\n")
        lines = itertools.dropwhile(lambda line: not line.startswith("|"), below.splitlines())
        table = "\n".join(itertools.takewhile(lambda line: line.startswith("|"), lines))
        return f"<!-- table: {match[1]} -->\n{table}\n<!-- /table -->"

    return re.sub(r"<!-- table: (.*?) -->\n.*?<!-- /table -->", quoted, text, flags=re.DOTALL)
