"""The log and its readers: who gets what, who waits for whom, and what a reader that falls behind is told."""

from __future__ import annotations

import gc
import math
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, TypeAlias

import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from trioprov._broadcast import Broadcast, Subscription, WhenFull

POLICIES: list[WhenFull] = ["wait", "drop_oldest", "detach"]
LAST = "the end"


@dataclass(frozen=True)
class Missed:
    count: int


Item: TypeAlias = int | str | Missed
Log: TypeAlias = Broadcast[Item]


def new_log(*published: int) -> Log:
    log: Log = Broadcast(Missed)
    log.publish(published)
    return log


def subscribe(log: Log, buffer: float = 256, when_full: WhenFull = "wait", replay: bool = True) -> Subscription[Item]:
    return Subscription(log, log.subscribe(buffer=buffer, when_full=when_full, replay=replay))


def there_now(reader: Subscription[Item]) -> list[Item]:
    """All that the reader has to take, up to the end or to where it would wait."""
    items: list[Item] = []
    try:
        while True:
            items.append(reader.receive_nowait())
    except (trio.WouldBlock, trio.EndOfChannel):
        return items


async def all_of(reader: Subscription[Item]) -> list[Item]:
    return [item async for item in reader]


async def write(log: Log, *items: int) -> None:
    """A writer with manners."""
    for item in items:
        await log.wait_room()
        log.publish([item])


async def receive_into(reader: Subscription[Item], items: list[Item]) -> None:
    items.append(await reader.receive())


# -- Every reader gets every item, in order ----------------------------------------------------------------------------


@pytest.mark.parametrize("when_full", POLICIES)
async def test_every_reader_gets_every_item_in_order_and_the_last_one_once(when_full: WhenFull) -> None:
    log = new_log()
    got: list[list[Item]] = []

    async def read(reader: Subscription[Item]) -> None:
        got.append(await all_of(reader))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(read, subscribe(log, when_full=when_full))
        for start in range(0, 500, 50):
            await trio.testing.wait_all_tasks_blocked()
            log.publish(range(start, start + 50))
        log.close(LAST)
    assert got == [[*range(500), LAST]] * 3


async def test_a_late_reader_gets_everything_from_the_first_item() -> None:
    log = new_log(1, 2, 3)
    reader = subscribe(log)
    log.publish([4])
    log.close(LAST)
    assert await all_of(reader) == [1, 2, 3, 4, LAST]


async def test_without_replay_a_late_reader_starts_at_the_next_item() -> None:
    log = new_log(1, 2, 3)
    reader = subscribe(log, replay=False)
    with pytest.raises(trio.WouldBlock):
        reader.receive_nowait()
    log.publish([4])
    log.close(LAST)
    assert await all_of(reader) == [4, LAST]


@pytest.mark.parametrize("when_full", POLICIES)
@pytest.mark.parametrize("buffer", [0, 1, math.inf])
async def test_subscribing_works_after_the_end_too(when_full: WhenFull, buffer: float) -> None:
    log = new_log(*range(300))
    log.close(LAST)
    assert await all_of(subscribe(log, buffer, when_full)) == [*range(300), LAST]
    assert await all_of(subscribe(log, buffer, when_full, replay=False)) == [LAST]


async def test_after_the_last_item_the_channel_is_at_its_end_however_often_one_asks() -> None:
    log = new_log()
    reader = subscribe(log)
    log.close(LAST)
    assert await reader.receive() == LAST
    for _ in range(3):
        with pytest.raises(trio.EndOfChannel):
            await reader.receive()
        with pytest.raises(trio.EndOfChannel):
            reader.receive_nowait()
    assert await all_of(reader) == []


async def test_only_the_first_close_has_a_last_item() -> None:
    log = new_log()
    log.close(LAST)
    log.close("another end")
    assert await all_of(subscribe(log)) == [LAST]


async def test_a_log_may_end_without_a_last_item() -> None:
    log = new_log(1)
    reader, late = subscribe(log), subscribe(log, replay=False)
    log.close()
    assert (await all_of(reader), await all_of(late)) == ([1], [])


async def test_a_reader_that_waits_is_woken_by_the_end() -> None:
    log = new_log()
    ends: list[str] = []

    async def wait_for_the_end() -> None:
        with pytest.raises(trio.EndOfChannel):
            await subscribe(log).receive()
        ends.append("end")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_for_the_end)
        await trio.testing.wait_all_tasks_blocked()
        log.close()
    assert ends == ["end"]


