from __future__ import annotations

import time
from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from dlfb_lab.devices import machine

GIB = 2**30


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 64 GiB, 24 of them in use, whose control groups are mounted at `cgroups`."""
    virtual = namedtuple("virtual", "total available")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: virtual(64 * GIB, 40 * GIB))
    (tmp_path / "cgroups").mkdir()
    return tmp_path


def look(tree: Path, lines: str) -> machine.Memory:
    (tree / "self").write_text(lines)
    return machine.memory(tree / "self", tree / "cgroups")


def group(tree: Path, folder: str, files: dict[str, object]) -> None:
    place = tree / "cgroups" / folder
    place.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (place / name).write_text(f"{text}\n")


def v2(limit: object, used: int, cache: int = 0) -> dict[str, object]:
    return {"memory.max": limit, "memory.current": used, "memory.stat": f"anon 5\ninactive_file {cache}\nfile 9"}


def v1(limit: int, used: int, cache: int = 0) -> dict[str, object]:
    stat = f"inactive_file 1\ntotal_inactive_file {cache}"
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used, "memory.stat": stat}


MACHINE = machine.Memory(used_bytes=24 * GIB, total_bytes=64 * GIB, of="machine")


def container(used_bytes: int, total_bytes: int) -> machine.Memory:
    return machine.Memory(used_bytes=used_bytes, total_bytes=total_bytes, of="container")


def test_a_group_of_version_2_is_a_container(tree: Path) -> None:
    group(tree, "", v2(8 * GIB, 3 * GIB, cache=GIB))
    assert look(tree, "0::/\n") == container(2 * GIB, 8 * GIB)


def test_a_group_of_version_1_is_a_container(tree: Path) -> None:
    group(tree, "memory/docker/abc", v1(4 * GIB, 3 * GIB, cache=GIB))
    assert look(tree, "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n") == container(2 * GIB, 4 * GIB)


def test_within_a_container_of_version_1_the_mounted_root_is_the_container(tree: Path) -> None:
    group(tree, "memory", v1(4 * GIB, 3 * GIB))
    assert look(tree, "4:memory:/docker/abc\n") == container(3 * GIB, 4 * GIB)


def test_the_lowest_limit_around_this_process_counts(tree: Path) -> None:
    group(tree, "", v2("max", 30 * GIB))
    group(tree, "slurm", v2(16 * GIB, 9 * GIB))
    group(tree, "slurm/job", v2(32 * GIB, 5 * GIB))
    group(tree, "slurm/job/step", v2("max", 5 * GIB))
    assert look(tree, "0::/slurm/job/step\n") == container(9 * GIB, 16 * GIB)


@pytest.mark.parametrize("limit", ["max", 64 * GIB, 2**63 - 4096])
def test_no_lower_limit_means_the_machine(tree: Path, limit: object) -> None:
    group(tree, "", v2(limit, 3 * GIB))
    assert look(tree, "0::/\n") == MACHINE


@pytest.mark.parametrize(
    "lines", ["", "nonsense", "0::", "0::/../../elsewhere\n", "4:memory:\n", "::::\n", "1:name=systemd:/x\n"]
)
def test_what_is_said_badly_means_the_machine(tree: Path, lines: str) -> None:
    group(tree, "../elsewhere", v2(GIB, GIB))
    assert look(tree, lines) == MACHINE


def test_a_group_that_hides_its_use_is_left_out(tree: Path) -> None:
    group(tree, "", {"memory.max": 8 * GIB, "memory.current": "?"})
    assert look(tree, "0::/\n") == MACHINE


def test_without_control_groups_it_is_the_machine(tree: Path) -> None:
    assert machine.memory(tree / "nothing", tree / "nowhere") == MACHINE


def test_what_is_kept_in_memory_only_because_there_is_room_is_not_in_use(tree: Path) -> None:
    group(tree, "", v2(8 * GIB, GIB, cache=3 * GIB))
    assert look(tree, "0::/\n") == container(0, 8 * GIB)


def test_the_cpu_is_busy_for_the_share_of_time_that_all_cores_were_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    times = namedtuple("times", "user system idle iowait guest")
    told = iter([times(10, 5, 100, 10, 4), times(10.02, 5, 100.02, 10, 4.02), times(16, 7, 130, 12, 5)])
    monkeypatch.setattr(psutil, "cpu_times", lambda: next(told))
    cpu = machine.Cpu()
    assert cpu.percent() is None, "too soon to tell"
    # 6 s of users (a guest's time is a user's), 2 s of the system; 30 s idle and 2 s waiting.
    assert cpu.percent() == 20.0


def test_the_cpu_is_measured_on_this_machine() -> None:
    cpu = machine.Cpu()
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        pass
    percent = cpu.percent()
    assert percent is not None and 5 < percent <= 100


def test_the_disk_is_the_one_that_holds_the_folder(tmp_path: Path) -> None:
    room = machine.disk(tmp_path)
    assert 0 < room.used_bytes < room.total_bytes
    with pytest.raises(FileNotFoundError):
        machine.disk(tmp_path / "nowhere")
