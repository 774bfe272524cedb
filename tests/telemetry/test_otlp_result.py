import email.utils
import time

import pytest
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from telemetry.otlp_result import Outcome, Result, accepted, http_result, unreachable

PROTOBUF = {"content-type": "application/x-protobuf"}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, Result(Outcome.ACCEPTED)),
        (202, Result(Outcome.ACCEPTED)),
        (307, Result(Outcome.RETRY, "HTTP 307", misconfigured=True)),
        (400, Result(Outcome.REFUSED, "HTTP 400")),
        (401, Result(Outcome.RETRY, "HTTP 401", misconfigured=True)),
        (403, Result(Outcome.RETRY, "HTTP 403", misconfigured=True)),
        (404, Result(Outcome.RETRY, "HTTP 404", misconfigured=True)),
        (408, Result(Outcome.RETRY, "HTTP 408")),
        (413, Result(Outcome.REFUSED, "HTTP 413", too_large=True)),
        (422, Result(Outcome.REFUSED, "HTTP 422")),
        (429, Result(Outcome.RETRY, "HTTP 429")),
        (500, Result(Outcome.REFUSED, "HTTP 500", uncertain=True)),
        (502, Result(Outcome.RETRY, "HTTP 502")),
        (503, Result(Outcome.RETRY, "HTTP 503")),
        (504, Result(Outcome.RETRY, "HTTP 504")),
    ],
)
def test_http_statuses(status: int, expected: Result) -> None:
    """Each status means what the specification says; those that blame the endpoint or the credentials are kept."""
    assert expected == http_result(status, {}, b"")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("7", 7.0), ("0", 0.0), ("", None), ("soon", None), ("-3", None), (email.utils.formatdate(0), 0.0)],
)
def test_retry_after(value: str, expected: float | None) -> None:
    """Retry-After is seconds, or a date (one that has passed is now); anything else is none."""
    assert expected == http_result(503, {"retry-after": value}, b"").retry_after


def test_retry_after_a_date_to_come() -> None:
    """A date in an hour is some seconds away."""
    date = email.utils.formatdate(time.time() + 3_600)
    seconds = http_result(429, {"retry-after": date}, b"").retry_after

    assert seconds is not None and 0 < seconds <= 3_600


def test_retry_after_matters_only_where_one_retries() -> None:
    """A refusal is final, whatever date it carries."""
    assert Result(Outcome.REFUSED, "HTTP 400") == http_result(400, {"retry-after": "5"}, b"")


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        (PROTOBUF, Status(message="bad attribute").SerializeToString(), "HTTP 400: bad attribute"),
        (PROTOBUF, b"\xff", "HTTP 400"),
        ({"content-type": "text/plain"}, "naïve\r\n\x1b[31m words".encode(), "HTTP 400: naïve [31m words"),
        ({}, b"\xff\xfe", "HTTP 400: ��"),
        ({}, b"x" * 10_000, "HTTP 400: " + "x" * 290),
    ],
    ids=["status", "garbage", "text", "not utf-8", "long"],
)
def test_messages_are_one_printable_line(headers: dict[str, str], body: bytes, expected: str) -> None:
    """The backend's words are passed on, cut, without line breaks or control characters."""
    assert expected == http_result(400, headers, body).message


def test_partial_success_is_read() -> None:
    """The count and the words of partial_success are passed on."""
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = 3
    response.partial_success.error_message = "too old"

    assert Result(Outcome.ACCEPTED, "too old", 3) == http_result(200, PROTOBUF, response.SerializeToString())


def test_a_warning_rejects_nothing() -> None:
    """A partial_success without rejected spans is a warning of the backend."""
    response = ExportTraceServiceResponse()
    response.partial_success.error_message = "deprecated"

    assert Result(Outcome.ACCEPTED, "deprecated", 0) == accepted(response.SerializeToString())


@pytest.mark.parametrize("body", [b"OK", b"{}", b"<html>", b"\x0a\xff"])
def test_an_answer_that_is_no_message_is_no_failure(body: bytes) -> None:
    """Status 200 is enough: what follows it may be any text."""
    assert [Result(Outcome.ACCEPTED)] * 2 == [http_result(200, {}, body), http_result(200, PROTOBUF, body)]


def test_an_error_without_words_is_told_by_its_type() -> None:
    """A network error often has no text; its type then is the message."""
    assert Result(Outcome.RETRY, "ConnectionResetError") == unreachable(ConnectionResetError())
    assert Result(Outcome.RETRY, "localhost:4318 OSError: gone") == unreachable(OSError("gone"), "localhost:4318")
