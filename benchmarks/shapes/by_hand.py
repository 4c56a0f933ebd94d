"""By hand, with httpx on trio: an async generator that creates a conversation, streams, and deletes it at the end."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator

import httpx
import trio
from clients._protocol import question, settings

from trioprov import H2o

_MODEL = H2o().model


async def after_the_loop(url: str) -> AsyncGenerator[str]:
    """As the earlier clients do it: the DELETE is the last statement."""
    async with _http(url) as http:
        conversation = await _create(http)
        async with http.stream("POST", conversation, json=question(1000)) as response:
            async for line in response.aiter_lines():
                if token := _token(line):
                    yield token
        await http.delete(conversation)


async def in_finally(url: str) -> AsyncGenerator[str]:
    """The DELETE in a `finally`."""
    async with _http(url) as http:
        conversation = await _create(http)
        try:
            async with http.stream("POST", conversation, json=question(1000)) as response:
                async for line in response.aiter_lines():
                    if token := _token(line):
                        yield token
        finally:
            await http.delete(conversation)


async def in_shielded_finally(url: str) -> AsyncGenerator[str]:
    """The DELETE in a `finally`, where no cancellation reaches it."""
    async with _http(url) as http:
        conversation = await _create(http)
        try:
            async with http.stream("POST", conversation, json=question(1000)) as response:
                async for line in response.aiter_lines():
                    if token := _token(line):
                        yield token
        finally:
            with trio.CancelScope(shield=True, relative_deadline=10):
                await http.delete(conversation)


def _http(url: str) -> httpx.AsyncClient:
    # Plain http: without verify=False, most of the time would go into reading certificates that nobody asks for.
    headers = {"Cookie": f"hf-chat={uuid.uuid4()}", "Referer": f"{url}/"}
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=60, verify=False, trust_env=False)


async def _create(http: httpx.AsyncClient) -> str:
    await http.post("/settings", data=settings(_MODEL))
    created = (await http.post("/conversation", json={"model": _MODEL})).raise_for_status()
    return f"/conversation/{created.json()['conversationId']}"


def _token(line: str) -> str:
    token = json.loads(line[5:])["token"] if line.startswith("data:") else None
    return token["text"] if token and not token["special"] else ""
