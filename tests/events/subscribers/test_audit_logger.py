import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from agent_runtime.events.agent_events import AgentErrorOccurredEvent, AgentRegisteredEvent, AgentSwitchedEvent
from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.content import content_capture
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.projection import ProjectionRunner
from agent_runtime.events.store.memory import MemoryStore
from agent_runtime.events.store.sqlite import SqliteStore
from agent_runtime.events.subscribers.audit_logger import AuditLogger, audit_row
from agent_runtime.events.tool_events import (
    HITLApprovalRequestedEvent,
    HITLDecisionMadeEvent,
    ToolApprovalRequiredEvent,
    ToolExecutionCompletedEvent,
    ToolExecutionFailedEvent,
)

WHEN = "2026-01-17T14:00:00.000001Z"
KEY = "sk-abcdefghijklmnopqrstuvwx"


def common(number: int, session_id: str = "s-1") -> dict[str, Any]:
    """The common keywords of event ``number``."""
    return {
        "event_id": f"00000000-0000-4000-8000-{number:012x}",
        "session_id": session_id,
        "correlation_id": f"turn-{number}",
        "timestamp": WHEN,
    }


def audited(session_id: str = "s-1", base: int = 0) -> list[BaseEvent]:
    """One event of each audited type."""
    return [
        AgentSwitchedEvent(
            from_agent="orchestrator",
            to_agent="coder",
            reason="code",
            confidence="high",
            **common(base + 1, session_id),
        ),
        HITLDecisionMadeEvent(
            call_id="c",
            decision="APPROVE",
            tool_name="write_file",
            original_args={"path": "test.py"},
            modified_args=None,
            **common(base + 2, session_id),
        ),
        AgentErrorOccurredEvent(
            agent_type="coder", error_message="no file", error_type="FileNotFoundError", **common(base + 3, session_id)
        ),
        ToolExecutionFailedEvent(
            tool_name="read_file",
            call_id="d",
            error_message="no file",
            error_type="OSError",
            **common(base + 4, session_id),
        ),
        ToolApprovalRequiredEvent(
            tool_name="write_file",
            arguments={"path": "test.py"},
            call_id="c",
            reason="policy",
            **common(base + 5, session_id),
        ),
    ]


def row(number: int, event_type: str, **fields: Any) -> dict[str, Any]:
    """The row that is expected of event ``number``."""
    keys = common(number)
    return {
        "timestamp": WHEN,
        "event_type": event_type,
        "event_id": keys["event_id"],
        "session_id": "s-1",
        "correlation_id": keys["correlation_id"],
        **fields,
    }


ROWS = [
    row(1, "agent_switched", from_agent="orchestrator", to_agent="coder", reason="code", confidence="high"),
    row(
        2,
        "hitl_decision_made",
        call_id="c",
        decision="APPROVE",
        tool_name="write_file",
        original_args={"path": "test.py"},
        modified_args=None,
    ),
    row(3, "agent_error", agent="coder", error_message="no file", error_type="FileNotFoundError"),
    row(4, "tool_execution_failed", tool_name="read_file", call_id="d", error_message="no file", error_type="OSError"),
    row(
        5, "tool_approval_required", tool_name="write_file", call_id="c", reason="policy", arguments={"path": "test.py"}
    ),
]
TYPES = [expected["event_type"] for expected in ROWS]


@pytest.fixture
def captured_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """Content capture is on."""
    monkeypatch.setattr(content_capture, "enabled", True)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MemoryStore | SqliteStore]:
    """A store of each kind."""
    opened = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "events.db")
    yield opened
    opened.close()


async def logger_after(store: MemoryStore | SqliteStore, events: list[BaseEvent]) -> AuditLogger:
    """An audit logger attached to a bus over ``store`` that has seen ``events``."""
    bus, logger = EventBus(store), AuditLogger()
    logger.attach(bus)
    await bus.publish_many(events)
    assert await bus.close()
    return logger


