"""What each command does."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, cast

import trio

from .. import PROVIDERS
from ._asking import Asking
from ._interrupts import Interrupts
from ._options import journal, payers, question
from ._sweeping import Sweeping
from ._text import Voice, clean
from ._usage import UsageError, known_names, load

if TYPE_CHECKING:
    from ..providers import Provider
    from ..testing import Emulator


def ask(arguments: argparse.Namespace, voice: Voice) -> int:
    """``trioprov ask``: one prompt to several providers."""
    return Asking(question(arguments), voice, output=arguments.output).run()


def sweep(arguments: argparse.Namespace, voice: Voice) -> int:
    """``trioprov sweep``: pay what a crash left."""
    # Checked also where nobody pays: a wrong option is wrong in any case.
    sweeping = Sweeping(journal(arguments.journal), payers(arguments), voice)
    if arguments.list:
        return sweeping.show()
    return sweeping.abandon(arguments.abandon) if arguments.abandon else sweeping.pay()


def providers(arguments: argparse.Namespace, voice: Voice) -> int:
    """``trioprov providers``: what there is."""
    if sys.stdout.isatty() and not arguments.plain:
        try:
            _print_tables(voice)
        except ImportError:
            voice.say('trioprov: plain text, since tables need rich: pip install "trioprov[cli]"')
        else:
            return 0
    try:
        for name, provider in _loaded(voice):
            print(f"{name}: {provider.label}, {provider.url}")
            for field, value in _facts(provider):
                print(f"  {field:<14}  {value}")
            print()
        sys.stdout.flush()
    except OSError as exc:
        if not isinstance(exc, BrokenPipeError):  # else somebody has seen enough
            voice.say(f"trioprov: the list could not be written: {exc}")
        return 1
    return 0


def _loaded(voice: Voice) -> Iterator[tuple[str, type[Provider]]]:
    for name in PROVIDERS:
        try:
            yield name, load(name)
        except UsageError as exc:
            voice.say(f"trioprov: {exc}")


def _facts(provider: type[Provider]) -> Iterator[tuple[str, str]]:
    up = {
        True: "up",
        False: "closed; servers of your own work (--base-url)",
        None: "not known to be down",
    }
    yield "default model", provider.default_model
    yield "models", ", ".join(provider.models)
    if provider.model_aliases:
        yield "aliases", ", ".join(f"{alias} = {model}" for alias, model in provider.model_aliases.items())
    yield "account", "needed: the cookies of your login (--cookies)" if provider.needs_auth else "not needed"
    yield "public service", up[provider.working]
    yield "cleanup", "deletes the conversation" if provider.cleanup_documented else "none: the service documents none"
    yield "parameters", ", ".join(provider.supported_parameters)


def _print_tables(voice: Voice) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    for name, provider in _loaded(voice):
        table = Table(
            title=Text.assemble((clean(name), "bold cyan"), f"  {clean(provider.label)}, {clean(provider.url)}"),
            title_justify="left",
            title_style="",
            show_header=False,
            expand=True,
        )
        table.add_column(style="dim", no_wrap=True)
        table.add_column(ratio=1, overflow="fold")
        for field, value in _facts(provider):
            table.add_row(field, Text(clean(value)))
        console.print(table)
        console.print()


def emulate(arguments: argparse.Namespace, voice: Voice) -> int:
    """``trioprov emulate``: serve the emulators until Ctrl-C."""
    names = list(dict.fromkeys(known_names(arguments.names)))
    if arguments.port and arguments.port + len(names) - 1 > 65535:
        raise UsageError(f"--port {arguments.port}: the last of {len(names)} services would have no port")
    try:
        from ..testing import serve_emulator
    except ImportError:
        raise UsageError('the emulators need h11: pip install "trioprov[cli]"') from None

    servers = {name: partial(serve_emulator, load(name), host=arguments.host) for name in names}
    with Interrupts() as interrupts:
        trio.run(_serve_all, servers, arguments.port, interrupts, voice)
    return interrupts.status


async def _serve_all(
    servers: Mapping[str, Callable[..., Awaitable[None]]], first_port: int, interrupts: Interrupts, voice: Voice
) -> None:
    emulators: list[Emulator[Provider]] = []
    problem = ""
    with interrupts.cancelling():
        async with trio.open_nursery() as nursery:
            for index, (name, serve) in enumerate(servers.items()):
                port = first_port + index if first_port else 0
                try:
                    emulators.append(await nursery.start(partial(serve, port=port)))
                except LookupError:
                    problem = f"there is no emulator of {name}"
                except OSError as exc:
                    problem = f"the emulator of {name} cannot listen on port {port}: {exc.strerror or exc}"
                if problem:
                    break
                try:
                    _introduce(emulators[-1])
                except OSError as exc:  # nobody reads, but somebody may ask
                    if not isinstance(exc, BrokenPipeError):
                        voice.say(f"trioprov: {name}: {emulators[-1].url} (which could not be written: {exc})")
            else:
                voice.say("trioprov: serving until Ctrl-C")
                await trio.sleep_forever()
            nursery.cancel_scope.cancel()
    if problem:
        raise UsageError(problem)
    for emulator in emulators:
        alive = ", ".join(emulator.conversations)
        voice.say(f"trioprov: {emulator.name}: {f'nobody has deleted {alive}' if alive else 'nothing is left'}")


def _introduce(emulator: Emulator[Provider]) -> None:
    """Where it is, and how to ask it."""
    name, cookies = emulator.name, dict(cast("Mapping[str, str]", emulator.provider.cookies))
    example = f"trioprov ask 'Why is the sky blue?' -p {name} --base-url {emulator.url}"
    print(f"{name}: {emulator.url}")
    if cookies:
        file = f"{name}-cookies.json"
        print(f"  echo {shlex.quote(json.dumps(cookies))} > {file}")
        example += f" --cookies {file}"
    print(f"  {example}", flush=True)
