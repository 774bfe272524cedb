"""A message, an agent, a tool, a person, an answer: over HTTP, and in everything that watches."""

from pathlib import Path
from typing import Any

from tests.openai_fixture import OpenAIServer
from tests.otlp_fixture import OtlpReceiver
from tests.real_data import domain_series
from tests.runtime.sse import send, text
from tests.runtime.world import calls, history, metrics, roots, says, settled, stored, to, types, world
from tests.service import Service

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
ASKED = {"path": "notes/a.txt", "content": "as the model wrote it"}
EDITED = {"path": "notes/a.txt", "content": "as the person wants it", "create_dirs": True}
ROWS = (
    to("coder"),
    calls(("c1", "write_file", ASKED), when="^user: Write"),
    says("It is ", "written."),
)
STORY = [
    "session_created",
    "message_added",
    "agent_processing_started",
    "llm_request_started",
    "llm_request_completed",
    "agent_processing_completed",
    "agent_switched",
    "agent_processing_started",
    "llm_request_started",
    "llm_request_completed",
    "message_added",
    "tool_execution_requested",
    "tool_approval_required",
    "hitl_approval_requested",
    "hitl_decision_made",
    "tool_execution_started",
    "tool_execution_completed",
    "message_added",
    "llm_request_started",
    "llm_request_completed",
    "message_added",
    "agent_processing_completed",
]
# Who calls, parent by name: the turn's own span and the request's have none and a foreign one.
SPANS = [
    ("invoke_agent orchestrator", "invoke_workflow"),
    ("chat gpt-4o-mini", "invoke_agent orchestrator"),
    ("invoke_agent coder", "invoke_workflow"),
    ("chat gpt-4o-mini", "invoke_agent coder"),
    ("await_approval write_file", "invoke_agent coder"),
    ("execute_tool write_file", "invoke_agent coder"),
    ("chat gpt-4o-mini", "invoke_agent coder"),
]
MODEL = 'gen_ai_provider_name="openai",gen_ai_request_model="gpt-4o-mini"'
METRICS = {
    **{f'agent_runtime_events_total{{event_type="{kind}"}}': STORY.count(kind) for kind in dict.fromkeys(STORY)},
    'agent_runtime_events_total{event_type="agent_registered"}': 6,
    'agent_runtime_agent_switches_total{from_agent="orchestrator",to_agent="coder"}': 1,
    'gen_ai_invoke_agent_duration_seconds_count{error_type="",gen_ai_agent_name="orchestrator"}': 1,
    'gen_ai_invoke_agent_duration_seconds_count{error_type="",gen_ai_agent_name="coder"}': 1,
    'gen_ai_invoke_workflow_duration_seconds_count{error_type=""}': 1,
    'agent_runtime_tool_requests_total{gen_ai_agent_name="coder",gen_ai_tool_name="write_file"}': 1,
    'gen_ai_execute_tool_duration_seconds_count{error_type="",gen_ai_tool_name="write_file"}': 1,
    'agent_runtime_hitl_requests_total{gen_ai_tool_name="write_file"}': 1,
    'agent_runtime_hitl_decisions_total{decision="edit",gen_ai_tool_name="write_file"}': 1,
    'agent_runtime_hitl_wait_seconds_count{decision="edit",gen_ai_tool_name="write_file"}': 1,
    f'gen_ai_client_inference_duration_seconds_count{{error_type="",{MODEL}}}': 3,
    f'gen_ai_client_inference_time_to_first_chunk_seconds_count{{error_type="",{MODEL}}}': 3,
    f'gen_ai_client_inference_usage_input_tokens_total{{gen_ai_agent_name="orchestrator",{MODEL}}}': 10,
    f'gen_ai_client_inference_usage_input_tokens_total{{gen_ai_agent_name="coder",{MODEL}}}': 20,
    f'gen_ai_client_inference_usage_output_tokens_total{{gen_ai_agent_name="orchestrator",{MODEL}}}': 5,
    f'gen_ai_client_inference_usage_output_tokens_total{{gen_ai_agent_name="coder",{MODEL}}}': 10,
    f'agent_runtime_llm_cost_usd_total{{gen_ai_agent_name="orchestrator",{MODEL}}}': 4.5e-06,
    f'agent_runtime_llm_cost_usd_total{{gen_ai_agent_name="coder",{MODEL}}}': 9e-06,
    "agent_runtime_sessions_total": 1,
    "agent_runtime_sessions_active": 1,
    'agent_runtime_messages_total{role="user"}': 1,
    'agent_runtime_messages_total{role="assistant"}': 2,
    'agent_runtime_messages_total{role="tool"}': 1,
}


def moved(exposition: str) -> dict[str, float]:
    """Every sample of the domain's metrics that is not 0, but for what depends on how long things took."""
    samples = dict(line.rsplit(" ", 1) for line in domain_series(exposition) if not line.startswith("#"))
    timed = ("_bucket", "_sum", "agent_runtime_turn_seconds_total")
    return {
        name: float(value)
        for name, value in samples.items()
        if float(value) and not any(part in name.partition("{")[0] for part in timed)
    }


def check_tree(service: Service, session_id: str = "s1") -> list[dict[str, Any]]:
    """All events of a session are of one turn, and form one tree of causes; the events."""
    events = stored(service, session_id=session_id)
    assert 1 == len({event["correlation_id"] for event in events})
    assert ["session_created"] == roots(events)
    return events


