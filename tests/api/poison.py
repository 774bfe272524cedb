"""Bodies that have broken services like this one. Each row is a body and what its refusal must speak of."""

import gzip
import json
from typing import Any, NamedTuple

from tests.api.examples import switched, tool_completed

DEEP = 100_000


class Poison(NamedTuple):
    """An element that stands between two good events in an array. error: words that its refusal must contain."""

    name: str
    text: bytes
    error: str


class Body(NamedTuple):
    """A whole request that is refused."""

    name: str
    body: bytes
    headers: dict[str, str]
    status: int
    error: str


def _raw(value: str, key: str = "duration_ms") -> bytes:
    """A tool event whose `key` has exactly this text as its value."""
    event = json.dumps(tool_completed(**{key: "PLACE"} if key != "duration_ms" else {"duration_ms": "PLACE"}))
    return event.replace('"PLACE"', value).encode()


def _event(**keys: Any) -> bytes:
    return json.dumps(switched(**keys)).encode()


def _data(**data: Any) -> bytes:
    return json.dumps(switched(data={"from_agent": "a", "to_agent": "b", **data})).encode()


ELEMENTS = [
    # Numbers that are none, or that no store and no backend holds
    Poison("NaN", _raw("NaN"), "data.duration_ms: is not a finite number"),
    Poison("Infinity", _raw("Infinity"), "data.duration_ms: is not a finite number"),
    Poison("-Infinity", _raw("-Infinity", "extra"), "data.extra: is not a finite number"),
    Poison("1e999", _raw("1e999"), "data.duration_ms: is not a finite number"),
    Poison("-1e999 in an array", _raw("[1, -1e999]", "extra"), "data.extra[1]: is not a finite number"),
    Poison("int of 65 bits", _raw("18446744073709551616", "extra"), "data.extra: is a whole number of more than 64"),
    Poison("int of 64 bits, unsigned", _raw("18446744073709551615", "extra"), "more than 64 bits"),
    Poison("int of 400 digits", _raw("1" + "0" * 400, "extra"), "data.extra: is a whole number of more than 64"),
    Poison("int of 5000 digits", _raw("9" * 5_000, "extra"), "data.extra: is a whole number of more than 64"),
    Poison("negative int of 30 digits", _raw("-" + "9" * 30, "extra"), "more than 64 bits"),
    Poison("long int behind spaces", _raw("   " + "9" * 25, "extra"), "more than 64 bits"),
    Poison("negative duration", _raw("-1"), "data.duration_ms: must be milliseconds between 0"),
    Poison("endless duration", _raw("1e300"), "data.duration_ms: must be milliseconds between 0"),
    Poison("negative count", _raw("-5", "result_length"), "data.result_length: must not be negative"),
    Poison("fraction as a count", _raw("1.5", "result_length"), "data.result_length: expected a whole number"),
    Poison("number with a leading zero", _raw("007", "extra"), "not valid JSON"),
    # Text that no encoder takes
    Poison("lone surrogate", _raw('"\\ud800"', "extra"), "data.extra: contains a lone surrogate"),
    Poison("lone low surrogate in a name", _raw('"x\\udfff"', "tool_name"), "data.tool_name"),
    Poison("surrogate as a key", _raw('{"\\ud800": 1}', "extra"), "lone surrogate"),
    Poison("surrogate as session id", _event(session_id="\ud800"), "session_id: has a control character"),
    Poison("surrogate beside the keys", _event(extra="\ud800"), "event.extra: contains a lone surrogate"),
    Poison("surrogate as the type", _event(event_type="\ud800"), "event_type"),
    Poison("surrogate as the version", _event(version="\ud800"), "version: expected '1.0'"),
    Poison("NUL in a text", _data(reason="a\0b"), "data.reason: contains a NUL"),
    Poison("NUL in a name", _data(from_agent="a\0"), "data.from_agent"),
    Poison("newline in a name", _data(to_agent="a\nb"), "data.to_agent: has a control character"),
    Poison("carriage return in a session id", _event(session_id="a\rb"), "session_id: has a control character"),
    Poison("raw control character", _raw('"a\x01b"', "extra"), "not valid JSON"),
    Poison("bytes that are not UTF-8", _raw('"PLACE2"', "extra").replace(b"PLACE2", b"\xff\xfe"), "not UTF-8"),
    Poison("overlong UTF-8", _raw('"PLACE2"', "extra").replace(b"PLACE2", b"\xc0\x80"), "not UTF-8"),
    # Too much of it
    Poison("depth 33", _raw("[" * 33 + "]" * 33, "extra"), "nested deeper than 32 levels"),
    Poison("depth 1,100", _raw("[" * 1_100 + "]" * 1_100, "extra"), "nested deeper than 32 levels"),
    Poison("arrays of depth 100,000", _raw("[" * DEEP + "]" * DEEP, "extra"), "nested deeper than 32 levels"),
    Poison("objects of depth 100,000", _raw('{"a":' * DEEP + "1" + "}" * DEEP, "extra"), "nested deeper"),
    Poison("1,001 keys", _data(**{f"k{n}": n for n in range(1_001)}), "keys, the limit is 1000"),
    Poison("10,001 items", _raw(json.dumps([0] * 10_001), "extra"), "data.extra: has 10001 items"),
    Poison("a name of 10,000 characters", _data(to_agent="x" * 10_000), "data.to_agent: has 10000 characters"),
    Poison("a key of 1,000 characters", _data(**{"é" * 1_000: 1}), "a key of data: has 1000 characters"),
    Poison("an event of 2 MB", _data(reason="x" * 2_000_000), "has 20"),
    # The wrong kind
    Poison("null", b"null", "expected an object, got null"),
    Poison("a number", b"42", "expected an object, got a whole number"),
    Poison("a string", b'"agent_switched"', "expected an object, got a string"),
    Poison("an array in the array", b"[[]]", "expected an object, got an array"),
    Poison("an empty object", b"{}", "event_type: is required"),
    Poison("no data", b'{"event_type": "agent_switched"}', "data.from_agent: is required"),
    Poison("data as text", _event(data="x"), "data: expected an object"),
    Poison("data as an array", _event(data=[]), "data: expected an object"),
    Poison("an unknown type", _event(event_type="agent_exploded"), "event_type: there is no event type"),
    Poison("a number as the type", _event(event_type=7), "event_type: is required and must be a string"),
    Poison("a very long type", _event(event_type="x" * 10_000), "event_type: there is no event type"),
    Poison("a bad id", _event(event_id="17"), "event_id: must be a UUID"),
    Poison("an object as the id", _event(event_id={}), "event_id: must be a UUID"),
    Poison("a number as session id", _event(session_id=1), "session_id: expected a string"),
    Poison("an object as correlation id", _event(correlation_id={"a": 1}), "correlation_id: expected a string"),
    Poison("an array as cause", _event(causation_id=[1]), "causation_id: expected a string"),
    Poison("an empty session id", _event(session_id=""), "session_id: must not be empty"),
    Poison("a number as source", _event(source=5), "source: expected a string"),
    Poison("another version", _event(version="2.0"), "version: expected '1.0'"),
    Poison("a string as duration", _raw('"12"'), "data.duration_ms: expected a number of milliseconds"),
    Poison("true as duration", _raw("true"), "data.duration_ms: expected a number of milliseconds"),
    Poison(
        "arguments as text",
        _event(event_type="tool_execution_requested", data={"tool_name": "t", "call_id": "c", "arguments": "x"}),
        "data.arguments: expected an object",
    ),
    # Times outside of time
    Poison("year 0001", _event(timestamp="0001-01-01T00:00:00Z"), "timestamp: must lie in the years 2000 to 2199"),
    Poison("year 9999", _event(timestamp="9999-12-31T23:59:59Z"), "timestamp: must lie in the years 2000 to 2199"),
    Poison("13th month", _event(timestamp="2026-13-01T00:00:00Z"), "timestamp: is not RFC 3339"),
    Poison("seconds as the time", _event(timestamp=1_700_000_000), "timestamp: expected RFC 3339 text"),
    Poison("a word as the time", _event(timestamp="yesterday"), "timestamp: is not RFC 3339"),
    Poison("NaN as the time", _event(timestamp="T").replace(b'"T"', b"NaN"), "timestamp"),
    # Domain events are built by another way
    Poison(
        "a string that is an event", json.dumps(json.dumps(switched())).encode(), "expected an object, got a string"
    ),
    Poison(
        "a domain event with a wrong cause",
        _event(event_type="SessionCreated", data={"session_id": "s"}, causation_id=5),
        "causation_id",
    ),
    Poison(
        "a domain event with a surrogate",
        _event(event_type="SessionExpired", data={"session_id": "s", "reason": "\ud800"}),
        "data",
    ),
    Poison(
        "a domain event without a session", _event(event_type="SessionExpired", data={"reason": "r"}), "data.session_id"
    ),
    # JSON with a hole
    Poison("a missing value", b'{"event_type": }', "not valid JSON"),
    Poison("single quotes", b"{'event_type': 'agent_switched'}", "not valid JSON"),
    Poison("a word", b"agent", "not valid JSON"),
    Poison("nothing between two commas", b" ", "not valid JSON"),
]