async def test_items_are_stored_once_however_many_read() -> None:
    log = new_log()
    readers = [subscribe(log, math.inf, when_full) for when_full in POLICIES for _ in range(5)]
    log.publish(range(100))
    log.close(LAST)
    assert log.items == [*range(100), LAST]
    assert [there_now(reader) for reader in readers] == [log.items] * 15
    assert len(log) == 101


# -- wait --------------------------------------------------------------------------------------------------------------


async def test_the_room_is_what_the_fullest_buffer_of_a_reader_that_waits_has_left() -> None:
    log = new_log(1, 2, 3)
    assert log.room() == math.inf
    wide, narrow = subscribe(log, 10), subscribe(log, 4)
    readers_that_do_not_count = [
        subscribe(log, 1, "drop_oldest"),
        subscribe(log, 1, "detach"),
        subscribe(log, math.inf),
    ]
    assert log.room() == 4
    log.publish([4, 5, 6])
    assert log.room() == 1
    assert [narrow.receive_nowait() for _ in range(4)] == [1, 2, 3, 4]
    assert log.room() == 2
    narrow.close()
    assert log.room() == 7
    wide.close()
    assert log.room() == math.inf
    assert len(readers_that_do_not_count) == 3


async def test_items_from_before_the_subscription_do_not_fill_the_buffer() -> None:
    log = new_log(*range(100))
    reader = subscribe(log, 2)
    assert log.room() == 2
    log.publish([100, 101])
    assert log.room() == 0
    for item in range(100):  # the replay makes no room
        assert reader.receive_nowait() == item
        assert log.room() == 0
    assert reader.receive_nowait() == 100
    assert log.room() == 1


@pytest.mark.parametrize("replayed", [0, 3, 200])
async def test_a_reader_holds_the_writer_back_exactly_at_its_buffer(replayed: int) -> None:
    log = new_log(*range(replayed))
    reader = subscribe(log, 3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, log, *range(replayed, replayed + 5))
        await trio.testing.wait_all_tasks_blocked()
        assert len(log) == replayed + 3
        for item in range(replayed):
            assert await reader.receive() == item
        for published in (4, 5, 5, 5, 5):
            await reader.receive()
            await trio.testing.wait_all_tasks_blocked()
            assert len(log) == replayed + published


async def test_a_writer_that_is_held_back_hears_of_every_single_item_that_is_taken() -> None:
    """Also when the reader had looked at its buffer before the writer began to wait."""
    log = new_log()
    reader = subscribe(log, 10)
    log.publish(range(10))
    assert await anext(reader) == 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, log, 10, 11, 12)
        await trio.testing.wait_all_tasks_blocked()
        assert len(log) == 11
        for item, published in enumerate((12, 13), start=1):
            assert await anext(reader) == item
            await trio.testing.wait_all_tasks_blocked()
            assert len(log) == published


async def test_the_slowest_of_several_readers_decides() -> None:
    log = new_log()
    slow, quick = subscribe(log, 2), subscribe(log, 2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, log, *range(4))
        await trio.testing.wait_all_tasks_blocked()
        assert there_now(quick) == [0, 1]
        await trio.testing.wait_all_tasks_blocked()
        assert len(log) == 2
        assert [await anext(slow), await anext(slow)] == [0, 1]
        await trio.testing.wait_all_tasks_blocked()
        assert len(log) == 4


LEAVING: dict[str, Callable[[list[Subscription[Item]]], object]] = {
    "close": lambda readers: readers[0].close(),
    "with": lambda readers: readers[0].__exit__(None, None, None),
    "drop": lambda readers: readers.clear(),
}


@pytest.mark.parametrize("leave", LEAVING.values(), ids=LEAVING.keys())
async def test_the_writer_goes_on_when_the_reader_that_held_it_back_leaves(
    leave: Callable[[list[Subscription[Item]]], object],
) -> None:
    log = new_log()
    readers = [subscribe(log, 1)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, log, *range(100))
        await trio.testing.wait_all_tasks_blocked()
        assert len(log) == 1
        leave(readers)
        gc.collect()
        await trio.testing.wait_all_tasks_blocked()
        assert len(log) == 100


async def test_the_writer_goes_on_when_the_log_ends_under_it() -> None:
    log = new_log()
    reader = subscribe(log, 1)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            log.publish([1])
            nursery.start_soon(log.wait_room)
            await trio.testing.wait_all_tasks_blocked()
            log.close(LAST)
    assert log.room() == math.inf
    assert there_now(reader) == [1, LAST]


async def test_waiting_for_room_is_no_checkpoint_when_there_is_room() -> None:
    log = new_log()
    reader = subscribe(log, 1)
    with trio.testing.assert_no_checkpoints():
        await log.wait_room()
    reader.close()


