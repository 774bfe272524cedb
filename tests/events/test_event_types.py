import pytest

from agent_runtime.events.event_types import CATEGORY_OF, EventCategory, EventType

BY_CATEGORY = {
    "agent": [
        ("agent_switched", "agent.switched"),
        ("agent_processing_started", "agent.processing.started"),
        ("agent_processing_completed", "agent.processing.completed"),
        ("agent_error_occurred", "agent.error.occurred"),
        ("agent_registered", "agent.registered"),
    ],
    "session": [
        ("session_created", "session.created"),
        ("session_updated", "session.updated"),
        ("session_deleted", "session.deleted"),
        ("message_added", "session.message.added"),
    ],
    "tool": [
        ("tool_execution_requested", "tool.execution.requested"),
        ("tool_execution_started", "tool.execution.started"),
        ("tool_execution_completed", "tool.execution.completed"),
        ("tool_execution_failed", "tool.execution.failed"),
    ],
    "hitl": [
        ("tool_approval_required", "tool.approval.required"),
        ("hitl_approval_requested", "hitl.approval.requested"),
        ("hitl_decision_made", "hitl.decision.made"),
        ("hitl_timeout_occurred", "hitl.timeout.occurred"),
    ],
    "llm": [
        ("llm_request_started", "llm.request.started"),
        ("llm_request_completed", "llm.request.completed"),
        ("llm_request_failed", "llm.request.failed"),
    ],
    "system": [
        ("system_startup", "system.startup"),
        ("system_shutdown", "system.shutdown"),
        ("background_task_started", "system.background_task.started"),
        ("background_task_completed", "system.background_task.completed"),
        ("database_query_executed", "system.database_query.executed"),
    ],
    "metrics": [
        ("metrics_collected", "metrics.collected"),
        ("performance_measured", "metrics.performance.measured"),
    ],
}
SPELLINGS = [(name, dotted) for pairs in BY_CATEGORY.values() for name, dotted in pairs]


def test_the_catalogue_is_complete() -> None:
    """Exactly these types exist, each in its category."""
    expected = {name: category for category, pairs in BY_CATEGORY.items() for name, _ in pairs}
    assert {str(kind): str(category) for kind, category in CATEGORY_OF.items()} == expected
    assert sorted(EventType) == sorted(expected)


@pytest.mark.parametrize(("name", "dotted"), SPELLINGS)
def test_both_spellings_mean_the_same_type(name: str, dotted: str) -> None:
    """The dotted spelling of older publishers is understood; ours is the one that is shown."""
    assert EventType(dotted) is EventType(name)
    assert str(EventType(dotted)) == name == EventType(dotted).value


@pytest.mark.parametrize(
    "spelling", ["", ".", "agent", "agent.", "agent.unknown", "AGENT_SWITCHED", "agent switched", 7, None]
)
def test_other_spellings_are_no_types(spelling: object) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match="is not a valid EventType"):
        EventType(spelling)


def test_both_enums_are_strings() -> None:
    """They compare, hash and format as their text, so a handler may use either."""
    assert f"{EventType.AGENT_SWITCHED} {EventCategory.HITL}" == "agent_switched hitl"
    assert {EventType.AGENT_SWITCHED: 1, EventCategory.HITL: 2} == {"agent_switched": 1, "hitl": 2}
    assert isinstance(EventType.AGENT_SWITCHED, str) and isinstance(EventCategory.HITL, str)


def test_categories() -> None:
    """The categories of infrastructure events, and the one of domain events."""
    assert sorted(EventCategory) == sorted([*BY_CATEGORY, "domain"])
