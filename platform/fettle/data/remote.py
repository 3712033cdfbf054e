"""Data that lies elsewhere: addresses such as `s3://bucket/file.jsonl`, and data sets on the Hugging Face hub.

What is fetched lies in `~/.cache/fettle` (or `$XDG_CACHE_HOME/fettle`), each version once, and is then a file like any
other. The libraries are imported when they are needed: they take long, and most data needs none of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from fettle.data.files import KNOWN, suffix_of
from fettle.errors import UserError, did_you_mean
from fettle.output import cache_folder
from fettle.recipe.data import HubSpec

if TYPE_CHECKING:
    from datasets import Dataset
    from fsspec import AbstractFileSystem

_HUB_PREFIX = re.compile(r"(?:hf://datasets/|https://huggingface\.co/datasets/)(?=[^/]+(?:/[^/@]+)?/?$)")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?")
_CONNECT_S, _READ_S = 10, 60
# What a web server says of a file's version. Of one that says nothing no copy is taken twice.
_VERSION = ("ETag", "Content-MD5", "Digest", "Last-Modified")


def is_address(path: str) -> bool:
    """Whether the path is `scheme://…`, of another machine than this."""
    return not path.startswith("file://") and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path) is not None


def local_path(path: str) -> str:
    """The path of a `file://` address; any other as it is."""
    return url2pathname(urlsplit(path).path) if path.startswith("file://") else path


def hub_id(path: str) -> str | None:
    """The data set's id, where a path can be one: `owner/name` or `name`, and nothing that looks like a file's name.

    `hf://datasets/owner/name` and the address of its page are one in any case.
    """
    name = _HUB_PREFIX.sub("", path)
    if name != path:
        return name.rstrip("/")
    return name if _HUB_ID.fullmatch(name) and not re.search(r"\.[A-Za-z]{2,7}$", name) else None


def fetch(address: str, **where: Any) -> tuple[list[Path], list[Path]]:
    """(the data files an address means, fetched unless they lie here already; the names of others beside them).

    An address with `*` means the files that match, one that ends in no known suffix a folder. A web address is always
    a file. where: file, line, field (of a recipe) of the UserError raised when nothing can be fetched.
    """
    files, path = _file_system(address, where)
    is_web = address.startswith(("http://", "https://"))
    if not is_web and ("*" in path or not suffix_of(_name(path))):
        found = sorted(_tried(files.glob if "*" in path else files.find, path, address=address, where=where))
        addresses = {path: files.unstrip_protocol(path) for path in found}
    else:
        addresses = {path: address}
    wanted = [path for path in addresses if suffix_of(_name(path))]
    if not wanted:
        got = f"unknown suffix '{_name(path).suffix}'" if is_web else "no data file there"
        raise _error(got, address, where, expected=KNOWN)
    fetched = [_fetched(files, path, addresses[path], where) for path in wanted]
    return fetched, [_name(path) for path in addresses if path not in wanted]


def from_hub(name: str, part: HubSpec, *, said: str = "", **where: Any) -> Path:
    """A data set of the hub as one parquet file, named by its commit. Where the hub cannot be reached, the newest
    that was fetched before; with HF_HUB_OFFLINE also what the datasets library has in its own cache.

    said: what goes before "no such data set on the hub". where: as of `fetch`.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

    chosen = json.dumps([part.subset, part.folder, part.revision])
    folder = cache_folder("hub") / name.replace("/", "--") / _digest(chosen)
    split = re.sub(r"[^\w.-]", "_", part.split)
    try:
        found = HfApi().dataset_info(name, revision=part.revision, timeout=_CONNECT_S)
        commit, card = found.sha, found.card_data
    except RepositoryNotFoundError as error:
        fix = "if it is private: `hf auth login`"
        raise _error(f"{said}no such data set on the hub", name, where, fix=fix) from error
    except RevisionNotFoundError as error:
        raise _error(f"no revision '{part.revision}' of it on the hub", name, where) from error
    except Exception as error:  # whatever the hub's HTTP client raises
        if fetched := sorted(folder.glob(f"{split}-*.parquet"), key=lambda file: file.stat().st_mtime):
            return fetched[-1]
        if not isinstance(error, OfflineModeIsEnabled):
            raise _error(f"{said}the hub cannot be reached ({_reason(error)})", name, where) from error
        commit = card = None
    if commit is not None and (file := folder / f"{split}-{commit[:12]}.parquet").exists():
        return file
    with TemporaryDirectory(dir=_made(folder.parents[1])) as unpacked:
        # Where loading fails the library would take an older version from its own cache: only when that is wanted.
        rows = _load(name, part, commit, None if commit is None else unpacked, said, where)
        file = folder / f"{split}-{(commit or rows._fingerprint)[:12]}.parquet"
        _put(file, rows.to_parquet, name, where)
    if card is not None:  # whose licence is told of what learns from the data
        told = f"---\n{card.to_yaml()}\n---\n"
        _put(folder / "README.md", lambda unfinished: unfinished.write_text(told, encoding="utf-8"), name, where)
    return file


def _load(name: str, part: HubSpec, commit: str | None, cache: str | None, said: str, where: dict[str, Any]) -> Dataset:
    """commit: None where HF_HUB_OFFLINE is set."""
    import datasets

    try:
        return datasets.load_dataset(
            name, part.subset, data_dir=part.folder, split=part.split, revision=commit or part.revision, cache_dir=cache
        )
    except Exception as error:  # the library and the readers under it raise what they like
        if commit is None:
            got = f"{said}the hub is not asked (HF_HUB_OFFLINE), and split '{part.split}' was not fetched before"
        elif wrong := _wrong_part(name, part, commit, where, error):
            raise wrong from error
        else:
            got = f"the hub's data set cannot be loaded ({_reason(error)})"
        raise _error(got, name, where) from error


