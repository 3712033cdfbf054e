"""GPUs by what nvidia-smi says, CPUs by their flags."""

from __future__ import annotations

from fettle.doctor.accelerator import check_cpu, check_driver

H200 = "NVIDIA H200, 143771 MiB, 143000 MiB, 580.95.05"


def test_gpus_are_told_with_their_driver():
    (found,) = check_driver([H200, H200])

    assert (found.level, found.told) == ("ok", "580.95.05; 2 × NVIDIA H200 (143771 MiB)")


def test_gpus_of_different_kinds_and_one_that_is_in_use_are_to_be_known():
    found = check_driver([H200, "NVIDIA L4, 23034 MiB, 1000 MiB, 580.95.05"])

    assert [(one.what, one.level) for one in found] == [("driver", "ok"), ("gpus", "note"), ("gpu 1", "note")]


def test_a_gpu_build_without_a_gpu_is_to_be_mended():
    assert [one.level for one in check_driver(None)] == ["bad"]


def test_a_cpu_is_told_by_what_it_multiplies():
    assert check_cpu(frozenset({"sse4_2"})).level == "bad"
    assert "fp32 here" in check_cpu(frozenset({"avx2"})).told
    assert check_cpu(frozenset({"avx2", "amx_bf16"})).told == "multiplies bf16"