JSON = {"Content-Type": "application/json"}
GZIP = {**JSON, "Content-Encoding": "gzip"}
_LARGE = 30_000_000

BODIES = [
    Body("empty", b"", JSON, 400, "empty"),
    Body("blank", b" \n ", JSON, 400, "empty"),
    Body("text", b"hello", JSON, 400, "not JSON"),
    Body("half an object", b'{"event_type": "agent_switched"', JSON, 400, "not closed"),
    Body("half a string", b'["abc', JSON, 400, "has no end"),
    Body("a string of escaped quotes without an end", b'["' + b'\\"' * 500_000, JSON, 400, "has no end"),
    Body("brackets without an end", b"[" * 1_000_000, JSON, 400, "not closed"),
    Body("a bracket too many", b"[]]", JSON, 400, "not JSON"),
    Body("two values", b"{} {}", JSON, 400, "not JSON"),
    Body("NDJSON as JSON", b'{"a":1}\n{"b":2}\n', JSON, 400, "send application/x-ndjson"),
    Body("XML", b"<event/>", {"Content-Type": "application/xml"}, 415, "content-type"),
    Body("a form", b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "content-type"),
    Body("UTF-16", "[]".encode("utf-16"), {"Content-Type": "application/json; charset=utf-16"}, 415, "charset"),
    Body("brotli", b"x", {**JSON, "Content-Encoding": "br"}, 415, "content-encoding"),
    Body("30 MB", b"[" + b" " * _LARGE + b"]", JSON, 413, "more than 16777216 bytes"),
    Body("a gzip bomb", gzip.compress(b"[" + b" " * 200_000_000 + b"]", 9), GZIP, 413, "more than 16777216 bytes"),
    Body("no gzip", b"[]", GZIP, 400, "not valid gzip"),
    Body("half a gzip", gzip.compress(b"[]" * 100)[:-12], GZIP, 400, "ends too early"),
    Body("10,001 events", b"[" + b"{}," * 10_000 + b"{}]", JSON, 413, "more than 10000 events"),
    Body("a million commas", b"[" + b"," * 1_000_000 + b"]", JSON, 413, "more than 10000 events"),
    Body("10,001 lines", b"{}\n" * 10_001, {"Content-Type": "application/x-ndjson"}, 413, "more than 10000 events"),
    Body("lines that are no JSON", b"a\nb\n", {"Content-Type": "application/x-ndjson"}, 400, "not JSON"),
]
