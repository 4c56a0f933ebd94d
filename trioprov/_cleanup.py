"""How a debt is settled: the conversation deleted, and the server's word for it waited for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import get_args
from urllib.parse import urlsplit

import trio

from . import _flow
from ._conversation import Conversation
from ._errors import ProviderError, TotalTimeout, TrioprovError
from ._outcomes import CleanupReport, Outcome
from ._retry import backoff, worth_another_try
from ._transport import Transport
from .providers import Provider, Request, Response, Steps

log = logging.getLogger("trioprov")

_FIRST_DELAY = 0.1
_LONGEST_DELAY = 2.0

CREATE_TAKES = 5.0
"""How long a server may go on with a create whose client has gone away, in seconds."""


def cleaned(exc: Exception, provider: Provider, conversation: Conversation) -> Exception:
    """The error, and its causes, without any credential that a server may have echoed into it."""
    try:
        secrets = tuple(provider.secrets(conversation))
    except Exception:  # a bug in a provider, in whose place the error must not go
        log.exception("%s: what no error may show is not known in full", provider.name)
        secrets = Provider.secrets(provider, conversation)
    link: BaseException | None = exc
    for _ in range(10):
        if link is None:
            break
        link.args = tuple(_blotted(part, secrets) if isinstance(part, str) else part for part in link.args)
        if isinstance(link, ProviderError):
            link.message = _blotted(link.message, secrets)
            link.code = link.code and _blotted(link.code, secrets)
        link = link.__cause__ or link.__context__
    return exc


def reason(report: CleanupReport, provider: Provider, conversation: Conversation) -> str:
    """Why something is still owed, for the journal: with nothing in it that the user brought, credential or not."""
    if report.error is None:
        return "a create was never answered, and the service gives no way to find what it made"
    brought = [*provider.headers.values(), urlsplit(provider.proxy or "").netloc.rpartition("@")[0]]
    said = _blotted(str(cleaned(report.error, provider, conversation)), tuple(text for text in brought if text))
    return f"{type(report.error).__name__}: {said}"


def _blotted(text: str, secrets: tuple[str, ...]) -> str:
    """Blot out each secret, and what begins like one, since a long text may have been cut in its middle."""
    for secret in filter(None, secrets):  # an empty one is everywhere
        begins, at = secret[:8], 0
        while (at := text.find(begins, at)) >= 0:
            end = next((n for n, char in enumerate(secret) if text[at + n : at + n + 1] != char), len(secret))
            text = f"{text[:at]}***{text[at + end :]}"
            at += 3
    return text


async def settle(
    provider: Provider,
    conversation: Conversation,
    flow: Callable[[Conversation], Steps[Outcome]],
    *,
    transport: Transport,
    deadline: Callable[[float], float],
    budget: float,
    young: float = 0.0,
    tried: Callable[[], None] = lambda: None,
) -> CleanupReport:
    """Run ``flow`` until the service confirms, refuses for good, or the deadline passes; the caller shields it.

    Retried: broken connections, answers that are no answers, 429 and 5xx. One try gets at most half of what is left, so
    that a connection that died silently is not all there is. Waiting for a cleanup connection does not count.

    Args:
        flow: `Provider.close` or `Provider.recover`.
        deadline: told for how many seconds a connection was waited for, gives the time, on trio's clock, by which this
            must end.
        budget: the whole cleanup budget, in seconds.
        young: for how many seconds the server may still be creating what is to be deleted; then it is done once more.
        tried: called at each try.

    Returns:
        A report whose outcome is the flow's; ``owed`` if it never came to one.
    """
    waits_since = trio.current_time()
    async with transport.cleanup_slot(provider):
        until = deadline(trio.current_time() - waits_since)
        report = await _settle(provider, conversation, flow, transport, until, budget, tried)
    if young > 0 and report.outcome == "deleted":
        await trio.sleep(min(young, max(0.0, (until - trio.current_time()) / 2)))
        waits_since = trio.current_time()
        async with transport.cleanup_slot(provider):
            until = deadline(trio.current_time() - waits_since)
            report = await _settle(provider, conversation, flow, transport, until, budget, tried)
    return report


async def _settle(
    provider: Provider,
    conversation: Conversation,
    flow: Callable[[Conversation], Steps[Outcome]],
    transport: Transport,
    deadline: float,
    budget: float,
    tried: Callable[[], None],
) -> CleanupReport:
    attempts = 0
    error: Exception | None = None
    while (left := deadline - trio.current_time()) > 0:
        attempts += 1
        tried()
        until = trio.current_time() + max(left / 2, budget / 4)
        try:
            with trio.CancelScope(deadline=min(until, deadline)):
                outcome = await _attempt(provider, conversation, flow, transport, deadline - budget / 2)
                return CleanupReport(outcome=outcome, attempts=attempts, error=error if outcome == "lost" else None)
            error = error or TotalTimeout("the server did not answer the cleanup in time")
        except TrioprovError as exc:
            error = exc
        except Exception as exc:  # a bug in a provider or an injected transport: the debt stands all the same
            log.exception("%s: the cleanup of a conversation crashed", provider.name)
            return CleanupReport(outcome="owed", attempts=attempts, error=exc)
        else:
            continue  # the try itself was the wait
        if not worth_another_try(error):
            break
        pause = backoff(error, attempts, first=_FIRST_DELAY, longest=_LONGEST_DELAY, longest_asked=budget / 2)
        await trio.sleep(min(pause, max(0.0, deadline - trio.current_time())))
    return CleanupReport(outcome="owed", attempts=attempts, error=error)


async def _attempt(
    provider: Provider,
    conversation: Conversation,
    flow: Callable[[Conversation], Steps[Outcome]],
    transport: Transport,
    patience: float,
) -> Outcome:
    async def send(request: Request) -> Response:
        if not request.best_effort:
            return await transport.send_cleanup(provider, request)
        left = trio.current_effective_deadline() - trio.current_time()
        with trio.CancelScope(relative_deadline=left / 4):
            return await transport.send_cleanup(provider, request)
        raise TotalTimeout("the server did not answer in time")

    async def pause(seconds: float) -> None:
        # A service that cannot stop is waited for, for half of the budget, and then deleted from under its worker.
        if trio.current_time() + seconds > patience:
            raise TotalTimeout("the service still works on the answer")
        await trio.sleep(seconds)

    outcome = await _flow.carry_out(flow(conversation), object, send, lambda _: None, pause)
    if outcome not in get_args(Outcome):  # which could say that all is well
        raise TypeError(f"{type(provider).__qualname__} must say that its cleanup came to an Outcome, not {outcome!r}")
    return outcome
