"""Cores, memory, disks and limits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fettle.doctor import machine
from fettle.doctor.machine import (
    cgroup_cpus,
    cgroup_memory,
    check_cpus,
    check_disk,
    check_limit,
    check_locked,
    check_memory,
    check_shm,
    check_writable,
)

GIB = 2**30


def test_a_container_with_fewer_cores_than_the_os_names_says_how_many_to_tell_ray():
    found = check_cpus(64, 64, 3.5)

    assert found.level == "note" and "64" in found.told and "3.5" in found.told
    assert found.fix.startswith("start Ray with --num-cpus=3")
    assert check_cpus(8, 8, None).level == "ok"


def test_a_containers_memory_counts_and_not_the_machines():
    assert "limit is 16.0 GiB" in check_memory(256 * GIB, 200 * GIB, 16 * GIB).told
    assert check_memory(32 * GIB, 30 * GIB, None).level == "ok"
    assert check_memory(32 * GIB, 1 * GIB, None).level == "note"


@pytest.mark.parametrize(
    ("free", "total", "level"), [(64 << 20, 64 << 20, "bad"), (GIB, 8 * GIB, "note"), (8 * GIB, 8 * GIB, "ok")]
)
def test_a_containers_64_mib_of_shared_memory_are_to_be_mended(free: int, total: int, level: str):
    found = check_shm(free, total, memory=32 * GIB)

    assert found.level == level
    assert level == "ok" or "--shm-size=10g" in found.fix


@pytest.mark.parametrize(("free", "level"), [(1, "bad"), (19, "note"), (60, "ok")])
def test_a_disk_is_told_by_its_room(free: int, level: str, tmp_path: Path):
    assert check_disk("runs", tmp_path, free * GIB, 252 * GIB).level == level


def test_a_disk_above_95_percent_is_full_for_ray(tmp_path: Path):
    assert check_disk("ray", tmp_path, 40 * GIB, 1000 * GIB).level == "note"


def test_a_folder_is_tried_and_not_believed(tmp_path: Path):
    assert check_writable("runs", tmp_path).level == "ok"
    assert os.listdir(tmp_path) == []
    assert check_writable("runs", Path("/proc")).level == "bad"


@pytest.mark.parametrize(
    ("limits", "level", "fix"),
    [
        ((256, 4096), "bad", "/etc/security/limits.conf"),
        ((1024, 1 << 20), "note", "ulimit -n 1048576"),
        ((65536, 65536), "ok", None),
        ((-1, -1), "ok", None),
    ],
)
def test_a_low_limit_says_who_can_raise_it(limits: tuple[int, int], level: str, fix: str | None):
    found = check_limit("open files", limits, 1024, 8192, "nofile")

    assert found.level == level
    assert fix is None or fix in found.fix


def test_locked_memory_matters_where_there_is_a_gpu():
    assert check_locked(8 << 20, has_gpu=False).level == "ok"
    assert check_locked(8 << 20, has_gpu=True).level == "note"


@pytest.mark.parametrize(
    ("lines", "files", "cpus", "memory"),
    [
        (
            "0::/pod/c\n",
            {"pod/c/cpu.max": "150000 100000", "pod/memory.max": "1073741824", "pod/c/memory.max": "max"},
            1.5,
            GIB,
        ),
        (
            "4:memory:/m\n1:cpu:/\n",
            {
                "memory/m/memory.limit_in_bytes": "9223372036854771712",
                "memory/memory.limit_in_bytes": "2147483648",
                "cpu/cpu.cfs_quota_us": "200000",
                "cpu/cpu.cfs_period_us": "100000",
            },
            2.0,
            2 * GIB,
        ),
        ("0::/\n", {"cpu.max": "max 100000"}, None, None),
    ],
)
def test_limits_of_the_groups_above_count_too(
    lines: str, files: dict[str, str], cpus: float | None, memory: int | None, tmp_path: Path, monkeypatch
):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    own = tmp_path / "own"
    own.write_text(lines)
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(machine, "_OWN", own)

    assert (cgroup_cpus(), cgroup_memory()) == (cpus, memory)
