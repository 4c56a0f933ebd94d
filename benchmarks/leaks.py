"""Who leaves a conversation on the server, and when: ``python benchmarks/leaks.py``, in the environment of the tests.

Clients of five shapes are left in seven ways, and each time the server, an emulator of H2O's chat-ui, is asked what is
left when everything of the client has ended. Every cell is run, in event loops and with a server of its own. The exit
status is 1 if trioprov leaves anything behind where it promises not to.
"""

from __future__ import annotations

import gc
import json
import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio
from shapes import Place, Reading
from shapes.by_hand import after_the_loop, in_finally, in_shielded_finally
from shapes.ways import KILLED, WAYS, Leaving, Server, creates
from shapes.with_trioprov import by_its_handle, in_a_block, in_a_generator, sweep, with_a_journal

from trioprov import H2o
from trioprov.testing import open_emulator

_PATIENCE = 60.0  # seconds after which something hangs

# -- The clients ------------------------------------------------------------------------------------------------------


def _bare(generator: Callable[[str], AsyncGenerator[str]]) -> Reading:
    """A generator has no block of its own: whoever leaves the loop has left."""
    return lambda place: nullcontext(generator(place.url))


@dataclass(frozen=True)
class Shape:
    """A row: a client, in each of the ways in which it can be used.

    Attributes:
        label: what the table calls it.
        readings: its uses; the row is the worst of them.
        promise: the columns in which it must not leak, if it promises anything.
        afterwards: what the next process does when this one was killed.
    """

    label: str
    readings: Sequence[Reading]
    promise: frozenset[str] = frozenset()
    afterwards: Callable[[Place], Awaitable[None]] | None = None


_EVERYWHERE = frozenset(way.label for way in WAYS)


SHAPES = (
    Shape("generator, DELETE after the loop", [_bare(after_the_loop)]),
    Shape("generator, DELETE in `finally`", [_bare(in_finally)]),
    Shape("generator, DELETE in a shielded `finally`", [_bare(in_shielded_finally)]),
    Shape("trioprov", [_bare(in_a_generator), in_a_block, by_its_handle], _EVERYWHERE - {KILLED}),
    Shape("trioprov with a journal, then `sweep`", [with_a_journal], _EVERYWHERE, sweep),
)


# -- One client -------------------------------------------------------------------------------------------------------


class Failed(Exception):
    """A cell could not be measured, or says what it must not."""


async def measure(row: int, number: int) -> dict[str, tuple[int, int]]:
    """Leave one client in every way; by column, how many conversations it created and how many of them stayed."""
    shape = SHAPES[row]
    counts: dict[str, tuple[int, int]] = {}
    for way in WAYS:
        with tempfile.TemporaryDirectory() as directory:
            async with open_emulator(H2o, **way.script) as server:
                place = Place(server.url, Path(directory, "journal"))
                for leaving in way.leavings:
                    life = partial(_live, leaving, shape.readings[number], place, server)
                    await trio.to_thread.run_sync(life, abandon_on_cancel=True)
                if not way.leavings:
                    await _kill(row, number, place)
                await _settled(server)
                if not way.leavings and shape.afterwards is not None:
                    await shape.afterwards(place)
                created, runs = creates(server), len(way.leavings) or 1
                if created != runs:
                    raise Failed(f"{shape.label}, {way.label}: {created} conversations were created in {runs} runs")
                counts[way.label] = created, len(server.conversations)
    return counts


def _live(leaving: Leaving, reading: Reading, place: Place, server: Server) -> None:
    """The whole life of an event loop in which a client is left."""

    async def program() -> None:
        await leaving(reading, place, server)
        await trio.sleep(0.02)  # a program goes on, so what was dropped can be cleaned up

    trio.run(program)
    place.held.clear()


async def _kill(row: int, number: int, place: Place) -> None:
    """The same in a process of its own, which is killed when it has read a token."""
    process = await trio.lowlevel.open_process(_command(row, number, place.url, place.journal), stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        streams = await process.stdout.receive_some()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()
    if not streams:
        raise Failed(f"{SHAPES[row].label}, {KILLED}: nothing was read")


async def _live_until_killed(reading: Reading, place: Place) -> None:
    async with reading(place) as tokens:
        async for _ in tokens:
            print("streams", flush=True)


async def _settled(server: Server) -> None:
    """Wait until the server has finished with every connection of a client that is gone."""
    gc.collect()
    await trio.sleep(0.02)
    with trio.move_on_after(1):
        while server.connections:  # noqa: ASYNC110 - another thread's
            await trio.sleep(0.005)


# -- All of them ------------------------------------------------------------------------------------------------------


@dataclass
class Cell:
    """What came out: so many conversations were created, and so many of them stayed."""

    created: int = 0
    leaked: int = 0

    def __str__(self) -> str:
        if not self.leaked:
            return "deleted"
        return "**leaked**" if self.leaked == self.created else f"**leaked** {self.leaked} of {self.created}"


Cells = dict[tuple[str, str], Cell]


async def measure_all() -> Cells:
    """Every cell; each client in a process of its own, so that they share no garbage collector."""
    cells = {(shape.label, way.label): Cell() for shape in SHAPES for way in WAYS}
    failed: list[str] = []

    async def run(row: int, number: int) -> None:
        done = await trio.run_process(_command(row, number), capture_stdout=True, check=False)
        if done.returncode:
            failed.append(SHAPES[row].label)
            return
        for way, (created, leaked) in json.loads(done.stdout).items():
            cell = cells[SHAPES[row].label, way]
            cell.created += created
            cell.leaked += leaked

    with trio.fail_after(_PATIENCE):
        async with trio.open_nursery() as nursery:
            for row, shape in enumerate(SHAPES):
                for number in range(len(shape.readings)):
                    nursery.start_soon(run, row, number)
    if failed:
        raise Failed(f"not measured: {', '.join(failed)}")
    return cells


def table(cells: Cells) -> str:
    """The cells as Markdown."""
    lines = [["", *(way.label for way in WAYS)], ["---"] * (len(WAYS) + 1)]
    lines += [[shape.label, *(str(cells[shape.label, way.label]) for way in WAYS)] for shape in SHAPES]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Print the table; with arguments, be a process that is measured."""
    try:
        if len(sys.argv) > 1:
            _be_measured(*sys.argv[1:])
        else:
            _report()
    except Failed as failure:
        sys.exit(str(failure))


def _report() -> None:
    cells = trio.run(measure_all)
    print(table(cells))
    broken = [f"{row.label}, {way}" for row in SHAPES for way in sorted(row.promise) if cells[row.label, way].leaked]
    if broken:
        raise Failed(f"leaked against the promise: {'; '.join(broken)}")


def _be_measured(row: str, number: str, url: str = "", journal: str = "") -> None:
    shape = SHAPES[int(row)]
    warnings.simplefilter("ignore", ResourceWarning)  # what is abandoned here is abandoned on purpose …
    if not shape.promise:
        logging.getLogger("trio.async_generator_errors").disabled = True  # … and httpx's own generators complain too
    if url:
        trio.run(_live_until_killed, shape.readings[int(number)], Place(url, Path(journal)))
    else:
        gc.disable()  # it runs when it is called, and never in the server's thread
        print(json.dumps(trio.run(measure, int(row), int(number))))


def _command(*arguments: object) -> list[str]:
    return [sys.executable, __file__, *map(str, arguments)]


if __name__ == "__main__":
    main()
