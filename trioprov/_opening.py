"""How a conversation begins: created on its server, or taken over from before."""

from __future__ import annotations

import functools
import itertools
import os
import uuid
from collections.abc import Callable

from ._cleanup import cleaned
from ._conversation import Conversation
from ._debt import Debt
from ._line import Line, Unwanted
from ._turn import new_id


async def opened(debt: Debt, line: Line, due: Callable[[], float]) -> None:
    """Have something to speak on: create it, with the client's retries, or write down that it is to be deleted.

    Args:
        due: gives the time, on trio's clock, that no retry may outlast.

    Raises:
        Unwanted: nobody wants it any more.
        TrioprovError: it could not be created, or not be written down.
    """
    provider, conversation = debt.provider, debt.conversation
    if conversation.id is not None or conversation.get("opened_by") is not None:
        await debt.adopt()
        return
    identity = {**provider.mint(new_id), **conversation.identity}
    _speak_as(debt, conversation.replace(identity=identity, opened_by=process()))
    for attempt in itertools.count(1):
        try:
            _speak_as(debt, await line.carry_out(provider.open(debt.conversation, new_id), Conversation))
        except Unwanted:
            raise
        except Exception as exc:
            pause = line.pause_before_retry(cleaned(exc, provider, debt.conversation), attempt, due())
            if pause is None:
                raise
        else:
            await debt.record()
            return
        if not await line.pause(pause):
            raise Unwanted


def _speak_as(debt: Debt, conversation: Conversation) -> None:
    """Note who the server took us for, so that its "not found" can be told from "not yours"."""
    debt.remember(conversation.replace(credential=debt.provider.credential(conversation)))


@functools.cache
def _process(pid: int) -> str:
    return f"{pid}-{uuid.uuid4().hex}"


def process() -> str:
    """A name for this process that no other has, not even one with the same pid after it."""
    return _process(os.getpid())
