"""What a preference stage makes of records: pairs, judged and mismatched answers, and losses equal to TRL's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from fettle.data.batches import IGNORE
from fettle.data.tokens import TokenExample
from fettle.models.base import BUNDLED, load_tokenizer
from fettle.recipe.kinds import PreferenceStage
from fettle.train import logprobs
from fettle.train.checkpoint import Fence
from fettle.train.logprobs import part_logprobs, score, whole
from fettle.train.preference import PreferenceTask, judged, parts_of
from fettle.train.reference import Reference, mismatched, part_key, reference_for


def record(*parts: tuple[list[int], int], values: tuple[float, ...] | None = None) -> TokenExample:
    """An example; of each part its tokens, and how many of them are the prompt's."""
    ids = [np.array(tokens, np.int32) for tokens, _ in parts]
    masks = [np.arange(len(tokens)) >= prompt for tokens, prompt in parts]
    ends = np.cumsum([len(tokens) for tokens, _ in parts])
    told = np.array(values or (0.0,) * len(parts), np.float32)
    return TokenExample(np.concatenate(ids), np.concatenate(masks), ends, told)


def make_task(tmp_path: Path, model: Any = None, **keys: Any) -> PreferenceTask:
    """A task of rows of at most 64 tokens; with a model, which is the reference as well, on one worker."""
    spec = PreferenceStage(name="prefer", kind="preference", data="x.jsonl", **keys)
    (tmp_path / ".epoch").write_text("first")
    fence = Fence(tmp_path / ".epoch", "first")
    task = PreferenceTask(spec, folder=tmp_path, fence=fence, max_length=64, packing=True, pad_id=0)
    if model is not None:
        task._vocab = model.config.vocab_size
    return task


def trainer_of(task: PreferenceTask, model: Any, examples: list[TokenExample]) -> Any:
    """What a task reads of its trainer, of one step of these examples, which are held out as well."""
    step = SimpleNamespace(examples=examples)
    lessons = SimpleNamespace(steps=lambda: iter([step]), num_steps=1, heldout=examples)
    return SimpleNamespace(
        task=task,
        model_wrapped=model,
        args=SimpleNamespace(device=torch.device("cpu")),
        batches=SimpleNamespace(rank=0, world=1),
        steps=type(
            "Steps", (), {"lessons": lessons, "heldout": examples, "__getitem__": lambda self, number: step.examples}
        )(),
        state=SimpleNamespace(global_step=0),
    )


def tiny_model(seed: int, vocab: int = 50) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocab, **sizes, attn_implementation="sdpa"))
    return model.eval()


def test_answers_that_are_tied_at_a_score_of_0_are_no_pair(tmp_path: Path) -> None:
    three = record(([1, 2], 1), ([1, 3], 1), ([1, 4], 1), values=(1.0, 0.0, 0.0))

    batch = make_task(tmp_path, loss="orpo").collate([three])

    assert batch["pairs"].tolist() == [[0, 1], [0, 2]]


def test_kto_takes_the_better_half_of_a_record_for_good_and_the_worse_half_for_bad() -> None:
    answer = ([1, 2], 1)
    single = [record(answer, values=(value,)) for value in (1.0, 0.0)]

    found = [judged(one) for one in (*single, record(answer, answer), record(answer, answer, answer))]

    assert found == [[1], [0], [1, 0], [1, -1, 0]]


def test_mismatched_answers_are_those_of_the_record_before() -> None:
    first = parts_of(record(([1, 2, 11], 2), ([1, 2, 12, 13], 2)))
    second = parts_of(record(([3, 21], 1)))

    found = mismatched([first, second], max_length=3)

    assert [part.input_ids.tolist() for part in found] == [[1, 2, 21], [1, 2, 21], [3, 11]]
    assert [part.loss_mask.tolist() for part in found] == [[False, False, True], [False, False, True], [False, True]]


def test_one_record_has_no_mismatched_answer() -> None:
    assert mismatched([parts_of(record(([1, 2], 1), ([1, 3], 1)))], max_length=8) == []


def test_a_micro_batch_has_one_label_more_than_pairs_of_which_the_first_is_not_counted(tmp_path: Path) -> None:
    task = make_task(tmp_path, loss="simpo")
    two, three = record(([1, 2], 1), ([1, 3], 1)), record(([1, 2], 1), ([1, 3], 1), ([1, 4], 1))

    full, empty = task.collate([two, three]), task.collate([])

    assert full["pairs"].tolist() == [[0, 1], [2, 3], [2, 4], [3, 4]]
    assert [int((one["labels"][1:] != IGNORE).sum()) for one in (full, empty)] == [4, 0]
    assert full["labels"][0] == IGNORE


def test_the_log_probability_of_a_part_is_that_of_the_part_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_task(tmp_path).load(BUNDLED["tiny"], torch.float32)
    task = make_task(tmp_path, model, loss="simpo")
    examples = [record(([5, 6, 7, 8], 2), ([5, 6, 9], 2)), record(([10, 11], 1), ([10, 12, 13], 1))]
    batch = task.collate(examples)

    few = part_logprobs(model, batch, model.config.vocab_size)
    monkeypatch.setattr(logprobs, "MOST_LOGITS", 0)
    fused = part_logprobs(model, batch, model.config.vocab_size)

    alone = []
    for part in (part for one in examples for part in parts_of(one)):
        logits = model(torch.from_numpy(part.input_ids[None].astype(np.int64))).logits[0].float()
        each = torch.log_softmax(logits, -1)[:-1].gather(1, torch.from_numpy(part.input_ids[1:, None].astype(np.int64)))
        alone.append(each[:, 0][torch.from_numpy(part.loss_mask[1:])].sum())
    torch.testing.assert_close(few[0], torch.stack(alone), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fused[0], few[0], rtol=1e-5, atol=1e-5)
    assert few[1].tolist() == fused[1].tolist() == [2, 1, 1, 2]


