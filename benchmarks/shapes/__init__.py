"""Clients that may leave something behind, and the ways of leaving them; `leaks.py` puts them together."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Place:
    """Where a client lives.

    Attributes:
        url: its server.
        journal: a file of its own.
        held: what somebody refers to until the event loop has ended.
    """

    url: str
    journal: Path
    held: list[object] = field(default_factory=list[object])


Reading = Callable[[Place], AbstractAsyncContextManager[AsyncIterable[str], bool | None]]
"""A client in use: a block, and in it an answer to be read."""
