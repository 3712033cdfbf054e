"""How good a model's greedy answers to held-out prompts are: of one model, and of a run's base and its result."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from fettle.artifact import library_versions, replace_text
from fettle.data.asked import as_prompt
from fettle.data.coder import Coder, end_ids
from fettle.data.record import Record
from fettle.data.served import as_given
from fettle.data.sources import OpenSource, read_source
from fettle.errors import UserError
from fettle.models.base import load_tokenizer, positions_of
from fettle.models.family import family_of
from fettle.pipeline.evaluated import LONGEST, Comparison, Evaluation, check_speaks
from fettle.pipeline.few_shot import Code, first_answer, fitting, has_plain, with_shots
from fettle.pipeline.origin import Origin
from fettle.pipeline.perplexity import base_of
from fettle.pipeline.planned import Planned, hash_of
from fettle.recipe.evaluate import GenerateSpec
from fettle.recipe.judged import AnsweredSpec

_JUDGED = ("messages", "prompt_completion")


@dataclass(frozen=True)
class Question:
    """A record to be answered: the prompt, and the answers that are right."""

    prompt: Record
    wanted: tuple[str, ...]


def questions(source: OpenSource, limit: int | None, **where: Any) -> list[Question]:
    """Every record of a source, up to `limit`. Raises UserError at the first that has no answer to compare with.

    where: file, line, field (of a recipe) of the error where there is no record.
    """
    found: list[Question] = []
    for record in read_source(source):
        if len(found) == limit:
            break
        if record.kind not in _JUDGED:
            raise UserError(
                f"a record of kind {record.kind} has no answer to compare with",
                file=record.file,
                line=record.line,
                expected="a question with its answer: prompt and completion, or messages",
            )
        found.append(Question(as_prompt(record), _wanted(record)))
    if not found:
        raise UserError("there is no record to answer", **where)
    return found


def evaluate(
    origin: Origin,
    asked: Sequence[Question],
    spec: GenerateSpec,
    *,
    name: str,
    seed: int = 0,
    shots: Sequence[Record] = (),
    **where: Any,
) -> tuple[Evaluation, list[dict[str, Any]]]:
    """(what the model's answers are worth, each prompt's place, answer and right answers).

    Prompts are rendered as in training. shots: records that stand before each prompt with their answers, as many of
    them as there is room for. Raises UserError where the model writes no text, or has no room for it.
    """
    # Here, because the driver of a run that is not evaluated needs none of them.
    from fettle.evaluate.generate import answers, cut_prompt
    from fettle.evaluate.metrics import scored
    from fettle.evaluate.patterns import found_in
    from fettle.models.generate import load_speaker

    check_speaks(origin, **where)
    longest = longest_prompt(origin.root, spec, **where)
    began = time.monotonic()
    tokenizer, code = _coded(origin)
    is_seq2seq, is_plain = family_of(origin.root) == "seq2seq", tokenizer.chat_template is None
    coded, shown = with_shots(shots, [one.prompt for one in asked], longest, code)
    prompts = [cut_prompt(ids, longest, is_seq2seq=is_seq2seq) for ids in coded]
    model = load_speaker(origin.base, origin.adapter)
    keys: dict[str, Any] = {"end_ids": end_ids(tokenizer), "max_new_tokens": spec.max_new_tokens}
    said = dict(answers(model, tokenizer, prompts, **keys))
    whole = [said[place].text for place in range(len(asked))]
    texts = [first_answer(text, shots) for text in whole] if is_plain else whole
    found = found_in(spec.pattern, texts) if spec.pattern is not None else []
    scores = scored(texts, [one.wanted for one in asked], spec.metrics, seed, found)
    told = Evaluation(
        model=name,
        data=spec.data.path,
        records=len(asked),
        prompts_cut=sum(len(ids) > longest for ids in coded),
        answers_unended=sum(texts[place] == whole[place] and not one.is_ended for place, one in said.items()),
        max_new_tokens=spec.max_new_tokens,
        seconds=round(time.monotonic() - began, 1),
        scores={key: asdict(score) for key, score in scores.items()},
        how=_how(spec, found),
        shots=len(shots),
        prompts_with_fewer=sum(count < len(shots) for count in shown),
    )
    return told, [answer_row(one.prompt, text, one.wanted) for one, text in zip(asked, texts, strict=True)]


def answers_compared(
    asked: Sequence[Question],
    candidates: Sequence[Record],
    stage: Planned,
    spec: GenerateSpec,
    out: Path,
    say: Callable[[str], None],
    seed: int,
) -> Comparison:
    """The base a run began from and the last stage's result, on the same questions; and the base after examples, of
    which `candidates` are those there are. Below `out` lie all answers."""
    folder, last = out / "evaluations", stage.result()
    base, prompts = base_of(last), f"on {spec.data.path}: {len(asked):,} prompts"
    say(f"evaluating base {prompts}")
    before = _kept(folder, base, asked, spec, "base", seed)
    say(f"evaluating {stage.spec.name} {prompts}")
    after = _kept(folder, last, asked, spec, stage.spec.name, seed)
    shots = chosen_shots(base, spec, candidates)
    if len(shots) < spec.few_shot and candidates:
        say(f"few-shot: of {spec.few_shot} examples there are {len(shots)} that leave room for a prompt")
    if not shots:
        return Comparison(before, after)
    say(f"evaluating base {prompts}, after {len(shots)} example{'s' if len(shots) > 1 else ''}")
    return Comparison(before, after, few_shot=_kept(folder, base, asked, spec, "base", seed, shots))


def chosen_shots(origin: Origin, spec: GenerateSpec, candidates: Sequence[Record], **where: Any) -> list[Record]:
    """The first `spec.few_shot` of the candidates that leave the model room for a prompt."""
    tokenizer, code = _coded(origin)
    if tokenizer.chat_template is None:
        candidates = [record for record in candidates if has_plain(record)]
    return fitting(candidates, spec.few_shot, longest_prompt(origin.root, spec, **where), code)


def longest_prompt(root: Path, spec: GenerateSpec | AnsweredSpec, **where: Any) -> int:
    """Tokens of the longest prompt that leaves room for an answer. Raises UserError where there is none."""
    room = positions_of(root) - (0 if family_of(root) == "seq2seq" else spec.max_new_tokens)
    if room < (spec.max_length or 1):
        raise UserError(
            f"{root.name} has {positions_of(root)} positions: too few for max_new_tokens {spec.max_new_tokens}"
            + (f" after prompts of max_length {spec.max_length}" if spec.max_length else ""),
            **where,
            fix="fewer tokens",
        )
    return spec.max_length or min(room, LONGEST)


def _wanted(record: Record) -> tuple[str, ...]:
    """The right answers: the record's own, and what a list of several held beside it."""
    if record.messages is not None:
        last = record.messages[-1]
        if last.role != "assistant" or last.tool_calls:
            raise UserError("the conversation does not end with an answer in words", file=record.file, line=record.line)
        return (last.content,)
    assert record.completion is not None
    several = record.columns.get("references")
    if isinstance(several, list) and several[:1] == [record.completion]:
        return tuple(several)
    return (record.completion,)


