"""Log-probabilities of each part of a micro-batch, such as the answers of a preference.

Letters: R rows, T tokens of the longest row, V vocabulary, N parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fettle.data.batches import IGNORE, collate_parts, share_out
from fettle.data.tokens import TokenExample

MOST_LOGITS = 2**28  # 1 GiB in float32
_TOKENS_PER_BATCH = 4096


def part_logprobs(model: Any, inputs: dict[str, torch.Tensor], vocab: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probability of each part's labels, summed, [N] float32 nats; how many those labels are, [N] float32).

    inputs: as `collate_parts` gives them. On a CPU from the logits, while they are few; else by TRL's fused head (see
    `CausalTask.loss_sum`). Both are connected to the model even where there are no parts.
    """
    labels = inputs["token_labels"][:, 1:]
    wanted = labels != IGNORE
    part_of = inputs["part_of"][:, 1:][wanted]
    if labels.device.type != "cpu" or inputs["token_labels"].numel() * vocab > MOST_LOGITS:
        read = {key: inputs[key] for key in ("input_ids", "position_ids")}
        output = model(**read, labels=inputs["token_labels"], use_cache=False, fused_lm_head=True)
        logprobs = output.log_probs.float()[wanted]
    else:
        output = model(input_ids=inputs["input_ids"], position_ids=inputs["position_ids"], use_cache=False)
        logits = output.logits[:, :-1][wanted].float()
        logprobs = -torch.nn.functional.cross_entropy(logits, labels[wanted], reduction="none")
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