async def test_a_log_that_has_more_to_wait_for_waits_for_each_where_it_happens() -> None:
    """As a lane of a fan-out does: its own reader makes room first, the merged one's later, and it hears of both."""
    merged = new_log()

    class Lane(Broadcast[Item]):
        def room(self) -> float:
            return min(super().room(), merged.room())

        async def wait_room(self) -> None:
            while self.room() <= 0:
                await (super() if super().room() <= 0 else merged).wait_room()

    lane: Log = Lane(Missed)
    own, all_lanes = subscribe(lane, 1), subscribe(merged, 1)
    lane.publish([1])
    merged.publish([1])
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lane.wait_room)
            await trio.testing.wait_all_tasks_blocked()
            own.receive_nowait()
            await trio.testing.wait_all_tasks_blocked()
            all_lanes.receive_nowait()


async def test_a_buffer_of_0_hands_over_from_hand_to_hand() -> None:
    log = new_log()
    reader = subscribe(log, 0)
    got: list[Item] = []
    assert log.room() == 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, log, *range(3))
        await trio.testing.wait_all_tasks_blocked()
        assert len(log) == 0
        for published in range(1, 4):
            await receive_into(reader, got)
            await trio.testing.wait_all_tasks_blocked()
            assert len(log) == published
    assert got == [0, 1, 2]


async def test_an_infinite_buffer_never_holds_back() -> None:
    log = new_log()
    reader = subscribe(log, math.inf)
    log.publish(range(10_000))
    assert log.room() == math.inf
    assert len(there_now(reader)) == 10_000


# -- drop_oldest -------------------------------------------------------------------------------------------------------


async def test_drop_oldest_is_told_how_many_are_missing_where_they_are_missing() -> None:
    log = new_log()
    reader = subscribe(log, 2, "drop_oldest")
    log.publish([0, 1])
    assert there_now(reader) == [0, 1]
    log.publish([2, 3, 4, 5, 6])
    assert there_now(reader) == [Missed(3), 5, 6]
    log.publish([7, 8, 9])
    assert there_now(reader) == [Missed(1), 8, 9]


async def test_drop_oldest_counts_anew_what_is_lost_after_it_was_told() -> None:
    log = new_log()
    reader = subscribe(log, 2, "drop_oldest")
    log.publish(range(5))
    assert await anext(reader) == Missed(3)
    log.publish([5])
    assert there_now(reader) == [Missed(1), 4, 5]


async def test_drop_oldest_notices_what_was_lost_between_two_items_it_takes() -> None:
    log = new_log()
    reader = subscribe(log, 4, "drop_oldest")
    log.publish(range(4))
    assert [await anext(reader), await anext(reader)] == [0, 1]
    log.publish(range(4, 8))
    assert [await anext(reader) for _ in range(5)] == [Missed(2), 4, 5, 6, 7]


async def test_drop_oldest_never_loses_the_last_item() -> None:
    log = new_log()
    readers = [subscribe(log, buffer, "drop_oldest") for buffer in (0, 1, 2)]
    log.publish(range(5))
    log.close(LAST)
    expected = [[Missed(5), LAST], [Missed(4), 4, LAST], [Missed(3), 3, 4, LAST]]
    assert [await all_of(reader) for reader in readers] == expected


