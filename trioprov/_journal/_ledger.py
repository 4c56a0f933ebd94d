"""An open journal.

SQLite in WAL mode, written inline: a row costs some 20 µs, a thread hop ten times that. ``synchronous=NORMAL`` is
enough to survive the death of the process, however it comes. A lock that somebody else holds is never waited for inside
SQLite, where it would stop every stream of this thread, but with `trio.sleep`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import trio

from .._conversation import Conversation
from .._errors import JournalError
from ._file import APPLICATION, VERSION, check_header, check_numbers, explained, is_busy, is_still, which
from ._presence import Presence
from ._rows import JournalEntry, Row

T = TypeVar("T")


_SCHEMA = f"""
CREATE TABLE secret (key BLOB NOT NULL);
CREATE TABLE debt (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- no number twice: somebody may still know the debt that had it
    owner INTEGER,               -- the living process that sees to it; NULL: nobody
    provider TEXT NOT NULL,
    base_url TEXT NOT NULL,
    access TEXT,                 -- keyed fingerprint of what the user brought; NULL: nothing
    conversation TEXT NOT NULL,  -- JSON: the ids, and the identity minted for this conversation alone
    created REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    reason TEXT,
    due REAL NOT NULL DEFAULT 0, -- not to be tried again before
    expires REAL                 -- when the service itself deletes it
);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
"""

# What a sweeper has no use for. The fingerprint of credentials is not keyed; the rest is about the next question.
_NOT_WRITTEN = ("credential", "opened_by", "started", "parent", "unanswered", "unanswered_prompt")

# How long somebody else's lock is waited for, in seconds: writers hold it for microseconds.
PATIENCE = 5.0
BUSY_SLEEP = 0.005

# How many rows are struck out before the WAL, too, forgets them: a few milliseconds, spread over many sessions.
_CHECKPOINT_EVERY = 64

_LONGEST_BACKOFF = 24 * 3600.0


class Ledger:
    """An open journal. What is async waits for other processes' locks; nothing else ever waits."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        self._pid = os.getpid()
        self._closed = False
        self._path = path
        self._struck = 0
        # POSIX forgets a process's locks on a file, SQLite's too, as soon as the process closes any descriptor of it
        # (sqlite.org/howtocorrupt.html, 2.2): what is open here was checked when it was opened.
        if not Presence.known(path):
            check_header(path)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._presence = Presence.of(path)
        try:
            self._db = sqlite3.connect(path, timeout=0, isolation_level=None)
        except BaseException:
            self._presence.leave()
            raise
        try:
            self._place = os.path.realpath(path)  # wherever the program goes
            self._file = which(self._place)
            self._prepare(durable)
        except BaseException:
            self.close()
            raise

    def _prepare(self, durable: bool) -> None:
        self._db.execute("PRAGMA secure_delete = ON")
        self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        if self._number("user_version") == 0:
            self._create()
        # The header of a journal that somebody has open may still be in its WAL, where only SQLite reads it.
        check_numbers(self._number("application_id"), self._number("user_version"))
        if self._db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise JournalError("it is damaged")
        for companion in ("", "-wal", "-shm"):  # a new WAL gets the mode of the file; one from before has its own
            if os.path.exists(f"{self._path}{companion}"):
                os.chmod(f"{self._path}{companion}", 0o600)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._key: bytes = self._db.execute("SELECT key FROM secret").fetchone()[0]

    def _number(self, pragma: str) -> int:
        return self._db.execute(f"PRAGMA {pragma}").fetchone()[0]

    def _create(self) -> None:
        self._db.execute("BEGIN EXCLUSIVE")  # if it fails after this, the connection is closed, which undoes it
        if self._number("user_version") == 0:  # nobody was faster
            for statement in _SCHEMA.strip().split(";\n"):
                self._db.execute(statement)
            self._db.execute("INSERT INTO secret VALUES (?)", (secrets.token_bytes(32),))
        self._db.execute("COMMIT")

    @property
    def in_place(self) -> bool:
        """Whether what is written here can be found by others: SQLite does not notice that its file was deleted."""
        return is_still(self._place, self._file)

    def close(self) -> None:
        """Give up the connection; debts that are still owned by this process are not its any more. Idempotent."""
        if self._pid == os.getpid() and not self._closed:
            self._closed = True
            self._db.close()
            self._presence.leave()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- One conversation's debt ---------------------------------------------------------------------------------------

    async def intend(self, conversation: Conversation, access: str | None, expires: float | None) -> int:
        """Write down that something may be created; returns the row. A checkpoint only if a lock must be waited for.

        Raises:
            JournalError: it could not be written, so it must not be created.
        """
        if not self.in_place:
            raise JournalError(f"the journal {self._path} cannot be used: its file was deleted, moved or replaced")
        values = (
            self._presence.owner,
            conversation.provider,
            conversation.base_url,
            self.fingerprint(access),
            _written(conversation),
            time.time(),
            expires,
        )
        sql = (
            "INSERT INTO debt (owner, provider, base_url, access, conversation, created, expires) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)"
        )
        return await self._patiently(lambda: self._run(sql, values).lastrowid or 0)

    async def bind(self, row: int, conversation: Conversation) -> None:
        """Write down what is known of it now."""
        sql = "UPDATE debt SET conversation = ? WHERE id = ?"
        await self._patiently(lambda: self._run(sql, (_written(conversation), row)))

    async def strike(self, row: int) -> None:
        """Strike it out: it is paid, or nobody owes it."""
        await self._patiently(lambda: self.strike_now(row))

    async def leave(self, row: int, reason: str, *, tried: bool = True) -> None:
        """It could not be paid: write down why, and let somebody else try, later and later if it was tried."""
        attempts = int(tried)
        sql = (
            "UPDATE debt SET owner = NULL, reason = ?, attempts = attempts + ?, "
            "due = ? + min(?, 30.0 * (1 << min(attempts + ?, 20))) WHERE id = ?"
        )
        values = (reason, attempts, time.time(), _LONGEST_BACKOFF, attempts, row)
        await self._patiently(lambda: self._run(sql, values))

    def try_strike(self, row: int) -> bool:
        """Strike it out, unless that would have to wait; whether it was done."""
        try:
            self.strike_now(row)
        except sqlite3.Error:
            return False
        return True

    def strike_now(self, row: int) -> bool:
        """The same as `strike`, without waiting; whether there was such a row."""
        found = self._run("DELETE FROM debt WHERE id = ?", (row,)).rowcount > 0
        self._struck += found
        if self._struck >= _CHECKPOINT_EVERY:
            # What was struck out still stands in the WAL, until it is written over.
            self._struck = 0
            with suppress(sqlite3.OperationalError):
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return found

    # -- Sweeping ------------------------------------------------------------------------------------------------------

    def entries(self) -> list[JournalEntry]:
        """All debts."""
        columns = "id, provider, base_url, conversation, created, attempts, reason, owner, access"
        return [
            JournalEntry(
                id=row[0],
                provider=row[1],
                base_url=row[2],
                conversation_id=_read(row[3]).id,
                created=row[4],
                attempts=row[5],
                reason=row[6],
                alive=self._presence.is_alive(row[7]),
                needs_credentials=row[8] is not None,
            )
            for row in self._run(f"SELECT {columns} FROM debt ORDER BY id", ()).fetchall()
        ]

    async def unowned(self, *, due_only: bool) -> list[tuple[int, int | None]]:
        """What nobody alive sees to: each row's number, and its dead owner, for `claim`."""
        dead: dict[int | None, bool] = {}
        found: list[tuple[int, int | None]] = []
        sql = "SELECT id, owner, due FROM debt ORDER BY id"
        for row, owner, due in await self._patiently(lambda: self._run(sql, ()).fetchall()):
            if owner not in dead:
                dead[owner] = not self._presence.is_alive(owner)
            free = dead[owner] or row in self._presence.released
            # What is due later than any backoff ends was written by a clock that was wrong.
            if free and not (due_only and 0 < due - time.time() <= _LONGEST_BACKOFF):
                found.append((row, owner))
        return found

    async def claim(self, row: int, owner: int | None) -> Row | None:
        """Become the owner of a row; `None` if somebody was faster. Pay it, `leave` it, or `release` it."""
        if (ours := owner == self._presence.owner) and row not in self._presence.released:
            return None
        self._presence.released.discard(row)
        try:
            return await self._patiently(lambda: self._claim(row, owner))
        except BaseException:
            if ours:
                self._presence.released.add(row)  # nobody has it yet, so the next one may
            raise

    async def release(self, row: int) -> None:
        """Not paid, nor tried to the end: let the next one try; if that cannot be written, the next one here."""
        self._presence.released.add(row)
        await self._patiently(lambda: self._release(row))

    def try_release(self, row: int) -> None:
        """The same, without waiting."""
        self._presence.released.add(row)
        with suppress(sqlite3.Error, JournalError):
            self._release(row)

    def _release(self, row: int) -> None:
        self._run("UPDATE debt SET owner = NULL WHERE id = ? AND owner = ?", (row, self._presence.owner))
        self._presence.released.discard(row)

    def _claim(self, row: int, owner: int | None) -> Row | None:
        sql = (
            "UPDATE debt SET owner = ? WHERE id = ? AND owner IS ? "
            "RETURNING id, provider, base_url, access, conversation, attempts, created, expires"
        )
        taken = self._run(sql, (self._presence.owner, row, owner)).fetchone()
        if taken is None:
            return None  # somebody was faster
        number, provider, base_url, access, text, attempts, created, expires = taken
        return Row(
            id=number,
            provider=provider,
            base_url=base_url,
            access=access,
            conversation=_read(text),
            attempts=attempts,
            created=created,
            expires=expires,
        )

    def fingerprint(self, access: str | None) -> str | None:
        """What the user brought, as a fingerprint that means nothing without this journal."""
        return None if access is None else hmac.new(self._key, access.encode(), hashlib.sha256).hexdigest()

    # -- SQLite ----------------------------------------------------------------------------------------------------

    def _run(self, sql: str, values: tuple[Any, ...]) -> sqlite3.Cursor:
        if self._pid != os.getpid():
            raise JournalError("a journal cannot be used in a forked child: it belongs to the parent")
        return self._db.execute(sql, values)

    async def _patiently(self, write: Callable[[], T]) -> T:
        until = trio.current_time() + PATIENCE
        with explained(self._path):
            while True:
                try:
                    return write()
                except sqlite3.OperationalError as exc:
                    if not is_busy(exc) or trio.current_time() > until:
                        raise
                await trio.sleep(BUSY_SLEEP)


def _read(text: str) -> Conversation:
    """What was written; nothing, should somebody have tampered with it."""
    try:
        return Conversation(json.loads(text))
    except (ValueError, TypeError):
        return Conversation()


def _written(conversation: Conversation) -> str:
    return json.dumps({key: value for key, value in conversation.items() if key not in _NOT_WRITTEN})
