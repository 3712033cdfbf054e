"""The formulas against figures that were published, or that are worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scale_costs import (
    H100,
    H200,
    LLAMA_70B,
    MAVERICK,
    QWEN_7B,
    Decoding,
    How,
    decoding,
    engine_width,
    flops_a_token,
    memory,
    ring_seconds,
    state_bytes,
    step,
    zero_seconds,
)

WITHOUT_HOPS = replace(H100, intra_s=0.0, inter_s=0.0, base_s=0.0, bus=1.0)
BATCH, ROW = 1 << 22, 4096


@pytest.mark.parametrize(("zero", "published_gb"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_a_model_of_7_5_billion_on_64_gpus_takes_what_the_paper_on_zero_says(zero, published_gb):
    # Rajbhandari et al. 2020, figure 1
    assert state_bytes(7.5e9, zero, 64) / 1e9 == pytest.approx(published_gb, rel=0.02)


@pytest.mark.parametrize(
    ("weights", "gpus", "published_gb"),
    [(7.5e9, 4, (52.5, 41.3, 30)), (128e9, 256, (520, 264, 8)), (1e12, 1024, (4011, 2013, 15.6))],
)
def test_larger_models_take_what_the_papers_table_1_says(weights, gpus, published_gb):
    assert [state_bytes(weights, zero, gpus) / 1e9 for zero in (1, 2, 3)] == pytest.approx(published_gb, rel=0.03)


def test_an_all_reduce_moves_twice_the_bytes_of_a_gathering():
    one = ring_seconds(WITHOUT_HOPS, 8, 1e9)

    assert one == pytest.approx(7 / 8 * 1e9 / 450e9)  # (n - 1) / n of them over NVLink
    assert ring_seconds(WITHOUT_HOPS, 8, 1e9, passes=2) == pytest.approx(2 * one)


def test_a_ring_between_nodes_is_as_fast_as_the_nodes_adapters_together():
    assert ring_seconds(WITHOUT_HOPS, 16, 1e9) == pytest.approx(15 / 16 * 1e9 / 400e9)


def test_a_rings_hops_are_what_small_messages_cost():
    # 1,023 hops, 127 of them between nodes
    expected = 896 * H100.intra_s + 127 * H100.inter_s + H100.base_s
    assert ring_seconds(H100, 1024, 0) == pytest.approx(expected)


def test_one_gpu_talks_to_nobody():
    assert ring_seconds(H100, 1, 1e12) == 0


def test_zero_3_moves_half_as_much_again_as_zero_2():
    # section 7 of the paper: 3 Ψ against 2 Ψ
    two, three = (zero_seconds(WITHOUT_HOPS, QWEN_7B, How(zero), 8, micro_batches=1) for zero in (2, 3))

    assert three / two == pytest.approx(1.5)


def test_a_token_costs_six_flop_a_weight_and_with_lora_four():
    without_attention = flops_a_token(QWEN_7B, 0), flops_a_token(QWEN_7B, 0, lora=True)

    assert without_attention == pytest.approx((6 * 7.62e9, 4 * 7.62e9))


def test_a_mixture_of_experts_computes_with_what_a_token_meets():
    assert flops_a_token(MAVERICK, 0) == pytest.approx(6 * 17e9)


def test_llama_3_with_405_billion_weights_took_about_the_flop_that_its_paper_says():
    # arXiv:2407.21783: 3.8e25 FLOP for 15.6e12 tokens, at a context of 8,192
    llama = replace(LLAMA_70B, active=405e9, layers=126, hidden=16_384)

    assert 15.6e12 * flops_a_token(llama, 8192) == pytest.approx(3.8e25, rel=0.1)


def test_full_training_of_7_billion_weights_does_not_fit_a_gpu_alone_and_does_fit_eight():
    assert memory(QWEN_7B, How(0), 1, ROW) > H100.memory
    assert memory(QWEN_7B, How(2), 8, ROW) < H100.memory


def test_a_step_is_the_sum_of_what_it_goes_into():
    found = step(H100, QWEN_7B, How(2), 64, BATCH, ROW)

    assert found is not None
    assert found.seconds == pytest.approx(found.compute + found.collectives + found.optimizer)
    assert found.rows * found.micro_batches == BATCH // ROW // 64


def test_a_gpu_without_a_row_of_its_own_has_nothing_to_do():
    assert step(H100, QWEN_7B, How(2), 1024, BATCH, ROW) is not None
    assert step(H100, QWEN_7B, How(2), 2048, BATCH, ROW) is None


def test_what_arithmetic_hides_of_collectives_takes_no_time():
    shown, hidden = (step(H100, QWEN_7B, How(2, overlap=share), 256, BATCH, ROW) for share in (0.0, 1.0))

    assert shown is not None and hidden is not None
    assert shown.seconds - hidden.seconds == pytest.approx(shown.collectives)


def test_a_batch_of_answers_takes_a_step_a_token_of_the_longest():
    # three steps with both under way, two with one: 5 · 1 + (3 · 2 + 2) · 0.1
    assert Decoding(fixed=1.0, each=0.1).seconds([5, 3]) == pytest.approx(5.8)


def test_a_token_later_in_an_answer_reads_more_keys_and_values():
    # the mean context of four steps after a prompt of 10 tokens: 12
    assert Decoding(0.0, 0.0, context=1.0).seconds([4], prompt=10) == pytest.approx(4 * 12)


def test_an_engine_reads_its_weights_once_a_step():
    alone = decoding(replace(H100, stream=1.0), QWEN_7B, 1)

    assert alone.fixed == pytest.approx(2 * 7.62e9 / 3.35e12 + 3e-3)


def test_the_largest_model_needs_a_node_of_larger_gpus():
    assert [engine_width(gpu, MAVERICK) for gpu in (H100, H200)] == [None, 8]
