"""Reading ahead in a thread."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from dlfb_lab.data import prefetch
from dlfb_lab.data.prefetch import Late, Prefetch
from dlfb_lab.data.reader import Reader
from dlfb_lab.errors import DataError

LONG_S = 60.0
"""Only a failing test waits so long."""


def same(item: Any) -> Any:
    return item


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "dlfb-prefetch"]


class Gate:
    """Yields numbers, each when it is let through."""

    def __init__(self) -> None:
        self.passed = threading.Semaphore(0)
        self.asked = threading.Semaphore(0)
        self.closed = threading.Event()

    def numbers(self, count: int = 1000) -> Iterator[int]:
        try:
            for number in range(count):
                self.asked.release()
                assert self.passed.acquire(timeout=LONG_S)
                yield number
        finally:
            self.closed.set()


def test_items_come_converted_and_in_order() -> None:
    assert list(Prefetch(iter(range(100)), lambda number: 2 * number)) == list(range(0, 200, 2))


def test_an_item_is_converted_by_who_has_time() -> None:
    where: dict[int, str] = {}

    def convert(number: int) -> int:
        where[number] = threading.current_thread().name
        return number

    gate = Gate()
    with Prefetch(gate.numbers(), convert, depth=2) as batches:
        gate.passed.release(4)
        deadline = time.monotonic() + LONG_S
        while 1 not in where and time.monotonic() < deadline:
            time.sleep(0.001)
        assert where == {1: "dlfb-prefetch"}, "the reader has not come for the one before"
        assert batches.get(LONG_S) == 0
        assert where[0] == threading.current_thread().name


def test_no_more_is_read_ahead_than_asked() -> None:
    gate = Gate()
    with Prefetch(gate.numbers(), same, depth=3) as batches:
        for _ in range(50):
            gate.passed.release()
        for _ in range(3):
            assert gate.asked.acquire(timeout=LONG_S)
        assert not gate.asked.acquire(timeout=0.05), "a fourth is not asked for while three wait"
        assert batches.get(LONG_S) == 0
        assert gate.asked.acquire(timeout=LONG_S), "one was taken, so one more is"


def test_whoever_waits_may_look_up_in_between() -> None:
    gate = Gate()
    with Prefetch(gate.numbers(1), same) as batches:
        with pytest.raises(Late):
            batches.get(0.01)
        gate.passed.release()
        assert batches.get(LONG_S) == 0, "nothing was lost"
        with pytest.raises(StopIteration):
            batches.get(LONG_S)
        with pytest.raises(StopIteration):
            batches.get(LONG_S)


def broken() -> Iterator[int]:
    yield 1
    raise ValueError("no more files")


def test_an_error_of_the_iterator_comes_when_its_turn_has_come() -> None:
    batches = Prefetch(broken(), same)
    assert next(batches) == 1
    with pytest.raises(
        DataError, match=r"Reading the data failed: ValueError: no more files \(at `raise ValueError"
    ) as caught:
        next(batches)
    cause = caught.value.__cause__
    assert isinstance(cause, ValueError)
    assert cause.__traceback__ is not None
    frames = [frame.name for frame in traceback.extract_tb(cause.__traceback__)]
    assert "broken" in frames, "the user's own traceback is kept"
    assert list(batches) == []


@pytest.mark.parametrize("fails", ["ours", "theirs", "StopIteration"])
def test_an_error_in_converting_is_not_the_end_of_the_data(fails: str) -> None:
    errors: dict[str, Exception] = {
        "ours": DataError("batch 3 is empty"),
        "theirs": KeyError("x"),
        "StopIteration": StopIteration(),
    }

    def convert(number: int) -> int:
        raise errors[fails]

    said = "^batch 3 is empty$" if fails == "ours" else "Reading the data failed"
    with pytest.raises(DataError, match=said):
        list(Prefetch(iter(range(3)), convert))


@pytest.mark.parametrize("end", ["close", "with", "let go"])
def test_the_iterator_is_closed_in_its_own_thread(end: str) -> None:
    closed_in: list[threading.Thread] = []

    def numbers() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed_in.append(threading.current_thread())

    batches = Prefetch(numbers(), same)
    (thread,) = readers()
    assert next(batches) == 0
    if end == "close":
        batches.close()
        batches.close()
        assert list(batches) == [], "nothing comes after the end"
    elif end == "with":
        with batches:
            pass
    else:
        del batches
        gc.collect()
    thread.join(LONG_S)
    assert not thread.is_alive()
    assert closed_in == [thread]


def test_a_generator_that_reads_ahead_may_be_closed() -> None:
    gate = Gate()

    def run() -> Iterator[int]:
        with Prefetch(gate.numbers(), same) as batches:
            yield from batches

    running = run()
    gate.passed.release()
    assert next(running) == 0
    running.close()
    gate.passed.release()
    assert gate.closed.wait(LONG_S)


def test_closing_does_not_wait_for_an_iterator_that_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "GOODBYE_S", 0.01)
    gate = Gate()
    batches = Prefetch(gate.numbers(), same)
    (thread,) = readers()
    assert gate.asked.acquire(timeout=LONG_S)
    batches.close()
    assert thread.is_alive(), "it is held by the user's code, and close has come back"
    gate.passed.release()
    thread.join(LONG_S)
    assert not thread.is_alive()
    assert gate.closed.is_set()


def test_an_error_after_closing_is_nobodys() -> None:
    gate = Gate()

    def numbers() -> Iterator[int]:
        yield from gate.numbers(1)
        raise ValueError("too late")

    batches = Prefetch(numbers(), same)
    (thread,) = readers()
    assert gate.asked.acquire(timeout=LONG_S)
    batches.close()
    gate.passed.release()
    thread.join(LONG_S)
    assert list(batches) == []


EXITS: dict[str, str] = {
    "blocked in the user's code": "import time; batches = Prefetch(iter(lambda: time.sleep(1000), 1), lambda v: v)",
    "waiting for room": "import itertools; batches = Prefetch(itertools.count(), lambda v: v); next(batches)",
    "placing on the device": (
        "import itertools, jax, numpy as np\n"
        "batches = Prefetch((np.ones((100, 100)) for _ in itertools.count()), jax.device_put)\nnext(batches)"
    ),
    "busy": "exec('def busy():\\n    while True: yield 1')\nbatches = Prefetch(busy(), lambda v: v); next(batches)",
}


@pytest.mark.parametrize("state", EXITS)
def test_the_interpreter_ends_whatever_the_thread_does(state: str) -> None:
    code = f"from dlfb_lab.data.prefetch import Prefetch\n{EXITS[state]}\nprint('done')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("done\n", "", 0)


def test_no_thread_is_left_behind() -> None:
    assert list(Prefetch(iter([1]), same)) == [1]
    for thread in readers():
        thread.join(LONG_S)
    assert not readers()


def test_a_reader_does_all_in_one_thread_and_ends_with_its_last_job() -> None:
    reader = Reader()
    seen = [reader.call(threading.current_thread) for _ in range(3)]
    with pytest.raises(KeyError, match="key"):
        reader.call(lambda: {}["key"])
    with Prefetch((threading.current_thread() for _ in range(3)), same, reader=reader) as batches:
        seen += list(batches)
    assert len(set(seen)) == 1 and seen[0] is not threading.current_thread()
    seen[0].join(LONG_S)
    assert not readers()
    again = reader.call(threading.current_thread)
    assert again not in seen
    del reader
    again.join(LONG_S)
    assert not readers()


# --- items used in the thread


def spent(count: int = 1000) -> Iterator[int]:
    """Yields numbers, each when a processor has worked for 2 ms."""
    for number in range(count):
        began = time.thread_time()
        while time.thread_time() - began < 0.002:
            pass
        yield number


@pytest.fixture
def computing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes all the time of an iterator for the processor's, as it is where nothing else runs."""
    monkeypatch.setattr(prefetch, "thread_time", prefetch.perf_counter)


