"""From a request's bytes to events: JSON, NDJSON and CloudEvents 1.0.

Most bodies are read whole by the fast parser. One that it refuses is taken apart, and each element is read on its own,
by a parser that accepts more than JSON, so that the rules of the edge can say what is wrong and where.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from agent_runtime.api.answers import Refusal
from agent_runtime.api.cloudevents import from_cloudevent, from_headers
from agent_runtime.api.framing import Framed, Unframed, elements
from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.errors import InvalidEvent
from agent_runtime.events.fields import MAX_DEPTH, check_object, json_name
from agent_runtime.events.parsing import MAX_EVENT_BYTES, parse_event

JSON_TYPES = ("", "application/json")
NDJSON_TYPES = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")
CLOUDEVENT = "application/cloudevents+json"
CLOUDEVENTS = "application/cloudevents-batch+json"

_ZEROS = bytes.maketrans(b"0123456789", b"0" * 10)
_LONG_NUMBER = b"0" * 20
_RUN = re.compile(rb"0+")
_BEFORE_NUMBER = (b"", b":", b",", b"[", b"-", b" ", b"\t", b"\r", b"\n")
_BEYOND_INT64 = 2**64
_BOM = b"\xef\xbb\xbf"
# An event, its data, and what may be nested in that.
_MAX_DEPTH = MAX_DEPTH + 1
_LARGE_BODY = MAX_EVENT_BYTES


@dataclass(slots=True)
class Decoded:
    """What was in a body.

    Attributes:
        events: those that can be stored.
        places: for each of them its index in the body.
        rejected: ``{"index", "error"}`` for each of the others.
        reasons: how many were rejected for their ``event_type``, ``data`` or ``envelope`` (the other keys), or as
            ``not_json``.
    """

    events: list[BaseEvent] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    def reject(self, index: int, error: str, reason: str) -> None:
        """Note that the element ``index`` can't be stored, and why."""
        self.rejected.append({"index": index, "error": error})
        self.reasons[reason] += 1

    def unfit(self, index: int, error: InvalidEvent) -> None:
        """The same, of one that broke a rule of the edge."""
        part = error.where.partition(".")[0]
        self.reject(index, str(error), part if part in ("event_type", "data") else "envelope")


class NotJson(ValueError):
    """An element that no reading makes JSON of."""


Build = Callable[[Any], BaseEvent]


def decode(body: bytes, headers: Mapping[bytes, bytes], max_events: int) -> Decoded:
    """Read a body as its content type says.

    Args:
        body: decompressed.
        headers: of the request, names in lower case.
        max_events: most that one request may bring.

    Raises:
        Refusal: 400 for what is no JSON at all, or empty; 413 for too many events; 415 for another content type.
    """
    content_type = _content_type(headers)
    if b"ce-specversion" in headers and content_type not in (CLOUDEVENT, CLOUDEVENTS):
        return _binary_cloudevent(body, headers, content_type)
    if body.startswith(_BOM):
        body = body[len(_BOM) :]
    if not body.strip():
        raise Refusal(400, "the body is empty")
    if content_type in JSON_TYPES:
        return _json(body, _from_object, max_events)
    if content_type in NDJSON_TYPES:
        return _ndjson(body, max_events)
    if content_type in (CLOUDEVENT, CLOUDEVENTS):
        return _json(body, from_cloudevent, max_events)
    raise Refusal(415, f"content-type must be application/json, application/x-ndjson, {CLOUDEVENT} or {CLOUDEVENTS}")


def _from_object(value: Any) -> BaseEvent:
    # A string would be parsed as the JSON text of an event.
    if type(value) is not dict:
        raise InvalidEvent("", f"expected an object, got {json_name(value)}")
    return parse_event(value)


def _content_type(headers: Mapping[bytes, bytes]) -> str:
    value = headers.get(b"content-type", b"").decode("latin-1")
    content_type, _, parameters = value.partition(";")
    charset = parameters.lower().partition("charset=")[2].partition(";")[0].strip(' "')
    if charset not in ("", "utf-8", "utf8", "us-ascii"):
        raise Refusal(415, "charset must be utf-8")
    return content_type.strip().lower()


def _json(body: bytes, build: Build, max_events: int) -> Decoded:
    if not _has_long_number(body):
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            pass
        else:
            values = value if type(value) is list else [value]
            _limit(len(values), max_events)
            return _build_all(values, build, len(body) > _LARGE_BODY)
    try:
        framed = elements(body, max_events)
    except Unframed as error:
        raise Refusal(400, f"the body is not JSON: {error}{_ndjson_hint(body)}") from None
    _limit(len(framed), max_events)
    return _read_each(framed, build)


