"""The table of who leaves conversations behind says what README says, and would notice if it did not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "leaks.py"
EARLIER = "generator, DELETE after the loop"
IN_FINALLY = "generator, DELETE in `finally`"
SHIELDED = "generator, DELETE in a shielded `finally`"
JOURNAL = "trioprov with a journal, then `sweep`"

Table = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def leaks() -> Table:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()]
    return {label: dict(zip(head[1:], cells, strict=True)) for label, *cells in rows}


def leaking(row: dict[str, str]) -> set[str]:
    assert all(cell == "deleted" or cell.startswith("**leaked**") for cell in row.values())
    return {way for way, cell in row.items() if cell != "deleted"}


def test_trioprov_leaves_nothing_behind_unless_its_process_is_killed(leaks: Table) -> None:
    assert leaking(leaks["trioprov"]) == {"SIGKILL"}


def test_with_a_journal_a_sweep_deletes_what_a_killed_process_left(leaks: Table) -> None:
    assert leaking(leaks[JOURNAL]) == set()


@pytest.mark.parametrize("label", [EARLIER, IN_FINALLY])
def test_a_generator_without_a_shield_leaks_on_every_way_out_but_the_end(leaks: Table, label: str) -> None:
    everywhere = {"break", "exception", "cancel", "cancel in create", "abandoned", "SIGKILL"}
    assert leaking(leaks[label]) == everywhere
    assert set(leaks[label]) == {"exhausted", *everywhere}


def test_a_shield_does_not_help_where_the_conversation_has_no_name_yet(leaks: Table) -> None:
    assert leaking(leaks[SHIELDED]) == {"cancel in create", "SIGKILL"}
