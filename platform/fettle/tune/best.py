"""The best trial as a recipe that runs from the sweep's folder."""

from __future__ import annotations

from typing import Any

import yaml

from fettle.artifact import replace_text
from fettle.errors import FettleError
from fettle.models.base import BUNDLED, TEMPLATES
from fettle.pipeline.graph import plan_stages
from fettle.recipe import load_recipe
from fettle.recipe.load import varied
from fettle.recipe.placed import placed
from fettle.tune.results import Results, in_words
from fettle.tune.study import Sweep


def write_best(sweep: Sweep, results: Results) -> None:
    """`best.yaml` in the sweep's folder: run with that as `--out`, stages that the trial has trained are found done.

    Raises FettleError where what is written would not be the trial that won.
    """
    best = results.best
    assert best is not None
    recipe = varied(sweep.recipe, best.settings)
    file = results.out / "best.yaml"
    head = [
        f"# Written by `fettle sweep`: the best of {len(results.rows)} trials ({results.search}), with",
        f"# {in_words(best.settings)}: {results.metric} of {results.stage} {best.score:.4f}",
    ]
    if len({str(past.settings) for past in best.past}) > 1:
        head.append("# Its settings changed on the way (sweep.json tells how); these are the last ones. What they were")
        head.append(f"# trained to lies in {best.artifact}")
    text = yaml.dump(
        placed(recipe, (*BUNDLED, *TEMPLATES)), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110
    )
    replace_text(file, "\n".join(head) + "\n" + text)
    wanted, found = (
        [stage.fingerprint for stage in plan_stages(one, results.out, sweep.stage)]
        for one in (recipe, load_recipe(file))
    )
    if wanted != found:
        raise FettleError(f"{file} is not the recipe that won: its stages have other fingerprints")


class _Dumper(yaml.SafeDumper):
    """Short lists and keys on one line, as people write recipes."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, flow_style=all(not isinstance(one, dict) for one in sequence))


def _mapping(dumper: yaml.SafeDumper, value: dict[str, Any]) -> yaml.Node:
    is_short = (
        len(str(value)) < 90
        and all(not isinstance(one, (dict, list)) for one in value.values())
        and "name" not in value
    )
    return dumper.represent_mapping("tag:yaml.org,2002:map", value.items(), flow_style=is_short)


_Dumper.add_representer(dict, _mapping)
