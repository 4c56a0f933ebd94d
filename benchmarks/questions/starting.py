"""What does it cost before anything is said: importing, and opening a session that needs no request?"""

from __future__ import annotations

import json
import random
from statistics import median

from harness import OURS, Laboratory
from peers import ANY_LLM, G4F, LITELLM, OPENAI, PYDANTIC_AI, TRIOPROV
from report import Cell, Goal, Part, goals, measured, ratio, table

TITLE = "What does it cost to begin: an import, and a session without a request?"

_OURS = "**trioprov**"
_STANDS_ON = "trio and httpx"

# Label: what is imported, of which package, and where that is installed.
_IMPORTS = {
    _OURS: ("trioprov", "trio", OURS),
    _STANDS_ON: ("trio, httpx", "trio", OURS),
    "trio": ("trio", "trio", OURS),
    "aiohttp": ("aiohttp", "aiohttp", OURS),
    "g4f": ("g4f", "g4f", G4F.environment),
    "OpenAI SDK": ("openai", "openai", OPENAI.environment),
    "LiteLLM": ("litellm", "litellm", LITELLM.environment),
    "any-llm": ("any_llm", "any-llm-sdk", ANY_LLM.environment),
    "pydantic-ai": ("pydantic_ai", "pydantic-ai-slim", PYDANTIC_AI.environment),
}

_PROGRAM = """
import json, resource, time
def memory(): return int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize() / 2**20
try: before = memory()
except OSError: memory = lambda: 0.0; before = 0.0
start = time.process_time()
import {names}
print(json.dumps([(time.process_time() - start) * 1e3, memory() - before]))
"""


def ask(laboratory: Laboratory, rounds: int, *, quick: bool) -> list[Part]:
    """Imports in fresh interpreters, whose caches of compiled files are warm; then sessions."""
    times: dict[str, list[float]] = {}
    sizes: dict[str, list[float]] = {}
    there = laboratory.environments
    imports = [
        label for label, (_, package, home) in _IMPORTS.items() if home in there and package in there[home].versions
    ]
    for number in range(-1, rounds):
        for label in random.Random(number).sample(imports, len(imports)):
            names, _, home = _IMPORTS[label]
            if number > 1 and home != OURS:
                continue  # they take seconds, and are far away
            milliseconds, megabytes = json.loads(laboratory.run(home, "-c", _PROGRAM.format(names=names)))
            if number >= 0:  # the first time, files may have to be compiled
                times.setdefault(label, []).append(milliseconds)
                sizes.setdefault(label, []).append(megabytes)
    cell = Cell(TRIOPROV, "", "opening", ("20" if quick else "300",))
    reports = measured(laboratory, [cell], rounds=rounds)[cell]
    session, alone = (median(report[what] * 1e3 for report in reports) for what in ("session", "alone"))
    contexts = max(report["contexts"] for report in reports)
    return [
        "### Importing",
        table(times, "ms of CPU", [_STANDS_ON], {"MB": sizes}),
        "### Opening and leaving a session of a service that needs no request for it",
        f"{session:.2f} ms with a client, {alone:.2f} ms without; {contexts} SSL contexts were made.",
        goals(
            Goal("importing, × trio and httpx", 1.15, ratio(times, _OURS, _STANDS_ON)),
            Goal("opening a session without a client", 0.3, alone, " ms"),
            Goal("SSL contexts made for that", 0, contexts),
        ),
    ]
