"""What a crash in the middle of a turn leaves, and how it goes on."""

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path

from agent_runtime.hitl.decisions import read_decision
from agent_runtime.hitl.table import ApprovalTable
from agent_runtime.sessions.database import Database
from tests.openai_fixture import OpenAIServer
from tests.otlp_fixture import OtlpReceiver
from tests.real_data import total
from tests.runtime.sse import Listener, errors, send, text
from tests.runtime.test_end_to_end import EDITED, ROWS, STORY, check_trace, check_tree
from tests.runtime.world import calls, history, roots, says, settled, stored, to, types, world
from tests.service import Service

COUNTING = {"command": "python3 -c \"open('runs.txt', 'a').write('x')\""}


def ends(service: Service) -> list[tuple[str, bool]]:
    """How each agent's run of the session ended."""
    events = stored(service, session_id="s1", event_type="agent_processing_completed")
    return [(event["data"]["agent"], event["data"]["success"]) for event in events]


def finished(service: Service) -> bool:
    """Whether the coder's run has ended."""
    return any(agent == "coder" for agent, _ in ends(service))


def test_killed_while_a_person_thinks(tmp_path: Path, model: OpenAIServer, otlp: OtlpReceiver) -> None:
    """The approval is still there after the restart; the decision goes on in the same trace, and runs the tool once."""
    model.play(*ROWS)
    environ = {"OTEL_TRACES_EXPORTER": "otlp", **otlp.environ("http/protobuf")}
    with world(tmp_path, model, environ) as service:
        send(service, "s1", content="Write the notes.")
        service.kill9()
        service.start()
        assert ["c1"] == [row["call_id"] for row in service.client.get("/approvals").json()["approvals"]]
        decision = {"decision": "edit", "modified_arguments": EDITED}
        assert 200 == service.client.post("/approvals/c1/decision", json=decision).status_code
        exposition = settled(service, 1)
        assert EDITED["content"] == (tmp_path / "workspace" / "notes" / "a.txt").read_text()
        assert STORY == types(service, "s1")
        (trace,) = {event["correlation_id"] for event in check_tree(service)}
        assert [("orchestrator", True), ("coder", True)] == ends(service)
        assert 1 == total(exposition, "gen_ai_execute_tool_duration_seconds_count")
        assert 0 == total(exposition, "agent_runtime_agents_active") == total(exposition, "agent_runtime_hitl_pending")
        service.wait_until(lambda: "invoke_workflow" in [span["name"] for span in otlp.spans()], "the turn's span")
        check_trace(otlp.spans(), trace)


def test_killed_after_the_decision(tmp_path: Path, model: OpenAIServer) -> None:
    """The decision was committed and nothing else: the restart announces it, and runs the tool once."""
    model.play(to("coder"), calls(("c1", "execute_command", COUNTING)), says("Run."))
    with world(tmp_path, model) as service:
        send(service, "s1", content="Run it.")
        service.kill9()

        async def decide() -> None:
            database = Database(f"sqlite:///{tmp_path / 'events-sessions.db'}")
            table, now = ApprovalTable(database), datetime.now(UTC)
            (waiting,) = await table.pending("s1", now)
            assert (await table.decide(waiting, read_decision("approve"), "somebody", now))[1]
            await database.close()

        asyncio.run(decide())
        service.start()
        service.wait_until(lambda: finished(service), "the turn to end")
        assert "x" == (tmp_path / "workspace" / "runs.txt").read_text()
        assert [("orchestrator", True), ("coder", True)] == ends(service)
        check_tree(service)
        assert 1 == types(service, "s1").count("tool_execution_started")


def test_killed_at_any_moment_after_the_decision(tmp_path: Path, model: OpenAIServer) -> None:
    """Wherever the kill strikes, the tool runs at most once, each run ends once, and the session is usable."""
    model.play(
        to("coder"), calls(("c1", "execute_command", COUNTING), when="^user: Run it"), says("Run.", when="^(tool|user)")
    )
    with world(tmp_path, model) as service:
        send(service, "s1", content="Run it.")
        listener = Listener(service, "s1", type="hitl_decision", call_id="c1", decision="approve")
        service.wait_until(
            lambda: 1 == len(stored(service, session_id="s1", event_type="tool_execution_started")), "the tool to start"
        )
        service.kill9()
        listener.wait()
        service.start()
        service.wait_until(lambda: finished(service), "the turn to end")
        runs = tmp_path / "workspace" / "runs.txt"
        assert (runs.read_text() if runs.exists() else "") in ("", "x")
        assert ["orchestrator", "coder"] == [agent for agent, _ in ends(service)]
        assert 1 == types(service, "s1").count("tool_execution_started")
        assert "Run." == text(send(service, "s1", content="Go on."))


def test_killed_in_the_middle_of_a_model_call(tmp_path: Path, model: OpenAIServer) -> None:
    """The run ends as interrupted, and so does the call; no time while nothing ran counts; the next message works."""
    model.play(to("coder"), {"text": "Let me", "fault": "hang", "after": 2, "times": 1}, says("Here I am."))
    with world(tmp_path, model) as service:
        listener = Listener(service, "s1", content="Write the notes.")
        service.wait_until(lambda: "Let me" == text(listener.events), "the first words")
        service.kill9()
        listener.wait()
        time.sleep(1)
        service.start()
        exposition = settled(service, 1)
        events = check_tree(service)
        assert ["llm_request_failed", "agent_error_occurred", "agent_processing_completed"] == types(service, "s1")[-3:]
        assert [("orchestrator", True), ("coder", False)] == ends(service)
        assert {"interrupted"} == {event["data"]["error_type"] for event in events if "error_type" in event["data"]}
        interrupted = {"error_type": "interrupted"}
        for name in ("gen_ai_client_inference", "gen_ai_invoke_agent", "gen_ai_invoke_workflow"):
            assert 1 == total(exposition, f"{name}_duration_seconds_count", **interrupted)
        assert total(exposition, "gen_ai_invoke_workflow_duration_seconds_sum") < 1
        assert 0 == total(exposition, "agent_runtime_agents_active") == total(exposition, "agent_runtime_turns_open")
        assert "Here I am." == text(send(service, "s1", content="Are you there?"))


def test_killed_while_the_client_has_a_call(tmp_path: Path, model: OpenAIServer) -> None:
    """Of two calls one is the client's and one is a person's; both answers come after the restart."""
    model.play(
        to("coder"),
        calls(("c1", "read_file", {"path": "a"}), ("c2", "create_directory", {"path": "d"})),
        says("Both are done."),
    )
    with world(tmp_path, model, {"AGENT_RUNTIME__REMOTE_TOOLS": "read_file"}) as service:
        events = send(service, "s1", content="Do both.")
        assert [("c1", {"remote": True}), ("c2", None)] == [
            (data["call_id"], data.get("metadata")) for _, data in events if data.get("type") == "tool_call"
        ]
        service.kill9()
        service.start()
        assert [] == errors(send(service, "s1", type="hitl_decision", call_id="c2", decision="approve"))
        assert "Both are done." == text(send(service, "s1", type="tool_result", call_id="c1", result="text"))
        assert (tmp_path / "workspace" / "d").is_dir()
        check_tree(service)
        assert [("orchestrator", True), ("coder", True)] == ends(service)
        said = history(service, "s1")
        assert {"c1", "c2"} == {message["tool_call_id"] for message in said if message["role"] == "tool"}
        assert ["session_created"] == roots(stored(service, session_id="s1"))
