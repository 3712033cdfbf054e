"""What integration tests share: real models, real engines."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from fettle.models.base import BUNDLED, resolve_template

# --- serving and engine -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny() -> Path:
    """The bundled model's folder."""
    if not (BUNDLED["tiny"] / "model.safetensors").is_file():
        pytest.skip(f"the bundled model is not in {BUNDLED['tiny']}")
    return BUNDLED["tiny"]


@pytest.fixture(scope="session")
def loras(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters over `tiny` that change its answers (every B random), `polite` also merged into `polite-merged`;
    `brief` has a chat template of its own, one with tools."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("loras")
    for seed, (name, rank) in enumerate({"polite": 8, "brief": 12}.items()):
        torch.manual_seed(seed)
        config = LoraConfig(
            r=rank,
            lora_alpha=16,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
            base_model_name_or_path=str(tiny),
        )
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32), config)
        for key, weight in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(weight, std=0.05)
        model.save_pretrained(folder / name)
        if name == "polite":
            model.merge_and_unload().save_pretrained(folder / "polite-merged")
            AutoTokenizer.from_pretrained(tiny).save_pretrained(folder / "polite-merged")
    (folder / "brief" / "chat_template.jinja").write_text(resolve_template("qwen"), encoding="utf-8")
    return {one.name: one for one in folder.iterdir()}


@pytest.fixture(scope="session")
def reference(
    tiny: Path, loras: dict[str, Path]
) -> Callable[[list[int], str | None, int], tuple[list[int], list[float]]]:
    """Greedy continuation and its log-probabilities by transformers and PEFT, in float32, end tokens ignored."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, loras["polite"], adapter_name="polite")
    model.load_adapter(loras["brief"], adapter_name="brief")

    @torch.no_grad()
    def continued(prompt: list[int], adapter: str | None, count: int) -> tuple[list[int], list[float]]:
        tokens, logprobs = list(prompt), []
        if adapter is not None:
            model.set_adapter(adapter)
        with nullcontext() if adapter is not None else model.disable_adapter():
            for _ in range(count):
                scores = model(torch.tensor([tokens])).logits[0, -1].log_softmax(-1)
                tokens.append(int(scores.argmax()))
                logprobs.append(float(scores.max()))
        return tokens[len(prompt) :], logprobs

    return continued


# --- end of serving and engine ----------------------------------------------------------------------------------------
