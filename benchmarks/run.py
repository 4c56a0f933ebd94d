"""Run the benchmarks and print their tables: ``python3 benchmarks/run.py``. How to read them is in ``README.md``."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from types import ModuleType

import harness
from harness import ENVIRONMENTS, HERE, OURS, Cores, Environment, Failed
from questions import bridge, cancelling, crowd, first_token, lanes, readers, starting, tokens
from report import Part, in_short, quoting

_RESULTS = HERE / "RESULTS.md"
_README = HERE.parent / "README.md"

# Each with its rounds: the figures of a crowd, or of an import, differ less from one to the next.
QUESTIONS: Mapping[ModuleType, int] = {
    tokens: 5,
    first_token: 5,
    readers: 3,
    lanes: 5,
    crowd: 2,
    cancelling: 3,
    starting: 5,
    bridge: 4,
}


def main() -> None:
    """Do what the command line says; the exit status is 1 if any client did not do its work."""
    names = [_name(question) for question in QUESTIONS]
    parser = argparse.ArgumentParser(description="What does trioprov cost, and what do others?")
    parser.add_argument("question", nargs="*", help=f"any of {', '.join(names)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="a smoke run, whose figures mean nothing")
    parser.add_argument("--rounds", type=int, help="how often everything is measured")
    parser.add_argument(
        "--here", action="store_true", help="in this interpreter, with the peers it has; installs nothing"
    )
    parser.add_argument("--write", action="store_true", help=f"write the tables to {_RESULTS.name} too")
    parser.add_argument("--fresh", action="store_true", help="install everything anew, in the newest versions")
    options = parser.parse_args()
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if unknown := set(options.question) - set(names):
        parser.error(f"there is no question {', '.join(sorted(unknown))}")
    if options.write and (options.quick or options.question):
        parser.error("only a whole run is worth writing down")
    asked = [question for question in QUESTIONS if not options.question or _name(question) in options.question]
    try:
        report = _report(asked, options.rounds, quick=options.quick, here=options.here, fresh=options.fresh)
    except Failed as failure:
        sys.exit(str(failure))
    print(report)
    if options.write:
        how = "Written by `run.py --write`; `README.md` says how to read them."
        _RESULTS.write_text(f"# Results\n\n{how}\n\n{report}\n")
        _README.write_text(quoting(_README.read_text("utf-8"), report), "utf-8")


def _name(question: ModuleType) -> str:
    return question.__name__.rpartition(".")[2]


def _report(asked: list[ModuleType], rounds: int | None, *, quick: bool, here: bool, fresh: bool) -> str:
    environments, missing = (harness.here(), {}) if here else harness.prepare(ENVIRONMENTS, fresh=fresh)
    where = harness.cores()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    start = time.monotonic()
    answers: dict[str, list[Part]] = {}
    with harness.open_laboratory(environments, where) as laboratory:
        for question in asked:
            print(f"{question.TITLE} ({time.monotonic() - start:.0f} s)", file=sys.stderr, flush=True)
            number = 1 if quick else rounds or QUESTIONS[question]
            answers[question.TITLE] = question.ask(laboratory, number, quick=quick)
    warning = ["**A smoke run: everything worked, and the figures mean nothing.**"] if quick else []
    sections: dict[str, Sequence[Part]] = {"In short": [*warning, in_short(answers)], **answers}
    sections["Environment"] = [_environment(environments, missing, where, load, time.monotonic() - start)]
    return "\n\n".join("\n\n".join([f"## {title}", *map(str, parts)]) for title, parts in sections.items())


def _environment(
    environments: Mapping[str, Environment], missing: Mapping[str, str], where: Cores, load: float | None, took: float
) -> str:
    ours = ("trio", "httpx", "httpcore", "h11", "msgspec", "httptools", "aiohttp", "uvloop")
    peers = {"openai": "openai", "litellm": "litellm", "any-llm": "any-llm-sdk", "pydantic-ai": "pydantic-ai-slim"}
    versions = [f"{name} {environments[OURS].versions[name]}" for name in ours if name in environments[OURS].versions]
    versions += [
        f"{peers[name]} {there.versions[peers[name]]}" for name, there in environments.items() if name in peers
    ]
    pinned = "nothing pinned" if where.client is None else f"clients on core {where.client}, server on {where.server}"
    lines = [
        f"- {time.strftime('%Y-%m-%d')}, trioprov at {harness.revision()}; the run took {took / 60:.1f} minutes",
        f"- {platform.python_implementation()} {platform.python_version()}, {platform.system()} {platform.release()}, "
        f"{platform.machine()}",
        f"- {harness.processor()}, {os.cpu_count()} cores; {pinned}",
        f"- {', '.join(versions)}",
        *(f"- without {peer}: {why}" for peer, why in missing.items()),
    ]
    if load is not None:
        lines.append(f"- load average at the start: {load:.1f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
