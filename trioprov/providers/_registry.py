"""Providers by name: those of this package, and those that other packages bring."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ._base import Provider

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "trioprov.providers"


class Registry(Mapping[str, type[Provider]]):
    """Provider classes by their `Provider.name`.

    An installed package adds one by an entry point of the group ``trioprov.providers``, with the provider's name for
    its own. It is imported when it is asked for, and no sooner; the names of ours cannot be taken.

    Attributes:
        ours: these names.
    """

    def __init__(self, *ours: type[Provider]) -> None:
        self._classes = {provider.name: provider for provider in ours}
        self.ours: tuple[str, ...] = tuple(self._classes)

    def __getitem__(self, name: str) -> type[Provider]:
        if name not in self._classes:
            found: object = self._others()[name].load()
            if not (isinstance(found, type) and issubclass(found, Provider)):
                raise TypeError(f"the entry point {name!r} of {GROUP} is not a Provider class but {found!r}")
            if found.name != name:  # a debt is written down under the one, and looked for under the other
                raise TypeError(f"the entry point {name!r} of {GROUP} brings {found.name!r}, and must have its name")
            self._classes[name] = found
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        yield from dict.fromkeys([*self._classes, *self._others()])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in self._classes or name in self._others()

    def __repr__(self) -> str:
        return f"<providers: {', '.join(self)}>"

    def _others(self) -> dict[str, EntryPoint]:
        from importlib.metadata import entry_points  # takes longer to import than all providers together

        return {entry.name: entry for entry in entry_points(group=GROUP)}