def _ndjson(body: bytes, max_events: int) -> Decoded:
    lines = [line for line in body.split(b"\n") if line and not line.isspace()]
    _limit(len(lines), max_events)
    if not _has_long_number(body):
        try:
            return _build_all([orjson.loads(line) for line in lines], _from_object, len(body) > _LARGE_BODY)
        except orjson.JSONDecodeError:
            pass
    return _read_each((_framed_line(line) for line in lines), _from_object)


def _framed_line(line: bytes) -> Framed:
    try:
        framed = elements(line, 1)
    except Unframed:
        return Framed(line, 0)
    depth = max((element.depth for element in framed), default=0)
    return Framed(line, depth)


def _binary_cloudevent(body: bytes, headers: Mapping[bytes, bytes], content_type: str) -> Decoded:
    if content_type not in JSON_TYPES:
        raise Refusal(415, "the data of an event must be application/json")
    envelope = from_headers(headers)

    def build(data: Any) -> BaseEvent:
        return from_cloudevent({**envelope, "data": data})

    if not body.strip():
        return _build_all([{}], build, False)
    if not _has_long_number(body):
        try:
            return _build_all([orjson.loads(body)], build, len(body) > _LARGE_BODY)
        except orjson.JSONDecodeError:
            pass
    return _read_each([_framed_line(body)], build)


def _has_long_number(body: bytes) -> bool:
    """Whether there may be a whole number too long for the fast parser, which would make a float of it, unnoticed."""
    digits = body.translate(_ZEROS)
    start = digits.find(_LONG_NUMBER)
    while start >= 0:
        # Most long runs of digits stand inside an id in hex.
        if body[start - 1 : start] in _BEFORE_NUMBER:
            return True
        run = _RUN.match(digits, start)
        start = digits.find(_LONG_NUMBER, run.end() if run else start + 1)
    return False


def _limit(count: int, max_events: int) -> None:
    if count > max_events:
        raise Refusal(413, f"more than {max_events} events in one request")


def _build_all(values: list[Any], build: Build, large: bool) -> Decoded:
    """Events of values that the fast parser has read."""
    decoded = Decoded()
    events, places = decoded.events, decoded.places
    for index, value in enumerate(values):
        try:
            if large:
                _check_size(len(orjson.dumps(value)))
            events.append(build(value))
        except InvalidEvent as error:
            decoded.unfit(index, error)
        else:
            places.append(index)
    return decoded


def _read_each(framed: Iterable[Framed], build: Build) -> Decoded:
    """Events of elements that are read one by one."""
    decoded = Decoded()
    is_json = False
    for index, element in enumerate(framed):
        try:
            value = _read(element)
            is_json = True
            event = build(value)
            # What stands beside the keys that are stored is not stored, but it must be JSON as well.
            check_object({key: item for key, item in value.items() if key != "data"}, "event")
            decoded.events.append(event)
        except NotJson as error:
            decoded.reject(index, str(error), "not_json")
        except InvalidEvent as error:
            is_json = True
            decoded.unfit(index, error)
        else:
            decoded.places.append(index)
    if not is_json:
        raise Refusal(400, f"the body is not JSON: {decoded.rejected[0]['error']}")
    return decoded


def _read(element: Framed) -> Any:
    """Read what is JSON, and what is nearly JSON: NaN, infinities, lone surrogates and numbers of any length.

    Raises:
        InvalidEvent: it is too large, too deep, or such a value stands where an event has none.
        NotJson: it is neither.
    """
    _check_size(len(element.text))
    if element.depth > _MAX_DEPTH:
        raise InvalidEvent("", f"is nested deeper than {MAX_DEPTH} levels")
    try:
        return json.loads(element.text.decode(), parse_int=_whole)
    except UnicodeDecodeError as error:
        raise NotJson(f"is not UTF-8 at byte {error.start}") from None
    except ValueError as error:
        raise NotJson(f"is not valid JSON: {error}") from None


def _whole(digits: str) -> int:
    return int(digits) if len(digits) <= 20 else _BEYOND_INT64


def _check_size(size: int) -> None:
    if size > MAX_EVENT_BYTES:
        raise InvalidEvent("", f"has {size} bytes, the limit for one event is {MAX_EVENT_BYTES}")


def _ndjson_hint(body: bytes) -> str:
    return "; for one event a line send application/x-ndjson" if b"}\n{" in body else ""
