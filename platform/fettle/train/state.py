"""What a stage has learned, by the names of the parameters: written by any number of workers, read by any other.

No file knows which worker or ZeRO stage it came from: of each parameter, and of each moment that the optimizer keeps of
it, it holds the elements from so-and-so on. So a stage goes on with more workers or fewer, with another ZeRO stage, or
without DeepSpeed. DeepSpeed's own checkpoints go with the number of workers; its universal ones are made of those, by a
step in between, and not of one worker's without an engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from fettle.errors import FettleError
from fettle.train.shares import Share
from fettle.train.zero import whole

WEIGHT = "weight"
_BLOCKS = "blocks"  # of the eight-bit optimizer: they go with the vector they lie in, not with parameters

Plain = dict[str, dict[str, Any]]
"""What an optimizer keeps beside tensors, by parameter."""


def snapshot(shares: Sequence[Share], state: Any, rank: int, world: int) -> tuple[dict[str, torch.Tensor], Plain]:
    """(copies, in the host's memory, of what this worker writes down; what is no tensor). state: the optimizer's, by
    `Share.flat`. What all workers have alike they share out."""
    tensors: dict[str, torch.Tensor] = {}
    plain: Plain = {}
    seen: dict[int, int] = {}
    for number, share in enumerate(shares):
        if share.is_whole and number % world != rank:
            continue
        of_weight = share.flat if share.is_whole else share.of(share.flat)
        tensors[f"{WEIGHT}/{share.start}/{share.name}"] = _copied(of_weight)
        first = seen.setdefault(id(share.flat), number) == number
        for key, value in state.get(share.flat, {}).items():
            if not isinstance(value, torch.Tensor):
                plain.setdefault(share.name, {})[key] = value
            elif share.is_whole or value.ndim == 0:
                tensors[f"{key}/{share.start}/{share.name}"] = _copied(value)
            elif value.shape == share.flat.shape and value.dtype.is_floating_point:
                tensors[f"{key}/{share.start}/{share.name}"] = _copied(share.of(value))
            elif first:
                tensors[f"{_BLOCKS}.{key}/0/{_place(share, rank, world)}"] = _copied(value)
    return tensors, plain


class Stored:
    """What the workers of a checkpoint have written. Raises FettleError where what is asked for is not there."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = [safe_open(file, framework="pt", device="cpu") for file in files]
        self._pieces: dict[tuple[str, str], list[tuple[int, Any, str]]] = {}
        self._kept: dict[str, list[str]] = {}
        for file in self._files:
            for key in file.keys():  # noqa: SIM118  # no mapping
                what, start, name = key.split("/", 2)
                if (what, name) not in self._pieces:
                    self._kept.setdefault(name, []).append(what)
                self._pieces.setdefault((what, name), []).append((int(start), file, key))

    def load_weights(self, model: Any) -> None:
        """Puts the weights into the model's parameters, all workers together where ZeRO 3 shares them out."""
        named = dict(model.named_parameters())
        with torch.no_grad():
            for what, name in self._pieces:
                if what == WEIGHT:
                    parameter = _known(named, name)
                    with whole([parameter]):
                        parameter.data.copy_(self._found(WEIGHT, name).view(parameter.shape))

    def load_state(self, shares: Sequence[Share], optimizer: Any, plain: Plain, rank: int, world: int) -> None:
        """Puts what was kept of the parameters into an optimizer that has made no step."""
        states = optimizer.state
        fused = {id(p) for group in optimizer.param_groups if _keeps_steps_near(group) for p in group["params"]}
        for number, share in enumerate(shares):
            mine = states.setdefault(share.flat, {})
            mine.update(plain.get(share.name, {}))
            for key in self._kept.get(share.name, ()):
                if key == WEIGHT:
                    continue
                value = self._found(key, share.name)
                if value.numel() != share.shape.numel() or value.ndim == 0:
                    near = key != "step" or id(share.flat) in fused
                    mine[key] = value.to(share.flat.device) if near else value
                elif share.is_whole:
                    mine[key] = value.view(share.shape).to(share.flat.device)
                else:
                    part = value.flatten().narrow(0, share.start, share.numel)
                    vector = mine.setdefault(key, torch.zeros_like(share.flat, dtype=value.dtype))
                    share.of(vector).copy_(part)
            if not share.is_whole:
                self._load_blocks(mine, _place(share, rank, world), is_first=number == 0)
            if not mine:
                del states[share.flat]

    def _load_blocks(self, state: dict[str, Any], place: str, is_first: bool) -> None:
        blocks = {what.partition(".")[2]: name for what, name in self._pieces if what.startswith(f"{_BLOCKS}.")}
        for key in blocks:
            if (f"{_BLOCKS}.{key}", place) in self._pieces:
                state[key] = self._found(f"{_BLOCKS}.{key}", place)
        if is_first and blocks and not any(name == place for what, name in self._pieces if what.startswith(_BLOCKS)):
            was = next(iter(blocks.values())).rpartition("@")[2]
            raise FettleError(
                f"the optimizer's state in eight bits lies in blocks that go with the workers (here {was}); go on with"
                " as many, at the same ZeRO stage"
            )

    def _found(self, what: str, name: str) -> torch.Tensor:
        """The tensor that its pieces make up: as it was, where it is one."""
        pieces = sorted(self._pieces[what, name], key=lambda piece: piece[0])
        if len(pieces) == 1 or pieces[0][1].get_slice(pieces[0][2]).get_shape() == []:
            first: torch.Tensor = pieces[0][1].get_tensor(pieces[0][2])
            return first
        return torch.cat([file.get_tensor(key).flatten() for _, file, key in pieces])


def _place(share: Share, rank: int, world: int) -> str:
    """Whose vector the share lies in: named by its first parameter, of which worker."""
    return f"{share.name}@{rank + 1} of {world}"


def _copied(value: torch.Tensor) -> torch.Tensor:
    return value.detach().to("cpu", copy=True).contiguous()


def _known(named: dict[str, torch.nn.Parameter], name: str) -> torch.nn.Parameter:
    if name not in named:
        raise FettleError(f"the checkpoint has weights of {name}, which this model does not have")
    return named[name]


def _keeps_steps_near(group: dict[str, Any]) -> bool:
    """Whether torch wants the number of steps beside the weights: where one kernel does it all."""
    return bool(group.get("fused") or group.get("capturable"))
