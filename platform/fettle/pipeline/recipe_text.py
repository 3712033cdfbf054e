"""The text of a first recipe, with a comment at each key that a newcomer will want to turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from fettle.recipe.tasks import Task

_COLUMN = 46  # where comments begin, of lines that are no longer


@dataclass(frozen=True)
class Draft:
    """What a first recipe says. sources: of the stage, and heldout: as recipes have them. max_length, max_new_tokens:
    tokens; None leaves them to the defaults. goals: score → bound; gains: score → how much better than the base."""

    name: str
    command: str
    base: str
    cluster: Mapping[str, Any]
    task: Task
    stage: str
    sources: Sequence[Any]
    heldout: Any
    records: int
    epochs: int
    lr: float
    batch_tokens: int
    max_length: int | None = None
    max_new_tokens: int | None = None
    limit: int | None = None
    chat_template: str | None = None
    goals: Mapping[str, float] = field(default_factory=dict)
    gains: Mapping[str, float] = field(default_factory=dict)


def recipe_text(draft: Draft) -> str:
    """The recipe, as YAML."""
    lines = [
        f"# Written by `{draft.command}`. Every key is told of in docs/recipe.md.",
        f"name: {_flow(draft.name)}",
        _line(f"base: {_flow(draft.base)}", "the bundled model's name, a folder, or a hub id"),
    ]
    if draft.chat_template is not None:
        lines.append(_line(f"chat_template: {draft.chat_template}", "the base has none, and messages need one"))
    lines += [
        _line(f"cluster: {_flow(dict(draft.cluster))}", "workers that train: on this machine"),
        _line("adapter: {kind: lora, r: 16, alpha: 32}", "small weights beside the base's; `full` trains those"),
        "stages:",
        f"  - name: {_flow(draft.stage)}",
        _line(
            f"    kind: {draft.task.kind}",
            "learns the answers" if draft.task.kind == "sft" else "learns every word of the documents",
        ),
        _line(f"    data: {_sources(draft.sources)}", f"{draft.records:,} records"),
        _line(f"    heldout: {{data: {_flow(draft.heldout)}}}", "its loss is measured before and after"),
    ]
    if draft.max_length is not None:
        lines.append(_line(f"    max_length: {draft.max_length}", "tokens of the longest record; longer ones are cut"))
    lines += [
        _line(f"    epochs: {draft.epochs}", "times that each record is read"),
        _line(f"    lr: {draft.lr:.0e}".replace("e-0", "e-"), "lower it where the loss goes up"),
        _line(f"    batch: {{tokens: {draft.batch_tokens}}}", "what one step learns from, over all workers"),
        *_evaluation(draft),
        "# publish: {registry: registry, name: " + _flow(draft.name) + "}",
        "#   where the goal is met, the result becomes a version that `fettle serve --registry registry` takes up",
    ]
    return "\n".join(lines) + "\n"


def _evaluation(draft: Draft) -> list[str]:
    lines = ["evaluate:"]
    data = f"    data: {_flow(draft.heldout)}"
    if draft.task.metrics:
        lines += [
            _line("  - kind: generate", "base and result answer held-out questions"),
            data,
            f"    metrics: {_flow(draft.task.metrics_for({**draft.goals, **draft.gains}))}",
            _line(f"    max_new_tokens: {draft.max_new_tokens}", "of the longest answer"),
            _line("    few_shot: 2", "the base also answers after two examples: is tuning worth it?"),
        ]
    else:
        lines += [
            _line("  - kind: loss", "of base and result on held-out documents"),
            f"    data: {_flow(draft.heldout)}",
        ]
    if draft.limit is not None:
        lines.append(f"    limit: {draft.limit}")
    if draft.goals:
        key = "at_least" if draft.task.metrics else "at_most"
        lines.append(_line(f"    {key}: {_flow(dict(draft.goals))}", "the goal: what the result has to reach"))
    if draft.gains:
        lines.append(_line(f"    gain: {_flow(dict(draft.gains))}", "the goal: how much better than the base"))
    return lines


def _line(text: str, comment: str) -> str:
    return f"{text:<{_COLUMN}}  # {comment}"


def _sources(sources: Sequence[Any]) -> str:
    return _flow(sources[0]) if len(sources) == 1 else _flow(list(sources))


def _flow(value: Any) -> str:
    """The value on one line, as YAML has it."""
    text = yaml.safe_dump([value], default_flow_style=True, sort_keys=False, allow_unicode=True, width=1 << 20)
    return text.strip()[1:-1]
