"""Every test here is a plain function that runs an anyio program, on each of the loops that there are."""

from __future__ import annotations

import faulthandler
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import anyio
import pytest

from trioprov import H2o
from trioprov.testing import Emulator, open_emulator

T = TypeVar("T")

Run = Callable[[Callable[[], Awaitable[Any]]], Any]

LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}

# Seconds after which a program that has not ended never will.
PATIENCE = 20


def runner(name: str) -> Run:
    """Runs a program under the loop of that name."""
    backend, options = LOOPS[name]

    def run(main: Callable[[], Awaitable[T]]) -> T:
        async def bounded() -> T:
            with anyio.fail_after(PATIENCE):
                return await main()

        return anyio.run(bounded, backend=backend, backend_options=options)

    return run


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a program on each of the three."""
    return runner(request.param)


@pytest.fixture(params=["asyncio", "uvloop"])
def run_asyncio(request: pytest.FixtureRequest) -> Run:
    """Runs a program that needs asyncio, on both of its loops."""
    return runner(request.param)


@contextmanager
def _emulated(cls: Callable[..., Any] = H2o, *, alive: int = 0, **script: Any) -> Generator[Emulator[Any]]:
    """An emulator that no loop knows of, and how many conversations may be alive on it at the end."""
    opened = open_emulator(cls, **script)
    emulator = _at_once(opened.__aenter__())
    try:
        yield emulator
        assert len(emulator.conversations) == alive
        assert emulator.worker_crashes == 0
    finally:
        _at_once(opened.__aexit__(None, None, None))


Emulated = Callable[..., AbstractContextManager[Emulator[Any]]]


@pytest.fixture
def emulated() -> Emulated:
    """``with emulated(H2o, token_delay=0.01) as emulator``: nothing may be alive on it at the end."""
    return _emulated


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """The value of a coroutine that does not wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


@pytest.fixture(autouse=True)
def no_thread_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    faulthandler.dump_traceback_later(4 * PATIENCE, exit=True, file=sys.__stderr__ or sys.stderr)
    yield
    faulthandler.cancel_dump_traceback_later()
    assert not [thread for thread in threading.enumerate() if thread.name == "trioprov"]
