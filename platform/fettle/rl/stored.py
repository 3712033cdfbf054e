"""An iteration's rollouts as a file: written down before they are learned from, read again by a resumed run."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fettle.rl.rollout import Judged, Rollout
from fettle.train.checkpoint import Fence

_OPTIONAL = ("old", "reference", "values")


def write_rollouts(file: Path, batch: Sequence[Judged], fence: Fence, **told: Any) -> None:
    """Writes the rollouts with their rewards and what was worked out of them, whole or not at all. told: what else is
    to be read again, as JSON has it."""
    of = [one.rollout for one in batch]
    arrays: dict[str, np.ndarray] = {
        "prompt": np.array([one.prompt for one in of], np.int32),
        "sample": np.array([one.sample for one in of], np.int32),
        "version": np.array([one.version for one in of], np.int64),
        "is_stopped": np.array([one.finish == "stop" for one in of], bool),
        "reward": np.array([one.reward for one in batch], np.float64),
        "texts": _bytes([one.text for one in of]),
        "parts": _bytes([one.parts for one in batch]),
        "told": _bytes(told),
        "prompt_lengths": np.array([len(one.prompt_ids) for one in of], np.int64),
        "lengths": np.array([len(one.output_ids) for one in of], np.int64),
    }
    for name in ("prompt_ids", "output_ids", "logprobs", "mask"):
        arrays[name] = np.concatenate([getattr(one, name) for one in of])
    for name in _OPTIONAL:
        if batch and getattr(batch[0], name) is not None:
            arrays[name] = np.concatenate([getattr(one, name) for one in batch])
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{fence.token}")
    with open(partial, "wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
        stream.flush()
        os.fsync(stream.fileno())
    fence.check()
    os.replace(partial, file)


def read_rollouts(file: Path) -> tuple[list[Judged], dict[str, Any]]:
    """(the rollouts, what else was told) of a file that `write_rollouts` wrote."""
    with np.load(file, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    texts, parts, told = (json.loads(arrays[name].tobytes()) for name in ("texts", "parts", "told"))
    split = {"prompt_ids": np.cumsum(arrays["prompt_lengths"])[:-1]}
    ends = np.cumsum(arrays["lengths"])[:-1]
    tokens = {
        name: np.split(arrays[name], split.get(name, ends))
        for name in ("prompt_ids", "output_ids", "logprobs", "mask", *_OPTIONAL)
        if name in arrays
    }
    found = []
    for place, text in enumerate(texts):
        rollout = Rollout(
            prompt=int(arrays["prompt"][place]),
            sample=int(arrays["sample"][place]),
            prompt_ids=tokens["prompt_ids"][place],
            output_ids=tokens["output_ids"][place],
            logprobs=tokens["logprobs"][place],
            mask=tokens["mask"][place],
            version=int(arrays["version"][place]),
            finish="stop" if arrays["is_stopped"][place] else "length",
            text=text,
        )
        more = {name: tokens[name][place] for name in _OPTIONAL if name in tokens}
        found.append(Judged(rollout, parts[place], float(arrays["reward"][place]), **more))
    return found, told


def _bytes(value: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)
