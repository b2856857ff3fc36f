"""Errors of the endpoint, in the format of the OpenAI API."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """An HTTP error with an OpenAI error body. Picklable, so that replicas can return it.

    `retry_after`: seconds, sent as the Retry-After header.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(status, message)
        self.status, self.message, self.code = status, message, code
        self.param, self.retry_after = param, retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_error, (self.status, self.message, self.code, self.param, self.retry_after)

    def body(self) -> dict[str, Any]:
        if self.status >= 500:
            kind = "server_error"
        else:
            kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
                self.status, "invalid_request_error"
            )
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Headers of the response that says so."""
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.status == 408:  # nobody waits for the rest of the body
            headers["connection"] = "close"
        return headers


def _rebuild_error(status: int, message: str, code: str, param: str | None, retry: int | None) -> ApiError:
    return ApiError(status, message, code=code, param=param, retry_after=retry)