def _coded(origin: Origin) -> tuple[PreTrainedTokenizerBase, Code]:
    """(the model's tokenizer, what makes tokens [T] of records)."""
    tokenizer = load_tokenizer(origin.root, origin.chat_template)
    coder = Coder(tokenizer, is_halved=family_of(origin.root) == "seq2seq")
    return tokenizer, lambda records: [ids for ids, _ in coder.code(records)]


def answer_row(record: Record, answer: str, wanted: Sequence[str] = ()) -> dict[str, Any]:
    """A line of the files that answers are kept in. wanted: the right ones, where there are such."""
    assert record.prompt is not None
    told = {"file": str(record.file), "line": record.line, "prompt": as_given(record.prompt)}
    return told | {"answer": answer, "wanted": list(wanted)}


def _how(spec: GenerateSpec, found: Sequence[bool | None]) -> dict[str, str]:
    how = {
        "decoding": "greedy",
        "rouge": f"F-measure, Porter stemming on, rouge-score {metadata.version('rouge-score')}",
        "interval": "95 %, percentile bootstrap over the records",
    }
    if spec.pattern is not None:
        how["regex"] = f"{spec.pattern} found anywhere in the answer"
        if unknown := found.count(None):
            how["regex"] += f"; {unknown:,} answers count as without it, since looking took too long"
    return how


def _kept(
    folder: Path,
    origin: Origin,
    asked: Sequence[Question],
    spec: GenerateSpec,
    name: str,
    seed: int,
    shots: Sequence[Record] = (),
) -> Evaluation:
    """The evaluation, worked out once for the same model, prompts and settings."""
    told = {
        "model": [origin.identity, origin.chat_template],
        "asked": [(repr(one.prompt.prompt), one.wanted) for one in asked],
        "spec": spec.settings(),
        "seed": seed,
        "versions": library_versions(),
    }
    if shots:
        told["shots"] = [repr(shot.conversation) for shot in shots]
    file = folder / f"{name}-{hash_of(told)[:12]}.json"
    if file.is_file():
        return Evaluation(**json.loads(file.read_text(encoding="utf-8")))
    found, rows = evaluate(origin, asked, spec, name=name, seed=seed, shots=shots)
    folder.mkdir(exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    written = file.with_suffix(".jsonl")
    found = replace(found, file=written.name)
    replace_text(written, lines)
    replace_text(file, json.dumps(asdict(found), indent=2) + "\n")
    return found
