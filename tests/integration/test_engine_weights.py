"""Weights replaced in a running engine: it answers as transformers does with the new ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from fettle.engine import EngineOptions, start_engine
from fettle.engine.sampling import Sampling
from fettle.errors import FettleError

TOLERANCE = 1e-4
PROMPT = list(range(3, 67))  # longer than a block of the cache of keys and values


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Iterator[Any]:
    pytest.importorskip("vllm")
    found = start_engine(tiny, EngineOptions(max_model_len=128, max_num_seqs=48, takes_weights="file"))
    yield found
    found.close()


@pytest.fixture
def changed(tiny: Path, tmp_path: Path) -> Callable[[int], Path]:
    """`changed(seed)`: a file of the bundled model's weights, all a little different."""

    def make(seed: int) -> Path:
        dice = torch.Generator().manual_seed(seed)
        weights = load_file(tiny / "model.safetensors")
        for name, weight in weights.items():
            noise = torch.randn(weight.shape, generator=dice) * 0.02
            weights[name] = (weight.float() + noise).to(weight.dtype)
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()  # tied
        save_file(weights, tmp_path / f"{seed}.safetensors", {"format": "pt"})
        return tmp_path / f"{seed}.safetensors"

    return make


def expected(tiny: Path, file: Path | None) -> list[float]:
    """Each token's log-probability by transformers."""
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    if file is not None:
        model.load_state_dict({name: one.float() for name, one in load_file(file).items()}, strict=False)
        model.tie_weights()
    with torch.no_grad():
        logprobs = model(torch.tensor([PROMPT])).logits[0].log_softmax(-1)
    return [float(logprobs[place, token]) for place, token in enumerate(PROMPT[1:])]


def scored(engine: Any) -> list[float]:
    return list(engine.score([PROMPT])[0])


def test_prompts_with_seeds_are_answered_where_they_are_more_than_are_read_at_once(engine: Any) -> None:
    """4,800 tokens, of which 4,096 are read at once: upstream splits the prompt in between, and its engine dies."""
    prompts = [[3 + number, *range(10, 109)] for number in range(48)]
    sampling = Sampling(max_new_tokens=4, temperature=1.0)

    answers = engine.generate(prompts, sampling, seeds=range(48))

    again = engine.generate(prompts[40:], sampling, seeds=range(40, 48))
    assert [one[0].token_ids for one in answers[40:]] == [one[0].token_ids for one in again]


def test_it_answers_by_each_version_that_it_took(engine: Any, tiny: Path, changed: Callable[[int], Path]) -> None:
    assert scored(engine) == pytest.approx(expected(tiny, None), abs=TOLERANCE)
    for seed in (1, 2):
        file = changed(seed)
        engine.take_weights(file)
        assert scored(engine) == pytest.approx(expected(tiny, file), abs=TOLERANCE)
    assert scored(engine) != pytest.approx(expected(tiny, None), abs=0.1)


def test_a_file_that_lacks_weights_is_refused_and_the_next_one_is_taken(
    engine: Any, tiny: Path, changed: Callable[[int], Path], tmp_path: Path
) -> None:
    whole = changed(3)
    weights = load_file(whole)
    lacking = "model.layers.1.mlp.down_proj.weight"
    save_file({name: one for name, one in weights.items() if name != lacking}, tmp_path / "part.safetensors")

    with pytest.raises(FettleError, match=f"has no {lacking}, and 0 more are missing"):
        engine.take_weights(tmp_path / "part.safetensors")

    engine.take_weights(whole)
    assert scored(engine) == pytest.approx(expected(tiny, whole), abs=TOLERANCE)


def test_a_file_that_is_not_there_is_told_with_the_engines_own_words(engine: Any, tmp_path: Path) -> None:
    with pytest.raises(FettleError, match="No such file"):
        engine.take_weights(tmp_path / "no.safetensors")
