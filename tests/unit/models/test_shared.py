"""Frozen weights that the next stage of a process is given again, and other processes of the machine map."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fettle.models.adapters import attach
from fettle.models.shared import KeptBases, frozen_from
from fettle.models.stored import load
from fettle.recipe.adapter import AdapterSpec


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A model whose file is in bfloat16."""
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes)).bfloat16().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


llama = partial(load, LlamaForCausalLM)


def files_mapped() -> set[Path]:
    """The weights that this process maps into its memory."""
    return {Path(found) for found in re.findall(r"(/\S+\.safetensors)", Path("/proc/self/maps").read_text())}


def test_outside_every_model_is_loaded_anew(base):
    assert llama(base, torch.float32).lm_head.weight is not llama(base, torch.float32).lm_head.weight


def test_inside_models_have_parts_of_their_own_over_the_same_weights(base):
    spec = AdapterSpec(kind="lora", r=2)
    with frozen_from(KeptBases()):
        one, other = llama(base, torch.float32), llama(base, torch.float32)
    first, second = attach(one, spec, base, 0), attach(other, spec, base, 1)
    weights = {name: value.data_ptr() for name, value in first.named_parameters()}
    same = {name for name, value in second.named_parameters() if weights[name] == value.data_ptr()}
    assert same == {name for name in weights if "lora_" not in name}


def test_one_base_is_kept_at_a_time(base):
    bases = KeptBases()
    with frozen_from(bases):
        llama(base, torch.float32)
        llama(base, torch.bfloat16)
    assert [key[-1] for key in bases.models] == ["torch.bfloat16"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_beside_other_processes_the_weights_are_a_file_that_all_of_them_map(base, tmp_path, dtype):
    with frozen_from(KeptBases(tmp_path / "bases")):
        model = llama(base, dtype)
    (converted,) = list((tmp_path / "bases").glob("[!.]*/model.safetensors")) or [None]
    assert (converted is None) == (dtype == torch.bfloat16)  # the file's own
    assert (converted or base / "model.safetensors") in files_mapped()
    alone = llama(base, dtype).state_dict()
    assert all(torch.equal(value, alone[name]) for name, value in model.state_dict().items())


def test_the_second_process_finds_what_the_first_has_written(base, tmp_path):
    written = []
    for _ in range(2):
        with frozen_from(KeptBases(tmp_path / "bases")):
            llama(base, torch.float32)
        (file,) = (tmp_path / "bases").glob("[!.]*/model.safetensors")
        written.append(file.stat().st_mtime_ns)
    assert written[0] == written[1]
