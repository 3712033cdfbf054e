"""The place where a run is kept a second time, by pyarrow: a bucket that speaks S3, or a folder. Light: no torch.

Below `URI/NAME`, NAME being the run folder's name:

    .epoch                     which run may write here, as JSON: its token, host, folder, recipe
    .ended                     the token of the last run that sent all it had to send
    sent/LABEL.json            a stage's files that are here whole (`Listing`); sent/run.json: those of no stage
    artifacts/LABEL/…          as in the run's folder
    stages/LABEL/checkpoints/step-N/…
    stages/LABEL/FILE@SHA256   what changes while a stage goes on: each content under a name of its own

An object appears whole or not at all, and a listing is written after all that it lists: what an interrupted upload
left is in no listing, and is never taken.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow.fs as arrow

from fettle.artifact import sync_path
from fettle.recipe.storage import StorageSpec

EPOCH, ENDED = ".epoch", ".ended"
FOLDER = ".storage"
"""Of a run's folder: what is kept there for storage's sake."""
OF_NO_STAGE = "run"
MARK = "complete.json"
"""Of a checkpoint, as `train/checkpoint.py` writes it."""
_CHUNK = 8 << 20
_STEP = re.compile(r"stages/[^/]+/checkpoints/(step-\d+)/(.+)")
_REASON = re.compile(r"AWS Error (\w+)[^:]*: *(.*)", re.DOTALL)
_DENIED = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "EXPIRED_TOKEN",
    "INVALID_CLIENT_TOKEN_ID",
)


class Torn(Exception):
    """What is there is not what was sent."""


class Gone(Exception):
    """A file was removed while it was being sent."""


@dataclass(frozen=True)
class Sent:
    """A file that is there. changed: when the sent one was changed, in ns since 1970. sha256: of its bytes."""

    size: int
    changed: int
    sha256: str


@dataclass
class Listing:
    """A stage's files that are there whole, by their path in the run's folder. out: where that was."""

    out: str
    files: dict[str, Sent] = field(default_factory=dict)

    def steps(self) -> list[str]:
        """Names of the checkpoints, the oldest first."""
        found = (_STEP.fullmatch(path) for path in self.files)
        return sorted(match[1] for match in found if match and match[2] == MARK)

    def below(self, folder: str) -> dict[str, Sent]:
        """The files in a folder."""
        return {path: sent for path, sent in self.files.items() if path.startswith(f"{folder}/")}

    def places(self) -> set[str]:
        """Where they lie."""
        return {place_of(path, sent) for path, sent in self.files.items()}


class Storage:
    """One run's part of it. Raises OSError where it does not answer or refuses: `reason_of` says why."""

    def __init__(self, spec: StorageSpec, folder: Path | None, name: str) -> None:
        self.said = f"{spec.uri.rstrip('/')}/{name}"
        self.is_bucket = folder is None
        if folder is not None:
            self.root, self.fs = str(folder / name), arrow.LocalFileSystem()
            return
        # Delayed: a small file is one request, there whole or not at all. In the background, a file that is read faster
        # than it is sent would be in memory as a whole.
        keys: dict[str, Any] = {"allow_delayed_open": True, "background_writes": False}
        # As AWS's own tools have it; pyarrow does not (25.0).
        endpoint = spec.endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint is not None:
            scheme, _, address = endpoint.rstrip("/").partition("://")
            keys |= {"scheme": scheme, "endpoint_override": address}
        self.root, self.fs = f"{spec.bucket}/{name}", arrow.S3FileSystem(**keys)

    def read(self, path: str) -> bytes | None:
        """A small file's bytes; None where there is none."""
        try:
            with self.fs.open_input_stream(self._at(path)) as stream:
                return bytes(stream.readall())
        except FileNotFoundError:
            return None

    def write(self, path: str, content: bytes) -> None:
        """Makes a small file, or puts this one in its place."""
        with self._written(path) as stream:
            stream.write(content)

    def send(self, file: Path, path: str, size: int, told: Callable[[], None]) -> str:
        """Copies the file's first `size` bytes there, and gives their sha256. told: called before every few MiB; it may
        raise. Raises Gone where the file has been removed meanwhile."""
        total = hashlib.sha256()
        with _reading(file) as source, self._written(path) as stream:
            for chunk in _chunks(source, size):
                told()
                total.update(chunk)
                stream.write(chunk)
        return total.hexdigest()

    def fetch(self, path: str, sent: Sent, to: Path, is_given_up: Callable[[], bool]) -> None:
        """Copies a file here, and gives it the date it had. Raises Torn where it is not what was sent, and ends where
        it is given up."""
        to.parent.mkdir(parents=True, exist_ok=True)
        total, size = hashlib.sha256(), 0
        try:
            with self.fs.open_input_stream(self._at(path)) as source, open(to, "wb") as stream:
                while (chunk := source.read(_CHUNK)) and not is_given_up():
                    total.update(chunk)
                    size += len(chunk)
                    stream.write(chunk)
        except FileNotFoundError:
            raise Torn(f"{path} is missing") from None
        if (size, total.hexdigest()) != (sent.size, sent.sha256):
            raise Torn(f"{path} has other bytes than were sent")
        os.utime(to, ns=(sent.changed, sent.changed))
        sync_path(to)

    def names(self, folder: str) -> list[str]:
        """Paths of all files in a folder."""
        selector = arrow.FileSelector(self._at(folder), recursive=True, allow_not_found=True)
        found = self.fs.get_file_info(selector)
        return [one.path[len(self.root) + 1 :] for one in found if one.type == arrow.FileType.File]

    def delete(self, places: Iterable[str]) -> None:
        """Removes files; those that are not there are no matter."""
        for place in sorted(places):
            with suppress(FileNotFoundError):
                self.fs.delete_file(self._at(place))

    def listing(self, label: str) -> Listing | None:
        """What is there whole of a stage; None where nothing is."""
        text = self.read(f"sent/{label}.json")
        try:
            told = json.loads(text) if text is not None else None
            return Listing(told["out"], {path: Sent(*one) for path, one in told["files"].items()}) if told else None
        except (ValueError, LookupError, TypeError, AttributeError):
            return None

    def write_listing(self, label: str, listing: Listing) -> None:
        """Says from now on what is there whole of a stage."""
        files = {path: list(asdict(sent).values()) for path, sent in sorted(listing.files.items())}
        self.write(f"sent/{label}.json", json.dumps({"out": listing.out, "files": files}, indent=0).encode())

    def epoch(self) -> dict[str, Any] | None:
        """What is told of the run that may write here; None where none ever did."""
        text = self.read(EPOCH)
        return dict(json.loads(text)) if text else None

    def _at(self, path: str) -> str:
        return f"{self.root}/{path}"

    @contextmanager
    def _written(self, path: str) -> Iterator[Any]:
        at = self._at(path)
        if self.is_bucket:
            with self.fs.open_output_stream(at) as stream:
                yield stream
            return
        partial = Path(at).with_name(f".partial-{uuid.uuid4().hex[:8]}")  # pyarrow's own is there before it is whole
        partial.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "wb") as stream:
                yield stream
            sync_path(partial)
            os.replace(partial, at)
        finally:
            partial.unlink(missing_ok=True)


