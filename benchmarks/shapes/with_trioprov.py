"""The same with trioprov, as it is used: in a generator, in a block, by a handle; and with a journal."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trioprov
from trioprov import H2o

from . import Place

_PROMPT = "Why is the sky blue?"


async def in_a_generator(url: str) -> AsyncGenerator[str]:
    """A session where the clients by hand have theirs: around a `yield`."""
    async with trioprov.open_session(H2o(base_url=url)) as session, session.ask(_PROMPT) as reply:
        async for token in reply:
            yield token


@asynccontextmanager
async def in_a_block(place: Place) -> AsyncGenerator[AsyncIterable[str]]:
    """A session whose block the user leaves."""
    async with trioprov.open_session(H2o(base_url=place.url)) as session, session.ask(_PROMPT) as reply:
        yield reply


def by_its_handle(place: Place) -> AbstractAsyncContextManager[AsyncIterable[str]]:
    """A handle that is no generator, so that what is dropped is the handle itself."""
    return trioprov.open_reply(_PROMPT, H2o(base_url=place.url))


@asynccontextmanager
async def with_a_journal(place: Place) -> AsyncGenerator[AsyncIterable[str]]:
    """A session of a client that writes down what it owes."""
    async with (
        trioprov.open_client(journal=place.journal) as client,
        trioprov.open_session(H2o(base_url=place.url), client=client) as session,
        session.ask(_PROMPT) as reply,
    ):
        yield reply


async def sweep(place: Place) -> None:
    """Pay what a dead process left."""
    await trioprov.sweep(place.journal)