@pytest.mark.parametrize("replayed", [0, 1, 2, 64, 65, 66, 100])
async def test_drop_oldest_never_loses_a_replayed_item_and_counts_none(replayed: int) -> None:
    log = new_log(*range(replayed))
    reader = subscribe(log, 2, "drop_oldest")
    log.publish(range(replayed, replayed + 5))
    assert [await anext(reader) for _ in range(replayed // 2)] == [*range(replayed // 2)]
    log.publish(range(replayed + 5, replayed + 10))
    log.close(LAST)
    late = [Missed(8), replayed + 8, replayed + 9, LAST]
    assert await all_of(reader) == [*range(replayed // 2, replayed), *late]


@pytest.mark.parametrize("when_full", POLICIES)
async def test_an_item_that_a_task_waits_for_needs_no_buffer(when_full: WhenFull) -> None:
    """As with trio's own channels, where `send_nowait` hands over to a waiting receiver even with a buffer of 0."""
    log = new_log()
    reader = subscribe(log, 0, when_full)
    got: list[Item] = []
    for item in range(3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive_into, reader, got)
            await trio.testing.wait_all_tasks_blocked()
            assert log.room() == (1 if when_full == "wait" else math.inf)
            log.publish([item])
            assert log.room() == (0 if when_full == "wait" else math.inf)
    assert got == [0, 1, 2]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(("when_full", "expected"), [("drop_oldest", [0, Missed(2), 3]), ("detach", [0, 1, Missed(2)])])
async def test_what_follows_an_item_that_was_waited_for_fills_the_buffer(
    when_full: WhenFull, expected: list[Item], at_once: bool
) -> None:
    log = new_log()
    reader = subscribe(log, 1, when_full)
    got: list[Item] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_into, reader, got)
        await trio.testing.wait_all_tasks_blocked()
        log.publish(range(4))
    got += there_now(reader) if at_once else [await anext(reader), await anext(reader)]
    assert got == expected


# -- detach ------------------------------------------------------------------------------------------------------------


async def test_detach_gets_what_was_in_its_buffer_then_how_many_it_missed_and_nothing_more() -> None:
    log = new_log()
    reader = subscribe(log, 3, "detach")
    log.publish(range(3))
    assert await anext(reader) == 0
    log.publish(range(3, 10))
    assert [await anext(reader) for _ in range(4)] == [1, 2, 3, Missed(6)]
    log.publish([10])
    assert await all_of(reader) == []
    log.close(LAST)
    assert await all_of(reader) == []
    with pytest.raises(trio.EndOfChannel):
        reader.receive_nowait()


async def test_detach_ends_with_the_count_instead_of_the_last_item() -> None:
    log = new_log()
    reader = subscribe(log, 2, "detach")
    log.publish(range(5))
    log.close(LAST)
    assert await all_of(reader) == [0, 1, Missed(4)]


async def test_detach_with_a_full_buffer_still_gets_the_last_item() -> None:
    log = new_log()
    reader = subscribe(log, 2, "detach")
    log.publish(range(2))
    log.close(LAST)
    assert await all_of(reader) == [0, 1, LAST]


@pytest.mark.parametrize("buffer", [0, 1, 3])
async def test_detach_gets_all_replayed_items_first(buffer: int) -> None:
    log = new_log(*range(100))
    reader = subscribe(log, buffer, "detach")
    log.publish(range(100, 105))
    assert await all_of(reader) == [*range(100 + buffer), Missed(5 - buffer)]


async def test_the_end_of_a_detached_reader_wakes_the_other_tasks_that_share_it() -> None:
    log = new_log()
    reader = subscribe(log, 0, "detach")
    got: list[Item] = []

    async def share() -> None:
        got.extend(await all_of(reader))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(share)
        nursery.start_soon(share)
        await trio.testing.wait_all_tasks_blocked()
        log.publish(range(5))
    assert sorted(got, key=str) == [0, 1, Missed(3)]


# -- Several tasks on one subscription ---------------------------------------------------------------------------------


@pytest.mark.parametrize("buffer", [0, 1, 7, math.inf])
async def test_tasks_that_share_a_reader_get_each_item_once_in_order(buffer: float) -> None:
    log = new_log()
    reader = subscribe(log, buffer)
    got: list[list[Item]] = [[], [], []]

    async def share(mine: list[Item]) -> None:
        async for item in reader:
            mine.append(item)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for mine in got:
            nursery.start_soon(share, mine)
        await write(log, *range(300))
        log.close(LAST)
    numbers = [[item for item in mine if item != LAST] for mine in got]
    assert sorted(sum(numbers, [])) == [*range(300)]  # type: ignore[type-var]  # noqa: RUF017
    assert all(mine == sorted(mine) for mine in numbers)  # type: ignore[type-var]
    assert all(numbers)
    assert sum(item == LAST for mine in got for item in mine) == 1


async def test_closing_wakes_every_task_that_waits_and_disturbs_no_other_reader() -> None:
    log = new_log()
    reader, other = subscribe(log), subscribe(log)
    got: list[Item] = []
    told = 0

    async def share() -> None:
        nonlocal told
        with pytest.raises(trio.ClosedResourceError):
            await reader.receive()
        told += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(share)
        nursery.start_soon(share)
        nursery.start_soon(receive_into, other, got)
        await trio.testing.wait_all_tasks_blocked()
        reader.close()
        await trio.testing.wait_all_tasks_blocked()
        assert told == 2
        log.publish([1])
    assert got == [1]


# -- Closing, and what is never waited for -----------------------------------------------------------------------------


async def test_a_closed_subscription_says_so_and_may_be_closed_again() -> None:
    log = new_log(1, 2, 3)
    reader = subscribe(log)
    assert [await anext(reader), await anext(reader)] == [1, 2]
    reader.close()
    reader.close()
    await reader.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await reader.receive()
    with pytest.raises(trio.ClosedResourceError):
        await anext(reader)
    with pytest.raises(trio.ClosedResourceError):
        reader.receive_nowait()
    log.close(LAST)
    with pytest.raises(trio.ClosedResourceError):
        reader.receive_nowait()


async def test_aclose_closes_and_is_a_checkpoint_also_when_cancelled() -> None:
    reader = subscribe(new_log())
    with trio.testing.assert_checkpoints():
        await reader.aclose()
    reader = subscribe(new_log())
    with trio.CancelScope() as scope:
        scope.cancel()
        await reader.aclose()
    assert scope.cancelled_caught
    with pytest.raises(trio.ClosedResourceError):
        reader.receive_nowait()


async def test_a_subscription_is_a_sync_and_an_async_context_manager() -> None:
    log = new_log(1)
    with subscribe(log) as reader:
        assert await reader.receive() == 1
    with pytest.raises(trio.ClosedResourceError):
        reader.receive_nowait()
    async with subscribe(log) as reader:
        assert await reader.receive() == 1
    with pytest.raises(trio.ClosedResourceError):
        reader.receive_nowait()
    assert isinstance(reader, trio.abc.ReceiveChannel)


async def test_receive_nowait_takes_only_what_is_there() -> None:
    log = new_log()
    reader = subscribe(log)
    with pytest.raises(trio.WouldBlock):
        reader.receive_nowait()
    log.publish([1])
    assert reader.receive_nowait() == 1
    with pytest.raises(trio.WouldBlock):
        reader.receive_nowait()
    log.close()
    with pytest.raises(trio.EndOfChannel):
        reader.receive_nowait()


async def test_statistics_tell_how_full_the_buffer_is_and_who_waits() -> None:
    log = new_log(*range(10))
    reader = subscribe(log, 3)
    got: list[Item] = []

    def facts() -> tuple[int, int, int, int]:
        stats = reader.statistics()
        return (
            stats.current_buffer_used,
            stats.peak_buffer_used,
            stats.tasks_waiting_send,
            stats.tasks_waiting_receive,
        )

    stats = reader.statistics()
    assert isinstance(stats, trio.MemoryChannelStatistics)
    assert (stats.max_buffer_size, stats.open_send_channels, stats.open_receive_channels) == (3, 1, 1)
    assert facts() == (0, 0, 0, 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, log, *range(10, 14))
        await trio.testing.wait_all_tasks_blocked()
        assert facts() == (3, 3, 1, 0)
        for _ in range(12):
            await anext(reader)
        await trio.testing.wait_all_tasks_blocked()
        assert facts() == (2, 3, 0, 0)
        assert there_now(reader) == [12, 13]
        nursery.start_soon(receive_into, reader, got)
        await trio.testing.wait_all_tasks_blocked()
        assert facts() == (0, 3, 0, 1)
        log.publish([14])
    log.close(LAST)
    assert reader.statistics().open_send_channels == 0
    reader.close()
    assert reader.statistics().open_receive_channels == 0
    assert facts() == (0, 3, 0, 0)


@pytest.mark.parametrize("when_full", ["drop_oldest", "detach"])
async def test_statistics_never_show_more_than_the_buffer_holds(when_full: WhenFull) -> None:
    log = new_log()
    reader = subscribe(log, 3, when_full)
    log.publish(range(10))
    stats = reader.statistics()
    assert (stats.current_buffer_used, stats.peak_buffer_used) == (3, 3)
    reader.receive_nowait()
    reader.receive_nowait()
    log.publish([10])
    assert reader.statistics().current_buffer_used == (3 if when_full == "drop_oldest" else 1)
    there_now(reader)
    stats = reader.statistics()
    assert (stats.current_buffer_used, stats.peak_buffer_used) == (0, 3)
    assert stats.open_receive_channels == (1 if when_full == "drop_oldest" else 0)


async def test_items_that_are_handed_over_never_were_in_the_buffer() -> None:
    log = new_log()
    reader = subscribe(log, 3)
    got: list[Item] = []
    for item in range(3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive_into, reader, got)
            await trio.testing.wait_all_tasks_blocked()
            log.publish([item])
            assert reader.statistics().current_buffer_used == 0
    assert reader.statistics().peak_buffer_used == 0


# -- A subscription that nobody refers to ------------------------------------------------------------------------------


async def test_a_dropped_subscription_closes_itself() -> None:
    log = new_log(1)
    async for item in subscribe(log, 1):
        assert item == 1
        break
    gc.collect()
    await trio.testing.wait_all_tasks_blocked()
    assert log.room() == math.inf


async def test_a_subscription_that_a_task_waits_on_is_not_dropped() -> None:
    log = new_log()
    got: list[Item] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_into, subscribe(log, 1), got)
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()
        await trio.testing.wait_all_tasks_blocked()
        log.publish([1])
    assert got == [1]


async def test_a_subscription_may_be_collected_in_another_thread() -> None:
    log = new_log()
    readers = [subscribe(log, 1)]
    log.publish([1])
    thread = threading.Thread(target=readers.clear)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.wait_room)
            await trio.testing.wait_all_tasks_blocked()
            thread.start()
    thread.join()
    assert log.room() == math.inf


def test_a_subscription_may_be_collected_after_the_run_has_ended() -> None:
    async def main() -> Subscription[Item]:
        return subscribe(new_log())

    reader = trio.run(main)
    del reader
    gc.collect()


async def test_a_subscription_that_is_collected_in_a_forked_child_leaves_the_loop_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = new_log()
    reader = subscribe(log, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        del reader
        gc.collect()
    await trio.testing.wait_all_tasks_blocked()
    assert log.room() == 1


# -- Checkpoints and cancellation --------------------------------------------------------------------------------------

READS: dict[str, Callable[[Subscription[Item]], Awaitable[Item]]] = {"receive": lambda r: r.receive(), "anext": anext}
each_read = pytest.mark.parametrize("read", READS.values(), ids=READS.keys())


@each_read
async def test_a_reader_that_waits_has_a_checkpoint(read: Callable[[Subscription[Item]], Awaitable[Item]]) -> None:
    log = new_log()
    reader = subscribe(log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.lowlevel.checkpoint)
        nursery.start_soon(write_later, log, 1)
        with trio.testing.assert_checkpoints():
            assert await read(reader) == 1


async def write_later(log: Log, item: int) -> None:
    await trio.testing.wait_all_tasks_blocked()
    log.publish([item])


@each_read
@pytest.mark.parametrize("replay", [True, False])
async def test_a_reader_that_finds_items_has_a_checkpoint_at_least_at_every_64th(
    read: Callable[[Subscription[Item]], Awaitable[Item]], replay: bool
) -> None:
    log = new_log()
    reader = subscribe(log, math.inf) if not replay else None
    log.publish(range(1000))
    reader = reader or subscribe(log)
    with trio.testing.assert_no_checkpoints():
        for _ in range(32):
            await read(reader)
    for _ in range(10):
        with trio.testing.assert_checkpoints():
            for _ in range(64):
                await read(reader)


@each_read
async def test_a_cancellation_is_noticed_within_64_items_and_loses_none(
    read: Callable[[Subscription[Item]], Awaitable[Item]],
) -> None:
    log = new_log(*range(1000))
    reader = subscribe(log)
    got: list[Item] = []
    while len(got) < 900:
        before = len(got)
        with trio.CancelScope() as scope:
            scope.cancel()
            while True:
                got.append(await read(reader))
        assert scope.cancelled_caught
        assert len(got) - before <= 64
        got.append(await read(reader))
    assert got == [*range(len(got))]


@each_read
@pytest.mark.parametrize("when_full", POLICIES)
async def test_a_reader_that_is_cancelled_while_it_waits_loses_nothing(
    read: Callable[[Subscription[Item]], Awaitable[Item]], when_full: WhenFull
) -> None:
    log = new_log()
    reader = subscribe(log, 5, when_full)
    with trio.move_on_after(0) as scope:
        await read(reader)
    assert scope.cancelled_caught
    assert reader.statistics().tasks_waiting_receive == 0
    log.publish(range(5))
    assert there_now(reader) == [*range(5)]


@pytest.mark.parametrize("first", ["publish", "cancel"])
@pytest.mark.parametrize("when_full", POLICIES)
async def test_a_cancellation_and_an_item_at_the_same_time_lose_nothing(first: str, when_full: WhenFull) -> None:
    log = new_log()
    reader = subscribe(log, 1, when_full)
    got: list[Item] = []
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive_into, reader, got)
            await trio.testing.wait_all_tasks_blocked()
            if first == "publish":
                log.publish([1])
                scope.cancel()
            else:
                scope.cancel()
                log.publish([1])
    assert got == ([1] if first == "publish" else [])
    assert got + there_now(reader) == [1]
    assert log.room() in (1, math.inf)


async def test_a_writer_that_is_cancelled_while_it_waits_disturbs_nobody() -> None:
    log = new_log()
    reader = subscribe(log, 1)
    log.publish([1])
    with trio.move_on_after(0) as scope:
        await log.wait_room()
    assert scope.cancelled_caught
    assert reader.statistics().tasks_waiting_send == 0
    assert there_now(reader) == [1]


async def test_ctrl_c_comes_between_two_items_and_never_into_one() -> None:
    protected: list[bool] = []

    def missed(count: int) -> Item:
        protected.append(trio.lowlevel.currently_ki_protected())
        return Missed(count)

    log: Log = Broadcast(missed)
    reader = subscribe(log, 0, "drop_oldest")
    for read in (reader.receive, partial(anext, reader)):
        log.publish([1])
        await read()
    log.publish([1])
    reader.receive_nowait()
    assert protected == [True] * 3


# -- The same as one bounded queue for each reader ---------------------------------------------------------------------


@dataclass
class Queue:
    """What a reader should see: its own bounded queue, with a hand for each task that waits."""

    when_full: WhenFull
    limit: float
    replayed: deque[Item]
    real: Subscription[Item]
    live: deque[Item] = field(default_factory=lambda: deque[Item]())
    last: deque[Item] = field(default_factory=lambda: deque[Item]())
    missed: int = 0
    full: bool = False
    told: bool = False
    closed: bool = False
    over: bool = False
    taken: int = 0
    hands: int = 0
    scopes: list[trio.CancelScope] = field(default_factory=lambda: list[trio.CancelScope]())
    expected: list[object] = field(default_factory=lambda: list[object]())
    handed: list[object] = field(default_factory=lambda: list[object]())

    @property
    def room(self) -> float:
        open_and_waits = self.when_full == "wait" and not self.closed and not self.over
        return self.limit - len(self.live) + self.hands if open_and_waits else math.inf

    def put(self, item: Item) -> None:
        if self.closed or self.told:
            return
        if self.hands:
            self.hands -= 1
            self.expected.append(item)
        elif self.full:
            self.missed += 1
        elif len(self.live) < self.limit:
            self.live.append(item)
        elif self.when_full == "drop_oldest":
            self.live.append(item)
            self.live.popleft()
            self.missed += 1
        else:
            assert self.when_full == "detach", "the writer did not respect the room"
            self.full = True
            self.missed += 1

    def end(self) -> None:
        self.over = True
        if self.full and not self.told:
            self.missed += 1
        elif not self.closed and not self.told:
            self.last.append(LAST)
            if self.hands:
                self.hands -= 1
                self.expected.append(self.last.popleft())
            self.expected += [trio.EndOfChannel] * self.hands
            self.hands = 0

    def close(self) -> None:
        self.closed = True
        self.expected += [trio.ClosedResourceError] * self.hands
        self.hands = 0

    def get(self) -> object:
        if self.closed:
            return trio.ClosedResourceError
        if self.replayed:
            return self.replayed.popleft()
        if self.missed and (self.when_full == "drop_oldest" or not self.live):
            self.told = self.when_full == "detach"
            missed, self.missed = self.missed, 0
            return Missed(missed)
        for queue in (self.live, self.last):
            if queue:
                return queue.popleft()
        return trio.EndOfChannel if self.told or self.over else trio.WouldBlock

    @property
    def buffered(self) -> float:
        return 0 if self.closed or self.told else min(self.limit, len(self.live) + len(self.last))


async def outcome(take: Callable[[], Awaitable[Item]]) -> object:
    try:
        return await take()
    except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError) as exc:
        return type(exc)
    except StopAsyncIteration:
        return trio.EndOfChannel


