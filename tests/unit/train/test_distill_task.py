"""The task of distillation: its sums by hand, in parts, over vocabularies of unlike padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributions import Categorical, kl_divergence
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from fettle.recipe.distill import DistillStage
from fettle.train.distill import DistillTask, NearBaseTask
from fettle.train.head_parts import read_hidden_states

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
# One row of two records, positions restarting; the first bears loss at 2 tokens, the second at 3.
INPUTS = {
    "input_ids": torch.tensor([[5, 6, 7, 8, 9, 4, 3, 2]]),
    "position_ids": torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]]),
    "labels": torch.tensor([[-100, -100, 7, 8, -100, 4, 3, 2]]),
}
PLACES, TARGETS = [1, 2, 4, 5, 6], torch.tensor([7, 8, 4, 3, 2])


def llama(seed: int, vocab: int = 40) -> PreTrainedModel:
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab, **SMALL)).eval()


def task_of(teacher: PreTrainedModel, **keys: Any) -> DistillTask:
    spec = DistillStage.model_validate({"name": "s", "kind": "distill", "data": "x", "teacher": "tiny"} | keys)
    return DistillTask(spec, teacher, precision="fp32", max_length=16, packing=True, pad_id=0)


def student_of(model: PreTrainedModel) -> PreTrainedModel:
    read_hidden_states(model)
    return model


def logits_of(model: PreTrainedModel) -> torch.Tensor:
    """[5, V] of the five labels, by the model's own forward."""
    with torch.no_grad():
        read = {key: INPUTS[key] for key in ("input_ids", "position_ids")}
        return model(**read, use_cache=False).logits[0, PLACES].float()


def test_the_loss_is_alpha_of_the_divergence_and_the_rest_cross_entropy() -> None:
    teacher, student = llama(1), llama(2)
    theirs, mine = logits_of(teacher), logits_of(student)
    kl = kl_divergence(Categorical(logits=theirs / 2), Categorical(logits=mine / 2)).sum() * 4
    ce = -Categorical(logits=mine).log_prob(TARGETS).sum()

    found = task_of(teacher, alpha=0.3, temperature=2.0).loss_sum(student_of(student), INPUTS)

    torch.testing.assert_close(found, 0.3 * kl + 0.7 * ce)


def test_near_the_base_the_loss_is_cross_entropy_and_so_many_times_the_divergence() -> None:
    base, model = llama(1), llama(2)
    mine = Categorical(logits=logits_of(model))
    kl = kl_divergence(Categorical(logits=logits_of(base)), mine).sum()
    ce = -mine.log_prob(TARGETS).sum()
    task = NearBaseTask(0.3, base, precision="fp32", max_length=16, packing=True, pad_id=0)

    measures = task.measures(student_of(model), INPUTS)

    torch.testing.assert_close(measures, {"loss": ce + 0.3 * kl, "kl": kl, "ce": ce})


def test_the_measured_kl_is_forward_at_temperature_1_whatever_the_loss() -> None:
    teacher, student = llama(1), llama(2)
    mine = Categorical(logits=logits_of(student))
    kl = kl_divergence(Categorical(logits=logits_of(teacher)), mine).sum()
    ce = -mine.log_prob(TARGETS).sum()

    measures = task_of(teacher, loss="reverse_kl", temperature=3.0).measures(student_of(student), INPUTS)

    torch.testing.assert_close(torch.stack([measures["kl"], measures["ce"]]), torch.stack([kl, ce]))


@pytest.mark.parametrize("loss", ["forward_kl", "reverse_kl", "jsd"])
def test_a_token_at_a_time_gives_the_loss_and_the_gradients_of_all_at_once(
    loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for most in (2**28, 40 * 6):  # the logits of one token of 40
        monkeypatch.setattr("fettle.train.logprobs.MOST_LOGITS", most)
        student = student_of(llama(2))
        task = task_of(llama(1), loss=loss)
        total = task.loss_sum(student, INPUTS)
        total.backward()
        found.append([total.detach(), *(weight.grad for weight in student.parameters())])

    assert all(grad is not None for grad in found[0])
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize(("teachers", "students"), [(48, 40), (40, 48)])
def test_rows_that_only_one_vocabulary_has_are_left_out_of_the_divergence(teachers: int, students: int) -> None:
    teacher, student = llama(1, teachers), llama(2, students)
    theirs, mine = logits_of(teacher), logits_of(student)
    kl = kl_divergence(Categorical(logits=theirs[:, :40]), Categorical(logits=mine[:, :40])).sum()
    ce = -Categorical(logits=mine).log_prob(TARGETS).sum()

    found = task_of(teacher, alpha=0.5).loss_sum(student_of(student), INPUTS)

    torch.testing.assert_close(found, (kl + ce) / 2)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (Gemma2ForCausalLM, Gemma2Config(vocab_size=40, head_dim=8, final_logit_softcapping=2.0, **SMALL)),
        (CohereForCausalLM, CohereConfig(vocab_size=40, logit_scale=0.5, **SMALL)),
        (GraniteForCausalLM, GraniteConfig(vocab_size=40, logits_scaling=4.0, **SMALL)),
    ],
)
def test_the_head_gives_the_models_own_logits(kind: Any, config: Any) -> None:
    torch.manual_seed(0)
    model = kind(config).eval()
    torch.nn.init.normal_(model.get_output_embeddings().weight, std=2.0)
    own = logits_of(model)
    read_hidden_states(model)

    read = {key: INPUTS[key] for key in ("input_ids", "position_ids")}
    found = model(**read, use_cache=False, read=lambda hidden, head: head(hidden[0, PLACES]))

    torch.testing.assert_close(found, own)


def test_a_micro_batch_without_labels_gives_0_with_a_gradient() -> None:
    student = student_of(llama(2))
    empty = INPUTS | {"labels": torch.full((1, 8), -100)}

    total = task_of(llama(1)).loss_sum(student, empty)
    total.backward()

    assert total.item() == 0
    assert all(weight.grad is not None and not weight.grad.any() for weight in student.parameters())


def test_the_teacher_gets_no_gradient() -> None:
    teacher = llama(1).requires_grad_(False)

    task_of(teacher).loss_sum(student_of(llama(2)), INPUTS).backward()

    assert all(weight.grad is None for weight in teacher.parameters())
