"""Families of models × what fettle does with them, tried on tiny random models; docs/families.md's table is written.

    python benchmarks/families.py [--only FAMILY …]

A stage counts where the loss that fettle measured on held-out records is that of its artifact by transformers, each
record by itself (preference: where it begins at log 2); serving where every log-probability is that of transformers
within 1e-4 nats, in float32. Each family's engine runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from fettle.errors import UserError
from house_format import ROOT

sys.path[:0] = [str(ROOT / "tests" / "integration"), str(ROOT / "tests")]

COLUMNS = ("packing", "pretrain", "sft", "preference", "reward", "classify", "LoRA", "merge")
SERVED = ("served adapter", "served merged")
NAMES = {
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "gemma": "Gemma",
    "gemma2": "Gemma 2",
    "gemma3": "Gemma 3",
    "phi": "Phi",
    "phi3": "Phi-3",
    "gpt2": "GPT-2",
    "gptj": "GPT-J",
    "bloom": "BLOOM",
    "falcon": "Falcon (rotary)",
    "falcon-alibi": "Falcon (ALiBi)",
    "t5": "T5",
    "bert": "BERT",
}
PAGE = ROOT / "docs" / "families.md"
BEGIN, END = "<!-- families: begin -->", "<!-- families: end -->"
_ENGINE_TIMEOUT_S = 240
Cells = dict[str, str]
"""By column `yes`, or the reason why not; what broke begins with `FAILED`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--engine", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        serve(options.engine)
        return
    found: dict[str, Cells] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for family in options.only:
            found[family] = trained(family, Path(temporary) / family)
        for family in options.only:
            found[family] |= served(Path(temporary) / family)
            print(f"{NAMES[family]}: {found[family]}", flush=True)
    if options.only == list(NAMES):
        result = {"benchmark": "families", "date": date.today().isoformat(), "families": found}
        file = ROOT / "benchmarks" / "results" / f"families-{result['date']}.json"
        file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        write_page(found)
        print(f"written to {file.relative_to(ROOT)} and {PAGE.relative_to(ROOT)}")


def tried(what: Callable[[], Any]) -> tuple[str, Any]:
    """(`yes`, the result) or (why not, None)."""
    try:
        return "yes", what()
    except UserError as error:
        return error.got + (f"; instead: {instead}" if (instead := error.fix or error.expected) else ""), None
    except Exception as error:  # one family's failure is a line in the table
        traceback.print_exc()
        return f"FAILED: {type(error).__name__}: {(str(error).strip() or '-').splitlines()[0][:160]}", None


def trained(family: str, folder: Path) -> Cells:
    """The cells of what needs no engine; leaves base, adapter and merged model in `folder`, and what they score."""
    from family_runs import FamilyRun

    run = FamilyRun(family, folder)
    cells: Cells = {"packing": run.packing()}
    for kind in ("pretrain", "sft", "preference", "reward", "classify"):
        cells[kind], _ = tried(lambda kind=kind: run.stage(kind))
    cells["LoRA"], adapter = tried(lambda: run.stage("sft" if family != "bert" else "pretrain", lora=True))
    cells["merge"], merged = tried(lambda: run.merge(adapter)) if adapter else ("no adapter to merge", None)
    told = {"adapter": str(adapter), "merged": str(merged), "scores": run.scores(merged) if merged else []}
    (folder / "engine.json").write_text(json.dumps(told), encoding="utf-8")
    return cells


def served(folder: Path) -> Cells:
    """The cells of serving, by a process that writes them one after the other."""
    command = [sys.executable, __file__, "--engine", str(folder)]
    with open(folder / "engine.log", "w", encoding="utf-8") as log:
        try:
            subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, timeout=_ENGINE_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            print(f"{folder.name}: the engine did not end within {_ENGINE_TIMEOUT_S} s", flush=True)
    file = folder / "served.json"
    cells = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if any(column not in cells or cells[column].startswith("FAILED") for column in SERVED):
        print((folder / "engine.log").read_text(encoding="utf-8")[-3000:])
    return {column: cells.get(column, "FAILED: the engine's process died") for column in SERVED}


def serve(folder: Path) -> None:
    """What the process does: adapter and merged model, each through what `fettle serve` resolves and an engine."""
    from family_runs import serve_scores

    told = json.loads((folder / "engine.json").read_text(encoding="utf-8"))
    cells: Cells = {}
    for column, what in zip(SERVED, ("adapter", "merged"), strict=True):
        found, _ = tried(lambda what=what: serve_scores(told[what], told["scores"]))
        cells[column] = found.replace(told["adapter"], "ADAPTER")
        (folder / "served.json").write_text(json.dumps(cells), encoding="utf-8")


def write_page(found: dict[str, Cells]) -> None:
    """The table into docs/families.md, with a note for every reason."""
    notes: list[str] = []

    def cell(told: str) -> str:
        if told == "yes":
            return "yes"
        if told not in notes:
            notes.append(told)
        return f"{'**failed**' if told.startswith('FAILED') else 'no'} ({notes.index(told) + 1})"

    columns = (*COLUMNS, *SERVED)
    lines = ["| family | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [
        f"| {NAMES[family]} | " + " | ".join(cell(cells[column]) for column in columns) + " |"
        for family, cells in found.items()
    ]
    lines += ["", *(f"{number}. {note}" for number, note in enumerate(notes, start=1))]
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(before + "\n".join([BEGIN, "", *lines, "", END]) + after, encoding="utf-8")


if __name__ == "__main__":
    main()
