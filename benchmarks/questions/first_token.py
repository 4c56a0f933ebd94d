"""How long is the way to the first token?

In a conversation that is open, on a connection that is: from asking, by the clock, to the first token in the hands of
the client, of a server that answers at once. What it is longer than the floor's is what a client adds to every answer.
"""

from __future__ import annotations

from statistics import median

from harness import Laboratory
from peers import AIOHTTP, BY_HAND, FLOOR, TRIOPROV
from report import Cell, Goal, Part, goals, measured, series, table

TITLE = "How long is the way to the first token?"


def ask(laboratory: Laboratory, rounds: int, *, quick: bool) -> list[Part]:
    """A row of questions in one conversation."""
    times = 20 if quick else 300
    cells = [Cell(client, "", "first_token", (str(times),)) for client in BY_HAND]
    rows = series(measured(laboratory, cells, rounds=rounds), "", lambda _, report: report["wait"] * 1e6)
    least = rows.get(FLOOR.label, ())
    added = [mine - floor for mine, floor in zip(rows[TRIOPROV.label], least, strict=False)]
    goal = Goal("more than the floor", 150, median(added) if added else None, " µs")
    return [table(rows, "µs, median", [FLOOR.label, AIOHTTP.label]), goals(goal)]