def check_trace(spans: list[dict[str, Any]], trace: str) -> list[dict[str, Any]]:
    """The spans of a turn are the expected ones, with their parents; the turn's own."""
    turn = [span for span in spans if span["trace_id"] == trace and span["scope"] == "agent_runtime.telemetry"]
    names = {span["span_id"]: span["name"] for span in turn}
    children = sorted((span for span in turn if span["parent_span_id"]), key=lambda span: span["start_ns"])
    assert SPANS == [(span["name"], names[span["parent_span_id"]]) for span in children]
    (root,) = (span for span in turn if not span["parent_span_id"])
    assert "invoke_workflow" == root["name"]
    return [root, *children]


def test_an_edited_call(tmp_path: Path, model: OpenAIServer, otlp: OtlpReceiver) -> None:
    """Routed to the coder, approved with a change by another client; file, history, events, spans, metrics, audit."""
    model.play(*ROWS)
    environ = {"OTEL_TRACES_EXPORTER": "otlp", **otlp.environ("http/protobuf")}
    with world(tmp_path, model, environ) as service:
        events = send(service, "s1", TRACEPARENT, content="Write the notes.")
        kinds = ["agent_switched", "tool_call", None]
        assert kinds == [data.get("type") for _, data in events]
        asked = {"type": "tool_call", "call_id": "c1", "tool_name": "write_file", "arguments": ASKED}
        assert {**asked, "requires_approval": True} == events[1][1]
        (waiting,) = service.client.get("/approvals").json()["approvals"]
        assert ("c1", "coder", ASKED, TRACE) == tuple(
            waiting[key] for key in ("call_id", "agent", "arguments", "correlation_id")
        )
        answer = service.client.post("/approvals/c1/decision", json={"decision": "edit", "modified_arguments": EDITED})
        assert 200 == answer.status_code
        exposition = settled(service, 1)

        assert EDITED["content"] == (tmp_path / "workspace" / "notes" / "a.txt").read_text()
        said = history(service, "s1")
        assert ["user", "assistant", "tool", "assistant"] == [message["role"] for message in said]
        assert ["It is written.", True] == [said[3]["content"], EDITED["content"] in said[2]["content"]]
        assert STORY == [event["event_type"] for event in check_tree(service)]
        assert {TRACE} == {event["correlation_id"] for event in stored(service, session_id="s1")}

        assert METRICS == moved(exposition)
        audit = service.client.get("/events/audit-log?session_id=s1").json()["audit_log"]
        assert [
            ("agent_switched", None, TRACE),
            ("tool_approval_required", "c1", TRACE),
            ("hitl_decision_made", "c1", TRACE),
        ] == [(row["event_type"], row.get("call_id"), row["correlation_id"]) for row in audit]
        assert "EDIT" == audit[2]["decision"]

        service.wait_until(lambda: len(otlp.spans()) >= 11, "the spans")
        spans = otlp.spans()
        root, *children = check_trace(spans, TRACE)
        (request,) = (span for span in spans if span["trace_id"] == TRACE and span["kind"] == 2)
        assert ("POST /agent/message/stream", "00f067aa0ba902b7") == (request["name"], request["parent_span_id"])
        # No span of a message of ASGI, of a scrape or of a view.
        assert {("POST", 2), ("GET", 2)} >= {
            (span["name"].split()[0], span["kind"]) for span in spans if span["scope"] != "agent_runtime.telemetry"
        }
        assert [] == [span["name"] for span in spans if "/metrics" in span["name"] or "/events" in span["name"]]
        phases = {"chat": "model", "await_approval": "human", "execute_tool": "tool"}
        spent = dict.fromkeys(("model", "human", "tool"), 0)
        for span in children:
            phase = phases.get(span["name"].split()[0])
            if phase is not None:
                spent[phase] += (span["end_ns"] - span["start_ns"]) // 1000
        spent["runtime"] = (root["end_ns"] - root["start_ns"]) // 1000 - sum(spent.values())
        assert spent == {
            phase: round(root["attributes"][f"agent_runtime.turn.{phase}_seconds"] * 1_000_000) for phase in spent
        }
        assert "Traceback" not in service.log


def test_a_decision_over_the_stream(tmp_path: Path, model: OpenAIServer) -> None:
    """What follows from it streams to whoever sends it; the story is the same, and it is told once."""
    model.play(*ROWS)
    with world(tmp_path, model) as service:
        send(service, "s1", content="Write the notes.")
        events = send(service, "s1", type="hitl_decision", call_id="c1", decision="Edit", modified_arguments=EDITED)
        assert "It is written." == text(events)
        assert {"type": "assistant_message", "content": "It is written.", "is_final": True} == events[-2][1]
        assert ("done", {"status": "completed"}) == events[-1]
        assert EDITED["content"] == (tmp_path / "workspace" / "notes" / "a.txt").read_text()
        assert STORY == types(service, "s1")
        check_tree(service)
        # The next message is for the agent that has the session: nobody routes it.
        assert "It is written." == text(send(service, "s1", content="And?"))
        turn = stored(service, session_id="s1")[len(STORY) :]
        assert (["message_added"], 1) == (roots(turn), len({event["correlation_id"] for event in turn}))
        assert {"coder"} == {event["data"]["agent"] for event in turn if "agent" in event["data"]}
        assert 'agent_runtime_hitl_pending{gen_ai_tool_name="write_file"} 0' in metrics(service)
