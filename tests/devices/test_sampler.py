from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dlfb_lab.devices import sampler
from dlfb_lab.devices.background import Background
from dlfb_lab.devices.machine import Disk, Memory
from dlfb_lab.devices.nvml import Gpu, Gpus
from dlfb_lab.devices.sampler import GPU_FIGURES, Sampler

FIGURES = {"utilisation_percent": 50.0, "memory_used_bytes": 10, "temperature_c": 40.0, "power_w": 70.0}


def gpu(key: str, index: int, **given: Any) -> Gpu:
    return Gpu(key=key, index=index, name=f"NVIDIA {key}", **(FIGURES | given))


class Machine:
    """What the sampler sees: GPUs, memory and a disk that answer, fail or hang as they are told."""

    def __init__(self) -> None:
        self.gpus: Callable[[], Gpus] = lambda: Gpus(gpus=[gpu("a", 0)])
        self.disk: Callable[[Path], Disk] = lambda path: Disk(used_bytes=3, total_bytes=9)
        self.memory: Callable[[], Memory] = lambda: Memory(used_bytes=2, total_bytes=4)
        self.connections = 0
        self.closed = 0

    def nvml(self) -> SimpleNamespace:
        self.connections += 1
        return SimpleNamespace(sample=lambda: self.gpus(), close=self._close)

    def _close(self) -> None:
        self.closed += 1


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    started_s = time.time() - time.monotonic()
    for name, value in (
        ("time", lambda: started_s + time.monotonic()),  # a machine's clock may be set in the middle of a test
        ("Nvml", machine.nvml),
        ("memory", lambda: machine.memory()),
        ("disk", lambda path: machine.disk(path)),
        ("FAST_S", 0.05),
        ("SLOW_S", 0.25),
        ("RECENT_S", 0.5),
        ("PATIENCE_S", 0.3),
    ):
        monkeypatch.setattr(sampler, name, value)
    return machine


@pytest.fixture
def source(machine: Machine) -> Iterator[Sampler]:
    made = Sampler(Path("/"))
    yield made
    made.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "dlfb-devices"]


def after(source: Sampler, is_there: Callable[[dict[str, Any]], object], number: int | None = None) -> dict[str, Any]:
    """Asks until the answer is as wanted."""
    end = time.monotonic() + 10
    while True:
        answer = source.since(number)
        if is_there(answer):
            return answer
        assert time.monotonic() < end, answer
        time.sleep(0.01)


def test_the_first_answer_comes_at_once_and_says_that_nothing_is_known_yet(source: Sampler) -> None:
    answer = source.since(None)
    assert answer["reset"] is True and answer["samples"] == [] and answer["gpus"] == []
    assert (answer["memory_total_bytes"], answer["disk_total_bytes"]) == (None, None)
    assert answer["no_gpus"]


def test_a_sample_has_every_figure(source: Sampler) -> None:
    answer = after(source, lambda a: len(a["samples"]) >= 3 and a["missing"] == {})
    assert answer["no_gpus"] == ""
    assert answer["gpus"] == [
        {"index": 0, "name": "NVIDIA a", "memory_total_bytes": None, "power_limit_w": None, "missing": {}}
    ]
    assert (answer["memory_total_bytes"], answer["memory_of"], answer["disk_total_bytes"]) == (4, "machine", 9)
    sample = answer["samples"][-1]
    assert sample["gpus"] == [FIGURES]
    assert (sample["memory_used_bytes"], sample["disk_used_bytes"]) == (2, 3)
    assert 0 <= sample["cpu_percent"] <= 100
    assert abs(sample["time_s"] - time.time()) < 5
    times = [sample["time_s"] for sample in answer["samples"]]
    assert times == sorted(set(times))


def test_samples_follow_each_other_without_gap_or_repetition(source: Sampler) -> None:
    first = after(source, lambda a: a["samples"])
    told, number = [s["time_s"] for s in first["samples"]], first["next"]
    for _ in range(5):
        answer = after(source, lambda a: a["samples"], number)
        assert answer["reset"] is False
        told += [s["time_s"] for s in answer["samples"]]
        number = answer["next"]
    whole = [s["time_s"] for s in source.since(None)["samples"]]
    assert whole[: len(told)] == told


def test_nothing_new_is_nothing(source: Sampler, machine: Machine) -> None:
    answer = after(source, lambda a: len(a["samples"]) >= 2)
    again = source.since(source.since(answer["next"])["next"])
    assert (again["reset"], again["samples"]) == (False, [])


@pytest.mark.parametrize("number", [-1, 0, 17, 2**62])
def test_a_number_of_another_server_gives_all(source: Sampler, number: int) -> None:
    after(source, lambda a: len(a["samples"]) >= 2)
    answer = source.since(number)
    assert answer["reset"] is True and len(answer["samples"]) >= 2


