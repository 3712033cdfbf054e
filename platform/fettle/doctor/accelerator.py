"""GPUs with their driver and libraries, or what the CPU can multiply."""

from __future__ import annotations

import subprocess
from pathlib import Path

from fettle.doctor.finding import Finding, bad, note, ok
from fettle.engine.env import device

_DRIVER_TIMEOUT_S = 10
_SMI = ["nvidia-smi", "--query-gpu=name,memory.total,memory.free,driver_version", "--format=csv,noheader"]


def check_accelerator() -> list[Finding]:
    """torch is imported only where its build or this machine is for GPUs: that takes seconds."""
    build, is_there = device(), Path("/dev/nvidiactl").exists()
    if build == "cpu" and not is_there:
        return [check_cpu(_flags())]
    if build == "cpu":
        told = "there is one, and torch and vLLM are the CPU builds"
        return [note("gpu", told, "bash deploy/setup.sh gpu"), check_cpu(_flags())]
    return [*check_driver(_driver()), *_check_torch()]


def check_cpu(flags: frozenset[str]) -> Finding:
    """flags: of /proc/cpuinfo."""
    if "avx2" not in flags:
        return bad("cpu", "has no AVX2, which vLLM's CPU build is made of", "take a machine of 2015 or later")
    if not flags & {"avx512_bf16", "amx_bf16"}:
        return ok("cpu", "no bf16 arithmetic: `precision` is by default fp32 here")
    return ok("cpu", "multiplies bf16")


def check_driver(lines: list[str] | None) -> list[Finding]:
    """lines: `name, memory, free, driver` of each GPU, None where nvidia-smi says nothing."""
    if not lines:
        fix = "install NVIDIA's driver (containers: --gpus all), or `bash deploy/setup.sh cpu`"
        return [bad("driver", "torch and vLLM are the GPU builds, and nvidia-smi names no GPU", fix)]
    parts = [[word.strip() for word in line.split(",")] for line in lines]
    names = {f"{one[0]} ({one[1]})" for one in parts}
    found = [ok("driver", f"{parts[0][3]}; {len(parts)} × {', '.join(sorted(names))}")]
    if len(names) > 1:
        found.append(note("gpus", "of different kinds: a group of workers is as fast as the slowest"))
    for number, one in enumerate(parts):
        total, free = (float(word.split()[0]) for word in one[1:3])
        if free < 0.9 * total:
            told = f"{free:,.0f} of {total:,.0f} MiB free: something else is on it"
            found.append(note(f"gpu {number}", told, "end it (nvidia-smi names it), or hide the GPU from Ray"))
    return found


def _check_torch() -> list[Finding]:
    import torch

    if not torch.cuda.is_available():
        fix = "a driver for CUDA " + str(torch.version.cuda) + " or later; CUDA_VISIBLE_DEVICES must not be empty"
        return [bad("cuda", "torch finds no GPU that it can use", fix)]
    major, minor = torch.cuda.get_device_capability(0)
    found = [ok("cuda", f"{torch.version.cuda}, capability {major}.{minor}, NCCL {'.'.join(map(str, _nccl()))}")]
    if (major, minor) < (7, 0):
        found.append(bad("capability", f"{major}.{minor}; vLLM wants 7.0", "a GPU of 2017 or later (V100, T4, …)"))
    elif not torch.cuda.is_bf16_supported(including_emulation=False):
        found.append(note("bf16", "not in this hardware", "cluster.precision: fp16, or fp32"))
    return found


def _nccl() -> tuple[int, ...]:
    import torch

    return tuple(torch.cuda.nccl.version())


def _driver() -> list[str] | None:
    try:
        told = subprocess.run(_SMI, capture_output=True, text=True, timeout=_DRIVER_TIMEOUT_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return [line for line in told.splitlines() if line.strip()]


def _flags() -> frozenset[str]:
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    line = next((one for one in told.splitlines() if one.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())
