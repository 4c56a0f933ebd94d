"""Who is alive: whoever holds a lock on its own byte of a file beside the journal.

The kernel releases the lock with the process, however it ends, so that neither a recycled pid nor another container's
hides a death or feigns one.
"""

from __future__ import annotations

import os
import secrets
import struct
import sys
import threading
from pathlib import Path

from .._errors import JournalError


class Presence:
    """This process's lock beside one journal, shared by all who use that journal here.

    Shared, because POSIX forgets a process's locks on a file as soon as the process closes any descriptor of it.
    """

    def __init__(self, path: str) -> None:
        self._fd = os.open(f"{path}-owners", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self._users = 0
        self.released: set[int] = set()
        """Rows that are this process's in the file alone."""
        while True:
            self.owner = secrets.randbits(48)
            if _lock(self._fd, self.owner):
                return

    @classmethod
    def of(cls, path: Path) -> Presence:
        key = os.getpid(), os.path.realpath(path)
        if key[1] in _inherited:
            # SQLite keeps its own state of a file for each process, and does not notice a fork.
            raise JournalError("it was open when this process was forked off; open it in a process of its own")
        with _presences_lock:
            found = _presences.get(key)
            if found is None:
                found = _presences[key] = cls(key[1])
            found._users += 1
            return found

    @staticmethod
    def known(path: Path) -> bool:
        """Whether that journal is open in this process."""
        with _presences_lock:
            return (os.getpid(), os.path.realpath(path)) in _presences

    def leave(self) -> None:
        """One user less; with the last, this process owns nothing in that journal any more."""
        with _presences_lock:
            self._users -= 1
            if self._users == 0:
                self.close()
                for key in [key for key, presence in _presences.items() if presence is self]:
                    del _presences[key]

    def close(self) -> None:
        """Give up the lock."""
        os.close(self._fd)

    def is_alive(self, owner: int | None) -> bool:
        """Whether the process of that number lives; our own does."""
        if owner is None or owner == self.owner:
            return owner is not None
        if not _lock(self._fd, owner):
            return True
        _lock(self._fd, owner, release=True)
        return False


def _lock(fd: int, byte: int, *, release: bool = False) -> bool:
    """Lock one byte, or release it; false if another process has it."""
    try:
        import fcntl  # not everywhere; the rest of the library is
    except ImportError:
        raise JournalError("it needs the file locks of POSIX, which this system does not have") from None
    try:
        if sys.platform == "linux" and sys.maxsize > 2**32:
            # Linux has locks that belong to the open file, and stay though others in the process close it.
            kind = fcntl.F_UNLCK if release else fcntl.F_WRLCK
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("@hhqqi4x", kind, os.SEEK_SET, byte, 1, 0))
        else:
            fcntl.lockf(fd, fcntl.LOCK_UN if release else fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _forget_parent() -> None:
    """In a forked child: what is locked is the parent's, and must not outlive it here."""
    global _presences_lock
    _presences_lock = threading.Lock()  # another thread, which is not here, may have held it
    for (_, path), presence in _presences.items():
        presence.close()
        _inherited.add(path)
    _presences.clear()


_presences: dict[tuple[int, str], Presence] = {}
_presences_lock = threading.Lock()
_inherited: set[str] = set()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
