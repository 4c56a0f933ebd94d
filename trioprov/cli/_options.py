"""Arguments become providers and parameters, or a usage error; nothing has been sent when one is raised."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .. import PROVIDERS, Journal, fan_out, race
from . import _cookies
from ._usage import UsageError, known, load, named, one_each

if TYPE_CHECKING:
    from ..providers import Provider

# What `fan_out` or `race` itself takes cannot be a generation parameter; it would change the question silently.
_TAKEN = frozenset(name for asking in (fan_out, race) for name in inspect.signature(asking).parameters) - {"parameters"}


@dataclass(frozen=True, kw_only=True)
class Question:
    """What to ask, and whom.

    Attributes:
        prompt: the text.
        providers: one for each lane; of an emulated question they still name the public services.
        parameters: the generation parameters.
        emulated: whether the bundled servers are to be asked.
        unasked: registered providers that were left out because nobody named any, with the reason.
        journal: where debts are written down, if anywhere.
        paid_by: the command that pays what stays in the journal.
        race: whether only the first answer is wanted.
        until: what wins the race.
        stagger: seconds from one lane's start to the next one's in a race.
    """

    prompt: str
    providers: Sequence[Provider]
    parameters: Mapping[str, Any]
    emulated: bool
    unasked: Mapping[str, str]
    journal: Journal | None
    paid_by: str
    race: bool
    until: Literal["first_token", "finished"]
    stagger: float


def question(arguments: argparse.Namespace) -> Question:
    """Everything ``trioprov ask`` was told, checked.

    Raises:
        UsageError: it makes no sense; the message says what is allowed, and quotes no secret.
    """
    if arguments.emulated:
        foreign = {"--base-url": arguments.base_urls, "--cookies": arguments.cookies, "--proxy": arguments.proxy}
        for option, value in foreign.items():
            if value:
                raise UsageError(f"{option} does not go with --emulated, which brings servers of its own")
        if arguments.journal is not None:
            raise UsageError(
                "--journal does not go with --emulated, whose servers end with the question; "
                "those of `trioprov emulate` outlast it"
            )
    if not arguments.race:
        for option, value in {"--stagger": arguments.stagger, "--until": arguments.until}.items():
            if value is not None:
                raise UsageError(f"{option} goes with --race")
    providers, unasked = _providers(arguments)
    parameters = _parameters(arguments.options)
    _check(providers, parameters)
    # Last, since it may wait for somebody who types.
    prompt = _prompt(arguments.prompt)
    return Question(
        prompt=prompt,
        providers=providers,
        parameters=parameters,
        emulated=arguments.emulated,
        unasked=unasked,
        journal=None if arguments.journal is None else journal(arguments.journal),
        paid_by="" if arguments.journal is None else _paid_by(arguments, providers),
        race=arguments.race,
        until=arguments.until or "first_token",
        stagger=arguments.stagger or 0.0,
    )


def journal(path: str) -> Journal:
    """The journal of ``--journal``, which may not be there yet.

    Raises:
        UsageError: that is no path.
    """
    if not path:
        raise UsageError("--journal: the value is empty")
    return Journal(path)


def payers(arguments: argparse.Namespace) -> list[Provider]:
    """Who ``trioprov sweep`` was told may pay debts that need the user's credentials.

    Raises:
        UsageError: it makes no sense; the message says what is allowed, and quotes no secret.
    """
    if arguments.providers or any(name for name, _ in named("--base-url", arguments.base_urls)):
        return _providers(arguments)[0]
    given = {"--base-url": arguments.base_urls, "--cookies": arguments.cookies, "--proxy": arguments.proxy}
    for option, value in given.items():
        if value:
            raise UsageError(f"{option}: for which provider? Name it with -p")
    return []


def _paid_by(arguments: argparse.Namespace, providers: Sequence[Provider]) -> str:
    """The ``trioprov sweep`` for what these providers may leave, with everything that it takes to be let in."""
    words = ["trioprov", "sweep", "--journal", arguments.journal]
    if any(provider.access() is not None for provider in providers):
        words += [word for provider in providers for word in ("-p", provider.name)]
        words += [word for url in arguments.base_urls for word in ("--base-url", url)]
        words += [word for file in arguments.cookies for word in ("--cookies", file)]
        if arguments.proxy:
            # One with a user may have a password, which belongs on no screen.
            words += ["--proxy", "URL" if "@" in arguments.proxy else arguments.proxy]
    return shlex.join(words)


def _chosen(arguments: argparse.Namespace) -> bool:
    return bool(arguments.providers or arguments.base_urls)


def _providers(arguments: argparse.Namespace) -> tuple[list[Provider], Mapping[str, str]]:
    """One for each lane, and why others were left out if nobody chose."""
    for name in arguments.providers:
        known(name, "-p")
    proxy: str | None = arguments.proxy
    if proxy == "":  # as from a variable that is not set: nobody wants to be seen without it
        raise UsageError("--proxy: the value is empty")
    base_urls = named("--base-url", arguments.base_urls)
    cookies = named("--cookies", arguments.cookies, typos=False)
    names, unasked = _asked(arguments, [name for name, _ in base_urls if name], bool(cookies))
    models = one_each("--model", named("--model", arguments.models), names)
    urls = one_each("--base-url", base_urls, names)
    jars = _cookies.for_lanes(cookies, names, chosen=_chosen(arguments))
    providers: list[Provider] = []
    for name, model, url, jar in zip(names, models, urls, jars, strict=True):
        fields: dict[str, Any] = {"cookies": jar} if jar is not None else {}
        try:
            providers.append(load(name)(model=model or "", base_url=url or "", proxy=proxy, **fields))
        except (TypeError, ValueError) as exc:
            raise UsageError(f"{name}: {exc}") from exc
    return providers, unasked


def _prompt(words: Sequence[str]) -> str:
    if len(words) > 1:
        raise UsageError(f'the prompt must be one argument, in quotes: trioprov ask "{" ".join(words)}"')
    prompt = words[0]
    if prompt == "-":
        try:
            prompt = sys.stdin.buffer.read().decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise UsageError("standard input is not UTF-8 text") from None
    if not prompt.strip():
        raise UsageError("the prompt is empty")
    return _utf8("the prompt", prompt)


def _utf8(what: str, text: str) -> str:
    # What is no text in the locale's encoding arrives with surrogates in it, which no request can carry.
    try:
        text.encode()
    except UnicodeEncodeError:
        try:
            return os.fsencode(text).decode()
        except UnicodeError:
            raise UsageError(f"{what} is not UTF-8 text") from None
    return text


def _asked(
    arguments: argparse.Namespace, with_url: Sequence[str], with_cookies: bool
) -> tuple[list[str], dict[str, str]]:
    """The names of the lanes, and why the others were left out if nobody chose."""
    if arguments.providers:
        return arguments.providers, {}
    if with_url:
        return list(dict.fromkeys(with_url)), {}
    if arguments.emulated:
        return list(PROVIDERS.ours), {}
    unasked: dict[str, str] = {}
    names: list[str] = []
    for name in PROVIDERS:
        try:
            provider = load(name)
        except UsageError:
            unasked[name] = "it cannot be loaded"
            continue
        if provider.working is False:
            unasked[name] = "its public service has closed"
        elif provider.needs_auth and not with_cookies:
            unasked[name] = "it needs --cookies"
        else:
            names.append(name)
    if not names:
        raise UsageError("nobody to ask: name providers with -p, or use --emulated")
    return names, unasked


def _parameters(options: Sequence[str]) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for option in options:
        key, equals, text = _utf8("-o", option).partition("=")
        if not equals or not key:
            raise UsageError(f"-o {option}: must be KEY=VALUE, as in -o max_tokens=200")
        if key in parameters:
            raise UsageError(f'-o {key} is given twice; several values are a JSON list: -o \'{key}=["a", "b"]\'')
        if key in _TAKEN:
            raise UsageError(f"-o {key}: not a generation parameter")
        try:
            parameters[key] = json.loads(text)
        except (ValueError, RecursionError):
            parameters[key] = text
    return parameters


def _check(providers: Sequence[Provider], parameters: Mapping[str, Any]) -> None:
    """What some provider takes may be sent; the others' refusal is their lanes' error."""
    refusals: dict[str, str] = {}
    for provider in providers:
        try:
            provider.options(parameters)
        except (TypeError, ValueError) as exc:
            refusals[provider.name] = str(exc)
        else:
            return
    said = "; ".join(f"{name}: {refusal}" for name, refusal in refusals.items())
    raise UsageError(f"-o: {said}")
