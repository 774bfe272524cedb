"""What may stand in an event's data: the rules of the edge, checked once, when an event is built or parsed.

After this check every value is JSON that SQLite, PostgreSQL, Prometheus and OTLP all take as it is: finite numbers,
    int64, no lone surrogates, no NUL, bounded depth, key count and length; names that become labels have no control
    characters.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

from agent_runtime.events.errors import InvalidEvent

MAX_DEPTH = 32
MAX_KEYS = 1_000
MAX_ITEMS = 10_000
MAX_TEXT = 1_000_000
MAX_NAME = 256
MAX_INT = 2**63 - 1
MAX_DURATION_MS = 10 * 366 * 86_400_000.0


class Kind(NamedTuple):
    """A kind of value: its exact Python types, a further check (message or None), and how an error names it."""

    label: str
    types: frozenset[type]
    check: Callable[[Any], str | None] | None = None


class Field(NamedTuple):
    """One key of an event's data."""

    name: str
    kind: Kind
    required: bool = True


def name_problem(value: str) -> str | None:
    """Why ``value`` can't be a name or an id (None if it can): 1 to 256 printable characters."""
    if not value:
        return "must not be empty"
    if len(value) > MAX_NAME:
        return f"has {len(value)} characters, the limit is {MAX_NAME}"
    return None if value.isprintable() else "has a control character or a lone surrogate"


def _count_problem(value: int) -> str | None:
    if 0 <= value <= MAX_INT:
        return None
    return f"must not be negative, got {value}" if value < 0 else "is a whole number of more than 64 bits"


def _duration_problem(value: float) -> str | None:
    if not 0 <= value <= MAX_DURATION_MS:
        if value - value != 0:
            return f"is not a finite number: {value}"
        return f"must be milliseconds between 0 and {MAX_DURATION_MS:.0f}, got {value}"
    return None


def _text_problem(value: str, limit: int = MAX_TEXT) -> str | None:
    if len(value) > limit:
        return f"has {len(value)} characters, the limit is {limit}"
    if "\0" in value:
        return "contains a NUL character"
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return "contains a lone surrogate"
    return None


def _number_problem(value: float) -> str | None:
    if isinstance(value, int):
        return None if -MAX_INT - 1 <= value <= MAX_INT else "is a whole number of more than 64 bits"
    return None if value - value == 0 else f"is not a finite number: {value}"


NAME = Kind("a string", frozenset({str}), name_problem)
TEXT = Kind("a string", frozenset({str}), _text_problem)
COUNT = Kind("a whole number", frozenset({int}), _count_problem)
DURATION = Kind("a number of milliseconds", frozenset({int, float}), _duration_problem)
NUMBER = Kind("a number", frozenset({int, float}), _number_problem)
FLAG = Kind("true or false", frozenset({bool}))
OBJECT = Kind("an object", frozenset({dict}))


_ABSENT = object()


def check_data(data: dict[str, Any], fields: tuple[Field, ...]) -> None:
    """Check an event's data: against the rows of its class, and what else is in it as any JSON object.

    One that holds what its rows name, in plain types, which is nearly every one, is done in one pass over the rows.

    Raises:
        InvalidEvent: as ``check_fields`` and ``check_object``.
    """
    get = data.get
    known = 0
    for name, kind, required in fields:
        value = get(name, _ABSENT)
        if value is _ABSENT or value is None:
            if required:
                raise InvalidEvent(f"data.{name}", "is required")
            known += value is None
        elif type(value) not in kind.types:
            break
        else:
            known += 1
            if kind.check is not None:
                problem = kind.check(value)
                if problem is not None:
                    raise InvalidEvent(f"data.{name}", problem)
            elif kind is OBJECT:
                check_object(value, f"data.{name}", 2)
    else:
        if known == len(data):
            return
    check_object(data)
    check_fields(data, fields)


def check_fields(data: dict[str, Any], fields: tuple[Field, ...]) -> None:
    """Hold ``data`` against the rows of its event class; other keys are allowed.

    Raises:
        InvalidEvent: a required key is missing, or a value is of the wrong kind.
    """
    get = data.get
    for name, kind, required in fields:
        value = get(name)
        if value is None:
            if required:
                raise InvalidEvent(f"data.{name}", "is required")
        elif type(value) not in kind.types:
            raise InvalidEvent(f"data.{name}", f"expected {kind.label}, got {json_name(value)}")
        elif kind.check is not None and (problem := kind.check(value)) is not None:
            raise InvalidEvent(f"data.{name}", problem)


