"""Logs: structlog and the standard library's logging, through one chain of processors to one stream.

Every line carries the ids that join it with its trace, no value can forge or break a line, and no secret is written.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TextIO, cast

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from agent_runtime.events.correlation import EventCorrelation
from agent_runtime.events.redaction import REDACTED, is_secret_name, redact_text
from telemetry.identity import trace_id

Format = Literal["auto", "json", "console"]

MAX_TEXT = 10_000
MAX_DEPTH = 8
_FIRST = ("timestamp", "level", "logger", "event")

# What a terminal, or a reader of lines, could take for an order: controls, line and paragraph separators, marks that
# turn the direction of text, and lone surrogates, which no stream can write.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}

# At DEBUG these write down what they carry, which is what people and models say.
_CARRIERS = ("aiosqlite", "asyncpg", "sqlalchemy", "openai", "httpx", "httpx2", "httpcore", "httpcore2")

# uvicorn brings handlers of its own, which would write its lines a second time.
_OWN_HANDLERS = ("uvicorn", "uvicorn.error", "uvicorn.access")


class _OurHandler(logging.StreamHandler[TextIO]):
    """The handler that ``configure_logging`` puts in place, and replaces when it is called again."""


def configure_logging(
    level: int | str = "INFO",
    format: Format = "auto",
    stream: TextIO | None = None,
    secrets: Iterable[str] = (),
) -> None:
    """Set up logging for the whole process; calling it again replaces the former set-up.

    Args:
        level: the least level that is written: a number or a name in any case.
        format: ``json`` for machines, ``console`` for people; ``auto`` is console on a terminal and json elsewhere.
        stream: where lines go; standard error by default.
        secrets: texts, such as the service's own keys, that are masked wherever they occur.

    Raises:
        ValueError: there is no such level or format.
    """
    number = logging.getLevelNamesMapping().get(level.upper()) if isinstance(level, str) else level
    if number is None:
        raise ValueError(f"there is no log level {level!r}")
    if format not in ("auto", "json", "console"):
        raise ValueError(f"format must be auto, json or console, got {format!r}")
    stream = sys.stderr if stream is None else stream
    as_json = format == "json" or (format == "auto" and not stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_ids,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        # Loggers made at import must follow when this is called again.
        cache_logger_on_first_use=False,
    )
    clean = Redaction(secrets)
    last: list[Processor] = (
        [_structured_exception, clean, _render_json]
        if as_json
        else [_indented_exception, clean, _escape_controls, _console_renderer(stream)]
    )
    handler = _OurHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), _drop_copies, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [*(kept for kept in root.handlers if not isinstance(kept, _OurHandler)), handler]
    root.setLevel(number)
    for name in _CARRIERS:
        logging.getLogger(name).setLevel(max(number, logging.INFO))
    for name in _OWN_HANDLERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def add_ids(logger: WrappedLogger, method: str, event_dict: EventDict) -> EventDict:
    """Add correlation_id from the events' context, and trace_id and span_id of the current span.

    Without a span the trace id is that of the correlation id: the trace in which the turn's spans will stand. An id
    that the caller gave stays.
    """
    correlation_id = event_dict.get("correlation_id") or EventCorrelation.get_correlation_id()
    if correlation_id:
        event_dict["correlation_id"] = correlation_id
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event_dict.setdefault("trace_id", f"{span.trace_id:032x}")
        event_dict.setdefault("span_id", f"{span.span_id:016x}")
    elif isinstance(correlation_id, str):
        event_dict.setdefault("trace_id", trace_id(correlation_id.encode("utf-8", "replace").decode()).hex())
    return event_dict


def _drop_copies(logger: WrappedLogger, method: str, event_dict: EventDict) -> EventDict:
    """Drop what other formatters left on the record, and uvicorn's second copy of its message for a terminal."""
    for key in ("message", "asctime", "color_message"):
        event_dict.pop(key, None)
    return event_dict


