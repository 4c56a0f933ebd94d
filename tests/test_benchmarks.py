"""Every question of the benchmarks still gets its answers; how fast, no test can say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def test_a_smoke_run_asks_every_question_and_every_client_reads_all_that_was_sent() -> None:
    run = [sys.executable, str(BENCHMARKS / "run.py"), "--quick", "--here"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    short, *answers, environment = done.stdout.removeprefix("## ").split("\n## ")
    questions = [path for path in (BENCHMARKS / "questions").glob("*.py") if path.stem != "__init__"]
    assert short.startswith("In short\n\n**A smoke run")
    assert len(answers) == len(questions)
    assert all("trioprov" in section for section in [*answers, environment])


def test_a_smoke_run_of_the_profiles_finds_work_in_every_table() -> None:
    run = [sys.executable, str(BENCHMARKS / "profiles.py"), "--quick", "--here"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    *tables, _environment = done.stdout.removeprefix("## ").split("\n## ")
    shares = [table for table in tables if "| **all** |" in table]
    assert len(shares) == len(tables) - 2 == 5  # the others tell of the collector, and of two threads
    assert re.search(r"\b[1-9]\d* µs of CPU in the thread of the event loop, and [1-9]\d* µs in trio's", done.stdout)
    assert all("`trioprov/" in table or "`trioprov`" in table for table in shares)
