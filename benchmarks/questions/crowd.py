"""Do many streams keep pace?

A hundred or a thousand conversations of one process at once, twenty tokens a second each. All are open before the
first is asked, and within two seconds all are asked. Each token says when it was sent, so its lag is how long it was
under way. The wall time, and the CPU time, count from the first question to the end of the last stream; ideally the
wall time is that of one stream, and those two seconds. What it takes to open the conversations is said beside it.
"""

from __future__ import annotations

from functools import partial
from statistics import median

from harness import Failed, Laboratory, Report
from peers import AIOHTTP, BY_HAND, HTTPX, TRIOPROV
from report import Cell, Goal, Part, at_most, goals, measured, series, table

TITLE = "Do a hundred, and a thousand, streams keep pace?"

_PERIOD = 50_000  # microseconds
_SIZES = (100, 1000)


def ask(laboratory: Laboratory, rounds: int, *, quick: bool) -> list[Part]:
    """Everybody, with both."""
    cells: list[Cell] = []
    sizes = (10,) if quick else _SIZES
    for streams in sizes:
        count = 10 if quick else 200 if streams >= 1000 else 60
        arguments = (str(streams), str(count), str(_PERIOD))
        # httpx' own pool needs half a minute for a thousand; a tenth of that tells as much.
        clients = [client for client in BY_HAND if client != HTTPX or streams < 1000]
        cells += [
            Cell(client, str(streams), "crowd", arguments, check=partial(_check, streams * count)) for client in clients
        ]
    results = measured(laboratory, cells, rounds=rounds)
    parts: list[Part] = []
    for size in map(str, sizes):
        rows = series(results, size, lambda cell, report: report["cpu"] / _tokens(cell) * 1e6)
        walls = series(results, size, lambda _, report: report["wall"] / report["ideal"])
        memory = series(results, size, lambda cell, report: report["memory"] / int(cell.arguments[0]))
        half, most = (series(results, size, partial(_lag, part)) for part in ("50", "99"))
        opening = series(results, size, lambda cell, report: report["opening"] / int(cell.arguments[0]) * 1e3)
        more = {"wall, × ideal": walls, "lag ms, p50": half, "p99": most, "kB a stream": memory, "ms to open": opening}
        parts += [f"### {size} streams", table(rows, "µs a token", [AIOHTTP.label], more)]
        if size == "1000":
            ours = TRIOPROV.label
            parts.append(
                goals(
                    Goal("wall, × ideal", 1.02, median(walls[ours])),
                    at_most(1.1, rows, TRIOPROV, AIOHTTP, "CPU, "),
                    Goal("lag of 99 in 100 tokens", 5, median(most[ours]), " ms"),
                    Goal("memory for a stream", 40, median(memory[ours]), " kB"),
                )
            )
    return parts


def _tokens(cell: Cell) -> int:
    return int(cell.arguments[0]) * int(cell.arguments[1])


def _lag(part: str, _: Cell, report: Report) -> float:
    return report["lags"][part] * 1e3


def _check(count: int, report: Report) -> None:
    if report["count"] != count:
        raise Failed(f"{report['count']} of {count} tokens came")
