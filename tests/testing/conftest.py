"""What the tests of the emulators share."""

from collections.abc import Awaitable, Callable

import pytest
import trio

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture
def eventually() -> Eventually:
    """Wait for what happens in the emulator's thread, which no event of ours can tell."""

    async def wait(condition: Callable[[], bool]) -> None:
        for _ in range(500):
            if condition():
                return
            await trio.sleep(0.01)
        raise AssertionError("it never happened")

    return wait
