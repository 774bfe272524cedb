import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider

from agent_runtime.events.correlation import NO_CONTEXT, EventCorrelation, current
from telemetry.identity import trace_id
from telemetry.logs import configure_logging, escape_controls

TRACE = "0d8cd124faa6d6e1d51183a9e11115eb"
KEY = "sk-abcdefghijklmnopqrstuvwx"
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e]")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Always."""
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leaves logging as it was found."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    context = current.set(NO_CONTEXT)
    yield
    current.reset(context)
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """Every line of ``stream``, parsed."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def json_stream(**options: Any) -> io.StringIO:
    """A stream that JSON lines go to."""
    stream = io.StringIO()
    configure_logging(format="json", stream=stream, **options)
    return stream


def console_stream() -> io.StringIO:
    """A stream that is no terminal, and that human lines go to."""
    stream = io.StringIO()
    configure_logging(format="console", stream=stream)
    return stream


def test_a_json_line_has_time_level_logger_event_and_values() -> None:
    """What structlog is given comes out as one JSON object."""
    stream = json_stream()
    structlog.get_logger("agent_runtime.audit").warning("approval", tool="write_file", tokens=3)
    (line,) = lines(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("timestamp"))
    assert line == {
        "level": "warning",
        "logger": "agent_runtime.audit",
        "event": "approval",
        "tool": "write_file",
        "tokens": 3,
    }


def test_stdlib_loggers_take_the_same_way() -> None:
    """uvicorn and our own stdlib loggers write the same kind of line, once."""
    uvicorn = logging.getLogger("uvicorn")
    uvicorn.addHandler(logging.StreamHandler(io.StringIO()))
    uvicorn.propagate = False
    stream = json_stream()
    uvicorn.info("Started server process [%d]", 7, extra={"color_message": "\x1b[36m%d\x1b[0m"})
    logging.getLogger("agent_runtime.events").error("handler %s failed", "h")
    found = lines(stream)
    for line in found:
        del line["timestamp"]
    assert found == [
        {"level": "info", "logger": "uvicorn", "event": "Started server process [7]"},
        {"level": "error", "logger": "agent_runtime.events", "event": "handler h failed"},
    ]


def test_extra_values_of_stdlib_records_are_kept() -> None:
    """The ``extra`` of a stdlib call becomes keys of the line."""
    stream = json_stream()
    logging.getLogger("x").warning("w", extra={"session_id": "s-1"})
    assert lines(stream)[0]["session_id"] == "s-1"


def test_auto_is_console_on_a_terminal_and_json_elsewhere() -> None:
    """Who reads decides the format."""
    file, terminal = io.StringIO(), Terminal()
    for stream in (file, terminal):
        configure_logging(stream=stream)
        structlog.get_logger().info("hello")
    assert lines(file)[0]["event"] == "hello"
    assert "hello" in terminal.getvalue() and not terminal.getvalue().startswith("{")


def test_levels() -> None:
    """Only lines of the level or above are written, from both kinds of loggers."""
    stream = json_stream(level="warning")
    for logger in (structlog.get_logger("a"), logging.getLogger("b")):
        logger.info("no")
        logger.warning("yes")
    assert [line["event"] for line in lines(stream)] == ["yes", "yes"]


@pytest.mark.parametrize("options", [{"level": "LOUD"}, {"format": "xml"}])
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    """A typo in the configuration is an error that names it."""
    with pytest.raises(ValueError, match=r"LOUD|xml"):
        configure_logging(**options)


def test_configuring_again_replaces_the_former_set_up() -> None:
    """Two calls do not write each line twice, and loggers made before follow the second."""
    logger = structlog.get_logger("early")
    first = json_stream()
    logger.info("one")
    second = json_stream()
    logger.info("two")
    assert [line["event"] for line in lines(first)] == ["one"]
    assert [line["event"] for line in lines(second)] == ["two"]


def test_handlers_of_others_stay() -> None:
    """A handler that a program has put on the root logger is not ours to remove."""
    theirs = logging.NullHandler()
    logging.getLogger().addHandler(theirs)
    json_stream()
    json_stream()
    assert logging.getLogger().handlers.count(theirs) == 1


HOSTILE = "ok\r\n2026-01-01 [info] forged\x1b[2J\x9b31m\u2028\u202e\x00end"


def test_json_lines_hold_control_characters_escaped() -> None:
    """A hostile value stays on its line and can be read back as it was."""
    stream = json_stream()
    structlog.get_logger().info(HOSTILE, value=HOSTILE, nested={HOSTILE: [HOSTILE]})
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert CONTROLS.findall(text) == []
    (line,) = lines(stream)
    assert (line["event"], line["value"], line["nested"]) == (HOSTILE, HOSTILE, {HOSTILE: [HOSTILE]})


def test_console_lines_hold_control_characters_escaped() -> None:
    """In the human format a hostile value, key or logger name neither forges a line nor reaches the terminal."""
    stream = console_stream()
    structlog.get_logger("l\nl").info(HOSTILE, value=HOSTILE, **{"k\x1b": 1})
    logging.getLogger("uvicorn.access").info("%s", HOSTILE)
    text = stream.getvalue()
    assert text.count("\n") == 2
    assert CONTROLS.findall(text) == []
    assert r"ok\r\n2026-01-01 [info] forged\x1b[2J\x9b31m\u2028\u202e\x00end" in text


@given(st.text())
def test_escaped_text_is_one_printable_line(text: str) -> None:
    """Whatever is escaped has no control characters, and what had none is unchanged."""
    escaped = escape_controls(text)
    assert CONTROLS.findall(escaped) == [] and "\n" not in escaped
    if text.isprintable():
        assert escaped == text


def test_what_json_can_not_say_is_still_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lone surrogates, not-a-number, huge integers, bytes and objects that can't be shown break nothing."""
    # pytest's own handlers would show the object, too.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])

    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    stream = json_stream()
    structlog.get_logger().info("e", a="\ud800", b=float("nan"), c=2**70, d=b"x", e=Broken(), f=(1, {2}))
    assert json.loads(stream.getvalue(), parse_constant=pytest.fail) | {"timestamp": ""} == {
        "timestamp": "",
        "level": "info",
        "event": "e",
        "a": "\ud800",
        "b": "nan",
        "c": 2**70,
        "d": "b'x'",
        "e": "<Broken whose repr raised RuntimeError>",
        "f": [1, [2]],
        "logger": __name__,
    }


