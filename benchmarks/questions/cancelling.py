"""What does it take to cancel a crowd?

A hundred or a thousand streams, cancelled in one instant: how long until the last conversation has been deleted. The
server confirms that every one was; a client that leaves one behind fails the run.
"""

from __future__ import annotations

from statistics import median

from harness import Laboratory
from peers import AIOHTTP, HTTPX, TRIOPROV
from report import Cell, Goal, Part, at_most, goals, measured, series, table

TITLE = "What does it take to cancel a hundred, and a thousand, streams at once?"

_SIZES = (100, 1000)


def ask(laboratory: Laboratory, rounds: int, *, quick: bool) -> list[Part]:
    """Everybody who deletes when cancelled; httpx by hand with the hundred only, since it is quadratic there."""
    sizes = (5, 20) if quick else _SIZES
    cells = [
        Cell(client, str(size), "cancelling", (str(size),))
        for size in sizes
        for client in (TRIOPROV, AIOHTTP, HTTPX)
        if client != HTTPX or size == sizes[0]
    ]
    results = measured(laboratory, cells, rounds=rounds)
    few, many = (series(results, str(size), lambda _, report: report["wall"] * 1e3) for size in sizes)
    parts: list[Part] = []
    for size, rows in zip(sizes, (few, many), strict=True):
        spent = series(results, str(size), lambda _, report: report["cpu"] * 1e3)
        parts += [f"### {size} streams", table(rows, "ms", [AIOHTTP.label], {"CPU ms": spent})]
    ours = TRIOPROV.label
    growth = median(large / small for small, large in zip(few[ours], many[ours], strict=True))
    return [
        *parts,
        goals(
            at_most(2, many, TRIOPROV, AIOHTTP, "a thousand, "),
            Goal("ten times as many, × ten times the time", 1.5, growth / (sizes[1] / sizes[0])),
        ),
    ]
