"""trioprov, by its public door."""

from __future__ import annotations

import trio
from _measure import main

import trioprov


async def session(url: str, model: str, count: int) -> list[str]:
    """One session as its user writes it."""
    tokens: list[str] = []
    provider = trioprov.H2o(model, base_url=url)
    async with (
        trioprov.open_session(provider) as session,
        session.ask("Why is the sky blue?", max_tokens=count) as reply,
    ):
        async for token in reply:
            tokens.append(token)  # noqa: PERF401 - a loop, as the others have
    return tokens


if __name__ == "__main__":
    main(trio.run, session)
