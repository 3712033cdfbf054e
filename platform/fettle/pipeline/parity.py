"""Whether what an endpoint would answer is what was trained: fixed prompts through transformers and PEFT, the adapter
on vLLM, and the adapter merged into its base on vLLM; of full weights through transformers and vLLM."""

from __future__ import annotations

import gc
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from fettle.artifact import is_artifact, library_versions, read_artifact, replace_text
from fettle.data.coder import end_ids
from fettle.data.record import Record
from fettle.engine.apart import Questions, ask_apart
from fettle.engine.env import Dtype, EngineOptions, device, vllm_rank
from fettle.errors import UserError
from fettle.evaluate.parity import (
    LARGEST,
    Facts,
    Numbers,
    Parity,
    Reference,
    Speech,
    Way,
    compare,
    likely,
    seen,
    short_hash,
)
from fettle.models.base import digest_of, is_quantized, load_tokenizer, positions_of
from fettle.pipeline.parity_prompts import coded, general_prompts, prompts_of, source_of
from fettle.pipeline.planned import Planned, hash_of
from fettle.recipe import Recipe
from fettle.recipe.publish import ParitySpec
from fettle.serving.resolve import ServedModel
from fettle.serving.served import resolved
from fettle.serving.weights import has_tokenizer, read

_NEW = 32  # tokens of the longest answer
_LONGEST = 256  # tokens of the longest prompt
_TIMEOUT_S = 3600.0
_MERGED = ".parity-"
Language = tuple[Path, str | None]
"""The folder of a tokenizer, and the text of a template in place of its own."""


@dataclass(frozen=True)
class _Case:
    """What is compared. folder: of the adapter or the full weights; options: of its engine; ids: the prompts' tokens;
    trained, served: how they were made in training, and would be at an endpoint."""

    folder: Path
    model: ServedModel
    options: EngineOptions
    ids: list[np.ndarray]
    trained: Language
    served: Language

    @property
    def adapter(self) -> Path | None:
        return self.folder if self.model.adapters else None


def parity_of_run(recipe: Recipe, stages: Sequence[Planned], out: Path, say: Callable[[str], None]) -> Parity | None:
    """That of the last stage's result; None where the recipe wants none, or no engine would serve it. What was worked
    out before for the same weights and prompts is taken as it is, from below `out`."""
    assert recipe.publish is not None
    last, source = stages[-1], source_of(recipe, stages)
    if recipe.publish.parity == "off":
        return None
    for left in last.artifact.parent.glob(f"{_MERGED}*"):  # by a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    return parity(
        last.artifact,
        prompts_of(source) if source is not None else general_prompts(),
        source.spec.path if source is not None else "general prompts",
        recipe.publish.parity,
        trained=(last.origin.root, last.origin.chat_template),
        kept=out / "evaluations",
        log=out / "logs" / "parity.log",
        say=say,
    )


