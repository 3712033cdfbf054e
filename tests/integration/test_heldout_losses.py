"""The loss of real models on held-out records: token for token what transformers gives, and what training measures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
from typer.testing import CliRunner

from fettle.artifact import read_artifact
from fettle.cli.main import app
from fettle.data.encode import encode
from fettle.data.formats import read_file
from fettle.data.halves import split
from fettle.errors import GateFailed, UserError
from fettle.evaluate.perplexity import example_losses
from fettle.models.base import load_tokenizer
from fettle.models.generate import load_speaker
from fettle.pipeline import perplexity
from fettle.pipeline.evaluated import Retention
from fettle.pipeline.evaluation import check_evaluations, compare
from fettle.pipeline.gate import judge
from fettle.pipeline.graph import plan_stages
from fettle.pipeline.prepare import prepare
from fettle.recipe import Recipe, load_recipe
from fettle.recipe.cluster import ClusterSpec
from fettle.train.job import GroupMember
from fettle.train.stages.merge import merge
from fettle.train.worker import run_member
from gloo import FUNCTIONS, fence_of
from small_t5 import make_t5, northline_lines

TOLERANCE = 1e-4  # nats a token; float32, sums in another order
LORA = {"kind": "lora", "r": 8, "alpha": 32}


@pytest.fixture(scope="module")
def t5(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_t5(tmp_path_factory.mktemp("t5") / "t5", northline_lines(root))


@pytest.mark.parametrize("which", ["tiny", "tiny with an adapter", "t5"])
def test_a_records_loss_is_what_transformers_gives_for_its_answer_alone(
    tiny: Path, t5: Path, loras: dict[str, Path], root: Path, which: str
) -> None:
    base, adapter = (t5 if which == "t5" else tiny), (loras["polite"] if "adapter" in which else None)
    tokenizer = load_tokenizer(base)
    file = "tasks.jsonl" if which == "t5" else "heldout.jsonl"  # without a chat template, and with one
    records = list(read_file(root / "recipes" / "northline" / file)[1])[:24:4]
    examples = list(encode(records, tokenizer, max_length=128, is_halved=which == "t5"))

    found = example_losses(load_speaker(base, adapter), examples, pad_id=tokenizer.pad_token_id or 0)

    auto = AutoModelForSeq2SeqLM if which == "t5" else AutoModelForCausalLM
    model: Any = auto.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(adapter)) if adapter else model
    wanted = [by_hand(model.eval(), example) for example in examples]
    assert len({len(example.input_ids) for example in examples}) > 1
    assert all(0 < example.loss_mask.sum() < len(example.input_ids) for example in examples)
    tokens = [int(example.loss_mask.sum()) for example in examples]
    assert found / tokens == pytest.approx(
        [loss / count for loss, count in zip(wanted, tokens, strict=True)], abs=TOLERANCE
    )


@torch.no_grad()
def by_hand(model: Any, example: Any) -> float:
    """Nats of one example, by itself, without padding."""
    ids, mask = torch.from_numpy(example.input_ids).long()[None], torch.from_numpy(example.loss_mask.copy())
    if model.config.is_encoder_decoder:
        prompt, answer = (torch.from_numpy(half).long()[None] for half in split(example.input_ids, example.loss_mask))
        return float(model(input_ids=prompt, labels=answer).loss) * answer.shape[1]
    logits = model(input_ids=ids).logits[0, :-1]
    return float(cross_entropy(logits[mask[1:]], ids[0, 1:][mask[1:]], reduction="sum"))


def recipe_of(folder: Path, base: Path, adapter: Any, *evaluate: dict[str, Any], more: tuple[Any, ...] = ()) -> Recipe:
    rows = [{"prompt": f"Say {word} again.", "completion": word} for word in ("night", "train", "dog", "ticket") * 12]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = {"name": "task", "kind": "sft", "data": "pairs.jsonl", "max_steps": 20, "lr": 1e-2}
    stage |= {"batch": {"sequences": 16}, "max_length": 32, "adapter": adapter, "heldout": {"data": "pairs.jsonl"}}
    told = {"name": "say", "base": str(base), "stages": [stage, *more], "evaluate": list(evaluate)}
    told |= {"cluster": {"workers": 1, "zero": 0, "precision": "fp32"}}
    (folder / "recipe.yaml").write_text(json.dumps(told))
    return load_recipe(folder / "recipe.yaml")


def trained(recipe: Recipe, out: Path) -> list[Any]:
    """The recipe's stages, all done, without Ray."""
    stages = plan_stages(recipe, out)
    check_evaluations(recipe, stages)
    jobs, _ = prepare(recipe, stages, out / "tokens")
    (out / "stages").mkdir(parents=True)
    (out / "stages" / "epoch").write_text("test")
    for job in jobs:
        member = GroupMember(0, 1, ClusterSpec(workers=1, zero=0), fence_of(job))
        run_member([(job, (FUNCTIONS | {"merge": merge})[job.spec.kind])], member, None)
    return stages


