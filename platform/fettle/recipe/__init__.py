"""The recipe: what the user writes, validated. Imports neither torch, ray, vllm nor transformers."""

from fettle.recipe.kinds import PretrainStage, SftStage, Stage
from fettle.recipe.load import load_recipe
from fettle.recipe.top import Recipe

__all__ = ["PretrainStage", "Recipe", "SftStage", "Stage", "load_recipe"]
