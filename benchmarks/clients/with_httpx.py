"""httpx by hand, on trio: what one writes who has httpx and no library for chat services."""

from __future__ import annotations

import json

import httpx
import trio
from _measure import main
from _protocol import question, settings


async def session(url: str, model: str, count: int) -> list[str]:
    """The whole session; a token is a line, and a line is JSON."""
    tokens: list[str] = []
    async with httpx.AsyncClient(base_url=url, headers={"Referer": f"{url}/"}, timeout=60) as client:
        (await client.post("/settings", data=settings(model))).raise_for_status()
        created = (await client.post("/conversation", json={"model": model})).raise_for_status()
        path = f"/conversation/{created.json()['conversationId']}"
        async with client.stream("POST", path, json=question(count)) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if line.startswith("data:"):
                    token = json.loads(line[5:])["token"]
                    if not token["special"]:
                        tokens.append(token["text"])
        (await client.delete(path)).raise_for_status()
    return tokens


if __name__ == "__main__":
    main(trio.run, session)
