"""What an OTLP backend's answer means: taken, to be sent again, or refused.

The lists of what may be sent again are the OTLP specification's ("Failures", for HTTP and for gRPC), with 408 beside
them. Answers that blame the endpoint or the credentials are kept apart: a forgotten token must not cost a span.
"""

import email.utils
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import grpc  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

_CODE = grpc.StatusCode
RETRIED_HTTP = frozenset({408, 429, 502, 503, 504})
RETRIED_GRPC = frozenset(
    {_CODE.CANCELLED, _CODE.DEADLINE_EXCEEDED, _CODE.ABORTED, _CODE.OUT_OF_RANGE, _CODE.UNAVAILABLE, _CODE.DATA_LOSS}
)
MISCONFIGURED_HTTP = frozenset({*range(300, 400), 401, 403, 404, 405, 407, 415, 421, 426, 501})
MISCONFIGURED_GRPC = frozenset({_CODE.UNAUTHENTICATED, _CODE.PERMISSION_DENIED, _CODE.UNIMPLEMENTED})
# How the servers of C++ and Python, Go, Rust and Java word that a message is over their limit.
_SIZE_WORDS = ("larger than max", "too large", "exceeds maximum")
_LONGEST_MESSAGE = 300


class Outcome(StrEnum):
    """What to do with the spans of a request."""

    ACCEPTED = "accepted"
    """The backend has them, save `Result.rejected_spans` that it will never take."""
    RETRY = "retry"
    """Keep them and send them again later."""
    REFUSED = "refused"
    """To send the same again is useless: something in this very request is not acceptable."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one request.

    message: the backend's words or the network's, cut. rejected_spans: of an accepted request, by `partial_success`.
    retry_after: seconds that the backend asked for. too_large: refused for its size, smaller batches may pass.
    misconfigured: the endpoint or the credentials are wrong; the spans are not to blame, so the outcome is RETRY.
    uncertain: refused by an answer that may as well mean that the backend is broken; worth a few more tries.
    """

    outcome: Outcome
    message: str = ""
    rejected_spans: int = 0
    retry_after: float | None = None
    too_large: bool = False
    misconfigured: bool = False
    uncertain: bool = False


CLOSED = Result(Outcome.RETRY, "the connection was closed")


def accepted(answer: bytes) -> Result:
    """Read an `ExportTraceServiceResponse`; an answer that is none says nothing of rejected spans."""
    try:
        partial = ExportTraceServiceResponse.FromString(answer).partial_success
    except DecodeError:
        return Result(Outcome.ACCEPTED)
    return Result(Outcome.ACCEPTED, _cut(partial.error_message), max(0, partial.rejected_spans))


def unreachable(error: Exception, where: str = "") -> Result:
    """No answer came, for this reason; ``where`` names the address that was tried."""
    return Result(Outcome.RETRY, _cut(f"{where} {type(error).__name__}: {error}".lstrip().rstrip(": ")))


def timed_out(seconds: float) -> Result:
    """No answer came in time."""
    return Result(Outcome.RETRY, f"no answer within {seconds:g} s")


def http_result(status: int, headers: Mapping[str, str], body: bytes) -> Result:
    """Read an HTTP answer; header names in lower case, or a mapping that does not mind."""
    binary = "protobuf" in headers.get("content-type", "")
    if 200 <= status < 300:
        return accepted(body if binary else b"")
    result = _failure(f"HTTP {status}: {_status_message(body) if binary else body.decode('utf-8', 'replace')}")
    if status in RETRIED_HTTP:
        return replace(result, outcome=Outcome.RETRY, retry_after=_retry_after(headers.get("retry-after", "")))
    if status in MISCONFIGURED_HTTP:
        return replace(result, outcome=Outcome.RETRY, misconfigured=True)
    return replace(result, too_large=status == 413, uncertain=status == 500)


def grpc_result(error: Any) -> Result:
    """Read a `grpc.aio.AioRpcError`."""
    code, details = error.code(), error.details() or ""
    result = _failure(f"{code.name}: {details}")
    exhausted = code is _CODE.RESOURCE_EXHAUSTED
    if (exhausted or code is _CODE.OUT_OF_RANGE) and any(words in details.lower() for words in _SIZE_WORDS):
        return replace(result, too_large=True)
    # The specification retries an exhausted quota only with RetryInfo. Without it we do as well, as HTTP does at 429.
    if exhausted or code in RETRIED_GRPC:
        return replace(result, outcome=Outcome.RETRY, retry_after=_retry_delay(error.trailing_metadata() or ()))
    if code in MISCONFIGURED_GRPC:
        return replace(result, outcome=Outcome.RETRY, misconfigured=True)
    return replace(result, uncertain=code in (_CODE.INTERNAL, _CODE.UNKNOWN))


def _failure(message: str) -> Result:
    return Result(Outcome.REFUSED, _cut(message.rstrip(": ")))


def _cut(message: str) -> str:
    """Make foreign words fit for a log line: one line, printable, of a modest length."""
    line = " ".join(message[: 4 * _LONGEST_MESSAGE].split())
    return "".join(character for character in line if character.isprintable())[:_LONGEST_MESSAGE]


def _status_message(body: bytes) -> str:
    try:
        return str(Status.FromString(body).message)
    except DecodeError:
        return ""


def _retry_after(value: str) -> float | None:
    """Read a Retry-After header, seconds or a date, as seconds from now."""
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _retry_delay(metadata: Any) -> float | None:
    """Read the seconds of a RetryInfo in the details of a gRPC status, if there is one."""
    details = next((value for key, value in metadata if key == "grpc-status-details-bin"), b"")
    info = RetryInfo()
    try:
        found = any(detail.Unpack(info) for detail in Status.FromString(details).details)
    except DecodeError:
        return None
    return max(0.0, info.retry_delay.seconds + info.retry_delay.nanos / 1e9) if found else None
