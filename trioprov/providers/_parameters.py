"""Generation parameters: common names translated, documented values checked, the rest passed on as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

Check: TypeAlias = Callable[[str, Any], Any]
"""Takes a parameter's name and value; returns the value to send, or raises TypeError or ValueError."""

# What the session, not the model, is told; a service that merged these into its own parameters would ignore them,
# and the caller would never learn that they had no effect.
# (The provider's own fields are added to these.)
RESERVED = frozenset(
    "messages provider providers client conversation return_conversation deadlines timeout stream prompt_style".split()  # noqa: SIM905
)


def number(low: float = -math.inf, high: float = math.inf, *, below: float = math.inf, step: float = 0) -> Check:
    """A finite number, ``low <= value <= high`` and ``value < below``, in steps of ``step`` if that is not 0."""

    def check(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number, not {type(value).__name__}")
        # Not `math.isfinite`, which cannot take an int that is larger than any float.
        if not (-math.inf < value < math.inf and low <= value <= high and value < below):
            limits = [f"at least {low:g}"] if low > -math.inf else []
            limits += [f"at most {high:g}"] if high < math.inf else []
            limits += [f"below {below:g}"] if below < math.inf else []
            raise ValueError(f"{name} must be {' and '.join(limits) or 'finite'}, not {value!r}")
        if step and abs(value / step - round(value / step)) > 1e-6:
            raise ValueError(f"{name} must be a multiple of {step:g}, not {value!r}")
        return value

    return check


def integer(low: int, high: float = math.inf) -> Check:
    """A whole number, ``low <= value <= high``."""

    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")
        if not low <= value <= high:
            top = f" and at most {high}" if math.isfinite(high) else ""
            raise ValueError(f"{name} must be at least {low}{top}, not {value}")
        return value

    return check


def flag(name: str, value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {type(value).__name__}")
    return value


def text(name: str, value: Any) -> str:
    """A string."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {type(value).__name__}")
    return value


def strings(most: float = math.inf) -> Check:
    """A string, or at most ``most`` of them; sent as a list."""

    def check(name: str, value: Any) -> list[str]:
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, Sequence) or not all(
            isinstance(item, str) for item in cast("Sequence[object]", values)
        ):
            raise TypeError(f"{name} must be a string or a list of strings")
        found = list(cast("Sequence[str]", values))
        if len(found) > most:
            raise ValueError(f"{name} takes at most {most} strings, not {len(found)}")
        if "" in found:
            raise ValueError(f"{name} must not hold an empty string")
        return found

    return check


def refused(why: str) -> Check:
    """A parameter that this service does not have."""

    def check(name: str, value: Any) -> Any:
        raise ValueError(f"{name}: {why}")

    return check


def merged(
    *layers: Mapping[str, Any],
    rules: Mapping[str, Check],
    aliases: Mapping[str, str],
    reserved: frozenset[str],
) -> dict[str, Any]:
    """One mapping of the layers, the later ones stronger, in the service's own names.

    A value of `None` takes its parameter out of the request, also one that has a default; 0 is a value.

    Raises:
        TypeError: a value of the wrong type, one name given twice, or a name that is not the model's to know.
        ValueError: a value outside what the service documents.
    """
    result: dict[str, Any] = {}
    for layer in layers:
        if not isinstance(layer, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"parameters must be a mapping, not {type(layer).__name__}")
        seen: dict[str, str] = {}
        for given, value in layer.items():
            if not isinstance(given, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError("parameter names must be strings")
            if given in reserved or given in RESERVED:
                raise TypeError(f"{given!r} is not a generation parameter")
            name = aliases.get(given, given)
            if name in seen:
                raise TypeError(f"{seen[name]!r} and {given!r} are the same parameter; give one of them")
            seen[name] = given
            if value is None:
                result.pop(name, None)
            else:
                rule = rules.get(name)
                result[name] = _thawed(value) if rule is None else rule(given, value)
    return result


class Frozen(Mapping[str, Any]):
    """A mapping that cannot be changed and can be hashed; its repr shows the names alone."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, Any]) -> None:
        self._items = {name: _frozen(value) for name, value in items.items()}

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return f"<{', '.join(self._items)}: values hidden>" if self._items else "{}"


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Frozen(cast("Mapping[str, Any]", value))
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item) for item in cast("Sequence[Any]", value))
    return value


def _thawed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _thawed(item) for name, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_thawed(item) for item in cast("Sequence[Any]", value)]
    return value
