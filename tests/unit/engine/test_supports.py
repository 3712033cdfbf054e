"""What is read from vLLM's source about LoRA is what vLLM says of itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fettle.engine.supports import has_lora

ARCHITECTURES = (
    *("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "MixtralForCausalLM"),
    *("GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "PhiForCausalLM", "Phi3ForCausalLM"),
    *("GPTNeoXForCausalLM", "GPT2LMHeadModel", "GPTJForCausalLM", "BloomForCausalLM", "FalconForCausalLM"),
)


def test_it_is_what_vllms_registry_says() -> None:
    from vllm.model_executor.models.registry import ModelRegistry

    told = {name: ModelRegistry._try_load_model_cls(name) for name in ARCHITECTURES}

    assert {name: has_lora(name) for name in ARCHITECTURES} == {
        name: bool(getattr(model, "supports_lora", False)) for name, model in told.items()
    }


@pytest.mark.parametrize("name", ["T5ForConditionalGeneration", "NoSuchModel"])
def test_nothing_is_said_of_what_vllm_does_not_list(name: str) -> None:
    assert has_lora(name) is None


def test_asking_does_not_import_vllm() -> None:
    asks = "import sys; from fettle.engine.supports import has_lora"
    shows = "print(has_lora('PhiForCausalLM'), 'vllm' in sys.modules)"

    told = subprocess.run([sys.executable, "-c", f"{asks}; {shows}"], capture_output=True, text=True, check=True)

    assert told.stdout.split() == ["True", "False"]
