"""What does one token of one stream cost?

In CPU time of the process that reads it, user and system. A token's price is that of a long session less that of a
session with one token, over the tokens between; so connecting, creating and deleting, which every client does in every
session, are not in it. They are told apart.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import streams
from harness import Client, Failed, Laboratory, Report
from peers import AIOHTTP, BY_HAND, FLOOR, HTTPX, LIBRARIES, LITELLM, OPENAI, TRIOPROV, UVLOOP
from report import Cell, Goal, Results, goals, measured, ratio, series, table

TITLE = "What does one token of one stream cost?"

_EVERYBODY = (*BY_HAND, UVLOOP, *LIBRARIES)

# The table; its shape; microseconds from token to token; tokens of a long session, and in a smoke run; over TLS; who.
_SETTINGS: Sequence[tuple[str, str, int, int, int, bool, Sequence[Client]]] = (
    ("Burst", "tgi", 0, 40_000, 2_000, False, _EVERYBODY),
    ("Burst, Open Assistant's events", "oasst", 0, 40_000, 2_000, False, BY_HAND),
    ("Burst, olmo's lines", "olmo", 0, 40_000, 2_000, False, BY_HAND),
    ("Paced", "tgi", 1000, 1_000, 50, False, _EVERYBODY),
    ("Paced, over TLS", "tgi", 1000, 1_000, 50, True, (*BY_HAND, UVLOOP)),
)

# What a library's hundreds of microseconds are multiplied with.
_FEWER = 20


def ask(laboratory: Laboratory, rounds: int, *, quick: bool) -> str:
    """Every client in every setting."""
    cells: list[Cell] = []
    for setting, shape, period, tokens, few, tls, clients in _SETTINGS:
        for client in clients:
            count = few if quick else tokens // _FEWER if client.slow and not period else tokens
            arguments = (client.format or shape, str(count), str(period))
            cells.append(Cell(client, setting, "tokens", arguments, tls, partial(_check, client, count)))
    results = measured(laboratory, cells, rounds=rounds)
    parts = [part for setting in _SETTINGS for part in _part(results, setting[0])]
    return "\n\n".join(parts)


def _check(client: Client, count: int, report: Report) -> None:
    if report["count"] != count or report["text"] != zlib.crc32(streams.text(count).encode()):
        raise Failed(f"{client.script} read {report['count']} tokens, and not the text of the {count} that were sent")


def price(cell: Cell, report: Report) -> float:
    """Microseconds for a token."""
    return (report["long"] - report["session"]) / (int(cell.arguments[-2]) - 1) * 1e6


def _part(results: Results, setting: str) -> list[str]:
    rows = series(results, setting, price)
    if not rows:
        return []
    sessions = series(results, setting, lambda _, report: report["session"] * 1e3)
    parts = [
        f"### {setting}",
        table(rows, "µs a token", [FLOOR.label, AIOHTTP.label], {"ms a session": sessions}),
        goals(*_GOALS[setting](partial(ratio, rows, TRIOPROV.label))),
    ]
    if setting == "Burst":
        server = median(value for values in series(results, setting, _server).values() for value in values)
        parts.append(f"The server itself paid {server:.2f} µs a token.")
    return parts


def _server(_: Cell, report: Report) -> float:
    return report["server"] / report["sent"] * 1e6


_Ratio = Callable[[str], float | None]


def _at_most(limit: float, client: Client, to: _Ratio) -> Goal:
    return Goal(f"to {client.label}", limit, to(client.label))


def _times_less(times: float, client: Client, to: _Ratio) -> Goal:
    value = to(client.label)
    return Goal(f"to {client.label}, {times:g} times less", round(1 / times, 4), value)


def _burst(to: _Ratio) -> list[Goal]:
    return [
        _at_most(1.6, FLOOR, to),
        _times_less(3.5, AIOHTTP, to),
        _times_less(6, HTTPX, to),
        _times_less(40, OPENAI, to),
        _times_less(120, LITELLM, to),
    ]


def _format(to: _Ratio) -> list[Goal]:
    return [_at_most(1.6, FLOOR, to)]


def _paced(to: _Ratio) -> list[Goal]:
    return [_at_most(1.0, AIOHTTP, to), _at_most(0.55, HTTPX, to)]


def _paced_tls(to: _Ratio) -> list[Goal]:
    return [*_paced(to), _at_most(1.0, UVLOOP, to)]


_GOALS: dict[str, Callable[[_Ratio], list[Goal]]] = {
    "Burst": _burst,
    "Burst, Open Assistant's events": _format,
    "Burst, olmo's lines": _format,
    "Paced": _paced,
    "Paced, over TLS": _paced_tls,
}