class Redaction:
    """A processor that makes every value plain, of bounded length and depth, and free of secrets.

    Args:
        secrets: texts that are masked wherever they occur; those of fewer than 6 characters are ignored.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = sorted({secret for secret in secrets if len(secret) >= 6}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, logger: WrappedLogger, method: str, event_dict: EventDict) -> EventDict:
        """The event dict of a line, made plain."""
        return {self._text(str(key)): self._plain(str(key), value, 0) for key, value in event_dict.items()}

    def _plain(self, key: str, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if is_secret_name(key):
            return REDACTED
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else str(value)
        if depth < MAX_DEPTH:
            if isinstance(value, Mapping):
                return {self._text(str(name)): self._plain(str(name), item, depth + 1) for name, item in value.items()}
            if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes | bytearray):
                return [self._plain("", item, depth + 1) for item in value]
        return self._text(_safe_repr(value))

    def _text(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(REDACTED, text)
        return redact_text(str(text), MAX_TEXT)


def _safe_repr(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:
        # A log line must not fail because of what it speaks about.
        return f"<{type(value).__name__} whose repr raised {type(error).__name__}>"


def escape_controls(text: str) -> str:
    r"""``text`` with control characters as visible escapes (``\n``, ``\x1b``, ``\u2028``): it stays on its line."""
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if character in _SHORT:
        return _SHORT[character]
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _escape_controls(logger: WrappedLogger, method: str, event_dict: EventDict) -> EventDict:
    exception = event_dict.pop("exception", None)
    escaped = cast(EventDict, _escaped(event_dict))
    if exception is not None:
        escaped["exception"] = exception
    return escaped


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return escape_controls(value)
    if isinstance(value, dict):
        return {_escaped(key): _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return value


def _render_json(logger: WrappedLogger, method: str, event_dict: EventDict) -> str:
    first = {key: event_dict.pop(key) for key in _FIRST if key in event_dict}
    line = json.dumps({**first, **event_dict}, ensure_ascii=False, separators=(",", ":"))
    # JSON itself escapes what lies below U+0020; these are escaped its way too, so that a parser gives the value back.
    return _UNSAFE_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", line)


def _structured_exception(logger: WrappedLogger, method: str, event_dict: EventDict) -> EventDict:
    """Replace exc_info by ``exception``: a list, outermost first, of type, message, frames (file, line, function)."""
    error = _exception_of(event_dict)
    if error is None:
        return event_dict
    chain: list[dict[str, Any]] = []
    event_dict["exception"] = chain
    seen: set[int] = set()
    while error is not None and id(error) not in seen and len(chain) < MAX_DEPTH:
        seen.add(id(error))
        frames = traceback.extract_tb(error.__traceback__, limit=-50)
        chain.append(
            {
                "type": type(error).__name__,
                "message": _message(error),
                "frames": [{"file": f.filename, "line": f.lineno, "function": f.name} for f in frames],
            }
        )
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return event_dict


def _indented_exception(logger: WrappedLogger, method: str, event_dict: EventDict) -> EventDict:
    """Replace exc_info by ``exception``: the traceback as text, each line marked, so none passes for a log line."""
    error = _exception_of(event_dict)
    if error is not None:
        lines = "".join(traceback.format_exception(error, limit=-50)).splitlines()
        event_dict["exception"] = "\n".join(f"  | {escape_controls(line)}" for line in lines)
    return event_dict


def _exception_of(event_dict: EventDict) -> BaseException | None:
    info: ExcInfo | BaseException | bool | None = event_dict.pop("exc_info", None)
    if info is True:
        return sys.exc_info()[1]
    if isinstance(info, tuple):
        return info[1]
    return info if isinstance(info, BaseException) else None


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as failure:
        return f"<str() raised {type(failure).__name__}>"


def _console_renderer(stream: TextIO) -> Processor:
    return structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)
