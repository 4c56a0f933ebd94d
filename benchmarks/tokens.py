"""The question: what does one token of one stream cost?

In CPU time of the process that reads it, user and system. A token's price is that of a long session less that of a
session with one token, over the tokens between; so connecting, creating and deleting, which every client does in every
session, are not in it. They are told apart.
"""

from __future__ import annotations

import random
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import load_server
from harness import Failed, Laboratory


@dataclass(frozen=True)
class Client:
    """Who reads.

    Attributes:
        label: its name in the table.
        script: its file.
        peer: what must be installed for it, beside what the project needs.
    """

    label: str
    script: str
    peer: str | None = None


@dataclass(frozen=True)
class Mode:
    """How the server sends.

    Attributes:
        name: as the server knows it.
        tokens: of a long session.
        few: the same, in a smoke run.
    """

    name: str
    tokens: int
    few: int


FLOOR = Client("the floor", "floor.py", "httptools")
TRIOPROV = Client("**trioprov**", "with_trioprov.py")
AIOHTTP = Client("aiohttp by hand, on asyncio", "with_aiohttp.py", "aiohttp")
HTTPX = Client("httpx by hand, on trio", "with_httpx.py")
CLIENTS = (FLOOR, TRIOPROV, AIOHTTP, HTTPX)

MODES = (Mode("burst", 50_000, 2_000), Mode("paced", 1_500, 100))

PEERS = tuple(client.peer for client in CLIENTS if client.peer)


@dataclass(frozen=True)
class Price:
    """What one client paid in one round.

    Attributes:
        token: microseconds for a token.
        session: milliseconds for a session of one token.
        server: microseconds that the server paid for a token.
    """

    token: float
    session: float
    server: float


@dataclass
class Result:
    """All prices of one client in one mode.

    Attributes:
        client: who read.
        mode: how the server sent.
        prices: one for each round.
    """

    client: Client
    mode: Mode
    prices: list[Price]


def measure(laboratory: Laboratory, *, rounds: int, quick: bool) -> list[Result]:
    """Every client in every mode, once a round, in another order each time.

    So whatever the machine does meanwhile, it does to all of them.

    Raises:
        Failed: a client failed, or read something else than the server sent.
    """
    able = [client for client in CLIENTS if client.peer not in laboratory.environment.missing]
    results = [Result(client, mode, []) for mode in MODES for client in able]
    for number in range(rounds):
        for result in random.Random(number).sample(results, len(results)):
            result.prices.append(_price(laboratory, result.client, result.mode, quick=quick))
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return results


def _price(laboratory: Laboratory, client: Client, mode: Mode, *, quick: bool) -> Price:
    count = mode.few if quick else mode.tokens
    report = laboratory.measure(client.script, mode.name, str(count))
    expected = zlib.crc32(load_server.text(count).encode())
    if report["tokens"] != count or report["crc"] != expected:
        raise Failed(f"{client.script} read {report['tokens']} tokens, and not the text of the {count} that were sent")
    session = median(report["short"])
    return Price(
        token=(report["long"] - session) / (count - 1) * 1e6,
        session=session * 1e3,
        server=report["server"] / report["sent"] * 1e6,
    )


def table(results: Sequence[Result]) -> str:
    """The results in Markdown: one table for each mode, the cheapest client first."""
    return "\n\n".join(_table(mode, [result for result in results if result.mode == mode]) for mode in MODES)


def _table(mode: Mode, results: list[Result]) -> str:
    lines = [
        f"### {mode.name.capitalize()}",
        "",
        "| client | µs a token | from – to | × floor | × aiohttp | ms a session |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for result in sorted(results, key=lambda result: median(price.token for price in result.prices)):
        tokens = [price.token for price in result.prices]
        cells = (
            result.client.label,
            f"{median(tokens):.2f}",
            f"{min(tokens):.2f} – {max(tokens):.2f}",
            _ratio(result, FLOOR, results),
            _ratio(result, AIOHTTP, results),
            f"{median(price.session for price in result.prices):.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    server = median(price.server for result in results for price in result.prices)
    return "\n".join([*lines, "", f"The server itself paid {server:.2f} µs a token."])


def _ratio(result: Result, to: Client, results: list[Result]) -> str:
    """The median of the rounds' ratios: two that are compared were measured within seconds of each other."""
    for other in results:
        if other.client == to:
            pairs = zip(result.prices, other.prices, strict=True)
            return f"{median(mine.token / theirs.token for mine, theirs in pairs):.2f}"
    return "–"
