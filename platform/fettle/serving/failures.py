"""Errors over HTTP, in OpenAI's shape."""

from __future__ import annotations

from starlette.responses import JSONResponse

NOT_FOUND = "NotFoundError"
UNAVAILABLE = "ServiceUnavailableError"


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
