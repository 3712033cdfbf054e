"""What stages that train an encoder-decoder model need, checked before any worker starts."""

from __future__ import annotations

import json
from typing import Any

from fettle.data.report import DataReport
from fettle.errors import UserError
from fettle.models.base import load_tokenizer
from fettle.models.family import family_of
from fettle.pipeline.planned import PlannedStage
from fettle.recipe import Recipe
from fettle.recipe.kinds import PretrainStage, SftStage
from fettle.train.spans import sentinels_of


def check_halved(recipe: Recipe, stage: PlannedStage, found: DataReport) -> None:
    """Raises UserError where an encoder-decoder model cannot be trained as the stage asks. found: in its data."""
    spec, root = stage.spec, stage.origin.root
    if family_of(root) != "seq2seq":
        return

    def where(key: str) -> dict[str, Any]:
        field = f"stages.{spec.name}.{key}"
        return recipe.where(field)

    if json.loads((root / "config.json").read_text(encoding="utf-8")).get("decoder_start_token_id") is None:
        raise UserError(
            f"{root.name} does not say which token its decoder begins with",
            **where("kind"),
            fix='add "decoder_start_token_id" to its config.json',
        )
    if isinstance(spec, SftStage) and spec.neftune is not None:
        raise UserError("neftune works with causal language models only", **where("neftune"), fix="remove it")
    if isinstance(spec, PretrainStage) and not sentinels_of(load_tokenizer(root)):
        raise UserError(
            f"the tokenizer of {root.name} has no sentinel tokens, which stand for what is hidden",
            **where("objective"),
            expected="T5's <extra_id_0>, <extra_id_1>, …",
        )
    is_text = isinstance(spec, PretrainStage)
    for file in found.files:
        if ("text" in file.kinds) != is_text:  # what is replayed; the stage's own data was looked at before
            raise UserError(
                f"{file.file} holds {'questions and answers' if is_text else 'raw text'}: an encoder-decoder model "
                f"learns {'raw text' if is_text else 'answers'} in another way",
                **where("replay"),
                expected="raw text" if is_text else "questions and answers",
            )
