"""trioprov.anyio on asyncio: the same names, beside an event loop that is not trio's."""

# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import sys
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import _on_asyncio as loop  # noqa: F401 - for the measurement
import with_trioprov
from _measure import main

from trioprov import anyio as trioprov


@asynccontextmanager
async def open_client(url: str):
    """Connections."""
    async with trioprov.open_client() as client:
        yield with_trioprov.Client(client, url)  # type: ignore


def open_conversation(client: Any, shape: str, model: str) -> AbstractAsyncContextManager[Any]:
    """A session."""
    return trioprov.open_session(with_trioprov.provider(shape, model, client.url), client=client.client)


ask, read = with_trioprov.ask, with_trioprov.read


if __name__ == "__main__":
    main(sys.modules[__name__])