def parity(
    folder: Path,
    prompts: Sequence[Record],
    data: str,
    spec: ParitySpec,
    *,
    log: Path,
    trained: Language | None = None,
    dtype: Dtype = "auto",
    kept: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Parity | None:
    """That of the adapter or the full weights in a folder; None where transformers itself serves them.

    data: what the prompts are called. trained: by default the tokenizer that lies beside the weights. dtype: of the
    engines. kept: a folder in which results are looked for, and laid. log: what engines print. Raises UserError for
    what no endpoint takes, FettleError where an engine's process fails.
    """
    began = time.monotonic()
    model, options = resolved(folder, EngineOptions(dtype=dtype, max_num_seqs=len(prompts)))
    if not isinstance(model, ServedModel):
        return None
    longest = min(_LONGEST, positions_of(model.folder) - _NEW - 1)
    trained = trained or ((folder if has_tokenizer(folder) else model.folder), None)
    template = model.adapters[0].defaults.get("chat_template") if model.adapters else None
    ids = list(coded(prompts, *trained, longest))
    options = replace(options, max_model_len=longest + _NEW + 1)
    case = _Case(folder, model, options, ids, trained, (model.folder, template))
    facts = _facts(case, prompts, longest)
    reference_dtype, tokens, ways = "", 0, list[Way]()
    if not (causes := seen(facts)):
        told = [digest_of(folder), digest_of(model.folder), [one.tolist() for one in ids], dtype, device()]
        file = kept / f"parity-{hash_of([told, library_versions()])[:12]}.json" if kept is not None else None
        try:
            if file is not None and file.is_file():
                reference_dtype, tokens, ways = _read(file)
            else:
                say(f"parity    {folder.name}: {len(prompts)} prompts of {data}, transformers and vLLM; log {log}")
                reference_dtype, tokens, ways = _measured(case, facts, log)
            ways = [_bounded(way, spec) for way in ways]
            causes = likely(facts, reference_dtype, ways)
        except UserError as error:
            causes = (f"the engine refuses it: {error}",)
    seconds = round(time.monotonic() - began, 1)
    found = Parity(folder.name, data, tokens, reference_dtype, facts, tuple(ways), causes, seconds)
    if ways and file is not None and not file.is_file():
        file.parent.mkdir(exist_ok=True)
        replace_text(file, json.dumps(asdict(found), indent=2) + "\n")
    return found


def _facts(case: _Case, prompts: Sequence[Record], longest: int) -> Facts:
    try:
        served = [ids.tolist() for ids in coded(prompts, *case.served, longest)]
    except UserError:  # a template that refuses them
        served = []
    config: dict[str, Any] = read(case.model.folder / "config.json")
    config |= config.get("text_config") or {}
    return Facts(
        trained=_speech(case.trained),
        served=_speech(case.served),
        prompts=len(case.ids),
        prompts_alike=sum(ids.tolist() in served for ids in case.ids),
        rows=int(config.get("vocab_size") or 0),
        architecture=str((config.get("architectures") or ["model"])[0]),
        stored=str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch."),
        changed=tuple(_changed(case.folder)),
        rank=case.model.adapters[0].rank if case.model.adapters else None,
        engine_rank=vllm_rank(case.options.max_lora_rank) if case.model.adapters else None,
    )


def _changed(folder: Path) -> Iterator[str]:
    if is_artifact(folder):
        try:
            read_artifact(folder, verify=True)
        except UserError as error:
            yield f"the weights, or what lies beside them: {error.got}"


def _speech(language: Language) -> Speech:
    tokenizer = load_tokenizer(*language)
    template = str(tokenizer.chat_template).strip() if tokenizer.chat_template else None
    return Speech(short_hash(template) if template else None, short_hash(_spelled(tokenizer)), len(tokenizer))


def _spelled(tokenizer: PreTrainedTokenizerBase) -> str:
    """All that decides which tokens a text becomes; how rows are padded and cut is no part of it."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    told = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    return json.dumps({key: told[key] for key in sorted(told) if key not in ("padding", "truncation")})


def _measured(case: _Case, facts: Facts, log: Path) -> tuple[str, int, list[Way]]:
    """(in which type transformers computes, tokens compared, the engines against it)."""
    ends = end_ids(load_tokenizer(*case.trained))
    reference = _reference(case, ends)
    alone = replace(case.options, max_loras=0, max_adapters=0)
    texts = {"prompts": tuple(tuple(ids.tolist()) for ids in case.ids), "texts": reference.texts}
    asked: Any = {**texts, "max_new_tokens": _NEW, "end_ids": ends}
    with _merged(case, ends) as merged:
        questions = [Questions(case.model.folder, case.adapter, case.options, **asked)]
        if merged is not None:
            questions.append(Questions(merged, None, alone, **asked))
        found = ask_apart(questions, log, _TIMEOUT_S)
    is_quantised = is_quantized(case.model.folder)
    ways = []
    for name, one in zip(("adapter on vLLM", "merged on vLLM") if merged else ("vLLM",), found, strict=True):
        is_rounded = name.startswith("merged") and facts.stored != "float32"
        numbers: Numbers = "rounded" if is_rounded else "float32"
        if is_quantised or {one.dtype, reference.dtype} != {"float32"}:
            numbers = "quantised" if is_quantised else "16 bits"
        ways.append(compare(reference, name, numbers, one.dtype, one.read, one.answers))
    return reference.dtype, sum(len(one) for one in reference.logprobs), ways


def _reference(case: _Case, ends: tuple[int, ...]) -> Reference:
    # Here, because the driver of a run that publishes nothing needs none of them.
    import torch

    from fettle.evaluate.reference import reference
    from fettle.models.generate import load_speaker

    model = load_speaker(case.model.folder, case.adapter)
    pad_id = load_tokenizer(*case.trained).pad_token_id or 0
    found = reference(model, case.ids, end_ids=ends, pad_id=pad_id, max_new_tokens=_NEW)
    del model
    gc.collect()  # modules hold each other; the engine's weights would lie beside these
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return found


@contextmanager
def _merged(case: _Case, ends: tuple[int, ...]) -> Iterator[Path | None]:
    """Yields a folder of full weights, as `fettle merge` writes them, which goes afterwards; None of no adapter."""
    if case.adapter is None:
        yield None
        return
    from fettle.models.merge import Combination, write_merged

    beside = case.folder.parent if os.access(case.folder.parent, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=_MERGED, dir=beside) as folder:
        told: dict[str, Any] = {"name": "merged", "fingerprint": "", "end_ids": ends, "chat_template": None}
        write_merged(Path(folder, "merged"), Combination(case.model.folder, (case.adapter,), (1.0,)), **told)
        yield Path(folder, "merged")


def _read(file: Path) -> tuple[str, int, list[Way]]:
    told = json.loads(file.read_text(encoding="utf-8"))
    return told["dtype"], told["tokens"], [Way(**way | {"place": tuple(way["place"])}) for way in told["ways"]]


def _bounded(way: Way, spec: ParitySpec) -> Way:
    """The same under a recipe's bounds."""
    most = spec.max_logprob_difference
    return replace(way, most=LARGEST[way.numbers] if most is None else most, least=spec.min_agreement)