def json_name(value: Any) -> str:
    """What JSON calls the type of ``value``, for error messages."""
    return _JSON_NAMES.get(type(value), type(value).__name__)


_JSON_NAMES = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "an array",
    type(None): "null",
}


def check_object(obj: dict[Any, Any], where: str = "data", depth: int = 1) -> None:
    """Check a JSON object in place, deeply; values of str and int subclasses and tuples are replaced by plain ones.

    Raises:
        InvalidEvent: names the path of the first value that is not allowed, and why.
    """
    if depth > MAX_DEPTH:
        raise InvalidEvent(where, f"is nested deeper than {MAX_DEPTH} levels")
    if len(obj) > MAX_KEYS:
        raise InvalidEvent(where, f"has {len(obj)} keys, the limit is {MAX_KEYS}")
    replaced: dict[str, Any] | None = None
    for key, value in obj.items():
        if type(key) is not str:
            raise InvalidEvent(where, f"has a key that is not a string: {key!r}")
        if not (key.isascii() and key.isprintable()):
            _check_text(key, f"a key of {where}", MAX_NAME)
        kind = type(value)
        if kind is str:
            if len(value) > MAX_TEXT or "\0" in value or not value.isascii():
                _check_text(value, f"{where}.{key}", MAX_TEXT)
        elif kind is bool or value is None:
            pass
        elif kind is int:
            if not -MAX_INT - 1 <= value <= MAX_INT:
                raise InvalidEvent(f"{where}.{key}", "is a whole number of more than 64 bits")
        elif kind is float:
            if value - value != 0:
                raise InvalidEvent(f"{where}.{key}", f"is not a finite number: {value}")
        elif kind is dict:
            check_object(value, f"{where}.{key}", depth + 1)
        else:
            plain = _check_other(value, f"{where}.{key}", depth + 1)
            if plain is not value:
                replaced = replaced or {}
                replaced[key] = plain
    if replaced:
        obj.update(replaced)


def _check_other(value: Any, where: str, depth: int) -> Any:
    """The rarer kinds: arrays, and subclasses of the JSON types, as their plain equivalents."""
    if isinstance(value, list | tuple):
        if depth > MAX_DEPTH:
            raise InvalidEvent(where, f"is nested deeper than {MAX_DEPTH} levels")
        if len(value) > MAX_ITEMS:
            raise InvalidEvent(where, f"has {len(value)} items, the limit is {MAX_ITEMS}")
        items: list[Any] = value if type(value) is list else list(value)
        for index, item in enumerate(items):
            plain = _check_item(item, f"{where}[{index}]", depth)
            if plain is not item:
                items[index] = plain
        return items
    if isinstance(value, Enum):
        return _check_item(value.value, where, depth)
    if isinstance(value, str):
        return _check_item(str(value), where, depth)
    if isinstance(value, int):
        return _check_item(int(value), where, depth)
    if isinstance(value, float):
        return _check_item(float(value), where, depth)
    if isinstance(value, dict):
        return _check_item(dict(value), where, depth)
    raise InvalidEvent(where, f"can't be JSON: it is {_article(type(value).__name__)}")


def _check_item(value: Any, where: str, depth: int) -> Any:
    """Check one value that is not under a key of an object; the plain value that stands for it."""
    kind = type(value)
    if kind is dict:
        check_object(value, where, depth + 1)
    elif kind is str:
        if len(value) > MAX_TEXT or "\0" in value or not value.isascii():
            _check_text(value, where, MAX_TEXT)
    elif kind is int:
        if not -MAX_INT - 1 <= value <= MAX_INT:
            raise InvalidEvent(where, "is a whole number of more than 64 bits")
    elif kind is float:
        if value - value != 0:
            raise InvalidEvent(where, f"is not a finite number: {value}")
    elif kind is not bool and value is not None:
        return _check_other(value, where, depth + 1)
    return value


def _check_text(value: str, where: str, limit: int) -> None:
    problem = _text_problem(value, limit)
    if problem is not None:
        raise InvalidEvent(where, problem)


def _article(name: str) -> str:
    return f"an {name}" if name[0].lower() in "aeiou" else f"a {name}"