def test_exceptions_are_structured_in_json() -> None:
    """An exception and its cause become a list with types, messages and frames, without local variables."""
    password = "local-value"
    stream = json_stream()
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError(f"outer {KEY}") from error
    except ValueError:
        structlog.get_logger().exception("failed")
        logging.getLogger("std").error("failed", exc_info=True)
    for line in lines(stream):
        assert [(e["type"], e["message"]) for e in line["exception"]] == [
            ("ValueError", "outer [redacted]"),
            ("KeyError", "'inner'"),
        ]
        frame = line["exception"][0]["frames"][-1]
        assert frame["function"] == "test_exceptions_are_structured_in_json"
        assert sorted(frame) == ["file", "function", "line"]
    assert password not in stream.getvalue()


def test_a_traceback_on_the_console_can_not_forge_a_line() -> None:
    """Every line of a traceback is marked, also those of a message with line breaks; controls in it are escaped."""
    stream = console_stream()
    try:
        raise ValueError("bad\n2026-01-01 [info] forged\x1b[2J")
    except ValueError:
        structlog.get_logger().exception("failed")
    first, *rest = stream.getvalue().splitlines()
    assert "failed" in first
    assert [line for line in rest if not line.startswith("  | ")] == []
    assert rest[-1] == r"  | 2026-01-01 [info] forged\x1b[2J"


def test_lines_carry_the_correlation_id_and_its_trace() -> None:
    """Without a span the trace id is the one in which the turn's spans will stand."""
    stream = json_stream()
    EventCorrelation.set_correlation_id(TRACE)
    structlog.get_logger().info("a")
    logging.getLogger("std").info("b")
    EventCorrelation.set_correlation_id("turn-7")
    structlog.get_logger().info("c")
    assert [(line["correlation_id"], line["trace_id"], "span_id" in line) for line in lines(stream)] == [
        (TRACE, TRACE, False),
        (TRACE, TRACE, False),
        ("turn-7", trace_id("turn-7").hex(), False),
    ]


def test_lines_without_context_have_no_ids() -> None:
    """Where nothing is known nothing is made up."""
    stream = json_stream()
    structlog.get_logger().info("a")
    assert {"correlation_id", "trace_id", "span_id"}.isdisjoint(lines(stream)[0])


def test_ids_that_the_caller_gives_stay() -> None:
    """An audit line speaks of its event's turn, whatever the context is."""
    stream = json_stream()
    EventCorrelation.set_correlation_id("other")
    structlog.get_logger().info("a", correlation_id=TRACE)
    assert (lines(stream)[0]["correlation_id"], lines(stream)[0]["trace_id"]) == (TRACE, TRACE)


def test_lines_within_a_span_carry_its_ids() -> None:
    """Inside an OpenTelemetry span its trace and span id are on the line, beside the correlation id."""
    stream = json_stream()
    EventCorrelation.set_correlation_id("turn-7")
    with TracerProvider(shutdown_on_exit=False).get_tracer("t").start_as_current_span("s") as span:
        logging.getLogger("std").info("a")
    context = span.get_span_context()
    line = lines(stream)[0]
    assert (line["trace_id"], line["span_id"], line["correlation_id"]) == (
        f"{context.trace_id:032x}",
        f"{context.span_id:016x}",
        "turn-7",
    )


@pytest.mark.parametrize("format", ["json", "console"])
def test_secrets_are_never_written(format: Any) -> None:
    """Neither by the name of their key, nor by their shape, nor where they are the service's own keys."""
    stream = io.StringIO()
    configure_logging(format=format, stream=stream, secrets=["3f9c0service0key"])
    logger = structlog.get_logger()
    logger.info(f"key {KEY}", api_key="plain-1", headers={"X-Internal-Auth": "plain-2"}, a=["Bearer abcdefgh-plain-3"])
    logger.info("unknown key 3f9c0service0key", url="https://user:plain-4@host/")
    logging.getLogger("uvicorn.access").info("%s", "GET /events?token=plain-5 HTTP/1.1")
    try:
        raise RuntimeError(f"refused 3f9c0service0key and {KEY}")
    except RuntimeError:
        logger.exception("failed")
    text = "\n".join(line for line in stream.getvalue().splitlines() if 'raise RuntimeError(f"' not in line)
    assert [secret for secret in (KEY, "3f9c0service0key", "plain-") if secret in text] == []


def test_token_counts_are_not_secrets() -> None:
    """Numbers of tokens are what this service is about."""
    stream = json_stream()
    structlog.get_logger().info("usage", prompt_tokens=12, total_tokens=30, token_count=3)
    line = lines(stream)[0]
    assert (line["prompt_tokens"], line["total_tokens"], line["token_count"]) == (12, 30, 3)


def test_long_and_deep_values_are_bounded() -> None:
    """A line can't grow without end."""
    stream = json_stream()
    deep: Any = 0
    for _ in range(500):
        deep = [deep]
    structlog.get_logger().info("big", text="x" * 1_000_000, deep=deep)
    assert len(stream.getvalue()) < 30_000
