"""Log-probabilities under the reference, the policy as the stage received it, worked out once before the first step.

With the very model that is then trained: no second copy of it, and the same for full weights, fresh and continued
adapters, and sharded weights.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fettle.data.tokens import TokenExample
from fettle.errors import FettleError
from fettle.train.checkpoint import Fence
from fettle.train.logprobs import score


class Reference:
    """Log-probabilities of parts, by their tokens and which of those bear loss."""

    def __init__(self, keys: np.ndarray, logprobs: np.ndarray) -> None:
        """keys: [N] uint64 of `part_key`. logprobs: [N] float64, summed over a part's labels, in nats."""
        self._logprobs = dict(zip(keys.tolist(), logprobs.tolist(), strict=True))

    def of(self, parts: Iterable[TokenExample]) -> torch.Tensor:
        """Those of some parts, [N] float32, all of which were there when it was worked out."""
        return torch.tensor([self._logprobs[part_key(part)] for part in parts], dtype=torch.float32)


def reference_for(
    trainer: Any, parts: Iterable[TokenExample], file: Path, fence: Fence, *, pad_id: int, vocab: int
) -> Reference:
    """The reference of a stage that has not made a step, or, from `file`, of one that goes on.

    parts: all that the stage will ever ask for, some perhaps repeatedly. All workers call it together; the first one
    writes the file, whole or not at all. Raises FettleError where a stage goes on without it: by then the model is no
    longer the one the stage received.
    """
    if file.is_file():
        with np.load(file) as stored:
            return Reference(stored["keys"], stored["logprobs"])
    if trainer.state.global_step:
        raise FettleError(
            f"{file} is gone, and the policy it was made with has been trained since; "
            f"delete {file.parent} to begin the stage anew"
        )
    different = {part_key(part): part for part in parts}
    logprobs = score(trainer, trainer.model_wrapped, [*different.values()], pad_id=pad_id, vocab=vocab).cpu().numpy()
    keys = np.fromiter(different, dtype=np.uint64, count=len(different))
    if trainer.batches.rank == 0:
        _write(file, fence, keys, logprobs)
    return Reference(keys, logprobs)


def part_key(part: TokenExample) -> int:
    """64 bits of a part's tokens and loss mask."""
    told = hashlib.blake2b(np.ascontiguousarray(part.input_ids, dtype=np.int32).data, digest_size=8)
    told.update(np.ascontiguousarray(part.loss_mask, dtype=np.bool_).data)
    return int.from_bytes(told.digest(), "little")


def mismatched(answers: Sequence[Sequence[TokenExample]], max_length: int) -> list[TokenExample]:
    """Each answer's prompt with an answer of the record before, as many as there are answers; none for one record.

    answers: of each record of a step; a part's answer begins at its first label. The first record is after the last.
    As in TRL, where it is the answer before in a micro-batch; here in the step, so that micro-batches do not matter.
    Cut to `max_length` tokens.
    """
    if len(answers) < 2:
        return []
    found = []
    for number, record in enumerate(answers):
        before = answers[number - 1]
        for place, own in enumerate(record):
            begin = int(np.argmax(own.loss_mask))
            other = before[place % len(before)]
            rest = slice(int(np.argmax(other.loss_mask)), None)
            ids = np.concatenate([own.input_ids[:begin], other.input_ids[rest]])[:max_length]
            mask = np.concatenate([own.loss_mask[:begin], other.loss_mask[rest]])[:max_length]
            found.append(TokenExample(ids, mask, np.array([len(ids)])))
    return found


def _write(file: Path, fence: Fence, keys: np.ndarray, logprobs: np.ndarray) -> None:
    partial = file.with_name(f".{file.name}.{fence.token}")
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(partial, "wb") as stream:
        np.savez(stream, keys=keys, logprobs=logprobs)
        stream.flush()
        os.fsync(stream.fileno())
    fence.check()
    os.replace(partial, file)
