"""The demo's live sessions, as `make run` plays them: through the real runtime, with people who are simulated."""

import random
from collections import Counter
from pathlib import Path

from agent_runtime.demo_sessions import DECISIONS, FEEDBACK, Deck, decision_body
from agent_runtime.events import BaseEvent
from agent_runtime.events.store import open_store
from tests.service import SETTLE, free_port
from tests.test_cli import run

WRITING = {"arguments_hash": "h", "tool_name": "write_file", "arguments": {"path": "a.md", "content": "A"}}


def live_events(database: Path) -> list[BaseEvent]:
    """Everything of the live sessions in a store."""
    store = open_store(f"sqlite:///{database}", "FULL")
    try:
        events: list[BaseEvent] = []
        while page := store.read(events[-1].position if events else 0, 10_000):
            events += page
    finally:
        store.close()
    return [event for event in events if (event.session_id or "").startswith("demo-")]


def test_live_sessions(tmp_path: Path) -> None:
    """Twenty sessions, fast: switches, failures, every kind of decision, and each run comes to an end."""
    variables = {
        **SETTLE,
        "AGENT_RUNTIME__DB_URL": f"sqlite:///{tmp_path}/demo.db",
        "AGENT_RUNTIME__APPROVAL_TIMEOUT_SECONDS": "3",
        "COLUMNS": "160",
    }
    arguments = ["demo", "--once", "--sessions", "20", "--rate", "1200", "--port", str(free_port())]
    code, output, errors = run(*arguments, folder=tmp_path, env=variables)
    assert 0 == code, errors
    assert "Not every turn is settled" not in errors
    assert "Live: 20 sessions, " in output
    events = live_events(tmp_path / "demo.db")
    kinds = Counter(str(event.event_type) for event in events)
    decisions = Counter(event.data["decision"] for event in events if event.event_type == "hitl_decision_made")
    assert {"APPROVE", "EDIT", "REJECT"} <= decisions.keys()
    assert kinds["hitl_timeout_occurred"] >= 1
    assert kinds["hitl_approval_requested"] == kinds["hitl_timeout_occurred"] + decisions.total()
    assert {"coder", "architect", "debug", "ask"} <= {
        event.data["to_agent"] for event in events if event.event_type == "agent_switched"
    }
    assert {"server_error", "timeout", "rate_limit"} <= {
        event.data["error_type"] for event in events if event.event_type == "llm_request_failed"
    }
    assert kinds["agent_processing_started"] == kinds["agent_processing_completed"]
    assert 20 == len({event.session_id for event in events})
    assert [] == [path.name for path in tmp_path.iterdir() if path.is_dir()]


def test_a_deck_keeps_the_shares() -> None:
    """Each round of draws has every card once; the order is chance's."""
    deck = Deck(DECISIONS, random.Random(1))
    rounds = [[deck.draw() for _ in DECISIONS] for _ in range(2)]
    assert [Counter(DECISIONS)] * 2 == [Counter(drawn) for drawn in rounds]
    assert rounds[0] != rounds[1]


def test_decisions() -> None:
    """Each is bound to the arguments that were seen; an edit where there is nothing to edit is an approval."""
    edited = {"path": "a.md", "content": "A\n# Read by a person.\n"}
    assert {"decision": "approve", "arguments_hash": "h"} == decision_body("approve", WRITING)
    assert {"decision": "edit", "arguments_hash": "h", "modified_arguments": edited} == decision_body("edit", WRITING)
    assert {"decision": "feedback", "arguments_hash": "h", "feedback": FEEDBACK} == decision_body("feedback", WRITING)
    folder = {**WRITING, "tool_name": "create_directory", "arguments": {"path": "src"}}
    assert {"decision": "approve", "arguments_hash": "h"} == decision_body("edit", folder)