def test_only_the_items_of_an_iterator_that_computes_are_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, Prefetch(spent(), same) as batches:
        patch.setattr(prefetch, "thread_time", prefetch.perf_counter)
        assert not batches.lendable, "nothing is known yet"
        got = [batches.get(LONG_S) for _ in range(40)]
        assert batches.lendable
        used: list[tuple[int, threading.Thread]] = []
        while len(used) < 100:
            batches.lend(lambda item: used.append((item, threading.current_thread())) is None, 10, LONG_S)
        got += [item for item, _ in used]
        got += [batches.get(LONG_S) for _ in range(5)]
        assert got == list(range(145)), "each once, in order"
        assert {thread for _, thread in used} == set(readers())
        batches.close()
        assert not batches.lendable

    gate = Gate()
    with Prefetch(gate.numbers(), same) as batches:
        for number in range(40):
            time.sleep(0.001)
            gate.passed.release()
            assert batches.get(LONG_S) == number
        assert not batches.lendable, "it waits, and its thread with it"
        gate.passed.release()


@pytest.mark.usefixtures("computing")
def test_using_that_takes_long_is_left_to_the_reader() -> None:
    with Prefetch(spent(), same) as batches:
        for _ in range(40):
            batches.get(LONG_S)
        assert batches.lendable
        for _ in range(20):
            batches.lend(lambda item: time.sleep(0.05) is None, 1, LONG_S)
        assert not batches.lendable