class Readers(RuleBasedStateMachine):
    """Runs beside the loop, in a thread; whatever touches the log is carried into the loop."""

    nursery: ClassVar[trio.Nursery]

    def __init__(self) -> None:
        super().__init__()
        self.log = new_log()
        self.published: list[Item] = []
        self.queues: list[Queue] = []
        self.ended = False

    def carry_out(self, act: Callable[[], object]) -> None:
        async def run() -> None:
            act()
            await trio.testing.wait_all_tasks_blocked()

        trio.from_thread.run(run)

    def pick(self, which: int) -> Queue:
        return self.queues[which % len(self.queues)]

    @rule(when_full=st.sampled_from(POLICIES), limit=st.sampled_from([0, 1, 2, 5, 80, math.inf]), replay=st.booleans())
    def subscribe(self, when_full: WhenFull, limit: float, replay: bool) -> None:
        def act() -> None:
            seen = self.published if replay else [item for item in self.published if item == LAST]
            reader = subscribe(self.log, limit, when_full, replay)
            self.queues.append(Queue(when_full, limit, deque(seen), reader, over=self.ended))

        if len(self.queues) < 8:
            self.carry_out(act)

    @precondition(lambda self: not self.ended)
    @rule(count=st.sampled_from([1, 1, 2, 3, 10, 100]))
    def publish_what_there_is_room_for(self, count: int) -> None:
        room = min([count, *(queue.room for queue in self.queues)])
        items: list[Item] = [*range(len(self.published), len(self.published) + int(room))]
        self.published += items
        for queue in self.queues:
            for item in items:
                queue.put(item)
        self.carry_out(lambda: self.log.publish(items))

    @precondition(lambda self: self.queues)
    @rule(
        which=st.integers(0), count=st.sampled_from([1, 2, 10, 70]), how=st.sampled_from(["nowait", "receive", "anext"])
    )
    def take(self, which: int, count: int, how: str) -> None:
        queue = self.pick(which)
        real = queue.real

        async def nowait() -> Item:
            return real.receive_nowait()

        async def run() -> None:
            take = {"nowait": nowait, "receive": real.receive, "anext": real.__anext__}[how]
            for _ in range(count):
                expected = queue.get()
                got = await outcome(take if expected is not trio.WouldBlock else nowait)
                assert got == expected

        trio.from_thread.run(run)

    @precondition(lambda self: self.queues)
    @rule(which=st.integers(0))
    def wait(self, which: int) -> None:
        queue = self.pick(which)
        if queue.closed or queue.replayed or queue.live or queue.missed or queue.told or queue.over:
            return
        scope = trio.CancelScope()
        queue.hands += 1
        queue.scopes.append(scope)

        async def hand() -> None:
            with scope:
                queue.handed.append(await outcome(queue.real.receive))
            queue.scopes.remove(scope)

        self.carry_out(lambda: self.nursery.start_soon(hand))

    @precondition(lambda self: any(queue.hands for queue in self.queues))
    @rule(which=st.integers(0))
    def cancel_a_task_that_waits(self, which: int) -> None:
        waiting = [queue for queue in self.queues if queue.hands]
        queue = waiting[which % len(waiting)]
        queue.hands -= 1
        self.carry_out(queue.scopes[0].cancel)

    @precondition(lambda self: self.queues)
    @rule(which=st.integers(0))
    def close(self, which: int) -> None:
        self.pick(which).close()
        self.carry_out(self.pick(which).real.close)

    @precondition(lambda self: not self.ended and len(self.published) > 10)
    @rule()
    def end(self) -> None:
        self.ended = True
        self.published.append(LAST)
        for queue in self.queues:
            queue.end()
        self.carry_out(lambda: self.log.close(LAST))

    @invariant()
    def the_log_holds_what_was_published_and_no_more(self) -> None:
        assert self.log.items == self.published

    @invariant()
    def the_writer_has_exactly_the_room_that_the_queues_have(self) -> None:
        assert self.log.room() == min([math.inf, *(queue.room for queue in self.queues)])

    @invariant()
    def whoever_waited_got_what_was_handed_out(self) -> None:
        for queue in self.queues:
            assert sorted(map(str, queue.handed)) == sorted(map(str, queue.expected))

    @invariant()
    def the_statistics_are_those_of_the_queue(self) -> None:
        for queue in self.queues:
            stats = queue.real.statistics()
            assert (stats.current_buffer_used, stats.tasks_waiting_receive) == (queue.buffered, queue.hands)
            assert stats.current_buffer_used <= stats.peak_buffer_used <= queue.limit

    def teardown(self) -> None:
        for queue in self.queues:
            for scope in list(queue.scopes):
                self.carry_out(scope.cancel)


