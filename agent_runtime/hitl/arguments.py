"""The arguments of a call as JSON that stays what it is: checked, copied, and named by a hash."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import orjson

from agent_runtime.events.errors import InvalidEvent
from agent_runtime.events.fields import check_object, json_name


def plain_object(value: object, where: str) -> dict[str, Any]:
    """A copy of ``value`` that shares nothing with it, made of plain JSON only.

    Args:
        where: how an error calls it.

    Raises:
        InvalidEvent: it is no object, or has something in it that no event could carry.
    """
    if not isinstance(value, Mapping):
        raise InvalidEvent(where, f"expected an object, got {json_name(value)}")
    top = dict(value)
    check_object(top, where)
    return copy_of(top)


def copy_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy of plain JSON."""
    copy: dict[str, Any] = orjson.loads(orjson.dumps(arguments))
    return copy


def canonical_json(arguments: Mapping[str, Any]) -> bytes:
    """``arguments`` in the one way to write them: keys sorted, no spaces, UTF-8."""
    return orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS)


def arguments_hash(arguments: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON, as 64 hex digits."""
    return sha256(canonical_json(arguments)).hexdigest()
