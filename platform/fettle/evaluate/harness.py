"""Tasks of EleutherAI's lm-evaluation-harness, in a process of their own: with an engine, which is asked all of them,
or without one, to see whether they can be read.

    python -m fettle.evaluate.harness ASKED.json TOLD.json

Everything is read offline. Templates run in Jinja's sandbox, and no metric is fetched or imported, unless the tasks may
run code of their own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fettle.engine.env import EngineOptions, prepare_process
from fettle.errors import FettleError, UserError

_ADAPTER = "adapter"
_OF_SCIKIT_LEARN = ("f1", "mcc")
_SLOW = {"bleu": 100, "chrf": 100, "ter": 100}  # resamples of what is worked out over all documents at once


@dataclass(frozen=True)
class Model:
    """Full weights, under an adapter of rank `rank` where there is one. chat_template: text in place of the
    tokenizer's."""

    base: Path
    adapter: Path | None = None
    rank: int = 0
    chat_template: str | None = None


@dataclass(frozen=True)
class Put:
    """What is put to whom. tasks: YAML files. fewshot, limit, chat: as a recipe has them. models: of none the tasks are
    only read."""

    tasks: tuple[Path, ...]
    fewshot: int | None
    limit: int | None
    chat: bool
    allow_code: bool
    seed: int
    models: tuple[Model, ...] = ()


@dataclass(frozen=True)
class Result:
    """What a model came to. scores: by name, `Score` as keys. rows: of each document the answer and what it is worth.
    seconds: with the engine's start."""

    scores: dict[str, dict[str, float]]
    requests_cut: int
    rows: tuple[dict[str, Any], ...]
    seconds: float


@dataclass(frozen=True)
class Told:
    """What came of it. names: of all scores, `TASK.METRIC`, or `TASK.METRIC.FILTER` of an answer's filter that has a
    name; falling: those of which less is better. records: documents of all tasks. results: of each model."""

    names: tuple[str, ...]
    falling: tuple[str, ...]
    records: int
    results: tuple[Result, ...] = ()


def put(asked: Put, log: Path | None = None) -> Told:
    """The answer of a process of its own. log: what it prints; None keeps nothing of it. Raises UserError where
    lm-evaluation-harness is not installed or a task cannot be read, and FettleError where the process fails."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("lm-evaluation-harness is not installed here", fix='pip install "fettle[harness]"')
    with tempfile.TemporaryDirectory(prefix="fettle-") as folder:
        question, answer = Path(folder, "asked.json"), Path(folder, "told.json")
        log = log or Path(folder, "log")
        log.parent.mkdir(parents=True, exist_ok=True)
        question.write_text(json.dumps(asdict(asked), default=str), encoding="utf-8")
        # What is read from files is kept nowhere else.
        offline = {name: "1" for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE")}
        env = os.environ | offline | {"HF_HOME": folder, "TOKENIZERS_PARALLELISM": "false"}
        env.pop("HF_DATASETS_CACHE", None)
        command = [sys.executable, "-m", "fettle.evaluate.harness", str(question), str(answer)]
        with open(log, "ab") as printed:
            code = subprocess.run(command, stdout=printed, stderr=printed, env=env, check=False).returncode
        if not answer.is_file():
            last = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2][:200]
            raise FettleError(f"the process of lm-evaluation-harness ended with {code} ({last}); log {log}")
        told = json.loads(answer.read_text(encoding="utf-8"))
    if "got" in told:
        raise UserError(**told)
    if "failure" in told:
        raise FettleError(f"{told['failure']}; log {log}")
    results = tuple(Result(**one | {"rows": tuple(one["rows"])}) for one in told["results"])
    return Told(tuple(told["names"]), tuple(told["falling"]), told["records"], results)


def _main(question: Path, answer: Path) -> None:
    told = json.loads(question.read_text(encoding="utf-8"))
    paths = ("base", "adapter")
    models = [Model(**one | {key: Path(one[key]) if one[key] else None for key in paths}) for one in told["models"]]
    asked = Put(**told | {"tasks": tuple(map(Path, told["tasks"])), "models": tuple(models)})
    try:
        found: dict[str, Any] = asdict(_put(asked))
    except UserError as error:
        found = {name: getattr(error, name) for name in ("got", "file", "line", "field", "expected", "fix")}
    except FettleError as error:
        found = {"failure": str(error)}
    text = json.dumps(found, default=str)
    partial = answer.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.rename(answer)


def _put(asked: Put) -> Told:
    if asked.models:
        prepare_process(EngineOptions())  # before anything brings torch along
    tasks = load_tasks(asked)
    names = tuple(name for task in tasks for name in _names(task))
    falling = tuple(name for task in tasks for name, (metric, _) in _names(task).items() if not _rises(task, metric))
    docs = [len(task.eval_docs) if asked.limit is None else min(asked.limit, len(task.eval_docs)) for task in tasks]
    return Told(names, falling, sum(docs), tuple(_result(asked, model, tasks) for model in asked.models))


def _result(asked: Put, model: Model, tasks: Sequence[Any]) -> Result:
    from lm_eval.evaluator import evaluate

    from fettle.engine import start_engine
    from fettle.evaluate.harness_model import EngineModel
    from fettle.models.base import load_tokenizer

    began, name = time.monotonic(), _ADAPTER if model.adapter is not None else None
    options = EngineOptions(seed=asked.seed)
    if model.adapter is not None:
        options = replace(options, max_loras=1, max_lora_rank=model.rank)
    engine = start_engine(model.base, options)
    try:
        if model.adapter is not None:
            engine.add_adapter(_ADAPTER, model.adapter)
        speaker = EngineModel(engine, load_tokenizer(model.base, model.chat_template), name, asked.seed)
        told = evaluate(
            speaker,
            {"tasks": {task.task_name: task for task in tasks}},
            limit=asked.limit,
            bootstrap_iters=0,
            apply_chat_template=asked.chat,
            fewshot_as_multiturn=asked.chat,
            confirm_run_unsafe_code=asked.allow_code,
        )
    finally:
        engine.close()
    scores, rows = dict[str, dict[str, float]](), list[dict[str, Any]]()
    for task in tasks:
        samples = told["samples"][task.task_name]
        for name, (metric, chosen) in _names(task).items():
            values = [one[metric] for one in samples if one["filter"] == chosen and metric in one]
            if values:
                scores[name] = asdict(_score(task, metric, values, asked.seed))
        rows += [_row(task.task_name, one) for one in samples]
    return Result(scores, speaker.requests_cut, tuple(rows), round(time.monotonic() - began, 1))


def load_tasks(asked: Put) -> list[Any]:
    """The tasks, a group's one by one, with their documents, which lie beside their files."""
    import numpy as np
    from lm_eval import utils
    from lm_eval.tasks import TaskManager

    if not asked.allow_code:
        _forbid_code(utils)
    random.seed(asked.seed)
    np.random.seed(asked.seed)
    found: dict[str, Any] = {}
    for file in asked.tasks:
        with _in_folder(file.parent):
            try:
                manager = TaskManager(include_path=str(file.parent), include_defaults=False)
                tasks = manager.load([str(file)])["tasks"]
            except Exception as error:  # whatever a task's keys lead to in a library
                told = str(error).strip().splitlines() or [type(error).__name__]
                raise UserError(f"lm-evaluation-harness cannot read this task: {told[0]}", file=file) from error
        for name, task in tasks.items():
            _prepare(task, name, file, asked)
            found.setdefault(name, task)
    return list(found.values())


