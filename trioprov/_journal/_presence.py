"""Who is alive: whoever holds a lock on its own byte of a file beside the journal.

The kernel releases the lock with the process, however it ends, so that neither a recycled pid nor another container's
hides a death or feigns one.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
from pathlib import Path


class Presence:
    """This process's lock beside one journal, shared by all who use that journal here.

    Shared, because POSIX forgets a process's locks on a file as soon as the process closes any descriptor of it.
    """

    def __init__(self, path: str) -> None:
        self._fd = os.open(f"{path}-owners", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self._users = 0
        while True:
            self.owner = secrets.randbits(48)
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self.owner)
            except BlockingIOError:
                continue
            return

    @classmethod
    def of(cls, path: Path) -> Presence:
        key = os.getpid(), os.path.realpath(path)
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
                os.close(self._fd)
                for key in [key for key, presence in _presences.items() if presence is self]:
                    del _presences[key]

    def is_alive(self, owner: int | None) -> bool:
        """Whether the process of that number lives; our own does."""
        if owner is None or owner == self.owner:
            return owner is not None
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, owner)
        except (BlockingIOError, PermissionError):
            return True
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, owner)
        return False


_presences: dict[tuple[int, str], Presence] = {}
_presences_lock = threading.Lock()
