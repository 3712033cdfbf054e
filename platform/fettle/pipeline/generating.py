"""Answers to the prompts of a data set, written down: what `fettle generate` does, on vLLM engines in Ray actors."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from fettle.artifact import library_versions
from fettle.cluster import available_cpus, available_gpus, check_seen, ray_session
from fettle.data.served import as_given
from fettle.data.sources import OpenSource
from fettle.engine.env import Dtype, EngineOptions, device
from fettle.engine.sampling import Sampling
from fettle.errors import DoesNotFit, UserError
from fettle.models.base import digest_of, positions_of
from fettle.pipeline.answer_file import check_out, open_answers
from fettle.pipeline.answerers import Answerer, Answerers
from fettle.pipeline.console import duration
from fettle.pipeline.unanswered import Unanswered, check_room, records_of, unanswered
from fettle.rl.engines import Answered, Asked
from fettle.rl.prompts import draw_seed
from fettle.rl.rollouts import RolloutPool
from fettle.serving.resolve import ServedModel, fitted, resolve

_MOST_SAMPLES = 64  # that vLLM is let draw for one request (engine/env.py)
_SEQUENCES = {"cpu": 64, "gpu": 256}
_ANSWER_TIMEOUT_S = 6 * 3600.0
_TELL_EVERY_S = 10.0


@dataclass(frozen=True)
class Generated:
    """What a call has done. rows: of the file; answered: those of them that this call wrote, with so many tokens in so
    many seconds once the engines were there, and so many answers that `max_new_tokens` ended."""

    out: Path
    rows: int
    answered: int
    tokens: int
    unended: int
    seconds: float


def generate(
    model: str | Path,
    source: OpenSource,
    out: Path,
    sampling: Sampling,
    *,
    logs: Path,
    adapters: Mapping[str, str | Path] | None = None,
    registry: str | Path | None = None,
    model_name: str | None = None,
    model_column: str | None = None,
    limit: int | None = None,
    engines: int = 1,
    dtype: Dtype = "auto",
    max_model_len: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Generated:
    """Writes `out`: a row for each record of the source, in their order, with `sampling.num_samples` answers to it.

    model, adapters: as `fettle serve` takes them. registry: whose published adapters may be named too. model_name: who
    answers, by default `model`; model_column: of the records, with the name of who answers that one. limit: only the
    first records. logs: a folder for what engines print. dtype, max_model_len: see EngineOptions. The same call goes on
    where an interrupted one has stopped. Raises UserError, for what can be known to fail, before an engine starts.
    """
    check_out(out)
    check_sampling(sampling)
    options = EngineOptions(dtype=dtype, max_model_len=max_model_len, max_num_seqs=_SEQUENCES[device()])
    answerers = Answerers(resolve(model, adapters=adapters), registry)
    default = answerers.find(model_name or answerers.served.primary, field="--model-name")
    asked = unanswered(records_of(source, limit), answerers, default, model_column)
    used = {one.answerer.name: one.answerer for one in asked}
    served = answerers.serving(used)
    options = fitted(options, served)
    check_room(asked, options.max_model_len or positions_of(served.folder), sampling.max_new_tokens)
    say(f"{len(asked):,} prompts of {source.spec.path}; answered by {', '.join(map(_called, used.values()))}")
    with open_answers(out, _decides(asked, sampling, options, digest_of(served.folder))) as file:
        progress = _Progress(len(asked), done := file.num_done, say)
        if done:
            say(f"{done:,} of them have answers from an interrupted run")
        if left := asked[done:]:
            say(f"starting {engines} engine{'s' * (engines > 1)}; log {logs}")
            seeds = [draw_seed(sampling.seed or 0, place) for place in range(done, len(asked))]
            at_once = max(1, 2 * options.max_num_seqs // sampling.num_samples)
            with _pool(served, options, engines, logs) as pool:
                questions = [_asked(one, seed) for one, seed in zip(left, seeds, strict=True)]
                progress.begin()
                for answers in pool.answers(questions, sampling, at_once):
                    for place, answered in answers:
                        file.put(done + place, _row(left[place], answered))
                    progress.add([answered for _, answered in answers])
        file.finish()
    return Generated(out, len(asked), len(left), progress.tokens, progress.unended, round(progress.seconds, 1))


def check_sampling(sampling: Sampling) -> None:
    """Raises UserError for a value that means nothing, or that has no effect beside the others."""
    allowed = (
        ("--max-new-tokens", sampling.max_new_tokens, sampling.max_new_tokens >= 1, "at least 1"),
        ("--temperature", sampling.temperature, sampling.temperature >= 0, "0 (greedy) or more"),
        ("--top-p", sampling.top_p, 0 < sampling.top_p <= 1, "more than 0, at most 1"),
        ("--samples", sampling.num_samples, 1 <= sampling.num_samples <= _MOST_SAMPLES, f"1 to {_MOST_SAMPLES}"),
    )
    for field, value, is_right, expected in allowed:
        if not is_right:
            raise UserError(f"{value:g} is not possible", field=field, expected=expected)
    for field, has_effect in (("--samples", sampling.num_samples == 1), ("--top-p", sampling.top_p == 1)):
        if sampling.temperature == 0 and not has_effect:
            got = "at temperature 0 there is one answer to a prompt, the likeliest"
            raise UserError(got, field=field, fix=f"leave out {field}, or give --temperature, such as 0.8")


def _decides(asked: Sequence[Unanswered], sampling: Sampling, options: EngineOptions, base: str) -> dict[str, Any]:
    """All that decides what the rows say. The number of engines does not."""
    prompts = hashlib.sha256()
    for one in asked:
        place = f"{one.record.file}\n{one.record.line}\n{one.answerer.name}\n{len(one.ids)}\n"
        prompts.update(place.encode() + one.ids.tobytes())
    return {
        "data": f"sha256:{prompts.hexdigest()}",
        "model": base,
        "adapters": {one.answerer.name: one.answerer.digest for one in asked if one.answerer.adapter is not None},
        "end tokens": {one.answerer.name: one.answerer.end_ids for one in asked},
        "--max-new-tokens": sampling.max_new_tokens,
        "--temperature": sampling.temperature,
        "--top-p": sampling.top_p,
        "--samples": sampling.num_samples,
        "--seed": sampling.seed or 0,
        "--dtype": options.dtype,
        "--max-model-len": options.max_model_len,
        "versions": library_versions(),
    }


@contextmanager
def _pool(served: ServedModel, options: EngineOptions, engines: int, logs: Path) -> Iterator[RolloutPool]:
    with ray_session():
        check_seen(None, [served.folder, *(one.folder for one in served.adapters)])
        resources, threads = _placed(engines)
        pool = RolloutPool(
            served.folder,
            replace(options, threads=options.threads or threads),
            resources=[resources] * engines,
            logs=logs,
            answer_timeout_s=_ANSWER_TIMEOUT_S,
            adapters={one.name: one.folder for one in served.adapters},
        )
        try:
            yield pool
        finally:
            pool.close()


def _placed(engines: int) -> tuple[dict[str, Any], int]:
    """(Ray's options of each engine, its threads): spread over the nodes, whose cores those on one node share. Raises
    DoesNotFit where there are more engines than the cluster has places for."""
    is_gpu = device() == "gpu"
    there, what = (available_gpus(), "GPU") if is_gpu else (available_cpus(), "CPU")
    if engines > there:
        raise DoesNotFit(
            f"{engines} engines, and {there} {what}s in the cluster", field="--engines", fix=f"at most {max(1, there)}"
        )
    cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    cores = [number for number in cores if number] or [1]
    on_one = -(-engines // len(cores))
    # One core is left to this process where an engine has a node to itself, as in serving.
    threads = max(1, min(cores) // on_one if on_one > 1 else min(cores) - 1)
    return {"num_cpus": 1, "num_gpus": int(is_gpu), "scheduling_strategy": "SPREAD"}, threads


def _asked(one: Unanswered, seed: int) -> Asked:
    adapter = one.answerer.adapter
    return Asked(tuple(one.ids.tolist()), seed, adapter.name if adapter is not None else None, one.answerer.end_ids)


def _row(one: Unanswered, answered: Answered) -> dict[str, Any]:
    record = one.record
    assert record.prompt is not None
    return {
        "file": str(record.file),
        "line": record.line,
        "prompt": as_given(record.prompt),
        **({"tools": list(record.tools)} if record.tools else {}),
        **one.answerer.told,
        "answers": [
            {"text": said.text, "finish_reason": said.finish_reason, "tokens": len(said.token_ids)}
            for said in answered.completions
        ],
    }


def _called(one: Answerer) -> str:
    """`support@candidate (support:7, sha256:0123…)`."""
    if one.version is None:
        return one.name
    return f"{one.name} ({one.version.id}, {one.version.digest[:19]})"


class _Progress:
    """Counts, and tells now and then how far it is."""

    def __init__(self, rows: int, done: int, say: Callable[[str], None]) -> None:
        self.tokens = self.unended = 0
        self.seconds = 0.0
        self._rows, self._before, self._done, self._say = rows, done, done, say

    def begin(self) -> None:
        """The engines are there."""
        self._began = self._told = time.monotonic()

    def add(self, answers: Sequence[Answered]) -> None:
        said = [completion for answered in answers for completion in answered.completions]
        self._done += len(answers)
        self.tokens += sum(len(one.token_ids) for one in said)
        self.unended += sum(one.finish_reason == "length" for one in said)
        now = time.monotonic()
        self.seconds = now - self._began
        if now - self._told > _TELL_EVERY_S and self._before < self._done < self._rows:
            self._told = now
            left = self.seconds / (self._done - self._before) * (self._rows - self._done)
            speed = f"{self.tokens / self.seconds:,.0f} tokens/s"
            self._say(f"{self._done:,} of {self._rows:,} prompts  {speed}  {duration(left)} left")
