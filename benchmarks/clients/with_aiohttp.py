"""aiohttp by hand, on asyncio: the loop that earlier clients of this service have."""

# A peer, which only the benchmark's own environment has.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import asyncio
import json

from _measure import main
from _protocol import question, settings
from aiohttp import ClientSession


async def session(url: str, model: str, count: int) -> list[str]:
    """The whole session; a token is a line, and a line is JSON."""
    tokens: list[str] = []
    async with ClientSession(headers={"Referer": f"{url}/"}) as client:
        async with client.post(f"{url}/settings", data=settings(model)) as response:
            response.raise_for_status()
        async with client.post(f"{url}/conversation", json={"model": model}) as response:
            response.raise_for_status()
            path = f"{url}/conversation/{(await response.json())['conversationId']}"
        async with client.post(path, json=question(count)) as response:
            response.raise_for_status()
            async for line in response.content:
                line = line.decode("utf-8")
                if line.startswith("data:"):
                    token = json.loads(line[5:])["token"]
                    if not token["special"]:
                        tokens.append(token["text"])
        async with client.delete(path) as response:
            response.raise_for_status()
    return tokens


if __name__ == "__main__":
    main(lambda measured, *args: asyncio.run(measured(*args)), session)
