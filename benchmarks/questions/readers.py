"""What does one more reader of a reply cost?

CPU time of a stream with so many readers, less that of the same stream with none, for a token and a reader. Each
client hands on what it reads its own way: trioprov's readers are loops over one reply; by hand, it is a memory channel
of trio's for each reader, or a queue of asyncio's, fed token by token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from statistics import median

from harness import Laboratory, Report
from peers import AIOHTTP, FLOOR, TRIOPROV
from report import Cell, Goal, Part, Series, at_most, goals, measured, series, table, times_less

TITLE = "What does one more reader of a reply cost?"

_CHANNELS = dataclasses.replace(FLOOR, label="trio, a memory channel each")
_QUEUES = dataclasses.replace(AIOHTTP, label="asyncio, a `Queue` each")
_NUMBERS = (1, 4, 16, 64)

# The table; microseconds from token to token; tokens, and in a smoke run. Channels are too slow for as many in a burst.
_SETTINGS = (("Burst", 0, 10_000, 200), ("Live, a token a millisecond", 1000, 500, 30))


def ask(laboratory: Laboratory, rounds: int, *, quick: bool) -> list[Part]:
    """Each client with no reader, and with more and more."""
    cells: list[Cell] = []
    for setting, period, tokens, few in _SETTINGS:
        for client in (TRIOPROV, _CHANNELS, _QUEUES):
            count = few if quick else tokens // 5 if client == _CHANNELS and not period else tokens
            arguments = (str(count), str(period), "0", *map(str, _NUMBERS))
            cells.append(Cell(client, setting, "readers", arguments))
    results = measured(laboratory, cells, rounds=rounds)
    parts: list[Part] = []
    for setting, *_ in _SETTINGS:
        by_number = {number: series(results, setting, _price(number)) for number in _NUMBERS}
        others = {f"of {number}": by_number[number] for number in _NUMBERS if number != 16}
        rows = by_number[16]
        parts += [f"### {setting}", table(rows, "µs for each of 16", [_CHANNELS.label, _QUEUES.label], others)]
        parts.append(goals(*(_burst if setting == "Burst" else _live)(rows, by_number[64])))
    return parts


def _price(number: int) -> Callable[[Cell, Report], float]:
    def price(cell: Cell, report: Report) -> float:
        spent = report["spent"]
        return (spent[str(number)] - spent["0"]) / number / int(cell.arguments[0]) * 1e6

    return price


def _burst(rows: Series, _: Series) -> list[Goal]:
    price = Goal("for each of 16", 0.25, median(rows[TRIOPROV.label]), " µs")
    return [price, times_less(10, rows, TRIOPROV, _CHANNELS, "for each of 16, ")]


def _live(rows: Series, rows_of_64: Series) -> list[Goal]:
    sixteen = at_most(1.0, rows, TRIOPROV, _QUEUES, "for each of 16, ")
    return [sixteen, at_most(1.0, rows_of_64, TRIOPROV, _QUEUES, "for each of 64, ")]
