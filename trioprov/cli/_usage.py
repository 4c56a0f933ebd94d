"""The grammar of ``NAME=VALUE``, and the error for what cannot be obeyed."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar, cast

from .. import PROVIDERS

if TYPE_CHECKING:
    from ..providers import Provider

T = TypeVar("T")


class UsageError(Exception):
    """The command line cannot be obeyed."""


def known_names(names: Sequence[str]) -> list[str]:
    """The names; if there are none, those of ours, which are the ones that have emulators.

    Raises:
        UsageError: one of them is not registered.
    """
    for name in names:
        known(name, "NAME")
    return list(names) or list(PROVIDERS.ours)


def load(name: str) -> type[Provider]:
    """The provider class of this name.

    Raises:
        UsageError: another package brings it, and it cannot be imported.
    """
    try:
        return PROVIDERS[name]
    except Exception as exc:  # whatever somebody else's module raises
        raise UsageError(f"the provider {name} cannot be loaded: {type(exc).__name__}: {exc}") from exc


def known(name: str, option: str) -> None:
    """Check a provider's name.

    Raises:
        UsageError: there is no such provider.
    """
    if name not in PROVIDERS:
        raise UsageError(f"{option}: there is no provider {name!r}; there are {', '.join(PROVIDERS)}")


def named(option: str, values: Sequence[str], *, typos: bool = True) -> list[tuple[str, str]]:
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
                known(name, f"{option} NAME=VALUE")
            name, value = "", given
        if not value:
            raise UsageError(f"{option}: the value is empty")
        found.append((name, value))
    return found


def one_each(option: str, values: Sequence[tuple[str, T]], names: Sequence[str]) -> list[T | None]:
    """A value, or none, for each lane."""
    single = names[0] if len(set(names)) == 1 else None
    by_name: dict[str, list[T]] = {}
    for name, value in values:
        if not name and single is None:
            each = ", ".join(f"{other}=…" for other in dict.fromkeys(names))
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
