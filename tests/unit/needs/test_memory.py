"""What a worker holds, moment after moment, of the bundled model."""

from __future__ import annotations

from typing import Any

import pytest

from fettle.models.base import BUNDLED, load_weights
from fettle.needs.memory import BOUND, Setup, moments, optimizer_bytes, peak, weight_bytes
from fettle.needs.shape import Shape, config_in, shape_of, trained_weights
from fettle.needs.trace import Micro, config_text
from fettle.recipe.adapter import AdapterSpec
from fettle.recipe.cluster import ClusterSpec
from fettle.recipe.optimizer import OptimizerSpec


@pytest.fixture(scope="module")
def tiny() -> Shape:
    return shape_of(config_text(config_in(BUNDLED["tiny"])))


def setup(adapter: Any = "full", **cluster: Any) -> Setup:
    """A stage of the bundled model with one micro-batch of two rows."""
    spec = AdapterSpec.model_validate({"kind": adapter} if isinstance(adapter, str) else adapter)
    micro = Micro(2, 64)
    return Setup(spec, ClusterSpec(**cluster), "fp32", micro, micro)


def parts(shape: Shape, one: Setup, moment: str) -> dict[str, int]:
    return next(found for found in moments(shape, one) if found.name == moment).parts


def test_sizes_are_those_of_the_model_that_is_loaded(tiny: Shape) -> None:
    import torch

    model = load_weights(BUNDLED["tiny"], torch.float32)

    assert tiny.weights == sum(weight.numel() for weight in model.parameters())


def test_an_adapters_weights_are_as_many_as_peft_makes(tiny: Shape) -> None:
    # All matrices of all layers: r rows in, r columns out of each.
    by_sides = trained_weights(tiny, AdapterSpec(kind="lora", r=8))
    named = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    assert by_sides == trained_weights(tiny, AdapterSpec(kind="lora", r=8, targets=named)) > 0


def test_adamw_keeps_two_float32_moments_and_eight_bits_a_quarter_of_that() -> None:
    assert optimizer_bytes(OptimizerSpec()) == 8
    assert optimizer_bytes(OptimizerSpec(kind="adamw_8bit")) == pytest.approx(2, rel=0.02)
    assert optimizer_bytes(OptimizerSpec(kind="sgd", momentum=0.0)) == 0


def test_four_bits_take_an_eighth_of_float32_of_the_matrices_alone(tiny: Shape) -> None:
    full, rounded = weight_bytes(tiny, setup("lora")), weight_bytes(tiny, setup({"kind": "lora", "bits": 4}))

    assert full - rounded == pytest.approx(tiny.linear * (4 - 0.516), rel=0.001)


def test_zero_shares_out_what_the_optimizer_holds(tiny: Shape) -> None:
    moment = "forward and back, at the head"
    alone = parts(tiny, setup(), moment)["optimizer"]

    shared = [parts(tiny, setup(workers=2, zero=zero), moment)["optimizer"] for zero in (0, 1, 2, 3)]

    assert shared == [alone, alone // 2, alone // 2, alone // 2]


def test_offload_moves_it_to_the_host(tiny: Shape) -> None:
    found = moments(tiny, setup(workers=2, zero=2, gpus_per_worker=1, offload=True))

    assert all("optimizer" not in moment.parts for moment in found)
    assert any("optimizer" in moment.host for moment in found)


def test_a_checkpoint_is_copied_beside_the_next_step(tiny: Shape) -> None:
    copied = parts(tiny, setup(), "forward and back, at the head")["checkpoint"]

    assert copied == 3 * 4 * tiny.weights  # weights and two moments


def test_more_tokens_in_a_micro_batch_take_more(tiny: Shape) -> None:
    one = setup()
    more = Setup(one.adapter, one.cluster, "fp32", Micro(8, 64), one.heldout)

    assert peak(moments(tiny, more)).total > peak(moments(tiny, one)).total


def test_a_rough_bound_is_above_what_the_model_is_run_through_for(tiny: Shape) -> None:
    one = setup()
    rough = Setup(one.adapter, one.cluster, "fp32", one.micro, one.heldout, rough=BOUND)

    assert peak(moments(tiny, rough)).total > peak(moments(tiny, one)).total
