"""LISA: which layers are chosen, what is kept of the others, and that the steps are AdamW's of those chosen."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch.optim import AdamW, Optimizer
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from fettle.models.layers import layers_of
from fettle.train.lisa import Lisa, chosen_layers

STEPS, EVERY, COUNT, SEED = 9, 2, 2, 5
TOKENS = torch.arange(3, 23).reshape(2, 10)


def small_llama() -> LlamaForCausalLM:
    """Six layers, random, and a head of its own."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 16}
    return LlamaForCausalLM(LlamaConfig(vocab_size=40, **sizes))


def small_gpt2() -> GPT2LMHeadModel:
    """Six layers, random, and the embeddings for a head."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=6, n_head=2, n_positions=16))


def steps_of(model: PreTrainedModel, optimizer: Optimizer, lisa: Lisa, first: int = 0) -> Iterator[int]:
    """Each step that has been made, its gradients still there."""
    for step in range(first, STEPS):
        lisa.on_step_begin(None, SimpleNamespace(global_step=step), None, optimizer=optimizer)
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        yield step
        model.zero_grad()


def lisa_of(model: PreTrainedModel) -> Lisa:
    return Lisa(model, count=COUNT, every=EVERY, seed=SEED)


def outside(model: PreTrainedModel) -> list[torch.nn.Parameter]:
    """Embeddings, head, last norm."""
    inside = {id(weight) for weight in layers_of(model.base_model).parameters()}
    return [weight for weight in model.parameters() if id(weight) not in inside]


def chosen_at(step: int) -> list[int]:
    return chosen_layers(SEED, step // EVERY, COUNT, 6)


def test_the_choice_is_told_by_seed_and_turn_and_over_many_turns_takes_every_layer_as_often() -> None:
    turns = [chosen_layers(1, turn, 2, 6) for turn in range(600)]

    assert turns == [chosen_layers(1, turn, 2, 6) for turn in range(600)]
    assert turns != [chosen_layers(2, turn, 2, 6) for turn in range(600)]
    assert all(len({*turn}) == 2 for turn in turns)
    # 200 times each on average, with a standard deviation of sqrt(600 · 1/3 · 2/3) = 11.5.
    assert all(150 < sum(layer in turn for turn in turns) < 250 for layer in range(6))


@pytest.mark.parametrize("make", [small_llama, small_gpt2])
def test_gradients_and_state_are_those_of_the_chosen_layers_and_of_what_is_in_no_layer(make) -> None:
    model = make()
    optimizer = AdamW(model.parameters(), lr=1e-3)
    layers = layers_of(model.base_model)

    for step in steps_of(model, optimizer, lisa_of(model)):
        active = outside(model) + [weight for number in chosen_at(step) for weight in layers[number].parameters()]
        assert {weight for weight in model.parameters() if weight.grad is not None} == {*active}
        assert {*optimizer.state} == {*active}
        # Two moments of every weight, and a float32 count of steps of every tensor.
        moments = sum(t.nbytes for state in optimizer.state.values() for t in state.values()) - 4 * len(active)
        assert moments == 2 * sum(weight.nbytes for weight in active) < 2 * sum(w.nbytes for w in model.parameters())


def test_the_steps_are_those_of_adamw_begun_anew_for_each_layer_that_is_chosen() -> None:
    model, by_hand = small_llama(), small_llama()
    for _ in steps_of(model, AdamW(model.parameters(), lr=1e-2, weight_decay=0.1), lisa_of(model)):
        pass

    layers = layers_of(by_hand.base_model)
    always = AdamW(outside(by_hand), lr=1e-2, weight_decay=0.1)
    own: dict[int, AdamW] = {}
    for step in range(STEPS):
        chosen = chosen_at(step)
        own = {n: own.get(n) or AdamW(layers[n].parameters(), lr=1e-2, weight_decay=0.1) for n in chosen}
        by_hand.zero_grad()
        by_hand(input_ids=TOKENS, labels=TOKENS).loss.backward()
        for optimizer in (always, *own.values()):
            optimizer.step()

    assert len({n for step in range(STEPS) for n in chosen_at(step)}) > COUNT  # layers came and went
    for name, weight in by_hand.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), weight, rtol=0, atol=1e-7)


@pytest.mark.parametrize("at", [4, 5], ids=["between turns", "within a turn"])
def test_a_resumed_stage_chooses_and_steps_as_one_that_was_never_interrupted(at: int) -> None:
    straight, cut = small_llama(), small_llama()
    first = AdamW(straight.parameters(), lr=1e-2)
    for step in steps_of(straight, first, lisa_of(straight)):
        if step == at - 1:  # what a checkpoint after `at` steps holds
            saved = {
                key: {name: value.clone() for name, value in state.items()}
                for key, state in first.state_dict()["state"].items()
            }
            cut.load_state_dict({name: weight.clone() for name, weight in straight.state_dict().items()})

    again = AdamW(cut.parameters(), lr=1e-2)
    again.load_state_dict({"state": saved, "param_groups": again.state_dict()["param_groups"]})
    for _ in steps_of(cut, again, lisa_of(cut), first=at):
        pass

    for name, weight in straight.named_parameters():
        assert torch.equal(cut.get_parameter(name), weight)
