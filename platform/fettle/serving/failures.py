"""Errors over HTTP, in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import JSONResponse

from fettle.errors import did_you_mean

NOT_FOUND = "NotFoundError"
DENIED = "PermissionDeniedError"
UNAVAILABLE = "ServiceUnavailableError"
_TOLD_CHARS, _TOLD_NAMES = 100, 20  # of what was asked for, and of what there is


def failure(
    code: int,
    message: str,
    *,
    kind: str = "BadRequestError",
    param: str | None = None,
    retry_after_s: int | None = None,
) -> JSONResponse:
    """{"error": {"message", "type", "param", "code"}}. retry_after_s: when it may be otherwise."""
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s is not None else None
    return JSONResponse(body, status_code=code, headers=headers)


def no_model(asked: object, names: Sequence[str]) -> JSONResponse:
    """Of a `model` that is none of `names`, all that the caller may know of."""
    told = str(asked)[:_TOLD_CHARS]
    available = ", ".join(names[:_TOLD_NAMES]) + (", …" if len(names) > _TOLD_NAMES else "")
    message = f"no model '{told}'{did_you_mean(told, names)}; available: {available or 'none'}"
    return failure(404, message, kind=NOT_FOUND, param="model")
