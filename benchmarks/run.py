"""Run the benchmarks and print their tables: ``python3 benchmarks/run.py``. How to read them is in ``README.md``."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time

import harness
import tokens
from harness import HERE, Cores, Environment, Failed

_RESULTS = HERE / "RESULTS.md"


def main() -> None:
    """Do what the command line says; the exit status is 1 if any client did not do its work."""
    parser = argparse.ArgumentParser(description="What does one token of one stream cost?")
    parser.add_argument("--quick", action="store_true", help="a smoke run of seconds, whose figures mean nothing")
    parser.add_argument("--rounds", type=int, default=9, help="how often everything is measured (default: 9)")
    parser.add_argument("--write", action="store_true", help=f"write the tables to {_RESULTS.name} too")
    parser.add_argument("--fresh", action="store_true", help="install the peers anew, in their newest versions")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if options.quick and options.write:
        parser.error("the figures of --quick are not worth writing down")
    try:
        report = _report(1 if options.quick else options.rounds, quick=options.quick, fresh=options.fresh)
    except Failed as failure:
        sys.exit(str(failure))
    print(report)
    if options.write:
        how = "Written by `run.py --write`; `README.md` says how to read them."
        _RESULTS.write_text(f"# Results\n\n{how}\n\n{report}\n")


def _report(rounds: int, *, quick: bool, fresh: bool) -> str:
    environment = harness.prepare(tokens.PEERS, fresh=fresh)
    where = harness.cores()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with harness.open_laboratory(environment, where) as laboratory:
        results = tokens.measure(laboratory, rounds=rounds, quick=quick)
    parts = ["## What does one token of one stream cost?", tokens.table(results)]
    if quick:
        parts.append("**A smoke run: everything worked, and the figures mean nothing.**")
    return "\n\n".join([*parts, "## Environment", _environment(environment, where, rounds, load)])


def _environment(environment: Environment, where: Cores, rounds: int, load: float | None) -> str:
    names = ("trio", "httpx", "httpcore", "h11", "msgspec", "aiohttp", "httptools")
    versions = [f"{name} {environment.versions[name]}" for name in names if name in environment.versions]
    pinned = "nothing pinned" if where.client is None else f"clients on core {where.client}, server on {where.server}"
    lines = [
        f"- {time.strftime('%Y-%m-%d')}, trioprov at {harness.revision()}, {rounds} round{'s' * (rounds > 1)}",
        f"- {platform.python_implementation()} {platform.python_version()}, {platform.system()} {platform.release()}, "
        f"{platform.machine()}",
        f"- {harness.processor()}, {os.cpu_count()} cores; {pinned}",
        f"- {', '.join(versions)}",
        *(f"- without {peer}: {why}" for peer, why in environment.missing.items()),
    ]
    if load is not None:
        lines.append(f"- load average at the start: {load:.1f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
