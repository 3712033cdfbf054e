"""A quantised model in vLLM: its log-probabilities are those of the rounded weights, and near those of the full ones.

Two engine starts. The engine computes in bfloat16, which alone moves the full model's log-probabilities by 0.02 nats.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fettle.engine import EngineOptions, start_engine
from fettle.engine.env import device, prepare_process
from fettle.models.base import load_tokenizer, load_weights
from fettle.models.quantize import write_quantized

OPTIONS = EngineOptions(max_model_len=128, max_num_seqs=8)
LENGTH, ROWS = 96, 8

pytestmark = pytest.mark.skipif(device() != "cpu", reason="what is shown here is the CPU build's behaviour")


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """What prepare_process sets is for a process of its own; other tests get theirs back."""
    before = dict(os.environ)
    prepare_process(OPTIONS)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def rows(tiny: Path, root: Path) -> list[list[int]]:
    text = (root / "recipes" / "northline" / "corpus" / "handbook.txt").read_text(encoding="utf-8")
    ids = load_tokenizer(tiny)(text)["input_ids"]
    return [ids[start : start + LENGTH] for start in range(0, ROWS * LENGTH, LENGTH)]


def logprobs(base: Path, weights: dict[str, torch.Tensor], rows: list[list[int]]) -> torch.Tensor:
    """[rows, LENGTH - 1] nats by transformers in float32, some of the base's weights replaced."""
    model = load_weights(base, torch.float32)
    model.load_state_dict(weights, strict=False)
    tokens = torch.tensor(rows)
    with torch.no_grad():
        scores = model(tokens).logits.log_softmax(-1)
    return scores[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]


def dequantised(folder: Path) -> dict[str, torch.Tensor]:
    """Name to weight, [out, in], of each quantised layer: integers, eight in one where packed, times their scale."""
    tensors, found = load_file(folder / "model.safetensors"), {}
    for name in (key.removesuffix("_scale") for key in tensors if key.endswith(".weight_scale")):
        scale = tensors[f"{name}_scale"].float()
        if name in tensors:
            steps = tensors[name]
        else:
            places = [((tensors[f"{name}_packed"] >> 4 * place) & 15) - 8 for place in range(8)]
            steps = torch.stack(places, dim=-1).flatten(1)
        found[name] = steps.float() * scale.repeat_interleave(steps.shape[1] // scale.shape[1], dim=1)
    return found


@pytest.mark.parametrize(("bits", "group", "to_full"), [(8, None, 0.1), (4, 32, 0.5)], ids=["8 bits", "4 bits"])
def test_vllm_computes_with_the_rounded_weights(
    tiny: Path, rows: list[list[int]], tmp_path: Path, bits: int, group: int | None, to_full: float
) -> None:
    from fettle.engine.sampling import Sampling

    told = {"name": "small", "fingerprint": "f", "end_ids": (7,), "chat_template": None}
    write_quantized(tmp_path / "small", tiny, None, bits=bits, group=group, **told)
    rounded = dequantised(tmp_path / "small")

    engine = start_engine(tmp_path / "small", OPTIONS)
    try:
        served = torch.tensor(engine.score(rows))
        (answer,) = engine.generate([rows[0][:16]], Sampling(max_new_tokens=24, ignore_eos=True))[0]
    finally:
        engine.close()

    assert len(rounded) == 42 and len(answer.token_ids) == 24
    assert (served - logprobs(tiny, rounded, rows)).abs().mean() < 0.1  # 0.055 measured
    assert (served - logprobs(tiny, {}, rows)).abs().mean() < to_full  # 0.06 and 0.27 measured
