"""Keeps a core from falling asleep, in the time that nobody else wants (Linux: SCHED_IDLE).

A virtual CPU that halts between two tokens is woken by the hypervisor, at a price that differs from minute to minute
and has nothing to do with the client. Ends when the process that started it has ended.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Spin."""
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    parent = os.getppid()
    while os.getppid() == parent:
        sum(range(1000))


if __name__ == "__main__":
    main()