@pytest.mark.parametrize(("which", "adapter"), [("tiny", "full"), ("tiny", {"kind": "prefix"}), ("t5", LORA)])
def test_the_loss_is_the_held_out_loss_that_training_measures(
    tiny: Path, t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str, adapter: Any
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    judged = {"kind": "loss", "data": "pairs.jsonl", "max_length": 32, "gain": {"loss": 0.1}}
    recipe = recipe_of(tmp_path, t5 if which == "t5" else tiny, adapter, judged)
    (stage,) = trained(recipe, tmp_path / "out")

    (found,) = compare(recipe, [stage], tmp_path / "out", lambda _: None)

    told = read_artifact(stage.artifact).metrics["loss"]
    before, after = (side.scores["loss"]["mean"] for side in (found.before, found.after))
    # Freshly attached, LoRA changes nothing; a prefix does.
    assert adapter == {"kind": "prefix"} or before == pytest.approx(told["heldout_before"], abs=TOLERANCE)
    # Full weights are written in the base's own bfloat16; adapters, and the T5's, in float32.
    assert after == pytest.approx(told["heldout_after"], abs=5e-3 if adapter == "full" else TOLERANCE)
    assert found.after.scores["perplexity"]["mean"] == pytest.approx(2.718281828**after, rel=1e-6)
    (check,) = judge(recipe, (found,), stage.artifact).checks
    assert check.is_met and check.value == before - after > 0.1


def test_an_adapter_that_learned_something_else_has_forgotten_and_so_has_its_merge(
    tiny: Path, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    probe = {"kind": "retention", "data": str(root / "recipes" / "northline" / "general.jsonl"), "limit": 12}
    told = {"kind": "loss", "data": probe["data"], "limit": 12}
    evaluate = (probe | {"budget": 0.01}, told)
    recipe = recipe_of(tmp_path, tiny, LORA, *evaluate, more=({"name": "merged", "kind": "merge"},))
    stages, said = trained(recipe, tmp_path / "out"), list[str]()

    kept, compared = compare(recipe, stages, tmp_path / "out", said.append)
    monkeypatch.setattr(perplexity, "losses", None)  # nothing is worked out again
    assert compare(recipe, stages, tmp_path / "out", said.append) == (kept, compared)

    assert [line.split(" on ")[0] for line in said] == ["measuring base", "measuring task", "measuring merged"]
    assert isinstance(kept, Retention)
    task, merged = kept.stages
    assert task.forgetting["low"] > 0 and task.added == task.forgetting and kept.worst == "task"
    # Merged weights are rounded to the base's own bfloat16.
    assert merged.forgetting["mean"] == pytest.approx(task.forgetting["mean"], abs=5e-3)
    assert (merged.parent, merged.added["mean"]) == ("task", pytest.approx(0, abs=5e-3))
    assert set(kept.before.scores["forgetting"].values()) == {0.0, 12}
    # The loss on the same records is the same number, and their difference the forgetting.
    lost = {side.model: side.scores["loss"] for side in (compared.before, compared.after)}
    assert lost == {side.model: side.scores["loss"] for side in (kept.before, kept.after)}
    assert lost["merged"]["mean"] - lost["base"]["mean"] == pytest.approx(merged.forgetting["mean"])

    verdict = judge(recipe, (kept, compared), stages[-1].artifact)
    assert isinstance(verdict.why_not, GateFailed)
    assert "forgetting on general.jsonl: " in str(verdict.why_not) and "at most 0.010 wanted" in str(verdict.why_not)


@pytest.mark.parametrize("kind", ["loss", "retention"])
@pytest.mark.parametrize(
    ("which", "told", "got"),
    [
        ("tiny", {"data": "better.jsonl"}, "a record of kind preference has no tokens of its own"),
        ("tiny", {"max_length": 600}, "max_length 600 is above the 512 positions"),
        ("tiny", {"data": "missing.jsonl"}, "missing.jsonl"),
        ("tiny", {"max_length": 8}, "no token bears loss in any of 48 records"),
        ("t5", {"data": "notes.txt"}, "raw text has no question that an encoder-decoder model could read"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(
    tiny: Path, t5: Path, tmp_path: Path, kind: str, which: str, told: Any, got: str
) -> None:
    (tmp_path / "notes.txt").write_text("Nobody asks anything here.")
    (tmp_path / "better.jsonl").write_text(json.dumps({"prompt": "Hi", "chosen": "Hello.", "rejected": "No."}) + "\n")
    evaluation = {"kind": kind, "data": "pairs.jsonl"} | told
    recipe = recipe_of(tmp_path, t5 if which == "t5" else tiny, "full", evaluation)

    with pytest.raises(UserError, match=got) as refused:
        check_evaluations(recipe, plan_stages(recipe, tmp_path / "out"))
    assert refused.value.line is not None or refused.value.file == tmp_path / "notes.txt"


def test_the_command_tells_the_loss_and_writes_every_records(tiny: Path, root: Path, tmp_path: Path) -> None:
    data = root / "recipes" / "northline" / "heldout.jsonl"
    asked = ["eval", str(tiny), "--data", str(data), "--limit", "3", "--metrics", "perplexity,loss"]

    done = CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "report.json")])

    told = json.loads((tmp_path / "report.json").read_text())
    assert done.exit_code == 0
    assert (told["records"], list(told["scores"]), [row["line"] for row in told["losses"]]) == (
        3,
        ["perplexity", "loss"],
        [1, 2, 3],
    )
    nats, tokens = (sum(row[name] for row in told["losses"]) for name in ("nats", "tokens"))
    assert told["scores"]["loss"]["mean"] == pytest.approx(nats / tokens)


def test_a_long_text_is_resampled_by_its_parts(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("Once upon a time there was a night train. " * 40)
    asked = ["eval", str(tiny), "--data", str(tmp_path / "book.txt"), "--metrics", "loss", "--max-length", "64"]

    done = CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "report.json")])

    told = json.loads((tmp_path / "report.json").read_text())
    assert done.exit_code == 0 and told["records"] == 1 < len(told["losses"])
    assert told["how"]["interval"].endswith("the parts of the only record")
    assert told["scores"]["loss"]["low"] < told["scores"]["loss"]["mean"] < told["scores"]["loss"]["high"]


@pytest.mark.parametrize(
    ("more", "got"),
    [
        (["--metrics", "loss,rouge"], "loss, rouge at once"),
        (["--metrics", "loss", "--max-new-tokens", "8"], "nothing is answered for loss"),
        (["--metrics", "perplexty"], "no metric 'perplexty' (did you mean 'perplexity'?)"),
    ],
)
def test_metrics_that_do_not_go_together_are_refused(tiny: Path, more: list[str], got: str) -> None:
    done = CliRunner().invoke(app, ["eval", str(tiny), "--data", "x.jsonl", *more])

    assert isinstance(done.exception, UserError) and got in str(done.exception)
