"""A classifier's labels and the rows of its head."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from fettle.models.label_rows import carry_over, head_rows, labels_in


def test_rows_of_shared_labels_are_carried_over_wherever_they_stood() -> None:
    fresh = torch.zeros(3, 2)
    earlier = torch.tensor([[1.0, 1.0], [2.0, 2.0]])

    rows = carry_over(fresh, ["new", "b", "a"], earlier, ["a", "b"])

    assert rows.tolist() == [[0, 0], [2, 2], [1, 1]]


def test_carrying_over_leaves_the_fresh_rows_it_was_given_alone() -> None:
    fresh = torch.zeros(1, 2)

    carry_over(fresh, ["a"], torch.ones(1, 2), ["a"])

    assert not fresh.any()


def test_labels_are_in_the_order_of_the_rows_also_above_ten(tmp_path: Path) -> None:
    names = {str(row): f"label {row}" for row in reversed(range(12))}
    config = {"architectures": ["LlamaForSequenceClassification"], "id2label": names}
    (tmp_path / "config.json").write_text(json.dumps(config))

    assert labels_in(tmp_path) == tuple(f"label {row}" for row in range(12))


def test_a_language_model_has_no_labels(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))

    assert labels_in(tmp_path) == ()


def test_head_rows_are_found_under_the_names_a_model_and_an_adapter_give_them(tmp_path: Path) -> None:
    for name in ("score.weight", "base_model.model.score.weight", "classifier.weight", "classifier.out_proj.weight"):
        folder = tmp_path / name
        folder.mkdir()
        save_file({name: torch.ones(2, 3), "embed.weight": torch.zeros(4, 3)}, folder / "model.safetensors")

    found = [head_rows(folder) for folder in sorted(tmp_path.iterdir())]

    assert [{kind: rows.shape for kind, rows in one.items()} for one in found] == [{"weight": (2, 3)}] * 4


def test_a_folder_without_a_head_has_no_head_rows(tmp_path: Path) -> None:
    save_file({"embed.weight": torch.zeros(4, 3)}, tmp_path / "model.safetensors")

    assert head_rows(tmp_path) == {}
