"""What does it cost to be used from asyncio?

`trioprov.anyio` runs the library beside the event loop, in a thread of trio's. So a token changes threads; this is
what that costs, and whether streams keep pace while the event loop is kept busy with something else. What it costs at
least is the difference between the floor and the floor that hands its tokens over.
"""

from __future__ import annotations

from statistics import median

from harness import OURS, Client, Failed, Laboratory
from peers import AIOHTTP, FLOOR, HANDED_OVER, ON_ASYNCIO, TRIOPROV
from report import Cell, Goal, Part, Series, at_most, goals, measured, series, table

from questions.tokens import price

TITLE = "What does it cost to be used from asyncio?"

_CLIENTS = (ON_ASYNCIO, TRIOPROV, AIOHTTP)


def ask(laboratory: Laboratory, rounds: int, *, quick: bool) -> list[Part]:
    """Bursts, one paced stream, and two hundred beside a loop that is kept busy in steps of 1 ms."""
    try:
        laboratory.run(OURS, "-c", "import trioprov.anyio")
    except Failed:
        return ["Not measured: this checkout has no `trioprov.anyio`."]
    burst, paced = ("2000", "50") if quick else ("20000", "1000")
    crowd = ("5", "10", "50000", "0.001") if quick else ("200", "60", "50000", "0.001")
    one = ("1", paced, "1000")
    cells = [
        *(Cell(client, "Burst", "tokens", ("tgi", burst, "0")) for client in _CLIENTS),
        *(Cell(client, "Paced", "crowd", one) for client in (*_CLIENTS, FLOOR, HANDED_OVER)),
        *(Cell(client, "Busy", "crowd", crowd) for client in _CLIENTS),
    ]
    results = measured(laboratory, cells, rounds=rounds)
    bursts = series(results, "Burst", price)
    paces = series(results, "Paced", lambda _, report: report["cpu"] / report["count"] * 1e6)
    lag = {name: series(results, name, lambda _, report: report["lags"]["50"] * 1e3) for name in ("Paced", "Busy")}
    late = {name: series(results, name, lambda _, report: report["lags"]["99"] * 1e3) for name in ("Paced", "Busy")}
    walls = series(results, "Busy", lambda _, report: report["wall"] / report["ideal"])
    compared = [TRIOPROV.label, AIOHTTP.label]
    ours, bare = _added(paces), _added(paces, HANDED_OVER, FLOOR)
    return [
        "### Burst",
        table(bursts, "µs a token", compared),
        "### Paced, one token a millisecond",
        table(paces, "µs a token", compared, {"lag ms, p50": lag["Paced"], "p99": late["Paced"]}),
        "### Two hundred streams beside something that keeps the event loop busy in steps of 1 ms",
        table(walls, "wall, × ideal", compared, {"lag ms, p50": lag["Busy"], "p99": late["Busy"]}),
        goals(
            Goal("added to a token in bursts", 2, _added(bursts), " µs"),
            at_most(1.0, bursts, ON_ASYNCIO, AIOHTTP, "burst, "),
            Goal("added to a paced token", 20, ours, " µs"),
            Goal("the same, × what is added to the floor's", 1.5, ours / bare if ours and bare else None),
            Goal("added to the lag of a paced token", 0.1, _added(lag["Paced"]), " ms"),
            Goal("added to the lag of 99 in 100 tokens beside a busy loop", 15, _added(late["Busy"]), " ms"),
        ),
    ]


def _added(rows: Series, mine: Client = ON_ASYNCIO, to: Client = TRIOPROV) -> float | None:
    """What one pays more than the other."""
    if not rows.get(mine.label) or not rows.get(to.label):
        return None
    return median(more - less for more, less in zip(rows[mine.label], rows[to.label], strict=False))
