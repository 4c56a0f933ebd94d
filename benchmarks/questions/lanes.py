"""What does a fan-out cost from end to end?

One prompt, four conversations, four readers of each; CPU time for a token that was sent, whoever read it. trioprov
has `fan_out` and a loop for each reader; by hand it is a task for each conversation, and a queue or a memory channel
for each reader.
"""

from __future__ import annotations

from harness import Laboratory, Report
from peers import AIOHTTP, HTTPX, TRIOPROV
from report import Cell, Part, goals, measured, series, table, times_less

TITLE = "What does a fan-out cost: four conversations, four readers of each?"

_LANES = _READERS = 4


def ask(laboratory: Laboratory, rounds: int, *, quick: bool) -> list[Part]:
    """All of it in a burst."""
    count = 200 if quick else 5_000
    arguments = (str(_LANES), str(_READERS), str(count), "0")
    cells = [Cell(client, "", "lanes", arguments) for client in (TRIOPROV, AIOHTTP, HTTPX)]
    rows = series(measured(laboratory, cells, rounds=rounds), "", _price)
    return [
        table(rows, "µs a token", [AIOHTTP.label, HTTPX.label]),
        goals(times_less(3, rows, TRIOPROV, AIOHTTP), times_less(12, rows, TRIOPROV, HTTPX)),
    ]


def _price(cell: Cell, report: Report) -> float:
    return (report["long"] - report["session"]) / (int(cell.arguments[2]) - 1) / _LANES * 1e6
