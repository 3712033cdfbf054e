"""Log-probabilities of each part of a micro-batch, such as the answers of a preference.

Letters: R rows, T tokens of the longest row, V vocabulary, N parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from fettle.data.batches import IGNORE, collate_parts, share_out
from fettle.data.tokens import TokenExample

MOST_LOGITS = 2**28  # 1 GiB in float32
_FEW_SHAPES = "_fettle_few_shapes"
_TOKENS_PER_BATCH = 4096


def label_logprobs(
    model: Any, batch: dict[str, torch.Tensor], labels: torch.Tensor, vocab: int, temperature: float = 1.0
) -> torch.Tensor:
    """The log-probability of each label that is none to IGNORE, row after row, [L] float32 nats.

    batch: `input_ids`, `position_ids`; labels: [R, T], of which the first of a row is never predicted. Connected to the
    model even where there are none. On a CPU from the logits that predict a label, while they are few; else by TRL's
    fused head, which never holds them all. (Without its GPU kernel the fused head projects twice, the second time in
    float32: a quarter of the step, 2026-11.) temperature: what logits are divided by; the fused head has to have been
    made with it.
    """
    read, labels = in_few_shapes(model, batch, labels)
    wanted = labels[:, 1:] != IGNORE
    if labels.device.type != "cpu" or labels.numel() * vocab > MOST_LOGITS:
        output = model(**read, labels=labels, use_cache=False, fused_lm_head=True)
        found: torch.Tensor = output.log_probs.float()[wanted]
        return found
    with _head_at(model, wanted):
        logits = model(**read, use_cache=False).logits[0, : int(wanted.sum())].float()
    logits = logits if temperature == 1 else logits / temperature
    return -torch.nn.functional.cross_entropy(logits, labels[:, 1:][wanted], reduction="none")


def want_few_shapes(model: Any) -> None:
    """Has a model read rows of few widths from now on, whatever it is given.

    For each shape of matrices in bfloat16 oneDNN compiles a kernel, 2 ms each and a thousand of them kept: where every
    micro-batch is as wide as its records that was a fifth of a small model's step on a CPU, and 150 MiB (torch 2.13).
    """
    setattr(model, _FEW_SHAPES, True)


def in_few_shapes(
    model: Any, batch: dict[str, torch.Tensor], labels: torch.Tensor
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """(`input_ids` and `position_ids` of a batch; its labels), wider by at most a sixteenth where the model wants few
    shapes: what is added is a record of its own that bears no loss."""
    read = {key: batch[key] for key in ("input_ids", "position_ids")}
    rows, width = labels.shape
    more = _even(width) - width
    if not more or not getattr(_unwrapped(model), _FEW_SHAPES, False):
        return read, labels
    added = {"input_ids": labels.new_zeros(rows, more), "position_ids": torch.arange(more).expand(rows, more)}
    read = {key: torch.cat([value, added[key].to(value)], dim=1) for key, value in read.items()}
    return read, torch.cat([labels, labels.new_full((rows, more), IGNORE)], dim=1)


def _even(count: int) -> int:
    """The next multiple of a power of two that is a sixteenth of it or less, and no less than 16."""
    step = 1 << max(4, count.bit_length() - 5)
    return -(-count // step) * step


def _unwrapped(model: Any) -> Any:
    while hasattr(model, "module"):  # torch's and DeepSpeed's wrappers of it
        model = model.module
    return model


@contextmanager
def _head_at(model: Any, wanted: torch.Tensor) -> Iterator[None]:
    """Within it the model's logits are [1, L, V], those at the places `wanted`, [R, T - 1], row after row; of a model
    that is to have few shapes some more after them.

    What precedes the output head is changed, and not the model's forward: what follows the head (scales, caps,
    adapters, gathered shards) stays the model's own. Prompts take a half to most of a row, and the head of a small
    model is a fifth of its work.
    """

    def chosen(head: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden, *rest = inputs
        learned = hidden.shape[1] - wanted.shape[1] - 1  # tokens of prompt tuning, before each row's own
        kept = [hidden[0, :learned], hidden[:, learned:-1][wanted]]
        if is_even:
            rows = len(kept[1])
            kept.append(hidden.new_zeros(_even(rows) - rows, hidden.shape[-1]))
        return torch.cat(kept)[None], *rest

    model = _unwrapped(model)
    is_even = getattr(model, _FEW_SHAPES, False)
    hook = model.get_output_embeddings().register_forward_pre_hook(chosen)
    try:
        yield
    finally:
        hook.remove()


def part_logprobs(model: Any, inputs: dict[str, torch.Tensor], vocab: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probability of each part's labels, summed, [N] float32 nats; how many those labels are, [N] float32).

    inputs: as `collate_parts` gives them. Both are connected to the model even where there are no parts.
    """
    labels = inputs["token_labels"]
    logprobs = label_logprobs(model, inputs, labels, vocab)
    part_of = inputs["part_of"][:, 1:][labels[:, 1:] != IGNORE]
    sums = logprobs.new_zeros(len(inputs["ends"])).index_add(0, part_of, logprobs)
    counts = torch.zeros_like(sums).index_add(0, part_of, torch.ones_like(logprobs))
    return sums, counts


@torch.no_grad()
def score(trainer: Any, model: Any, parts: Sequence[TokenExample], *, pad_id: int, vocab: int) -> torch.Tensor:
    """The log-probability of each part's labels under the model as it is, [N] float64, on the trainer's device.

    All workers call it together, with the same parts, of which each takes its share; all get all of them.
    """
    device = trainer.args.device
    found = torch.zeros(len(parts), dtype=torch.float64, device=device)
    if not parts:
        return found
    lengths = [len(part.input_ids) for part in parts]
    rank, world = trainer.batches.rank, trainer.batches.world
    groups = max(1, sum(lengths) // (_TOKENS_PER_BATCH * world))
    was_training = model.training
    model.eval()
    for places in share_out(lengths, groups * world)[rank * groups : (rank + 1) * groups]:
        chosen: Any = [parts[place] for place in places]
        batch = collate_parts(chosen, max_length=max(lengths), packing=trainer.task.packing, pad_id=pad_id)
        batch = {key: value.to(device) for key, value in batch.items()}
        found[places] = part_logprobs(model, batch, vocab)[0].double()
    model.train(was_training)
    if world > 1:
        torch.distributed.all_reduce(found)
    return found


def whole(input_ids: np.ndarray, loss_mask: np.ndarray) -> TokenExample:
    """An example of one part."""
    return TokenExample(input_ids, loss_mask, np.array([len(input_ids)]))
