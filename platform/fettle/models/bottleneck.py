"""Bottleneck adapters: a small network after attention and feed-forward of every layer (Houlsby et al. 2019,
arXiv:1902.00751, section 2.1). PEFT has none; saved as it saves adapters, and loaded by fettle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from fettle.errors import UserError
from fettle.models.bottleneck_places import places, why_no_places
from fettle.models.heads import has_head, head_names

KIND = "BOTTLENECK"


class Bottleneck(nn.Module):
    """x + W_up GELU(W_down x + b_down) + b_up, for x [..., width], in float32 whatever x is, given in x's type.

    W_up and b_up begin as 0, so that a fresh one changes nothing (the paper draws them near 0).
    """

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., width] as it came."""
        inside = nn.functional.gelu(self.down(x.to(self.down.weight.dtype)))
        return x + self.up(inside).to(x.dtype)


class BottleneckModel(PeftModel):
    """A frozen model with a `bottleneck` in each of its attentions and feed-forwards; a head is trained beside them.

    A PeftModel by its methods alone, so that trainers checkpoint the adapter and not what it lies beside.
    """

    def __init__(self, model: PreTrainedModel, size: int, base: str) -> None:
        """base: folder of the model. Raises UserError where the model's layers have no parts by the usual names."""
        nn.Module.__init__(self)
        self.base_model: Any = model.requires_grad_(False)
        self.active_adapter = "default"
        self.told = {"peft_type": KIND, "size": size, "base_model_name_or_path": base}
        self._is_on = True
        found = places(name for name, _ in model.named_modules())
        if not found:
            raise UserError(why_no_places(model.config.model_type), field="adapter.kind")
        width = model.config.get_text_config().hidden_size
        for name in found:
            place = model.get_submodule(name)
            place.add_module("bottleneck", Bottleneck(width, size))
            place.register_forward_hook(self._add)
        if has_head(model):
            self.told["task_type"] = "SEQ_CLS"
            for name in head_names(model):
                model.get_submodule(name).requires_grad_()

    @property
    def peft_config(self) -> dict[str, Any]:
        """What is saved as adapter_config.json."""
        return {"default": self.told}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own, through its bottlenecks."""
        return self.base_model(*args, **kwargs)

    def get_base_model(self) -> nn.Module:
        """The model that the adapter lies in."""
        return self.base_model

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Without its bottlenecks the model is the one they were put into."""
        self._is_on = False
        try:
            yield
        finally:
            self._is_on = True

    def save_pretrained(self, folder: str | Path, state_dict: Any = None, **unused: Any) -> None:  # type: ignore[override]
        """Writes the adapter alone. state_dict: of the whole model, where it is not at hand (ZeRO 3)."""
        state = self.state_dict() if state_dict is None else state_dict
        trained = [name for name, weight in self.named_parameters() if weight.requires_grad]
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_file({name: state[name].contiguous() for name in trained}, Path(folder) / "adapter_model.safetensors")
        text = json.dumps(self.told, indent=2, sort_keys=True)
        (Path(folder) / "adapter_config.json").write_text(text + "\n", encoding="utf-8")

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Takes over what was saved; a head that the adapter has not stays as it is."""
        missing, unexpected = self.load_state_dict(state, strict=False)
        lacking = [name for name in missing if ".bottleneck." in name]
        if lacking or unexpected:
            raise UserError(f"this adapter was not made for this model: {(lacking or unexpected)[0]} does not fit")

    def _add(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if not self._is_on:
            return output
        bottleneck: Any = module.bottleneck
        return (bottleneck(output[0]), *output[1:]) if isinstance(output, tuple) else bottleneck(output)
