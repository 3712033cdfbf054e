"""NEFTune: uniform noise on the embeddings while training (Jain et al. 2023, arXiv:2310.05914, algorithm 1)."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel


class EmbeddingNoise:
    """Noise in ±alpha / sqrt(L · d) on a model's embedding output, L the tokens of each token's own example, d the
    embedding's width.

    In the paper L is the length of a padded row; an example's own gives packed rows the noise of unpacked ones. Drawn
    from torch's generator, which checkpoints hold.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self._lengths: torch.Tensor | None = None

    def attach(self, model: PreTrainedModel) -> None:
        """Adds noise to what `model` embeds, in training mode; nothing of it is saved with the model."""
        model.get_input_embeddings().register_forward_hook(self._add)

    def expect(self, position_ids: torch.Tensor) -> None:
        """The rows that are embedded next, [R, T]: positions restart at each example."""
        self._lengths = example_lengths(position_ids)

    def _add(self, module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return output
        assert self._lengths is not None
        scale = self.alpha / (self._lengths * output.shape[-1]).sqrt()
        return output + torch.empty_like(output).uniform_(-1, 1) * scale[..., None].to(output.dtype)


def example_lengths(position_ids: torch.Tensor) -> torch.Tensor:
    """For every token how many its example has, [R, T] float32; position_ids [R, T] restart at each example."""
    example = (position_ids == 0).cumsum(dim=1) - 1
    counts = torch.zeros_like(position_ids).scatter_add_(1, example, torch.ones_like(position_ids))
    return counts.gather(1, example).float()
