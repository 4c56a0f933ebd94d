"""What every client does with its session: run it, look at the CPU clock, and say what it saw as a line of JSON."""

from __future__ import annotations

import json
import sys
import time
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

# Sessions of one token, to be subtracted from the long one. The first of them loads what is loaded late.
SHORT = 5

Session = Callable[[str, str, int], Awaitable[list[str]]]
"""``session(url, model, count)``: settings, conversation, a stream of ``count`` tokens, DELETE; returns the tokens."""


def main(run: Callable[..., Any], session: Session) -> None:
    """Measure ``session`` under the event loop of ``run``; the arguments are the command line's."""
    url, model, count = sys.argv[1:]
    print(json.dumps(run(_measured, session, url, model, int(count))))


async def _measured(session: Session, url: str, model: str, count: int) -> dict[str, Any]:
    short: list[float] = []
    for _ in range(SHORT):
        before = time.process_time()
        await session(url, model, 1)
        short.append(time.process_time() - before)
    before = time.process_time()
    tokens = await session(url, model, count)
    long = time.process_time() - before
    return {"short": short[1:], "long": long, "tokens": len(tokens), "crc": zlib.crc32("".join(tokens).encode())}