@pytest.mark.usefixtures("captured_content")
async def test_rows_have_the_keys_of_their_type(store: MemoryStore | SqliteStore) -> None:
    """Each audited type gives its row, in order, from memory and from the store alike."""
    logger = await logger_after(store, audited())
    assert logger.get_audit_log() == ROWS


async def test_events_that_are_not_audited_give_no_row(store: MemoryStore | SqliteStore) -> None:
    """Successes and registrations are no audit matter; an approval is audited once, when the policy requires it."""
    logger = await logger_after(
        store,
        [
            AgentRegisteredEvent(agent_type="coder"),
            ToolExecutionCompletedEvent(tool_name="t", call_id="c", duration_ms=1),
            HITLApprovalRequestedEvent(call_id="c", tool_name="t", arguments={}, reason="r"),
        ],
    )
    assert logger.get_audit_log() == []


async def test_filters_are_exact_and_the_limit_takes_the_last(store: MemoryStore | SqliteStore) -> None:
    """Session and type are matched as a whole, together, and the limit counts from the newest."""
    logger = await logger_after(store, [*audited("s-1"), *audited("s-10", 16), *audited("s-1", 32)])
    assert [row["event_type"] for row in logger.get_audit_log(session_id="s-1")] == TYPES * 2
    assert [row["session_id"] for row in logger.get_audit_log(event_type="agent_switched")] == ["s-1", "s-10", "s-1"]
    assert [row["event_type"] for row in logger.get_audit_log(session_id="s-1", limit=3)] == TYPES[2:]
    assert [
        row["event_id"][-2:] for row in logger.get_audit_log(session_id="s-1", event_type="agent_switched", limit=1)
    ] == ["21"]
    assert logger.get_audit_log(session_id="s") == []
    assert logger.get_audit_log(limit=0) == []


@pytest.mark.parametrize(
    ("spelling", "found"),
    [
        ("agent_error", ["agent_error"]),
        ("agent_error_occurred", ["agent_error"]),
        ("agent.error.occurred", ["agent_error"]),
        ("agent.switched", ["agent_switched"]),
        ("tool.approval.required", ["tool_approval_required"]),
        ("hitl.decision.made", ["hitl_decision_made"]),
        ("session_created", []),
        ("agent", []),
        ("nonsense", []),
    ],
)
async def test_types_are_found_in_every_spelling(
    store: MemoryStore | SqliteStore, spelling: str, found: list[str]
) -> None:
    """Both spellings, and the row's own name; what is not audited finds nothing."""
    logger = await logger_after(store, audited())
    assert [row["event_type"] for row in logger.get_audit_log(event_type=spelling)] == found


def test_a_negative_limit_is_refused() -> None:
    """It would mean something else to each kind of store."""
    with pytest.raises(ValueError, match="-1"):
        AuditLogger().get_audit_log(limit=-1)


async def test_each_event_is_a_structlog_line_of_its_level() -> None:
    """Switches and decisions are info, failures error, required approvals warning; ids are on the line."""
    with capture_logs() as lines:
        await logger_after(MemoryStore(), audited())
    assert [(line["log_level"], line["event"]) for line in lines] == [
        ("info", "agent_switched"),
        ("info", "hitl_decision_made"),
        ("error", "agent_error"),
        ("error", "tool_execution_failed"),
        ("warning", "tool_approval_required"),
    ]
    assert lines[0] == {
        "log_level": "info",
        "event": "agent_switched",
        "occurred_at": WHEN,
        "event_id": ROWS[0]["event_id"],
        "session_id": "s-1",
        "correlation_id": "turn-1",
        "from_agent": "orchestrator",
        "to_agent": "coder",
        "reason": "code",
        "confidence": "high",
    }