def _prepare(task: Any, name: str, file: Path, asked: Put) -> None:
    """As `lm_eval.evaluator.simple_evaluate` does."""
    unknown = [metric for metric, function in task._metric_fn_list.items() if function is None]
    if unknown and task.config.process_results is None:
        from lm_eval.api.registry import METRIC_REGISTRY

        got = f"lm-evaluation-harness has no metric '{unknown[0]}' of its own"
        raise UserError(got, file=file, field="metric_list", expected=", ".join(sorted(METRIC_REGISTRY)))
    learned = [metric for metric in task.aggregation() if metric in _OF_SCIKIT_LEARN]
    if learned and importlib.util.find_spec("sklearn") is None:
        raise UserError(f"the metric {learned[0]} needs scikit-learn", file=file, fix="pip install scikit-learn")
    if not task.has_test_docs() and not task.has_validation_docs():
        raise UserError(f"the task {name} has neither test_split nor validation_split", file=file)
    # A task that says 0 has no examples to show.
    if asked.fewshot is not None and task.get_config("num_fewshot") != 0:
        task.set_config(key="num_fewshot", value=asked.fewshot)
    elif task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=asked.seed)


def _forbid_code(utils: Any) -> None:
    import evaluate
    from jinja2 import BaseLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def no_code(name: str, *_: Any, **__: Any) -> Any:
        raise UserError(f"the metric {name} is code")

    evaluate.load = no_code
    filters = utils.env.filters
    utils.env = ImmutableSandboxedEnvironment(
        loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=utils.env.keep_trailing_newline
    )
    utils.env.filters.update(filters)


@contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _names(task: Any) -> dict[str, tuple[str, str]]:
    """What its scores are called, with metric and filter of each."""
    found = {}
    for chosen in [one.name for one in task._filters]:
        for metric in task.aggregation():
            name = f"{task.task_name}.{metric}" + (f".{chosen}" if chosen != "none" else "")
            found[name] = (metric, chosen)
    return found


def _rises(task: Any, metric: str) -> bool:
    return task.higher_is_better().get(metric) is not False  # None where the task does not say


def _score(task: Any, metric: str, values: Sequence[Any], seed: int) -> Any:
    """As the task puts its documents' values together, with the interval that another draw of documents leaves."""
    from lm_eval.api.metrics import mean

    from fettle.evaluate.intervals import of_statistic, with_interval

    statistic = task.aggregation()[metric]
    if statistic is mean:
        return with_interval([float(value) for value in values], seed)
    return of_statistic(values, statistic, seed, _SLOW.get(metric, 2000))


def _row(task: str, sample: dict[str, Any]) -> dict[str, Any]:
    told = {name: sample[name] for name in ("doc_id", "filter", "target", "filtered_resps", *sample["metrics"])}
    return {"task": task, **told, "doc": sample["doc"]}


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
