"""One question, from the first request to the last DELETE, and what is said about it."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import trio

from .. import CleanupReport, JournalError, Lane, fan_out, open_client
from ._advice import advice, closed, described
from ._interrupts import Interrupts
from ._options import Question
from ._plain import OutputFailed, PlainView, View
from ._text import Voice
from ._usage import UsageError

if TYPE_CHECKING:
    from ..providers import Provider
    from ..testing import Emulator

# How the emulators answer a human: as fast as a service, and each a little differently.
_PACE: dict[str, dict[str, Any]] = {
    "h2o": {"first_delay": 0.3, "token_delay": 0.035},
    "openassistant": {"pending": (3, 2, 1), "pending_interval": 0.2, "token_delay": 0.03},
    "allenai": {"first_delay": 0.15, "token_delay": 0.03},
}
_INSTALL = 'pip install "trioprov[cli]"'


class Asking:
    """Asks a `Question`.

    Args:
        question: what and whom.
        voice: stderr.
        plain: whether to show plain text on a terminal too.
    """

    def __init__(self, question: Question, voice: Voice, *, plain: bool) -> None:
        self._question = question
        self._voice = voice
        self._plain = plain
        self._lanes: Sequence[Lane] = ()
        self._emulators: dict[str, Emulator[Provider]] = {}
        self._interrupts = Interrupts()
        self._output_failed = False

    def run(self) -> int:
        """Ask, show, clean up, and tell.

        Returns:
            The exit status.

        Raises:
            UsageError: an emulator was wanted that is not there, or the journal cannot be used.
        """
        self._interrupts.owed = self._owed
        with self._interrupts:
            view = self._view()
            self._warn()
            trio.run(self._run, view)
        if self._interrupts.received is not None:
            return self._interrupts.status
        answered = all(lane.reply.finish and lane.reply.finish.reason not in _FAILED for lane in self._lanes)
        return 0 if answered and not self._output_failed else 1

    def _view(self) -> View:
        if sys.stdout.isatty() and not self._plain:
            try:
                from rich.console import Console

                from ._live import LiveView
            except ImportError:
                self._voice.say(f"trioprov: plain text, since the live view needs rich: {_INSTALL}")
            else:
                console = Console(highlight=False, markup=False, emoji=False)
                if not console.is_dumb_terminal:
                    return LiveView(self._voice, self._interrupts, console)
        return PlainView(self._voice, single=len(self._question.providers) == 1)

    def _warn(self) -> None:
        question = self._question
        if question.emulated:
            self._voice.say(
                "Emulated: the answers come from servers bundled with trioprov, on this machine. "
                "No account, no network, no model."
            )
            return
        if question.unasked:
            left_out = ", ".join(f"{name} ({why})" for name, why in question.unasked.items())
            self._voice.say(f"trioprov: not asked: {left_out}; -p NAME asks")
        for provider in dict.fromkeys(question.providers):
            if closed(provider):
                self._voice.say(
                    f"trioprov: warning: the public service of {provider.label} ({provider.base_url}) has closed; "
                    f"--base-url {provider.name}=URL asks a server of your own"
                )

    async def _run(self, view: View) -> None:
        async with AsyncExitStack() as stack:
            providers = self._question.providers
            if self._question.emulated:
                emulated = [await self._emulated(stack, provider) for provider in providers]
                providers = [provider for provider in emulated if provider is not None]
            try:
                with self._interrupts.cancelling():
                    await self._ask(view, providers)
            except OutputFailed as exc:
                self._output_failed = True
                if not isinstance(exc.__cause__, BrokenPipeError):  # a reader who has seen enough is no failure
                    self._voice.say(f"trioprov: the answer could not be written: {exc.__cause__}")
            try:
                view.conclude()
            except OSError:  # the terminal was closed
                self._output_failed = True
            for lane in self._lanes:
                self._tell(lane)
            if any(lane.cleanup is None or lane.cleanup.outcome == "owed" for lane in self._lanes):
                for line in self._payment():
                    self._voice.say(line, wrap=False)
            if self._question.emulated:
                self._tell_emulated()
            elif self._interrupts.received is not None and self._lanes:
                outcomes = Counter(map(_outcome, self._lanes))
                said = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
                self._voice.say(f"trioprov: conversations: {said}")

    async def _ask(self, view: View, providers: Sequence[Provider]) -> None:
        question = self._question
        async with AsyncExitStack() as stack:
            try:
                client = await stack.enter_async_context(open_client(journal=question.journal))
            except JournalError as exc:
                raise UsageError(f"--journal: {exc}") from exc
            try:
                await view.run(fan_out(question.prompt, providers, client=client, **question.parameters), self._begin)
            finally:
                # Said when the view is closed, and before leaving the client waits.
                if self._interrupts.received is not None:
                    self._voice.say("trioprov: cleaning up … (press Ctrl-C again to leave at once)")

    def _begin(self, lanes: Sequence[Lane]) -> None:
        self._lanes = lanes

    async def _emulated(self, stack: AsyncExitStack, provider: Provider) -> Provider | None:
        """The same provider, asking a bundled server; one server for all lanes of a service.

        There is none for a provider of another package: `None`, unless the user named it.
        """
        try:
            from ..testing import open_emulator
        except ImportError:
            raise UsageError(f"--emulated needs h11: {_INSTALL}") from None
        emulator = self._emulators.get(provider.name)
        if emulator is None:
            try:
                opening = open_emulator(type(provider), **_PACE.get(provider.name, {}))
            except LookupError:
                if not self._question.chosen:
                    return None
                raise UsageError(f"--emulated: there is no emulator of {provider.name}") from None
            emulator = self._emulators[provider.name] = await stack.enter_async_context(opening)
        return dataclasses.replace(provider, base_url=emulator.url, cookies=emulator.provider.cookies)

    # -- What is said at the end -------------------------------------------------------------------------------------

    def _tell(self, lane: Lane) -> None:
        """How a lane failed or fell short, and what to do about it."""
        provider, finish, label = lane.provider, lane.reply.finish, lane.provider.label
        if finish is None or (finish.reason == "interrupted" and self._stopped):
            pass
        elif finish.error is not None:
            partial = " (the answer above is not complete)" if lane.reply.text else ""
            self._voice.say(f"trioprov: {label}: {described(finish.error)}{partial}")
            if hint := advice(provider, finish.error):
                self._voice.say(f"  {hint}")
        elif finish.reason == "interrupted":
            self._voice.say(f"trioprov: {label}: ended without an answer")
        elif finish.reason == "length":
            self._voice.say(f"trioprov: {label}: the answer was cut at the token limit; -o max_tokens=N moves it")
        report = lane.cleanup
        if report is None or report.outcome in ("owed", "lost"):
            self._voice.say(f"trioprov: {label}: {_left(lane, report)}")

    @property
    def _stopped(self) -> bool:
        return self._interrupts.received is not None or self._output_failed

    def _tell_emulated(self) -> None:
        self._voice.say("Conversations on the emulated servers:")
        rows = [
            (lane.provider.name, _outcome(lane), lane.reply.session.conversation.id or "(none was created)")
            for lane in self._lanes
        ]
        for name, outcome, conversation in rows:
            widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
            self._voice.say(f"  {name:{widths[0]}}  {outcome:{widths[1]}}  {conversation}")
        alive = {emulator.name: emulator.conversations for emulator in self._emulators.values()}
        left = [f"{name}: {', '.join(ids)}" for name, ids in alive.items() if ids]
        self._voice.say(f"Still alive there: {'; '.join(left)}" if left else "None is left on any of these servers.")

    def _owed(self) -> list[str]:
        """What leaving at once may leave behind; called from a signal handler."""
        settled = ("deleted", "already_gone", "nothing_owed", "kept", "unsupported")
        lines = [
            f"  {lane.provider.label}: {_left(lane, lane.cleanup)}"
            for lane in self._lanes
            if lane.cleanup is None or lane.cleanup.outcome not in settled
        ]
        return [*lines, *self._payment()] if lines else []

    def _payment(self) -> list[str]:
        """How to delete later what may be left: no create leaves before it is written down."""
        if self._question.journal is None:
            return []
        return ["trioprov: the journal has it; this deletes it:", f"  {self._question.paid_by}"]


_FAILED = ("error", "interrupted")


def _outcome(lane: Lane) -> str:
    return lane.cleanup.outcome.replace("_", " ") if lane.cleanup else "not settled"


def _left(lane: Lane, report: CleanupReport | None) -> str:
    """What may still be on a server."""
    conversation = lane.reply.session.conversation.id
    what = f"conversation {conversation}" if conversation else "a conversation whose id is not known"
    why = f" ({report.error})" if report and report.error else ""
    until = (
        f"; the service deletes it by {report.expires_at:%Y-%m-%d %H:%M} UTC" if report and report.expires_at else ""
    )
    return f"{what} may still be on {lane.provider.base_url}{why}{until}"
