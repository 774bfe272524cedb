"""What the described service got wrong, one test each; what has a test of its own elsewhere is named there."""

from collections.abc import Iterator

import pytest

from tests.openai_fixture import OpenAIServer
from tests.runtime.sse import errors, send, text
from tests.runtime.world import calls, history, says, stored, to, world
from tests.service import Service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, model: OpenAIServer) -> Iterator[Service]:
    """A service after a turn in which all sorts of things happened, in session s1."""
    with world(tmp_path_factory.mktemp("contract"), model) as running:
        model.play(
            to("architect"),
            calls(
                ("c1", "write_file", {"path": "../../etc/x.md", "content": "x"}),
                ("c2", "read_file", {"path": "none"}),
                when="^user: Plan",
            ),
            {**calls(("c3", "switch_mode", {"mode": "coder"}), when="^tool"), "when": {"system": "the architect"}},
            says("Planned."),
        )
        send(running, "s1", content="Plan it.")
        assert "Planned." == text(send(running, "s1", type="hitl_decision", call_id="c1", decision="approve"))
        yield running


def test_a_switch_is_applied_before_it_is_read(service: Service, model: OpenAIServer) -> None:
    """The orchestrator runs once a turn, and nobody is switched to itself."""
    switches = {"orchestrator_to_architect": 1, "architect_to_coder": 1}
    assert switches == service.client.get("/events/metrics").json()["metrics"]["agent_switches"]
    model.play(says("Same."))
    before = len(stored(service, event_type="agent_switched"))
    assert "Same." == text(send(service, "s1", content="Again.", agent_type="coder"))
    assert before == len(stored(service, event_type="agent_switched"))
    switch = service.client.post("/agents/s1/switch", json={"agent_type": "coder"}).json()
    assert (False, "coder") == (switch["switched"], switch["current_agent"])
    assert [] == errors(send(service, "s1", type="switch_agent", agent_type="coder"))
    assert before == len(stored(service, event_type="agent_switched"))


def test_decisions_and_approvals_are_counted(service: Service) -> None:
    """HITL metrics were always 0, and so was `requires_approval`."""
    metrics = service.client.get("/events/metrics").json()["metrics"]
    assert {"write_file": {"APPROVE": 1, "EDIT": 0, "REJECT": 0}} == metrics["hitl_decisions"]
    row = {"requested": 1, "completed": 0, "failed": 1, "requires_approval": 1}
    assert row == metrics["tool_executions"]["write_file"]


def test_work_is_booked_on_who_did_it(service: Service) -> None:
    """Each run, each call of a model and each tool call has the agent whose it was."""
    first = stored(service, session_id="s1")
    turn = [event for event in first if event["correlation_id"] == first[0]["correlation_id"]]
    booked = [(event["event_type"], event["data"]["agent"]) for event in turn if "agent" in event["data"]]
    expected = [("orchestrator", 1, 0), ("architect", 2, 3), ("coder", 1, 0)]
    for agent, models, tools in expected:
        assert (
            1
            == booked.count(("agent_processing_started", agent))
            == booked.count(("agent_processing_completed", agent))
        )
        assert models == booked.count(("llm_request_started", agent)) == booked.count(("llm_request_completed", agent))
        assert tools == booked.count(("tool_execution_requested", agent))
    processing = service.client.get("/events/metrics").json()["metrics"]["agent_processing"]
    assert 1 == processing["orchestrator"]["count"] == processing["architect"]["count"]


def test_every_row_has_correlation_and_cause(service: Service) -> None:
    """Tool, HITL and audit rows had null; causation could not be set at all."""
    events = stored(service, session_id="s1")
    assert [] == [event for event in events if event["correlation_id"] is None]
    assert [] == [event for event in events if event["source"] in ("tools", "hitl") and event["causation_id"] is None]
    audit = service.client.get("/events/audit-log?session_id=s1").json()["audit_log"]
    kinds = {"agent_switched", "tool_approval_required", "hitl_decision_made", "tool_execution_failed"}
    assert kinds == {row["event_type"] for row in audit}
    assert [] == [row for row in audit if row["correlation_id"] is None]
    service.client.post("/agents/s1/switch", json={"agent_type": "ask", "reason": "asked"})
    (row,) = service.client.get("/events/audit-log?session_id=s1&event_type=agent_switched&limit=1").json()["audit_log"]
    assert ("ask", True) == (row["to_agent"], row["correlation_id"] is not None)


def test_tools_have_a_beginning_and_an_end(service: Service) -> None:
    """Started, completed and failed were never published; the file rule accepted a way out of the workspace."""
    events = stored(service, session_id="s1")
    ends = {
        event["data"]["call_id"]: event["event_type"]
        for event in events
        if event["event_type"][:15] == "tool_execution_"
    }
    assert {
        "c1": "tool_execution_failed",
        "c2": "tool_execution_failed",
        "c3": "tool_execution_completed",
    } == ends
    started = [event["data"]["call_id"] for event in events if event["event_type"] == "tool_execution_started"]
    assert ["c2", "c1", "c3"] == started
    answers = {row["tool_call_id"]: row["content"] for row in history(service, "s1") if row["role"] == "tool"}
    assert answers["c1"].startswith("Error: ")