def test_many_who_ask_share_one_thread(source: Sampler, machine: Machine) -> None:
    def ask() -> None:
        for _ in range(50):
            source.since(None)
            time.sleep(0.002)

    clients = [threading.Thread(target=ask) for _ in range(16)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    after(source, lambda a: a["samples"])
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("dlfb-devices") == names.count("dlfb-gpus") == names.count("dlfb-disk") == 1
    assert machine.connections == 1


def test_samples_are_fewer_when_nobody_asks_and_it_ends_after_a_while(
    source: Sampler, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "RECENT_S", 0.1)
    monkeypatch.setattr(sampler, "IDLE_S", 1.0)
    first = after(source, lambda a: a["samples"])
    time.sleep(1.8)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dlfb-")]
    assert machine.closed == 1
    later = source.since(first["next"])
    assert later["reset"] is False
    gaps = [b["time_s"] - a["time_s"] for a, b in zip(later["samples"], later["samples"][1:], strict=False)]
    assert 2 <= len(later["samples"]) <= 8, "a few at the quick pace, then four a second"
    assert max(gaps) > 0.2
    again = after(source, lambda a: a["samples"], later["next"])
    assert again["reset"] is False and machine.connections == 2, "it starts again when somebody asks"


def test_only_ten_minutes_are_kept(source: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "HISTORY_S", 0.3)
    first = after(source, lambda a: a["samples"])
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        answer = source.since(None)
        time.sleep(0.02)
    times = [sample["time_s"] for sample in answer["samples"]]
    assert times[-1] - times[0] <= 0.31
    assert source.since(first["next"])["reset"] is True, "what follows that sample is not kept any more"


def test_a_driver_that_hangs_delays_nobody_and_its_age_is_told(source: Sampler, machine: Machine) -> None:
    hangs = threading.Event()
    good = after(source, lambda a: a["samples"] and a["gpus"])
    machine.gpus = lambda: (hangs.wait(20), Gpus(gpus=[gpu("a", 0)]))[1]
    try:
        answer = after(
            source, lambda a: len(a["samples"]) > len(good["samples"]) + 5 and a["gpus"] and a["gpus"][0]["missing"]
        )
        told = answer["gpus"][0]["missing"]["power_w"]
        assert re.fullmatch(r"the NVIDIA driver has not answered for \d+ s; its last figures are that old", told)
        assert answer["gpus"][0]["name"] == "NVIDIA a"
        assert answer["samples"][-1]["gpus"] == [dict.fromkeys(GPU_FIGURES)]
        assert answer["samples"][-1]["memory_used_bytes"] == 2, "the machine's figures go on"
        # An answer that waited for it would never come.
        source.since(answer["next"])
    finally:
        hangs.set()
    recovered = after(source, lambda a: a["samples"][-1]["gpus"] == [FIGURES])
    assert recovered["gpus"][0]["missing"] == {}


def test_a_driver_that_hangs_from_the_start_is_the_reason_for_no_gpus(source: Sampler, machine: Machine) -> None:
    hangs = threading.Event()
    machine.gpus = lambda: (hangs.wait(20), Gpus())[1]
    try:
        answer = after(source, lambda a: len(a["samples"]) >= 3)
        assert answer["gpus"] == [] and "the NVIDIA driver has not answered" in answer["no_gpus"]
        source.close()
    finally:
        hangs.set()
    assert machine.closed == 0, "a connection is not closed under a question"


def test_a_disk_that_hangs_or_is_gone_is_told(source: Sampler, machine: Machine) -> None:
    def gone(path: Path) -> Disk:
        raise FileNotFoundError(2, "No such file or directory")

    machine.disk = gone
    answer = after(source, lambda a: a["samples"])
    assert answer["samples"][-1]["disk_used_bytes"] is None
    assert "No such file or directory" in answer["missing"]["disk_used_bytes"]
    hangs = threading.Event()
    machine.disk = lambda path: (hangs.wait(20), Disk(used_bytes=3, total_bytes=9))[1]
    try:
        answer = after(source, lambda a: "has not answered for" in a["missing"].get("disk_used_bytes", ""))
        assert answer["samples"][-1]["gpus"] == [FIGURES], "the others go on"
    finally:
        hangs.set()
    assert after(source, lambda a: a["samples"][-1]["disk_used_bytes"])["disk_total_bytes"] == 9


def test_a_figure_that_cannot_be_had_is_none_with_its_reason(
    source: Sampler, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def percent(self) -> float:
            raise OSError("no such counter")

    def no_memory() -> Memory:
        raise RuntimeError("out of order")

    monkeypatch.setattr(sampler, "Cpu", Broken)
    machine.memory = no_memory
    answer = after(source, lambda a: a["samples"])
    assert answer["samples"][-1]["cpu_percent"] is None and answer["samples"][-1]["memory_used_bytes"] is None
    assert "no such counter" in answer["missing"]["cpu_percent"]
    assert "out of order" in answer["missing"]["memory_used_bytes"]
    assert answer["samples"][-1]["gpus"] == [FIGURES]


def test_a_sample_that_fails_is_not_the_last_one(
    source: Sampler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = after(source, lambda a: a["samples"])
    with monkeypatch.context() as broken:
        broken.setattr(sampler, "Sample", None)
        time.sleep(0.3)
    assert after(source, lambda a: len(a["samples"]) >= 2, first["next"])["reset"] is False
    assert len(caplog.records) == 1, "the log is told once"


def test_a_gpu_that_vanishes_keeps_its_place_and_says_so(source: Sampler, machine: Machine) -> None:
    machine.gpus = lambda: Gpus(gpus=[gpu("a", 0, power_w=1.0), gpu("b", 1, power_w=2.0)])
    first = after(source, lambda a: a["samples"])
    machine.gpus = lambda: Gpus(gpus=[gpu("b", 1, power_w=2.0)])
    answer = after(source, lambda a: a["gpus"][0]["missing"])
    assert answer["gpus"][0]["missing"] == dict.fromkeys(GPU_FIGURES, "the GPU is not there any more")
    assert answer["gpus"][1]["missing"] == {}
    assert answer["samples"][0]["gpus"][0]["power_w"] == 1.0
    assert [g["power_w"] for g in answer["samples"][-1]["gpus"]] == [None, 2.0]
    assert source.since(first["next"])["reset"] is False, "places have not changed"


def test_a_gpu_that_appears_gets_a_place_in_all_samples(source: Sampler, machine: Machine) -> None:
    machine.gpus = lambda: Gpus(gpus=[gpu("b", 1, power_w=2.0)])
    first = after(source, lambda a: a["samples"])
    machine.gpus = lambda: Gpus(gpus=[gpu("a", 0, power_w=1.0), gpu("b", 1, power_w=2.0)])
    answer = after(source, lambda a: len(a["gpus"]) == 2, first["next"])
    assert answer["reset"] is True
    assert [g["index"] for g in answer["gpus"]] == [0, 1]
    assert [g["power_w"] for g in answer["samples"][0]["gpus"]] == [None, 2.0]
    assert [g["power_w"] for g in answer["samples"][-1]["gpus"]] == [1.0, 2.0]


def test_a_gpu_is_forgotten_when_no_sample_shows_it(
    source: Sampler, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "HISTORY_S", 0.3)
    after(source, lambda a: a["gpus"])
    machine.gpus = lambda: Gpus(reason="no NVIDIA driver was found")
    answer = after(source, lambda a: a["gpus"][0]["missing"])
    assert answer["gpus"][0]["missing"]["power_w"] == "no NVIDIA driver was found" and answer["no_gpus"] == ""
    answer = after(source, lambda a: not a["gpus"])
    assert answer["no_gpus"] == "no NVIDIA driver was found"


def test_a_clock_that_is_set_back_begins_anew(
    source: Sampler, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = after(source, lambda a: len(a["samples"]) >= 3)
    monkeypatch.setattr(sampler, "time", lambda: time.time() - 3600)
    answer = after(source, lambda a: a["samples"][-1]["time_s"] < time.time() - 3000)
    times = [sample["time_s"] for sample in answer["samples"]]
    assert times == sorted(times)
    assert source.since(first["next"])["reset"] is True


def test_closing_ends_it_for_good(source: Sampler, machine: Machine) -> None:
    after(source, lambda a: a["samples"])
    source.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dlfb-")]
    assert machine.closed == 1
    assert source.since(None)["samples"], "what was sampled can still be had"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dlfb-")]


def test_asking_in_the_background_waits_no_longer_than_told() -> None:
    goes_on = threading.Event()
    background = Background(lambda: goes_on.wait(10), "slow")
    answer, due_s = background.ask(0.05)
    assert answer is None and 0.04 < due_s < 1
    assert background.hangs
    again_s = background.ask(5)[1]
    assert again_s > due_s, "it is not asked twice, and nobody waits twice"
    goes_on.set()
    time.sleep(0.1)
    assert background.ask(0.05) == (True, 0.0)
    background.stop(1)
    assert not [thread for thread in threading.enumerate() if thread.name == "slow"]


def test_the_interval_is_that_of_the_samples_that_are_handed_out(source: Sampler) -> None:
    assert source.since(None)["interval_s"] == sampler.FAST_S
    after(source, lambda told: told["samples"])
    time.sleep(sampler.RECENT_S + 0.1)
    assert source.since(None)["interval_s"] == sampler.SLOW_S
    assert source.since(None)["interval_s"] == sampler.FAST_S
