"""`storage`: where a run's folder is kept a second time, for when its machine is lost."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import Field, field_validator, model_validator

from fettle.recipe.spec import Spec

_KINDS = "s3://BUCKET/PREFIX, file:///FOLDER, or a folder's path"


class StorageSpec(Spec):
    """Where artifacts, checkpoints and evaluations are sent while the run goes on. Nothing of it changes what is
    computed."""

    uri: str = Field(min_length=1)
    """`s3://BUCKET/PREFIX`, or a folder that other machines see too (`file:///mnt/…`, or a path). Each run has a folder
    of its own in it, called as its own. Who may write to a bucket is said by `AWS_ACCESS_KEY_ID` and
    `AWS_SECRET_ACCESS_KEY`, `AWS_PROFILE`, or the machine's role."""
    endpoint: str | None = Field(None, min_length=1)
    """Of a server that speaks S3 (`http://127.0.0.1:9000`); by default what `AWS_ENDPOINT_URL` says, else Amazon's."""

    @property
    def bucket(self) -> str | None:
        """Bucket and prefix, as `bucket/prefix`; None of a folder."""
        parts = urlsplit(self.uri)
        return f"{parts.netloc}{parts.path}".rstrip("/") if parts.scheme == "s3" else None

    @property
    def folder(self) -> str:
        """The folder's path, as the recipe says it."""
        assert self.bucket is None
        return unquote(urlsplit(self.uri).path) if "://" in self.uri else self.uri

    @field_validator("uri")
    @classmethod
    def _is_of_a_known_kind(cls, uri: str) -> str:
        if "://" not in uri:
            return uri
        parts = urlsplit(uri)
        if parts.scheme not in ("s3", "file"):
            raise ValueError(f"{parts.scheme}:// is no storage; it is {_KINDS}")
        if parts.username is not None:  # the recipe lies in the run's folder, and is told to the tracker
            raise ValueError("keys do not belong here; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY say them")
        if parts.query or parts.fragment:
            raise ValueError(f"{uri} has more than a bucket and a prefix; a server's address is `endpoint`")
        if parts.scheme == "s3" and (not parts.netloc or ".." in PurePosixPath(parts.path).parts):
            raise ValueError(f"{uri} names no bucket; it is {_KINDS}")
        if parts.scheme == "file" and (parts.netloc or not parts.path):
            raise ValueError(f"{uri} has no absolute path; it is file:///FOLDER, with three slashes")
        return uri

    @field_validator("endpoint")
    @classmethod
    def _is_an_address(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return endpoint
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ValueError(f"{endpoint} is no server's address, such as http://127.0.0.1:9000")
        if parts.username is not None:
            raise ValueError("keys do not belong here; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY say them")
        return endpoint

    @model_validator(mode="after")
    def _endpoint_is_of_a_bucket(self) -> StorageSpec:
        if self.endpoint is not None and self.bucket is None:
            raise ValueError("endpoint has no effect with a folder; it belongs to s3://")
        return self


def as_storage(value: Any) -> Any:
    """`storage: URI`, and `storage: off`, which YAML reads as false."""
    if value is False or value == "off":
        return None
    return {"uri": value} if isinstance(value, str) else value