async def test_every_reader_behaves_as_if_it_had_a_bounded_queue_of_its_own() -> None:
    async with trio.open_nursery() as nursery:
        Readers.nursery = nursery
        config = settings(max_examples=100, stateful_step_count=40, deadline=None)
        await trio.to_thread.run_sync(partial(run_state_machine_as_test, Readers, settings=config))


@pytest.mark.parametrize("when_full", POLICIES)
async def test_items_and_counts_of_missed_items_add_up_under_a_random_scheduler(when_full: WhenFull) -> None:
    log = new_log(*range(50))
    reader = subscribe(log, 10, when_full)
    got: list[Item] = []

    async def read() -> None:
        async for item in reader:
            got.append(item)
            for _ in range(len(got) % 3):
                await trio.lowlevel.checkpoint()

    async def publish() -> None:
        for start in range(50, 1000, 5):
            if when_full == "wait":
                await write(log, *range(start, start + 5))
            else:
                log.publish(range(start, start + 5))
            await trio.lowlevel.checkpoint()
        log.close(LAST)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(publish)
    position = 0
    for item in got:
        if isinstance(item, Missed):
            position += item.count
        else:
            assert item == (LAST if position == 1000 else position)
            position += 1
    if when_full == "wait":
        assert got == [*range(1000), LAST]
    elif when_full == "drop_oldest":
        assert got[-1] == LAST
        assert position == 1001
    else:
        assert isinstance(got[-1], Missed)
