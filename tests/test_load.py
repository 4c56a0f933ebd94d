"""Many sessions at once: none is lost, and each costs what it would alone."""

from __future__ import annotations

import time

import trio

import trioprov
from trioprov import H2o
from trioprov.testing import open_emulator


async def cancelled_at_once(sessions: int) -> float:
    """Open so many, cancel all in one instant; returns CPU seconds from then until all is settled."""
    started, begun = 0, 0.0
    async with open_emulator(H2o, tokens=["a"] * 100, token_delay=1.0) as emulator:

        async def one(client: trioprov.Client) -> None:
            nonlocal started
            async with (
                trioprov.open_session(emulator.provider, client=client) as session,
                session.ask("Why is the sky blue?") as reply,
            ):
                async for _ in reply:
                    started += 1
                    await trio.sleep_forever()

        async with trioprov.open_client() as client:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    for _ in range(sessions):
                        nursery.start_soon(one, client)
                    while started < sessions:
                        await trio.sleep(0.01)
                    begun = time.process_time()
                    scope.cancel()
        spent = time.process_time() - begun
        assert emulator.conversations == ()
        assert sum(request.step == "delete" for request in emulator.requests) == sessions
    return spent


async def test_a_thousand_sessions_cancelled_at_once_are_all_deleted_in_linear_time() -> None:
    few = await cancelled_at_once(100)
    many = await cancelled_at_once(1000)
    # Linear is 10; quadratic would be 100.
    assert many / few < 30
