"""Run a provider's flow: its steps are values, and somebody has to carry them out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import TypeVar

import trio

from ._conversation import Conversation
from ._errors import TrioprovError
from .providers import Pause, Request, Response, Steps

T = TypeVar("T")


async def carry_out(
    steps: Steps[T],
    kind: type[object],
    send: Callable[[Request], Awaitable[Response]],
    remember: Callable[[Conversation], None],
    pause: Callable[[float], Awaitable[None]] = trio.sleep,
) -> T:
    """Carry out each step and return what the flow returns; a checkpoint at each request and pause.

    An error of ours that ``send`` or ``pause`` raises is thrown into the flow, which may know better; anything else
    passes by it.

    Args:
        steps: the flow.
        kind: what it returns is an instance of this.
        send: carries out a request.
        remember: is told what the flow says is known from here on.
        pause: carries out a pause.

    Raises:
        TypeError: the provider is written wrongly: that is no flow, or what it yields or returns is of another type.
    """
    if not isinstance(steps, Generator):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"a provider's flow must be a generator, and not {type(steps).__name__}")
    name = getattr(steps, "__qualname__", "a provider's flow")
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
                elif isinstance(step, Request):  # pyright: ignore[reportUnnecessaryIsInstance]
                    answer = await send(step)
                else:
                    raise TypeError(
                        f"{name} must yield a Request, a Conversation or a Pause, and not {type(step).__name__}"
                    )
            except TrioprovError as exc:
                failure = exc
    except StopIteration as stop:
        value: T = stop.value
        if not isinstance(value, kind):
            raise TypeError(f"{name} must return a {kind.__name__}, and not {type(value).__name__}") from None
        return value
    finally:
        steps.close()
