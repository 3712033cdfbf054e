"""Cores, memory, disks and limits of this machine, or of the container that we are in."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from pathlib import Path

import psutil

from fettle.doctor.finding import Finding, bad, note, ok

_CGROUP, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_GIB = 2**30
_UNLIMITED = 1 << 60  # cgroup 1 says "none" with a number near 2^63
_SHM_SHARE, _SHM_LEAST = 0.3, 2 * _GIB  # what Ray's object store takes of memory; what a group of workers moves
_DISK_LEAST, _DISK_GOOD = 2 * _GIB, 20 * _GIB
_FILES_LEAST, _FILES_GOOD = 1024, 8192


def check_machine(out: Path) -> list[Finding]:
    """out: the folder that runs are written below."""
    memory = psutil.virtual_memory().total
    return [
        check_cpus(os.cpu_count() or 1, len(os.sched_getaffinity(0)), cgroup_cpus()),
        check_memory(memory, psutil.virtual_memory().available, cgroup_memory()),
        check_shm(*_disk(Path("/dev/shm")), memory=memory),
        *(check_disk(what, folder, *_disk(folder)) for what, folder in _folders(out).items()),
        *(check_writable(what, folder) for what, folder in _folders(out).items()),
        check_limit("open files", resource.getrlimit(resource.RLIMIT_NOFILE), _FILES_LEAST, _FILES_GOOD, "nofile"),
        check_limit("processes", resource.getrlimit(resource.RLIMIT_NPROC), 1024, 4096, "nproc"),
        check_locked(resource.getrlimit(resource.RLIMIT_MEMLOCK)[0], has_gpu=Path("/dev/nvidiactl").exists()),
    ]


def check_cpus(told: int, usable: int, limit: float | None) -> Finding:
    """told: cores the OS names. usable: those this process may run on. limit: the cgroup's share in cores."""
    least = min(usable, limit if limit is not None else usable)
    if least < told:
        why = f"this process may use {least:g} (container or taskset)"
        fix = f"start Ray with --num-cpus={max(1, int(least))}, and let cluster.workers × cpus_per_worker be no more"
        return note("cpus", f"the OS names {told}, {why}", fix)
    return ok("cpus", f"{told}")


def check_memory(total: int, available: int, limit: int | None) -> Finding:
    """Bytes. limit: the cgroup's."""
    if limit is not None and limit < total:
        fix = f"start Ray with --memory={limit * 7 // 10} and --object-store-memory={limit * 2 // 10}"
        return note("memory", f"the OS names {_gib(total)}, the container's limit is {_gib(limit)}", fix)
    if available < 2 * _GIB:
        return note("memory", f"{_gib(total)}, and only {_gib(available)} free", "end what else runs here")
    return ok("memory", f"{_gib(total)}, {_gib(available)} free")


def check_shm(free: int, total: int, *, memory: int) -> Finding:
    """/dev/shm in bytes; a container has 64 MiB of it unless told."""
    wanted = min(int(memory * _SHM_SHARE), 10 * _GIB)
    fix = f"give the container --shm-size={max(2, round(wanted / _GIB))}g (Kubernetes: an emptyDir with medium: Memory)"
    if total < 256 << 20:
        return bad("/dev/shm", f"{_gib(total)}: Ray's object store and gloo or NCCL need more", fix)
    if free < min(wanted, _SHM_LEAST):
        return note("/dev/shm", f"{_gib(free)} free: Ray's object store falls back on the disk, ten times slower", fix)
    return ok("/dev/shm", f"{_gib(free)} free")


def check_disk(what: str, folder: Path, free: int, total: int) -> Finding:
    """free, total: bytes of the disk that the folder is on."""
    told = f"{_gib(free)} of {_gib(total)} free at {folder}"
    fix = "make room; checkpoints of full training take 6 times the base's weights each (checkpoint.keep)"
    if free < _DISK_LEAST:
        return bad(f"disk: {what}", told, fix)
    if free < _DISK_GOOD or free < total // 20:  # Ray stops to spill at 95 % full
        return note(f"disk: {what}", told, fix)
    return ok(f"disk: {what}", told)


def check_writable(what: str, folder: Path) -> Finding:
    """Whether a file can really be made there, which permissions alone do not tell (read-only mounts, quotas)."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        return bad(f"write: {what}", f"{folder}: {error.strerror}", "name another folder, or let it be written to")
    return ok(f"write: {what}", str(folder))


def check_limit(what: str, limits: tuple[int, int], least: int, good: int, name: str) -> Finding:
    """limits: (soft, hard) of ulimit; -1 is none."""
    soft, hard = limits
    told = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft:,}"
    fix = f"raise `{name}` in /etc/security/limits.conf (containers: --ulimit {name}={good * 8})"
    if hard == resource.RLIM_INFINITY or hard >= good:
        flag = {"nofile": "-n", "nproc": "-u"}[name]
        fix = f"ulimit {flag} {good if hard == resource.RLIM_INFINITY else hard}, before Ray is started"
    if soft != resource.RLIM_INFINITY and soft < least:
        return bad(what, told, fix)
    if soft != resource.RLIM_INFINITY and soft < good:
        return note(what, told, fix)
    return ok(what, told)


def check_locked(soft: int, *, has_gpu: bool) -> Finding:
    """Memory that may be locked, in bytes; pinned host memory (offload) and InfiniBand want all of it."""
    if soft == resource.RLIM_INFINITY or not has_gpu:
        return ok("locked memory", "unlimited" if soft == resource.RLIM_INFINITY else f"{soft >> 10:,} KiB, no GPU")
    fix = "ulimit -l unlimited, before Ray is started (containers: --ulimit memlock=-1)"
    return note("locked memory", f"{soft >> 10:,} KiB: InfiniBand and offload may want more", fix)


def cgroup_cpus() -> float | None:
    """Cores that the container may use, by cgroup 2 or 1; None where nothing limits them."""
    for folder in _own_groups(""):
        words = _read(folder / "cpu.max").split()
        if len(words) == 2 and words[0] != "max":
            return int(words[0]) / int(words[1])
    for folder in _own_groups("cpu"):
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota and period and int(quota) > 0:
            return int(quota) / int(period)
    return None


def cgroup_memory() -> int | None:
    """Bytes that the container may use, by cgroup 2 or 1; None where nothing limits them."""
    told = [_read(folder / "memory.max") for folder in _own_groups("")]
    told += [_read(folder / "memory.limit_in_bytes") for folder in _own_groups("memory")]
    limits = [int(one) for one in told if one.isdigit() and int(one) < _UNLIMITED]
    return min(limits, default=None)


def _own_groups(controller: str) -> list[Path]:
    """Folders of this process's group and those above it; `""` is cgroup 2."""
    try:
        lines = _OWN.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            top = _CGROUP / names if names else _CGROUP
            own = top / path.lstrip("/")
            return [own, *(one for one in own.parents if one.is_relative_to(top))]
    return []


def _folders(out: Path) -> dict[str, Path]:
    """The nearest folders that exist of those written to: runs, caches, Ray's sessions."""
    wanted = {"runs": out, "cache": Path.home() / ".cache", "ray": Path(tempfile.gettempdir())}
    return {what: next(one for one in (path, *path.parents) if one.is_dir()) for what, path in wanted.items()}


def _disk(folder: Path) -> tuple[int, int]:
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return 0, 0
    return usage.free, usage.total


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB"
