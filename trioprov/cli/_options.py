"""Arguments become providers and parameters, or a usage error; nothing has been sent when one is raised."""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.cookiejar import CookieJar, LoadError, MozillaCookieJar
from typing import TYPE_CHECKING, Any, TypeVar, cast

from .. import PROVIDERS, fan_out

if TYPE_CHECKING:
    from ..providers import Provider

T = TypeVar("T")

# What `fan_out` itself takes cannot be a generation parameter; it would change the question silently.
_TAKEN = frozenset(inspect.signature(fan_out).parameters) - {"parameters"}


class UsageError(Exception):
    """The command line cannot be obeyed."""


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
        _known(name, "-p")
    base_urls = _named("--base-url", arguments.base_urls)
    cookies = _named("--cookies", arguments.cookies, typos=False)
    names, unasked = _asked(arguments, [name for name, _ in base_urls if name], bool(cookies))
    models = _one_each("--model", _named("--model", arguments.models), names)
    urls = _one_each("--base-url", base_urls, names)
    jars = _cookies(cookies, names)
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
        chosen=bool(arguments.providers),
    )


def known_names(names: Sequence[str]) -> list[str]:
    """The names, or all there are if there are none.

    Raises:
        UsageError: one of them is not registered.
    """
    for name in names:
        _known(name, "NAME")
    return list(names) or list(iter(PROVIDERS))


def load(name: str) -> type[Provider]:
    """The provider class of this name.

    Raises:
        UsageError: another package brings it, and it cannot be imported.
    """
    try:
        return PROVIDERS[name]
    except Exception as exc:  # whatever somebody else's module raises
        raise UsageError(f"the provider {name} cannot be loaded: {type(exc).__name__}: {exc}") from exc


def _known(name: str, option: str) -> None:
    if name not in PROVIDERS:
        raise UsageError(f"{option}: there is no provider {name!r}; there are {', '.join(PROVIDERS)}")


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
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise UsageError("the prompt is not UTF-8 text") from None
    return prompt


def _named(option: str, values: Sequence[str], *, typos: bool = True) -> list[tuple[str, str]]:
    """Split ``NAME=VALUE``; a value without a provider's name in front stands alone, with the name ``""``.

    Args:
        option: for messages.
        values: as given.
        typos: what looks like a name must be one (a file may well be called ``a=b``).
    """
    found: list[tuple[str, str]] = []
    for given in values:
        name, equals, value = given.partition("=")
        if not equals or name not in PROVIDERS:
            if equals and typos and re.fullmatch(r"[\w-]+", name):
                _known(name, f"{option} NAME=VALUE")
            name, value = "", given
        if not value:
            raise UsageError(f"{option}: the value is empty")
        found.append((name, value))
    return found


def _asked(
    arguments: argparse.Namespace, with_url: Sequence[str], with_cookies: bool
) -> tuple[list[str], dict[str, str]]:
    """The names of the lanes, and why the others were left out if nobody chose."""
    if arguments.providers:
        return arguments.providers, {}
    if with_url:
        return list(dict.fromkeys(with_url)), {}
    if arguments.emulated:
        return list(iter(PROVIDERS)), {}
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


def _one_each(option: str, values: Sequence[tuple[str, T]], names: Sequence[str]) -> list[T | None]:
    """A value, or none, for each lane."""
    single = names[0] if len(set(names)) == 1 else None
    by_name: dict[str, list[T]] = {}
    for name, value in values:
        if not name and single is None:
            each = ", ".join(f"{known}=…" for known in dict.fromkeys(names))
            raise UsageError(f"{option}: for which provider? Say NAME=VALUE, any of: {each}")
        name = name or cast("str", single)
        if name not in names:
            raise UsageError(f"{option}: {name} is not asked; add -p {name} (asked: {', '.join(dict.fromkeys(names))})")
        by_name.setdefault(name, []).append(value)
    lanes = Counter(names)
    for name, given in by_name.items():
        if len(given) not in (1, lanes[name]):
            allowed = "once" if lanes[name] == 1 else f"once, or {lanes[name]} times"
            raise UsageError(f"{option}: given {len(given)} times for {name}, allowed is {allowed}, as it is asked")
    in_turn = {name: itertools.cycle(given) for name, given in by_name.items()}
    return [next(in_turn[name]) if name in in_turn else None for name in names]


def _parameters(options: Sequence[str]) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for option in options:
        key, equals, text = option.partition("=")
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


def _cookies(values: Sequence[tuple[str, str]], names: Sequence[str]) -> list[Mapping[str, str] | CookieJar | None]:
    """The cookies for each lane. One service's login must not be told to another."""
    everybody: CookieJar | None = None
    named: list[tuple[str, Mapping[str, str] | CookieJar]] = []
    for name, path in values:
        cookies = _cookie_file(path)
        if name or len(set(names)) == 1:
            named.append((name, cookies))
        elif isinstance(cookies, CookieJar):
            if everybody is not None:
                raise UsageError("--cookies: more than one cookies.txt; say whose they are: NAME=FILE")
            everybody = cookies  # each provider takes those of its own domain
        else:
            takers = [known for known in dict.fromkeys(names) if load(known).needs_auth]
            if not takers:
                raise UsageError(
                    f"--cookies: a JSON file does not say whose cookies it holds; say NAME=FILE, any of: "
                    f"{', '.join(dict.fromkeys(names))}"
                )
            named += [(taker, cookies) for taker in takers]
    return [everybody if own is None else own for own in _one_each("--cookies", named, names)]


def _cookie_file(path: str) -> Mapping[str, str] | CookieJar:
    """The cookies in a file; no message quotes what stands there."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except OSError as exc:
        raise UsageError(f"--cookies: {path}: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--cookies: {path}: not a text file") from None
    if text.lstrip().startswith(("{", "[")):
        return _json_cookies(path, text)
    return _netscape_cookies(path)


def _json_cookies(path: str, text: str) -> Mapping[str, str]:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        raise UsageError(f"--cookies: {path}: begins like JSON, but is none") from None
    if isinstance(value, dict):
        cookies = cast("dict[str, object]", value)
        if all(isinstance(item, str) for item in cookies.values()):
            return cast("dict[str, str]", cookies)
    raise UsageError(f'--cookies: {path}: must be a JSON object of names and texts, {{"name": "value", …}}')


def _netscape_cookies(path: str) -> CookieJar:
    jar = MozillaCookieJar()
    try:
        with warnings.catch_warnings():
            # For a line that it cannot read, the parser warns of a bug in itself and shows a traceback.
            warnings.simplefilter("ignore")
            jar.load(path, ignore_discard=True, ignore_expires=True)
    except (LoadError, OSError, ValueError):
        raise UsageError(
            f"--cookies: {path}: neither a cookies.txt in Netscape's format (its first line is "
            f"'# Netscape HTTP Cookie File') nor a JSON object of names and values"
        ) from None
    now = time.time()
    # Browsers export the cookies of a session as expired in 1970.
    old = [cookie for cookie in jar if cookie.expires and cookie.expires <= now]
    for cookie in old:
        jar.clear(cookie.domain, cookie.path, cookie.name)
    if not len(jar):
        raise UsageError(
            f"--cookies: {path}: {'every cookie in it has expired' if old else 'there is no cookie in it'}"
        )
    return jar
