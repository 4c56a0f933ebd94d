"""Standard output, which somebody may read slowly, or no more."""

from __future__ import annotations

import os
import select
import sys

import trio

# What a pipe that is ready takes without blocking.
_PIECE: int = getattr(select, "PIPE_BUF", 512)


class OutputFailed(Exception):
    """Standard output takes no more; the cause says why."""


class Output:
    """Standard output, written to when it can take something, so that a slow reader holds up nothing but the text.

    Args:
        encoding: instead of standard output's own.
    """

    def __init__(self, encoding: str = "") -> None:
        sys.stdout.flush()
        self._encoding = encoding or sys.stdout.encoding or "utf-8"
        self._unwritten = bytearray()
        try:
            self._fd = sys.stdout.fileno()
        except (OSError, ValueError):  # captured by a test, or somebody's console
            self._fd = -1

    async def write(self, text: str) -> None:
        """Write all of it, after what an earlier call could not. A checkpoint.

        When cancelled, the rest is kept for the next call.

        Raises:
            OutputFailed: nobody reads any more, or the disk is full.
        """
        try:
            if self._fd < 0:
                sys.stdout.write(text)
                sys.stdout.flush()
                await trio.lowlevel.checkpoint()
                return
            self._unwritten += text.encode(self._encoding, "backslashreplace")
            while self._unwritten:
                await self._wait()
                del self._unwritten[: os.write(self._fd, self._unwritten[:_PIECE])]
        except OSError as exc:
            raise OutputFailed from exc

    async def _wait(self) -> None:
        # Files are always ready, and epoll refuses to say so. On Windows only sockets can be waited for.
        if sys.platform == "win32":
            await trio.lowlevel.checkpoint()
            return
        try:
            await trio.lowlevel.wait_writable(self._fd)
        except PermissionError:
            await trio.lowlevel.checkpoint()