def test_no_more_is_used_than_was_lent() -> None:
    gate = Gate()
    used: list[int] = []
    with Prefetch(gate.numbers(), same, depth=2) as batches:
        for _ in range(9):
            gate.passed.release()
        batches.lend(lambda item: used.append(item) is None, 3, LONG_S)
        assert used == [0, 1, 2]
        for _ in range(2):
            assert gate.asked.acquire(timeout=LONG_S)
        batches.lend(lambda item: used.append(item) is None, 4, LONG_S)
        assert used == [0, 1, 2, 3, 4, 5, 6], "those that had come before are used first"
        assert [batches.get(LONG_S), batches.get(LONG_S)] == [7, 8]
        batches.lend(lambda item: used.append(item) is None, 1, 0.01)
        gate.passed.release()
        assert batches.get(LONG_S) == 9, "what comes too late is not used"
        assert len(used) == 7
        gate.passed.release(3)


def test_what_cannot_be_used_in_the_thread_is_got() -> None:
    used: list[int] = []

    def small(item: int) -> bool:
        if item in (3, 4):
            return False
        used.append(item)
        return True

    with Prefetch(iter(range(16)), same) as batches:
        batches.lend(small, 6, LONG_S)
        assert used == [0, 1, 2]
        batches.lend(small, 6, 0.01)
        assert used == [0, 1, 2], "it still comes first"
        assert [batches.get(LONG_S), batches.get(LONG_S)] == [3, 4]
        batches.lend(small, 6, LONG_S)
        assert used == [0, 1, 2, 5, 6, 7, 8, 9, 10]
        batches.lend(small, 6, LONG_S)
        rest = list(batches)
        assert used[9:] + rest == [11, 12, 13, 14, 15], "at the end, each still once"
        batches.lend(small, 6, LONG_S)


def test_items_are_gathered_and_used_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "GATHER_S", LONG_S)
    read, bursts = 0, [[0]]

    def burdensome() -> Iterator[int]:
        nonlocal read
        for read in spent():
            bursts.append([])
            yield read

    with Prefetch(burdensome(), same, depth=2) as batches:
        got = [batches.get(LONG_S) for _ in range(40)]
        for turn in range(20):
            batches.lend(lambda item: bursts[-1].append(item) is None, 7, LONG_S)
            if turn % 3 == 0:
                got.append(batches.get(LONG_S))
        together = [burst for burst in bursts[1:] if burst]
        assert {len(burst) for burst in together} == {7}
        got += [item for burst in together for item in burst]
        got += [batches.get(LONG_S) for _ in range(40)]
        assert sorted(got) == list(range(len(got))), "each once"
        time.sleep(0.1)
        assert read <= len(got) + 1, "afterwards no more wait than before"


def test_an_error_in_using_is_raised_where_it_was_lent() -> None:
    def fails(item: int) -> bool:
        if item == 1:
            raise KeyError("weights")
        return True

    with Prefetch(iter(range(5)), same) as batches:
        with pytest.raises(KeyError, match="weights"):
            batches.lend(fails, 10, LONG_S)
        assert list(batches) == [2, 3, 4]


def test_closing_ends_lending() -> None:
    gate = Gate()
    batches = Prefetch(gate.numbers(), same)
    threading.Timer(0.05, batches.close).start()
    batches.lend(lambda item: True, 1, LONG_S)
    with pytest.raises(StopIteration):
        batches.get(LONG_S)
    gate.passed.release()
