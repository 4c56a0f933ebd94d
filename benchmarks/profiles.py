"""Print where trioprov's time and memory go: ``python3 benchmarks/profiles.py``.

`run.py` tells how much they are, in comparison; this tells whose. What follows from it, says ``README.md``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping

import harness
from harness import HERE, OURS, Client, Failed, Laboratory
from report import written

_PROFILES = HERE / "PROFILES.md"

_PROFILED = Client("trioprov, profiled", "profiled.py")

# Rooms and packages below this share are told in one line.
_SMALL = 0.02


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description="Where do trioprov's time and memory go?")
    parser.add_argument("--quick", action="store_true", help="a smoke run, whose figures mean nothing")
    parser.add_argument("--here", action="store_true", help="in this interpreter; installs nothing")
    parser.add_argument("--write", action="store_true", help=f"write the tables to {_PROFILES.name} too")
    options = parser.parse_args()
    try:
        environments = harness.here() if options.here else harness.prepare([OURS])[0]
        with harness.open_laboratory(environments, harness.cores()) as laboratory:
            report = _report(laboratory, quick=options.quick)
    except Failed as failure:
        sys.exit(str(failure))
    print(report)
    if options.write:
        how = "Written by `profiles.py --write`; `README.md` says what follows from it."
        _PROFILES.write_text(f"# Profiles\n\n{how}\n\n{report}\n")


def _report(laboratory: Laboratory, *, quick: bool) -> str:
    def ask(question: str, *arguments: int) -> harness.Report:
        print(question, file=sys.stderr, flush=True)
        return laboratory.measure(_PROFILED, question, *map(str, arguments))

    first = ask("first_token", 20 if quick else 1000)
    live = ask("live", 50 if quick else 4000, 1000)
    readers = ask("readers", 20 if quick else 1000, 1000, 64)
    crowd = ask("crowd", 20 if quick else 1000, 10 if quick else 200, 50_000)
    memory = ask("memory", 20 if quick else 500)
    bridge = ask("bridge", 50 if quick else 4000, 1000)
    importing = ask("importing")
    return "\n\n".join(
        [
            "## An ask, to its first token and back",
            _shares(first["calls"], first["spent"], "calls"),
            "## A live token",
            _shares(live["calls"], live["spent"], "calls"),
            "## A live token, for each of 64 loops over its reply",
            _shares(readers["calls"], readers["spent"], "calls"),
            "## A thousand streams: the garbage collector",
            _collections(crowd),
            "## What a stream holds at its first token",
            _shares(memory["objects"], memory["size"], "allocations", "kB", 1 / 1000),
            f"{written(memory['tracked'])} objects of it are looked at by the garbage collector each time.",
            "## A live token in an asyncio application",
            f"{bridge['loop'] * 1e6:.0f} µs of CPU in the thread of the event loop, and {bridge['trio'] * 1e6:.0f} µs "
            "in trio's.",
            "## The import, beyond trio and httpx",
            _shares(importing["calls"], importing["spent"], "modules", "ms", 1000),
            "## Environment",
            f"{time.strftime('%Y-%m-%d')}, trioprov at {harness.revision()}, {harness.processor()}",
        ]
    )


def _shares(
    counts: Mapping[str, float], amounts: Mapping[str, float], what: str, unit: str = "", scale: float = 0
) -> str:
    """A table, the largest share first; amounts are told if there is a unit for them."""
    whole = sum(amounts.values())
    large = sorted((place for place in amounts if amounts[place] >= _SMALL * whole), key=lambda place: -amounts[place])
    rows = [(f"`{place}`", counts.get(place, 0), amounts[place]) for place in large]
    small = [place for place in amounts if place not in large]
    if small:
        names = f"{len(small)} others"
        rows.append((names, sum(counts.get(place, 0) for place in small), sum(amounts[place] for place in small)))
    rows.append(("**all**", sum(counts.values()), whole))
    lines = [f"|  | {what} | {f'{unit} | ' if unit else ''}share |", f"| --- | --: | {'--: | ' if unit else ''}--: |"]
    for name, count, amount in rows:
        told = f"{written(amount * scale)} | " if unit else ""
        lines.append(f"| {name} | {written(count)} | {told}{amount / whole:.0%} |")
    return "\n".join(lines)


def _collections(crowd: harness.Report) -> str:
    lines = [
        "| generation | collections | s in all | ms at most | share of the CPU time |",
        "| --: | --: | --: | --: | --: |",
    ]
    for number, often in enumerate(crowd["often"]):
        total, longest = crowd["total"][number], crowd["longest"][number]
        lines.append(f"| {number} | {often} | {total:.2f} | {longest * 1e3:.1f} | {total / crowd['cpu']:.0%} |")
    return "\n".join([*lines, "", f"99 in 100 tokens came within {crowd['lag'] * 1e3:.0f} ms."])


if __name__ == "__main__":
    main()
