"""One question, from the first request to the last DELETE."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Literal

import trio

from .. import Client, JournalError, fan_out, open_client, race
from ._advice import closed
from ._course import Course, Opened, View, racing, together
from ._interrupts import Interrupts
from ._json import JsonView
from ._options import Question
from ._output import OutputFailed
from ._plain import PlainView
from ._telling import Telling
from ._text import Voice
from ._usage import UsageError

if TYPE_CHECKING:
    from ..providers import Provider

# How the emulators answer a human: as fast as a service, and each a little differently.
_PACE: dict[str, dict[str, Any]] = {
    "h2o": {"first_delay": 0.3, "token_delay": 0.035},
    "openassistant": {"pending": (3, 2, 1), "pending_interval": 0.2, "token_delay": 0.03},
    "allenai": {"first_delay": 0.15, "token_delay": 0.03},
}
# How long, after a signal, somebody who does not read may keep us from telling the end.
_LAST_RECORDS = 1.0

_INSTALL = 'pip install "trioprov[cli]"'


class Asking:
    """Asks a `Question`.

    Args:
        question: what and whom.
        voice: stderr.
        output: what to write on standard output: ``live``, on a terminal that can show it, else ``plain``; or
            ``json``.
    """

    def __init__(self, question: Question, voice: Voice, *, output: Literal["live", "plain", "json"]) -> None:
        self._question = question
        self._voice = voice
        self._output = output
        self._telling = Telling(question, voice, records=output == "json")
        self._interrupts = Interrupts()
        self._output_failed = False

    def run(self) -> int:
        """Ask, show, clean up, and tell.

        Returns:
            The exit status.

        Raises:
            UsageError: an emulator was wanted that is not there, or the journal cannot be used.
        """
        self._interrupts.owed = self._telling.owed
        with self._interrupts:
            view = self._view()
            self._warn()
            trio.run(self._run, view)
        if self._interrupts.received is not None:
            return self._interrupts.status
        course = self._telling.course
        return 0 if course is not None and course.answered and not self._output_failed else 1

    def _view(self) -> View:
        if self._output == "json":
            return JsonView()
        if sys.stdout.isatty() and self._output == "live":
            try:
                from rich.console import Console

                from ._live import LiveView
            except ImportError:
                self._voice.say(f"trioprov: plain text, since the live view needs rich: {_INSTALL}")
            else:
                console = Console(highlight=False, markup=False, emoji=False)
                if not console.is_dumb_terminal:
                    return LiveView(self._voice, self._interrupts, console)
        return PlainView(self._voice, single=self._question.race or len(self._question.providers) == 1)

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
                providers = [await self._emulated(stack, provider) for provider in providers]
            try:
                with self._interrupts.cancelling():
                    await self._ask(view, providers)
            except OutputFailed as exc:
                self._fail_output(exc)
            if not self._output_failed:
                await self._conclude(view)
            self._telling.stopped = self._interrupts.received is not None or self._output_failed
            self._telling.tell(interrupted=self._interrupts.received is not None)

    async def _conclude(self, view: View) -> None:
        limit = math.inf if self._interrupts.received is None else _LAST_RECORDS
        try:
            with trio.move_on_after(limit) as scope:
                await view.conclude()
        except OutputFailed as exc:
            self._fail_output(exc)
        except OSError:  # the terminal was closed
            self._output_failed = True
        else:
            if scope.cancelled_caught:
                self._voice.say("trioprov: nobody reads the output, so its end is missing")

    def _fail_output(self, exc: OutputFailed) -> None:
        self._output_failed = True
        if not isinstance(exc.__cause__, BrokenPipeError):  # a reader who has seen enough is no failure
            self._voice.say(f"trioprov: the answer could not be written: {exc.__cause__}")

    async def _ask(self, view: View, providers: Sequence[Provider]) -> None:
        question = self._question
        async with AsyncExitStack() as stack:
            try:
                client = await stack.enter_async_context(open_client(journal=question.journal))
            except JournalError as exc:
                raise UsageError(f"--journal: {exc}") from exc
            try:
                await view.run(self._opened(view, providers, client), self._begin)
            finally:
                # Said when the view is closed, and before leaving the client waits.
                if self._interrupts.received is not None:
                    self._voice.say("trioprov: cleaning up … (press Ctrl-C again to leave at once)")

    def _opened(self, view: View, providers: Sequence[Provider], client: Client) -> Opened:
        question = self._question
        if not question.race:
            return together(fan_out(question.prompt, providers, client=client, **question.parameters))
        contest = race(
            question.prompt,
            providers,
            until=question.until,
            stagger=question.stagger,
            client=client,
            **question.parameters,
        )
        return racing(contest, everything=view.apart)

    def _begin(self, course: Course) -> None:
        self._telling.course = course

    async def _emulated(self, stack: AsyncExitStack, provider: Provider) -> Provider:
        """The same provider, asking a bundled server; one server for all lanes of a service.

        Raises:
            UsageError: there is none for this one, which another package brings.
        """
        try:
            from ..testing import open_emulator
        except ImportError:
            raise UsageError(f"--emulated needs h11: {_INSTALL}") from None
        emulator = self._telling.emulators.get(provider.name)
        if emulator is None:
            try:
                opening = open_emulator(type(provider), **_PACE.get(provider.name, {}))
            except LookupError:
                raise UsageError(f"--emulated: there is no emulator of {provider.name}") from None
            emulator = self._telling.emulators[provider.name] = await stack.enter_async_context(opening)
        return dataclasses.replace(provider, base_url=emulator.url, cookies=emulator.provider.cookies)
