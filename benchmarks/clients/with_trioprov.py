"""trioprov, by its public door."""

from __future__ import annotations

import trio
from _measure import main

import trioprov


async def session(url: str, model: str, count: int) -> list[str]:
    """One session as its user writes it."""
    tokens: list[str] = []
    async with trioprov.open_session(trioprov.H2o(model, base_url=url)) as session:
        async with session.ask("Why is the sky blue?", max_tokens=count) as reply:
            async for token in reply:
                tokens.append(token)
    return tokens


if __name__ == "__main__":
    main(trio.run, session)