def test_arguments_are_hashed_unless_content_is_captured() -> None:
    """The log tells calls apart without keeping what they said; hiding what is hidden changes nothing."""
    secret, same, other = (
        ToolApprovalRequiredEvent(tool_name="t", arguments={"path": path, "n": {"a": 1}}, call_id="c", reason="r")
        for path in ("one.py", "one.py", "two.py")
    )
    hidden = audit_row(secret)["arguments"]
    assert sorted(hidden) == ["n", "path"]
    assert "one.py" not in str(hidden)
    assert audit_row(same)["arguments"] == hidden
    assert audit_row(other)["arguments"]["path"] != hidden["path"]
    secret.data["arguments"] = hidden
    assert audit_row(secret)["arguments"] == hidden


@pytest.mark.usefixtures("captured_content")
def test_secrets_are_redacted_even_where_content_is_captured() -> None:
    """By the name of the argument and by shape, in arguments and in messages."""
    call = ToolApprovalRequiredEvent(
        tool_name="t", arguments={"password": "hunter2", "text": f"use {KEY}"}, call_id="c", reason=f"has {KEY}"
    )
    failure = AgentErrorOccurredEvent(agent_type="a", error_message=f"Incorrect API key: {KEY}", error_type="AuthError")
    assert audit_row(call)["arguments"] == {"password": "[redacted]", "text": "use [redacted]"}
    assert audit_row(call)["reason"] == "has [redacted]"
    assert audit_row(failure)["error_message"] == "Incorrect API key: [redacted]"


def test_memory_is_bounded_in_rows_and_in_their_length() -> None:
    """Without a durable store the newest rows are kept, and long texts are cut."""
    logger = AuditLogger(capacity=2)
    logger.apply(audited())
    assert [row["event_type"] for row in logger.get_audit_log()] == TYPES[3:]
    long = AgentErrorOccurredEvent(agent_type="a", error_message="x" * 100_000, error_type="E")
    assert len(audit_row(long)["error_message"]) < 2_100


async def test_over_a_durable_store_nothing_is_kept_in_memory_and_nothing_is_lost(tmp_path: Path) -> None:
    """More rows than the capacity are all there, also for a new logger on the reopened file."""
    store = SqliteStore(tmp_path / "events.db")
    events = [event for base in range(0, 160, 16) for event in audited(base=base)]
    logger = await logger_after(store, events)
    assert len(logger.get_audit_log()) == 50
    assert len(logger._rows) == 0
    store.close()
    reopened = SqliteStore(tmp_path / "events.db")
    again = AuditLogger(reopened)
    assert [row["event_id"] for row in again.get_audit_log()] == [event.event_id for event in events]
    reopened.close()


async def test_a_reader_can_not_change_the_log() -> None:
    """What get_audit_log gave is the caller's own."""
    logger = await logger_after(MemoryStore(), audited())
    logger.get_audit_log()[0]["to_agent"] = "forged"
    assert logger.get_audit_log()[0]["to_agent"] == "coder"


async def test_attached_until_detached() -> None:
    """attach subscribes with the priority of audit and returns its end."""
    bus, logger = EventBus(), AuditLogger()
    detach = logger.attach(bus)
    assert [subscription.priority for subscription in bus.subscriptions] == [10]
    first, second, *_ = audited()
    await bus.publish(first, wait_for_handlers=True)
    detach()
    await bus.publish(second, wait_for_handlers=True)
    assert [row["event_type"] for row in logger.get_audit_log()] == ["agent_switched"]


def test_as_a_projection_in_memory_it_survives_a_restart(tmp_path: Path) -> None:
    """Run by a ProjectionRunner without a store of its own, it has its rows again from the checkpoint."""

    async def part(events: list[BaseEvent]) -> list[dict[str, Any]]:
        store = SqliteStore(tmp_path / "events.db")
        bus, logger = EventBus(store), AuditLogger()
        runner = ProjectionRunner(bus, logger)
        await runner.start()
        await bus.publish_many(events)
        await runner.stop()
        await bus.close()
        store.close()
        return logger.get_audit_log()

    asyncio.run(part(audited()[:3]))
    assert [row["event_type"] for row in asyncio.run(part(audited()[2:]))] == TYPES
