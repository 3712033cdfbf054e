"""Checkpoints by the names of parameters: written beside the training, read by any number of workers."""

from __future__ import annotations

import errno
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fettle.errors import FettleError
from fettle.train import writer as writer_module
from fettle.train.checkpoint import Checkpoints, Fence
from fettle.train.shares import Share, shares_of
from fettle.train.writer import CheckpointWriter, Written


@pytest.fixture
def checkpoints(tmp_path: Path, fence: Fence) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", "fingerprint", keep=2, fence=fence)


def model_of(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.ones(5, 3)).square().sum().backward()
    optimizer.step()


def halves(model: nn.Module, rank: int) -> list[Share]:
    """What ZeRO 2 hands each of two workers: a half of one vector of all parameters, which cuts one of them in two."""
    named = list(model.named_parameters())
    size = sum(parameter.numel() for _, parameter in named) // 2
    flat = torch.cat([parameter.detach().flatten() for _, parameter in named])[rank * size : (rank + 1) * size]
    found, begin = [], 0
    for name, parameter in named:
        start, end = max(begin, rank * size), min(begin + parameter.numel(), (rank + 1) * size)
        if start < end:
            found.append(Share(name, parameter, start - begin, end - start, flat, start - rank * size))
        begin += parameter.numel()
    return found


def test_a_stage_goes_on_with_the_weights_and_moments_it_had(checkpoints):
    model = model_of(0)
    optimizer = adamw(model)
    step(model, optimizer)
    writer = CheckpointWriter(checkpoints, "attempt", rank=0, world=1)
    writer.write(1, shares_of(model, optimizer), optimizer.state)
    step(model, optimizer)  # while it is being written
    writer.wait()

    found, folder = checkpoints.latest()
    other = model_of(1)
    written, its = Written(folder), adamw(other)
    written.stored.load_weights(other)
    written.stored.load_state(shares_of(other, its), its, written.plain(), rank=0, world=1)
    step(other, its)

    assert found == 1
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
        for key, value in optimizer.state[one].items():
            assert torch.equal(its.state[two][key], value), key


def test_what_two_workers_wrote_one_goes_on_with_and_the_other_way_round(checkpoints):
    model = model_of(0)
    attempt = [CheckpointWriter(checkpoints, "attempt", rank, world=2) for rank in range(2)]
    for rank in (1, 0):  # rank 0 waits for the other
        shares = halves(model, rank)
        state = {shares[0].flat: {"step": torch.tensor(7.0), "exp_avg": shares[0].flat * 10}}
        attempt[rank].write(7, shares, state)
    for writer in attempt:
        writer.wait()

    written = Written(checkpoints.latest()[1])
    whole = model_of(1)
    optimizer = adamw(whole)
    written.stored.load_weights(whole)
    written.stored.load_state(shares_of(whole, optimizer), optimizer, written.plain(), rank=0, world=1)
    for weight, moved in zip(model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(weight, moved)
        assert torch.equal(optimizer.state[moved]["exp_avg"], weight * 10) and optimizer.state[moved]["step"] == 7

    shares = halves(model, 1)
    parted = torch.optim.AdamW([shares[0].flat], lr=0.1)
    written.stored.load_state(shares, parted, written.plain(), rank=1, world=2)
    assert torch.equal(parted.state[shares[0].flat]["exp_avg"], shares[0].flat * 10)


def test_blocks_of_eight_bits_go_on_with_as_many_workers_only(checkpoints):
    share = halves(model_of(0), 0)[0]
    state = {share.flat: {"step": 3, "state1": torch.arange(16, dtype=torch.uint8), "absmax1": torch.ones(2)}}
    writer = CheckpointWriter(checkpoints, "attempt", rank=0, world=1)
    writer.write(3, [share], state)
    writer.wait()

    written = Written(checkpoints.latest()[1])
    same = torch.optim.AdamW([share.flat])
    written.stored.load_state([share], same, written.plain(), rank=0, world=1)
    assert same.state[share.flat]["step"] == 3 and torch.equal(same.state[share.flat]["absmax1"], torch.ones(2))
    with pytest.raises(FettleError, match=r"go with the workers \(here 1 of 1\); go on with as many"):
        written.stored.load_state([share], torch.optim.AdamW([share.flat]), written.plain(), rank=0, world=2)


def test_every_generator_goes_on_where_it_was(checkpoints):
    writer = CheckpointWriter(checkpoints, "attempt", rank=0, world=1)
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    writer.write(1, [], {})
    writer.wait()
    drawn = random.random(), np.random.rand(), torch.rand(1)
    written = Written(checkpoints.latest()[1])

    written.restore_randomness(rank=0, world=1)
    assert (random.random(), np.random.rand(), torch.rand(1)) == drawn

    written.restore_randomness(rank=0, world=2)
    first = torch.rand(4)
    written.restore_randomness(rank=1, world=2)
    assert not torch.equal(torch.rand(4), first)


def test_each_worker_sums_up_its_own_files_for_the_checkpoints_mark(checkpoints, monkeypatch):
    summed = []
    monkeypatch.setattr(writer_module, "digest_file", lambda file: summed.append(file.name) or f"of {file.name}")
    for rank in (1, 0):
        writer = CheckpointWriter(checkpoints, "attempt", rank, world=2)
        writer.write(5, halves(model_of(0), rank), {})
        writer.wait()
        assert summed.pop().endswith(f"-{rank:05d}.safetensors") and summed.pop().endswith(f"-{rank:05d}.safetensors")

    told = json.loads((checkpoints.path(5) / "complete.json").read_text())["sha256"]
    assert told["learned-00001.safetensors"] == "of learned-00001.safetensors"
    assert set(told) == {file.name for file in checkpoints.path(5).iterdir()} - {"complete.json"}
    assert checkpoints.latest() is None  # no sum holds: each file is read again


def test_a_full_disk_is_told_with_the_step_and_what_is_still_there(checkpoints, monkeypatch):
    writer = CheckpointWriter(checkpoints, "attempt", rank=0, world=1)
    writer.write(5, [], {})
    writer.wait()

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer_module, "save_file", full)
    writer.write(10, [], {})
    told = r"the checkpoint of step 10 could not be written: No space left on device \(.*\); that of step 5 is there"
    with pytest.raises(FettleError, match=told):
        writer.wait()
    assert [folder.name for folder in checkpoints.folder.iterdir()] == ["step-00000005"]


def test_a_run_that_was_taken_over_stops_writing(checkpoints, fence):
    writer = CheckpointWriter(checkpoints, "attempt", rank=0, world=2)  # whose other worker never writes
    writer.write(5, [], {})
    fence.file.write_text("second")
    with pytest.raises(FettleError, match="taken over"):
        writer.wait()
    assert checkpoints.latest() is None
