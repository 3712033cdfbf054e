"""Under which licences something may be used, as far as what lies beside it tells: a model card, a LICENSE file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import islice
from os.path import commonpath
from pathlib import Path
from typing import Any

import yaml

from fettle.artifact import is_artifact, read_artifact

MADE = "made.json"
"""In the folder of a base that fettle made from nothing."""
_CARD = "README.md"
_TEXTS = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "LICENCE.md", "COPYING")
_HEADINGS = {"apache license version 2.0": "apache-2.0", "mit license": "mit"}  # others go by what they are headed
_HUB_WAITS_S = 5.0


def inherited(parents: Iterable[Path], data: Iterable[tuple[str, tuple[str, ...]]] = ()) -> dict[str, tuple[str, ...]]:
    """`licences` and `unlicensed` of an artifact: each licence that is told of what it was made from, and the names of
    what none is told of. parents: folders of models and adapters. data: of each source its name and licences."""
    told, untold = set[str](), set[str]()
    for folder in parents:
        if is_artifact(folder):
            artifact = read_artifact(folder)
            told |= set(artifact.licences)
            known = artifact.licences or artifact.unlicensed
            untold |= set(artifact.unlicensed) if known else {artifact.name}  # of a fettle that asked nobody
        elif not (folder / MADE).is_file():
            found = licences_of(folder)
            told |= set(found)
            untold |= set() if found else {folder.name}
    for name, found in data:
        told |= set(found)
        untold |= set() if found else {name}
    return {"licences": tuple(sorted(told)), "unlicensed": tuple(sorted(untold))}


def licences_of(folder: Path) -> tuple[str, ...]:
    """What the folder of a model that fettle did not make is licensed under: its card's head says so, else the hub's of
    the model it was fetched from, its configuration, or the heading of its LICENSE file. Empty where nothing does."""
    return (
        card_licences(folder / _CARD)
        or _of_hub(folder)
        or _of_configuration(folder / "config.json")
        or next((found for name in _TEXTS if (found := _heading(folder / name))), ())
    )


def licences_beside(files: Sequence[Path]) -> tuple[str, ...]:
    """What the README.md of a data set's folder says that it is licensed under: one beside its files, or a step above,
    as the hub's data sets have theirs in `data/`."""
    folders = dict.fromkeys(file.parent for file in files)
    whole = [Path(commonpath(folders))] if folders else []
    above = [folder.parent for folder in whole]
    return next((found for one in (*whole, *folders, *above) if (found := card_licences(one / _CARD))), ())


def card_licences(card: Path) -> tuple[str, ...]:
    """Of the YAML head of a model's or a data set's card; empty where it has none."""
    try:
        with open(card, encoding="utf-8") as stream:
            if stream.readline().strip() != "---":
                return ()
            lines = []
            for line in stream:
                if line.strip() == "---":
                    break
                lines.append(line)
        head = yaml.safe_load("".join(lines))
    except (OSError, ValueError, yaml.YAMLError):  # none, or one for people only
        return ()
    return _named(head) if isinstance(head, dict) else ()


def _named(head: dict[str, Any]) -> tuple[str, ...]:
    told = head.get("license") or ()
    listed = [told] if isinstance(told, str) else told if isinstance(told, list) else []
    # "other" has its name, or at least an address, in keys of its own.
    other = head.get("license_name") or head.get("license_link") or "other"
    return tuple(str(other if one == "other" else one) for one in listed if isinstance(one, str))


@cache
def _of_hub(folder: Path) -> tuple[str, ...]:
    """Of a model in the hub's cache, whose card is not fetched with it: the weights' digest is over all files there."""
    if folder.parent.name != "snapshots" or not folder.parents[1].name.startswith("models--"):
        return ()
    from huggingface_hub import HfApi

    name = "/".join(folder.parents[1].name.split("--")[1:])
    try:
        card = HfApi().model_info(name, revision=folder.name, timeout=_HUB_WAITS_S).card_data
    except Exception:  # whatever the hub's client raises; a licence that is not told stops nobody
        return ()
    return _named(card.to_dict()) if card is not None else ()


def _of_configuration(file: Path) -> tuple[str, ...]:
    try:
        told = json.loads(file.read_text(encoding="utf-8")).get("license")
    except (OSError, ValueError, AttributeError):
        return ()
    return (told,) if isinstance(told, str) and told else ()


def _heading(file: Path) -> tuple[str, ...]:
    """Of a licence's text: what it is called."""
    try:
        with open(file, encoding="utf-8", errors="replace") as stream:
            lines = [line.strip(" \t\n#*") for line in islice(stream, 20)]
    except OSError:
        return ()
    found = [line for line in lines if line]
    if not found:
        return ()
    version = f" {found[1].partition(',')[0]}" if len(found) > 1 and re.match(r"Version \d", found[1]) else ""
    name = f"{found[0][:80]}{version}"
    return (_HEADINGS.get(name.lower(), name),)