def test_the_reference_is_worked_out_once_and_read_by_a_stage_that_goes_on(tmp_path: Path) -> None:
    policy = tiny_model(0)
    parts = parts_of(record(([1, 2, 3], 1), ([1, 4], 1)))
    task = make_task(tmp_path, policy)
    trainer = trainer_of(task, policy, [])
    reference = reference_for(trainer, parts, tmp_path / "r.npz", task.fence, pad_id=0, vocab=50)

    trainer.model_wrapped, trainer.state.global_step = tiny_model(1), 3
    again = reference_for(trainer, parts, tmp_path / "r.npz", task.fence, pad_id=0, vocab=50)

    assert again.of(parts).tolist() == reference.of(parts).tolist()
    assert reference.of(parts).tolist() == score(trainer, policy, parts, pad_id=0, vocab=50).float().tolist()


def test_parts_of_the_same_tokens_under_another_mask_are_told_apart() -> None:
    ids = np.array([1, 2, 3], np.int32)

    keys = {part_key(whole(ids, np.array([False, *mask]))) for mask in ((True, True), (False, True))}

    assert len(keys) == 2


def rows_of(batch: dict[str, torch.Tensor], prefix: str = "") -> list[TokenExample]:
    """The rows of a batch of TRL, without their padding."""
    columns = [batch[f"{prefix}{name}"] for name in ("input_ids", "attention_mask", "completion_mask")]
    return [
        whole(ids[kept.bool()].numpy().astype(np.int32), mask[kept.bool()].bool().numpy())
        for ids, kept, mask in zip(*columns, strict=True)
    ]


def together(parts: list[TokenExample], values: tuple[float, ...]) -> TokenExample:
    ids, masks = [part.input_ids for part in parts], [part.loss_mask for part in parts]
    ends = np.cumsum([len(one) for one in ids])
    return TokenExample(np.concatenate(ids), np.concatenate(masks), ends, np.array(values, np.float32))


def trl_settings(folder: Path) -> dict[str, Any]:
    quiet = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    return quiet | {"output_dir": str(folder), "per_device_train_batch_size": 4, "max_length": 64}


def texts() -> list[dict[str, Any]]:
    answers = [
        ("At noon.", "No."),
        ("By the sea, sir.", "Who knows"),
        ("Nine tracks", "Ten trains leave here"),
        ("A", "B"),
    ]
    return [{"prompt": f"Question {n}? ", "chosen": c, "rejected": r} for n, (c, r) in enumerate(answers)]


@pytest.mark.parametrize(("loss", "trls"), [("dpo", "sigmoid"), ("ipo", "ipo")])
def test_the_loss_of_pairs_is_that_of_trls_trainer(tmp_path: Path, loss: str, trls: str) -> None:
    tokenizer = load_tokenizer(BUNDLED["tiny"])
    policy, reference = tiny_model(0, len(tokenizer)), tiny_model(1, len(tokenizer))
    arguments = DPOConfig(**trl_settings(tmp_path), loss_type=trls, beta=0.3)
    theirs = DPOTrainer(
        policy,
        ref_model=reference,
        args=arguments,
        train_dataset=Dataset.from_list(texts()),
        processing_class=tokenizer,
    )
    batch = next(iter(theirs.get_train_dataloader()))
    expected = theirs._compute_loss(policy, dict(batch), False)

    rows = rows_of(batch)
    examples = [together([rows[n], rows[n + 4]], (0.0, 0.0)) for n in range(4)]
    task = make_task(tmp_path, policy, loss=loss, beta=0.3)
    task.prepare(trainer_of(task, reference, examples))

    found = task.loss_sum(policy, task.collate(examples)) / 4
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_loss_of_answers_is_that_of_trls_kto_trainer(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(BUNDLED["tiny"])
    policy, reference = tiny_model(0, len(tokenizer)), tiny_model(1, len(tokenizer))
    single = [
        {"prompt": one["prompt"], "completion": one["chosen" if good else "rejected"], "label": good}
        for one, good in zip(texts(), (True, False, True, True), strict=True)
    ]
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.5}
    arguments = KTOConfig(**trl_settings(tmp_path), beta=0.3, **weights)
    theirs = KTOTrainer(
        policy, ref_model=reference, args=arguments, train_dataset=Dataset.from_list(single), processing_class=tokenizer
    )
    batch = next(iter(theirs.get_train_dataloader()))
    expected = theirs._compute_loss(policy, dict(batch), False)

    rows = rows_of(batch)
    examples = [together([row], (float(good),)) for row, good in zip(rows, batch["label"], strict=True)]
    task = make_task(tmp_path, policy, loss="kto", beta=0.3, **weights)
    task.prepare(trainer_of(task, reference, examples))

    found = task.loss_sum(policy, task.collate(examples)) / 4
    ours = mismatched([parts_of(one) for one in examples], 64)
    assert [part.input_ids.tolist() for part in ours] == [r.input_ids.tolist() for r in rows_of(batch, "KL_")]
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_policy_that_is_its_reference_is_right_about_half_of_the_pairs(tmp_path: Path) -> None:
    policy = tiny_model(0)
    examples = [record(([1, 2, 3], 1), ([1, 4], 1)), record(([5, 6], 1), ([5, 7], 1))]
    task = make_task(tmp_path, policy)
    task.prepare(trainer_of(task, policy, examples))

    found = task.measures(policy, task.collate(examples))

    assert isinstance(task.reference, Reference)
    assert {name: value.item() / 2 for name, value in found.items()} == pytest.approx(
        {"loss": 0.693147, "accuracy": 0.5, "margin": 0.0}, abs=1e-5
    )
