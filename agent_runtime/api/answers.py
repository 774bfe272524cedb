"""What every endpoint answers with: JSON, and errors as ``{"error": "..."}``, never a stack trace."""

from __future__ import annotations

import logging
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from agent_runtime.events.errors import InvalidEvent, StoreError
from agent_runtime.sessions.errors import (
    DatabaseUnavailable,
    InvalidSession,
    SessionEnded,
    SessionExists,
    SessionsError,
    TooManySwitches,
    UnknownSession,
)

logger = logging.getLogger("agent_runtime.api")


class Refusal(Exception):
    """A request that is not served.

    Args:
        status: the HTTP status, 4xx or 503.
        error: what was wrong, for whoever sent it.
        retry_after: seconds after which it may be sent again; None where sending it again is no use.
    """

    def __init__(self, status: int, error: str, retry_after: int | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """The headers that go with the status."""
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.status == 408:
            headers["Connection"] = "close"
        return headers

    def response(self) -> Response:
        """The answer."""
        return Json({"error": self.error}, self.status, self.headers)


class Json(Response):
    """A JSON answer, written by orjson."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """See ``text``."""
        return self.text(content)

    @staticmethod
    def text(content: Any) -> bytes:
        """``content`` as UTF-8; a lone surrogate, which can only come from a request that is quoted, is escaped."""
        try:
            return orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS)
        except TypeError:
            return orjson.dumps(_encodable(content), option=orjson.OPT_NON_STR_KEYS)


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def add_error_answers(app: FastAPI) -> None:
    """Give every error of ``app`` the same shape."""
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(InvalidEvent, _unfit)
    app.add_exception_handler(StoreError, _store)
    app.add_exception_handler(SessionsError, _session)
    app.add_exception_handler(Exception, _unexpected)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return error.response()


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Json({"error": str(error.detail)}, error.status_code, dict(error.headers or {}))


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    rows = [f"{'.'.join(str(part) for part in row['loc'][1:])}: {row['msg']}" for row in error.errors()]
    return Json({"error": "; ".join(rows)}, 400)


async def _unfit(_: Request, error: Exception) -> Response:
    return Json({"error": str(error)}, 400)


async def _store(_: Request, error: Exception) -> Response:
    logger.error("the event store failed: %s", error)
    return Refusal(503, "the event store does not answer; try again", retry_after=1).response()


_STATUS_OF: dict[type[Exception], int] = {
    InvalidSession: 400,
    UnknownSession: 404,
    SessionExists: 409,
    SessionEnded: 409,
    TooManySwitches: 409,
}


async def _session(_: Request, error: Exception) -> Response:
    if isinstance(error, DatabaseUnavailable):
        logger.error("%s", error)
        return Refusal(503, "the database does not answer; try again", retry_after=1).response()
    return Json({"error": str(error)}, _STATUS_OF.get(type(error), 500))


async def _unexpected(request: Request, error: Exception) -> Response:
    logger.error("%s %s failed: %r", request.method, request.url.path, error)
    return Json({"error": "internal error"}, 500)
