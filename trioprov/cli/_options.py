"""Arguments become providers and parameters, or a usage error; nothing has been sent when one is raised."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import PROVIDERS, fan_out
from . import _cookies
from ._usage import UsageError, known, load, named, one_each

if TYPE_CHECKING:
    from ..providers import Provider

# What `fan_out` itself takes cannot be a generation parameter; it would change the question silently.
_TAKEN = frozenset(inspect.signature(fan_out).parameters) - {"parameters"}


@dataclass(frozen=True, kw_only=True)
class Question:
    """What to ask, and whom.

    Attributes:
        prompt: the text.
        providers: one for each lane; of an emulated question they still name the public services.
        parameters: the generation parameters.
        emulated: whether the bundled servers are to be asked.
        unasked: registered providers that were left out because nobody named any, with the reason.
        chosen: whether the user named the providers.
    """

    prompt: str
    providers: Sequence[Provider]
    parameters: Mapping[str, Any]
    emulated: bool
    unasked: Mapping[str, str]
    chosen: bool


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
    for name in arguments.providers:
        known(name, "-p")
    base_urls = named("--base-url", arguments.base_urls)
    cookies = named("--cookies", arguments.cookies, typos=False)
    names, unasked = _asked(arguments, [name for name, _ in base_urls if name], bool(cookies))
    models = one_each("--model", named("--model", arguments.models), names)
    urls = one_each("--base-url", base_urls, names)
    chosen = bool(arguments.providers or base_urls)
    jars = _cookies.for_lanes(cookies, names, chosen=chosen)
    providers: list[Provider] = []
    for name, model, url, jar in zip(names, models, urls, jars, strict=True):
        fields: dict[str, Any] = {"cookies": jar} if jar is not None else {}
        try:
            providers.append(load(name)(model=model or "", base_url=url or "", proxy=arguments.proxy or None, **fields))
        except (TypeError, ValueError) as exc:
            raise UsageError(f"{name}: {exc}") from exc
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
        chosen=chosen,
    )


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
    # Arguments that are not text arrive with surrogates in them, which no request can carry.
    try:
        text.encode()
    except UnicodeEncodeError:
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
        return list(PROVIDERS), {}
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