def _wrong_part(name: str, part: HubSpec, commit: str, where: dict[str, Any], error: Exception) -> UserError | None:
    """The mistake, if it is that the data set has no such subset or split, or that it has several to choose from."""
    import datasets
    from huggingface_hub import HfApi

    try:
        subsets = datasets.get_dataset_config_names(name, revision=commit)
        if part.subset is None and str(error).startswith("Config name is missing"):
            fix = f"say which: hub: {{subset: {subsets[0]}}}"
            return _error(f"it has {len(subsets)} subsets", name, where, expected=_listed(subsets), fix=fix)
        if part.subset is not None and part.subset not in subsets:
            got = f"no subset '{part.subset}' in it{did_you_mean(part.subset, subsets)}"
            return _error(got, name, where, expected=_listed(subsets))
        if part.folder is not None and not any(
            file.startswith(f"{part.folder}/")
            for file in HfApi().list_repo_files(name, repo_type="dataset", revision=commit)
        ):
            return _error(f"no folder '{part.folder}' in it", name, where)
        splits = datasets.get_dataset_split_names(name, part.subset, revision=commit)
    except Exception:  # what cannot be loaded cannot always be listed: the first error is the one to tell
        return None
    if part.split.partition("[")[0] in splits:
        return None
    advice = f"say which: hub: {{split: {splits[0]}}}" if splits else None
    got = f"no split '{part.split}' in it{did_you_mean(part.split, splits)}"
    return _error(got, name, where, expected=_listed(splits), fix=advice)


def _file_system(address: str, where: dict[str, Any]) -> tuple[AbstractFileSystem, str]:
    """(what reads addresses of this scheme, the path as it knows it)."""
    from fsspec.core import url_to_fs
    from fsspec.registry import known_implementations

    scheme = address.partition("://")[0]
    options: dict[str, Any] = {}
    if scheme in ("http", "https"):
        from aiohttp import ClientTimeout

        # By default five minutes for all of a file, be it large or the server dead.
        options = {"client_kwargs": {"timeout": ClientTimeout(None, sock_connect=_CONNECT_S, sock_read=_READ_S)}}
    try:
        files, path = url_to_fs(address, **options)
    except ImportError as error:
        package = known_implementations[scheme]["class"].split(".")[0]
        if package == "fsspec":
            package = getattr(error.__cause__, "name", None) or str(error)
        got = f"the package {package} is missing, which reads {scheme}:// addresses"
        raise _error(got, address, where, fix=f"pip install {package}") from error
    except ValueError as error:
        if scheme in known_implementations:
            raise _error(_reason(error), address, where) from error
        expected = "s3://, gs://, az://, https://, hf://, … or a path"
        got = f"unknown scheme '{scheme}://'{did_you_mean(scheme, known_implementations)}"
        raise _error(got, address, where, expected=expected) from error
    except Exception as error:  # of the package that reads the scheme: no credentials, for one
        raise _error(f"it cannot be opened ({_reason(error)})", address, where) from error
    return files, path


def _fetched(files: AbstractFileSystem, path: str, address: str, where: dict[str, Any]) -> Path:
    info = {key: value for key, value in _tried(files.info, path, address=address, where=where).items() if key != "url"}
    version = _digest(address + json.dumps(info, sort_keys=True, default=str))
    file = cache_folder("fetched") / version / _name(path).name
    is_told_apart = not address.startswith(("http://", "https://")) or any(key in info for key in _VERSION)
    if not (file.exists() and is_told_apart):
        _put(file, lambda unfinished: files.get_file(path, str(unfinished)), address, where)
    return file


def _put(file: Path, write: Callable[[Path], object], what: str, where: dict[str, Any]) -> None:
    """The file as `write` makes it, whole or not at all."""
    unfinished = _made(file.parent) / f".{os.getpid()}.{file.name}"
    try:
        _tried(write, unfinished, address=what, where=where)
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def _tried(call: Callable[..., Any], *given: Any, address: str, where: dict[str, Any]) -> Any:
    try:
        return call(*given)
    except Exception as error:  # each scheme's package has errors of its own
        cause = error.__cause__ if isinstance(error, FileNotFoundError) else error
        if cause is None or getattr(cause, "status", None) in (404, 410):  # fsspec wraps whatever a web server does
            raise _error("no such file there", address, where) from error
        raise _error(f"it cannot be fetched ({_reason(cause)})", address, where) from error


def _name(path: str) -> Path:
    """A file's name, without a web address's query."""
    return Path(Path(urlsplit(path).path if path.startswith(("http://", "https://")) else path).name)


def _made(folder: Path) -> Path:
    """The folder, which exists now."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        got = f"cannot be made ({error.strerror}), and what is fetched goes there"
        raise UserError(got, file=folder, fix="set XDG_CACHE_HOME to a folder with room") from error
    return folder


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f", … and {len(names) - 12} more" if len(names) > 12 else "")


def _reason(error: BaseException) -> str:
    """An error of a library in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _error(got: str, what: str, where: dict[str, Any], **more: Any) -> UserError:
    """At the recipe's line where there is one, else at the address itself."""
    return UserError(f"{what}: {got}", **where, **more) if where else UserError(got, file=what, **more)