def place_of(path: str, sent: Sent) -> str:
    """Where a file of the run's folder lies in storage."""
    is_immutable = path.startswith("artifacts/") or _STEP.fullmatch(path)
    return path if is_immutable else f"{path}@{sent.sha256[:16]}"


def reason_of(error: OSError) -> str:
    """Why storage did not do what it was asked, in one line."""
    found = _REASON.search(str(error))
    if found is None:
        return str(error).splitlines()[0][:200]
    return f"{found[1]}: {found[2].splitlines()[0].rpartition('Details: ')[2]}"[:200]


def is_denied(error: OSError) -> bool:
    """Whether it does not let us in."""
    return isinstance(error, PermissionError) or any(f"AWS Error {code}" in str(error) for code in _DENIED)


def digest_head(file: Path, size: int) -> str:
    """sha256 of a file's first `size` bytes. Raises Gone where it has been removed."""
    total = hashlib.sha256()
    with _reading(file) as stream:
        for chunk in _chunks(stream, size):
            total.update(chunk)
    return total.hexdigest()


@contextmanager
def _reading(file: Path) -> Iterator[IO[bytes]]:
    try:
        with open(file, "rb") as stream:
            yield stream
    except FileNotFoundError:
        raise Gone(file.name) from None


def _chunks(stream: IO[bytes], size: int) -> Iterator[bytes]:
    left = size
    while left:
        chunk = stream.read(min(_CHUNK, left))
        if not chunk:
            raise Gone(f"{stream.name} has become shorter")
        left -= len(chunk)
        yield chunk
