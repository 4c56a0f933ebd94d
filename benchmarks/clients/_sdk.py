"""What the peers that are libraries have in common: a session is one call, and they are asked one question."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable

from _measure import measured

PROMPT = "Why is the sky blue?"


def main(answer: Callable[[str, str], AsyncIterator[str]]) -> None:
    """``tokens URL SHAPE COUNT PERIOD``, of ``answer(url, model)``."""
    _, _, url, _, count, period = sys.argv

    async def session(model: str) -> list[str]:
        tokens: list[str] = []
        async for token in answer(url, model):
            tokens.append(token)  # noqa: PERF401 - a loop, as the others have
        return tokens

    print(json.dumps(asyncio.run(measured(session, count, period))))
