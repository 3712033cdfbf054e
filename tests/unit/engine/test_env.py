"""What the engine's options come to, on the CPU build."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from fettle.engine import env
from fettle.engine.env import EngineOptions, engine_arguments, kv_bytes, prepare_process, vllm_rank
from fettle.errors import UserError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    config = {
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_size": 128,
        "max_position_embeddings": 256,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "device", lambda: "cpu")


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "device", lambda: "gpu")


@pytest.mark.usefixtures("on_cpu")
def test_cpu_serves_in_float32_eager_and_in_one_process(model: Path) -> None:
    arguments = engine_arguments(model, EngineOptions())

    chosen = {key: arguments[key] for key in ("dtype", "enforce_eager", "distributed_executor_backend", "load_format")}
    assert chosen == {
        "dtype": "float32",
        "enforce_eager": True,
        "distributed_executor_backend": "uni",
        "load_format": "safetensors",
    }


@pytest.mark.usefixtures("on_gpu")
def test_gpu_keeps_the_weights_type_and_is_not_eager(model: Path) -> None:
    arguments = engine_arguments(model, EngineOptions())

    assert (arguments["dtype"], "enforce_eager" in arguments) == ("auto", False)


@pytest.mark.usefixtures("on_cpu")
def test_engine_without_adapters_has_no_lora_layers(model: Path) -> None:
    assert "enable_lora" not in engine_arguments(model, EngineOptions())


@pytest.mark.usefixtures("on_cpu")
def test_every_adapter_stays_in_memory(model: Path) -> None:
    arguments = engine_arguments(model, EngineOptions(max_loras=2, max_lora_rank=9, max_adapters=12))

    assert (arguments["max_loras"], arguments["max_lora_rank"], arguments["max_cpu_loras"]) == (2, 16, 12)


def test_kv_cache_holds_every_sequence_at_full_length(model: Path) -> None:
    # a token is keys and values x 2 layers x 2 heads x 32 wide x 4 bytes = 1 KiB; 256 tokens are 2 blocks of 128, and
    # one more for the rounding: 384 KiB a sequence, 512 of them
    assert kv_bytes(model, EngineOptions(max_num_seqs=512)) == 512 * 384 * 1024


def test_kv_cache_has_a_least_and_a_most(model: Path) -> None:
    sizes = [kv_bytes(model, EngineOptions(max_num_seqs=count)) for count in (1, 10**6)]

    assert sizes == [64 << 20, 4 << 30]


def test_rank_is_rounded_up_to_what_vllm_takes() -> None:
    assert [vllm_rank(rank) for rank in (1, 8, 9, 200, 512)] == [8, 8, 16, 256, 512]


def test_rank_above_vllms_largest_is_refused() -> None:
    with pytest.raises(UserError, match="at most 512"):
        vllm_rank(513)


@pytest.mark.parametrize("wrong", [{"dtype": "fp16"}, {"max_model_len": 0}, {"threads": -1}])
def test_options_that_mean_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError):
        replace(EngineOptions(), **wrong)  # type: ignore[arg-type]


@pytest.mark.usefixtures("on_cpu")
def test_prepared_process_pins_threads_whatever_ray_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": "1"})

    prepare_process(EngineOptions(threads=3))

    assert (os.environ["OMP_NUM_THREADS"], os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"]) == ("3", "0")


@pytest.mark.parametrize(
    ("place", "dtype", "computed"),
    [("cpu", "auto", "bfloat16"), ("cpu", "float16", "float16"), ("gpu", "auto", "auto")],
)
def test_quantised_weights_are_computed_in_16_bits(
    model: Path, monkeypatch: pytest.MonkeyPatch, place: str, dtype: env.Dtype, computed: str
) -> None:
    config = json.loads((model / "config.json").read_text()) | {"quantization_config": {}}
    (model / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(env, "device", lambda: place)

    assert engine_arguments(model, EngineOptions(dtype=dtype))["dtype"] == computed
    with pytest.raises(UserError, match="float32 over quantised weights"):
        engine_arguments(model, EngineOptions(dtype="float32"))
