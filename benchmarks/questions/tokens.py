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
from peers import AIOHTTP, BY_HAND, FLOOR, G4F, HTTPX, LIBRARIES, LITELLM, OPENAI, TRIOPROV, UVLOOP
from report import Cell, Goal, Part, Results, Series, at_most, goals, measured, series, table, times_less

TITLE = "What does one token of one stream cost?"

_EVERYBODY = (*BY_HAND, UVLOOP, *LIBRARIES)

# The table; its shape; microseconds from token to token; tokens of a long session, and in a smoke run; over TLS; who.
_SETTINGS: Sequence[tuple[str, str, int, int, int, bool, Sequence[Client]]] = (
    ("Burst", "tgi", 0, 40_000, 2_000, False, _EVERYBODY),
    ("Burst, Open Assistant's events", "oasst", 0, 40_000, 2_000, False, BY_HAND),
    ("Burst, olmo's lines", "olmo", 0, 40_000, 2_000, False, BY_HAND),
    ("Paced", "tgi", 1000, 800, 50, False, (*BY_HAND, UVLOOP, G4F, OPENAI, LITELLM)),
    ("Paced, over TLS", "tgi", 1000, 800, 50, True, (*BY_HAND, UVLOOP)),
)

# How many times as often those with a pace are measured: what a wake-up costs, differs from one to the next.
_OFTENER = 2

# What a library's hundreds of microseconds are multiplied with.
_FEWER = 20


def ask(laboratory: Laboratory, rounds: int, *, quick: bool) -> list[Part]:
    """Every client in every setting."""
    cells: list[Cell] = []
    for setting, shape, period, tokens, few, tls, clients in _SETTINGS:
        for client in clients:
            count = few if quick else tokens // _FEWER if client.slow and not period else tokens
            arguments = (client.format or shape, str(count), str(period))
            cells.append(Cell(client, setting, "tokens", arguments, tls, partial(_check, client, count)))
    paced = {setting for setting, _, period, *_ in _SETTINGS if period}
    results = {
        **measured(laboratory, [cell for cell in cells if cell.setting not in paced], rounds=rounds),
        **measured(
            laboratory, [cell for cell in cells if cell.setting in paced], rounds=rounds if quick else _OFTENER * rounds
        ),
    }
    return [part for setting in _SETTINGS for part in _part(results, setting[0])]


def _check(client: Client, count: int, report: Report) -> None:
    if report["count"] != count or report["text"] != zlib.crc32(streams.text(count).encode()):
        raise Failed(f"{client.script} read {report['count']} tokens, and not the text of the {count} that were sent")


def price(cell: Cell, report: Report) -> float:
    """Microseconds for a token."""
    return (report["long"] - report["session"]) / (int(cell.arguments[-2]) - 1) * 1e6


def _part(results: Results, setting: str) -> list[Part]:
    rows = series(results, setting, price)
    if not rows:
        return []
    sessions = series(results, setting, lambda _, report: report["session"] * 1e3)
    parts: list[Part] = [
        f"### {setting}",
        table(rows, "µs a token", [FLOOR.label, AIOHTTP.label], {"ms a session": sessions}),
        goals(*_GOALS[setting](rows)),
    ]
    if setting == "Burst":
        server = median(value for values in series(results, setting, _server).values() for value in values)
        parts.append(f"The server itself paid {server:.2f} µs a token.")
    return parts


def _server(_: Cell, report: Report) -> float:
    return report["server"] / report["sent"] * 1e6


def _burst(rows: Series) -> list[Goal]:
    return [*_format(rows), times_less(40, rows, TRIOPROV, OPENAI), times_less(120, rows, TRIOPROV, LITELLM)]


def _format(rows: Series) -> list[Goal]:
    return [
        at_most(1.6, rows, TRIOPROV, FLOOR),
        times_less(3.5, rows, TRIOPROV, AIOHTTP),
        times_less(6, rows, TRIOPROV, HTTPX),
    ]


def _paced(rows: Series) -> list[Goal]:
    return [at_most(1.0, rows, TRIOPROV, AIOHTTP), at_most(0.55, rows, TRIOPROV, HTTPX)]


def _paced_tls(rows: Series) -> list[Goal]:
    return [*_paced(rows), at_most(1.0, rows, TRIOPROV, UVLOOP)]


_GOALS: dict[str, Callable[[Series], list[Goal]]] = {
    "Burst": _burst,
    "Burst, Open Assistant's events": _format,
    "Burst, olmo's lines": _format,
    "Paced": _paced,
    "Paced, over TLS": _paced_tls,
}
