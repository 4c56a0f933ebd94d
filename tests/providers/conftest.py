"""A driver of flows by hand: no task, no socket, only values."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import settings

from trioprov import Conversation, TrioprovError
from trioprov.providers import Pause, Request, Response

# How long an example takes depends on the machine and on what else it does.
settings.register_profile("trioprov", deadline=None)
settings.load_profile("trioprov")


class Driven(NamedTuple):
    """What a flow said, in order, and what it came to."""

    requests: list[Request]
    conversations: list[Conversation]
    pauses: list[float]
    value: Any


def drive_by_hand(steps: Any, *answers: Response | TrioprovError) -> Driven:
    """Run a flow, giving it an answer for each of its requests; all of them must be asked for."""
    requests: list[Request] = []
    conversations: list[Conversation] = []
    pauses: list[float] = []
    left = list(answers)
    reply: Response | TrioprovError | None = None
    while True:
        try:
            step = steps.throw(reply) if isinstance(reply, TrioprovError) else steps.send(reply)
        except StopIteration as stop:
            assert not left, f"never asked for: {left}"
            return Driven(requests, conversations, pauses, stop.value)
        reply = None
        if isinstance(step, Conversation):
            conversations.append(step)
        elif isinstance(step, Pause):
            pauses.append(step.seconds)
        else:
            requests.append(step)
            assert left, f"no answer for {step}"
            reply = left.pop(0)


@pytest.fixture
def drive() -> Callable[..., Driven]:
    return drive_by_hand


@pytest.fixture
def new_id() -> Callable[[], str]:
    """Ids that are counted instead of random."""
    numbers = itertools.count(1)
    return lambda: f"00000000-0000-4000-8000-{next(numbers):012}"
