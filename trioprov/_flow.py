"""Run a provider's flow: its steps are values, and somebody has to carry them out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from ._conversation import Conversation
from ._errors import TrioprovError
from .providers import Pause, Request, Response, Steps

T = TypeVar("T")


async def carry_out(
    steps: Steps[T],
    send: Callable[[Request], Awaitable[Response]],
    remember: Callable[[Conversation], None],
    pause: Callable[[float], Awaitable[None]] = trio.sleep,
) -> T:
    """Carry out each step and return what the flow returns; a checkpoint at each request and pause.

    An error of ours that ``send`` or ``pause`` raises is thrown into the flow, which may know better; anything else
    passes by it.
    """
    answer: Response | None = None
    failure: TrioprovError | None = None
    try:
        while True:
            step = steps.throw(failure) if failure is not None else steps.send(answer)
            answer = failure = None
            try:
                if isinstance(step, Conversation):
                    remember(step)
                elif isinstance(step, Pause):
                    await pause(step.seconds)
                else:
                    answer = await send(step)
            except TrioprovError as exc:
                failure = exc
    except StopIteration as stop:
        return stop.value
    finally:
        steps.close()
