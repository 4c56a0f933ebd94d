"""Whose errors: what the core says in trio's words, said in anyio's."""

from __future__ import annotations

import anyio
import trio


def translated(exc: BaseException) -> BaseException:
    """The anyio error for one of trio's; anything else as it is, with its traceback."""
    if isinstance(exc, trio.BusyResourceError):
        busy = anyio.BusyResourceError("using")
        busy.args = exc.args or busy.args
        return _because(busy, exc)
    for theirs, ours in _PAIRS:
        if isinstance(exc, theirs):
            return _because(ours(*exc.args), exc)
    return exc


def _because(ours: BaseException, theirs: BaseException) -> BaseException:
    ours.__cause__ = theirs
    return ours


_PAIRS: tuple[tuple[type[BaseException], type[BaseException]], ...] = (
    (trio.WouldBlock, anyio.WouldBlock),
    (trio.EndOfChannel, anyio.EndOfStream),
    (trio.ClosedResourceError, anyio.ClosedResourceError),
    (trio.BrokenResourceError, anyio.BrokenResourceError),
)

MISUSE = (
    trio.WouldBlock,
    trio.EndOfChannel,
    trio.ClosedResourceError,
    trio.BrokenResourceError,
    trio.BusyResourceError,
)
"""What `translated` has other words for."""
