"""What kind of file it is, and what went wrong with it, in our words."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from .._errors import JournalError

APPLICATION = 0x74726F76  # "trov", in SQLite's header
VERSION = 1


def check_header(path: Path) -> None:
    """Refuse what is not ours by reading 100 bytes of it: SQLite would write to some of it while opening."""
    if not path.exists():
        return
    with path.open("rb") as file:
        header = file.read(100)
    if not header:
        return
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
        raise JournalError("it is not a journal of trioprov, or it is damaged")
    check_numbers(int.from_bytes(header[68:72], "big"), int.from_bytes(header[60:64], "big"))


def check_numbers(application: int, version: int) -> None:
    if application != APPLICATION:
        raise JournalError("it is some other program's database")
    if version > VERSION:
        raise JournalError(f"it was written by a newer trioprov (format {version}; this one knows {VERSION})")


def which(path: str) -> tuple[int, int] | None:
    """Which file is at a path, if any.

    Raises:
        OSError: who asks may not look, or cannot.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def is_still(path: str, file: tuple[int, int] | None) -> bool:
    """Whether it is still that file, for all that is known."""
    try:
        return which(path) == file
    except OSError:  # a program that gave its privileges up may write to what it has open, and not look for it
        return True


def is_busy(exc: BaseException | None) -> bool:
    """Whether somebody else holds a lock."""
    return isinstance(exc, sqlite3.OperationalError) and exc.sqlite_errorcode & 0xFF in (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
    )


@contextmanager
def explained(path: Path) -> Generator[None]:
    """SQLite's and the system's errors in our words, each kept as the cause."""
    try:
        yield
    except JournalError as exc:
        raise JournalError(f"the journal {path} cannot be used: {exc}") from exc.__cause__
    except (sqlite3.Error, OSError, ValueError, TypeError) as exc:
        raise JournalError(f"the journal {path} cannot be used: {exc}") from exc
