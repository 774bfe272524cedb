"""Whatever the model does: a clear error for the client, the right events, and a session that takes the next
message."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.openai_fixture import OpenAIServer
from tests.real_data import total
from tests.runtime.sse import Listener, errors, refusal, send, text
from tests.runtime.world import calls, history, metrics, says, stored, to, types, world
from tests.service import Service

FAILED = ["agent_error_occurred", "agent_processing_completed"]
HELLO = says("Hello again.", when="^user: Hello")
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "server_error": ({"status": 500}, "server_error"),
    "bad_request": ({"status": 400}, "bad_request"),
    "wrong_key": ({"status": 401}, "auth"),
    "silent": ({"fault": "silence"}, "timeout"),
    "stalled": ({"text": ["Let", " me"], "fault": "hang", "after": 2}, "timeout"),
    "cut": ({"text": ["Let", " me"], "fault": "cut", "after": 2}, "connection"),
    "ended_early": ({"text": ["Let", " me"], "fault": "end", "after": 2}, "bad_answer"),
    "garbage": ({"text": ["Let", " me"], "fault": "garbage", "after": 2}, "bad_answer"),
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, model: OpenAIServer) -> Iterator[Service]:
    """A service whose patience with the model is short, and one of whose tools runs at the client."""
    environ = {"AGENT_RUNTIME__LLM_TIMEOUT_SECONDS": "2.5", "AGENT_RUNTIME__REMOTE_TOOLS": "search_in_code"}
    with world(tmp_path_factory.mktemp("faults"), model, environ) as running:
        (tmp_path_factory.getbasetemp() / "faults0" / "workspace" / "a.txt").write_text("text")
        yield running
        assert "Traceback" not in running.log
        assert "Task exception was never retrieved" not in running.log


def check_usable(service: Service, session_id: str) -> None:
    """Nothing of the session is open, and the next message is answered by a well-formed conversation."""
    started = stored(service, session_id=session_id, event_type="agent_processing_started")
    completed = stored(service, session_id=session_id, event_type="agent_processing_completed")
    assert [event["event_id"] for event in started] == [event["causation_id"] for event in completed]
    assert "Hello again." == text(send(service, session_id, content="Hello?", agent_type="coder"))
    asked: set[str] = set()
    for message in history(service, session_id):
        if message["role"] == "tool":
            asked.remove(message["tool_call_id"])
        else:
            assert set() == asked
            asked = {call["id"] for call in message.get("tool_calls", ())}
    assert set() == asked


def failures(service: Service, error_type: str) -> float:
    """Failed runs of the coder in the metrics."""
    name = "gen_ai_invoke_agent_duration_seconds_count"
    return total(metrics(service), name, gen_ai_agent_name="coder", error_type=error_type)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_that_fails(service: Service, model: OpenAIServer, fault: str) -> None:
    """The client is told what class of error it was; the call and the run are failed ones, in every metric."""
    row, error_type = FAULTS[fault]
    model.play(HELLO, row)
    before = failures(service, error_type)
    calls_before = total(metrics(service), "gen_ai_client_inference_duration_seconds_count", error_type=error_type)
    events = send(service, fault, content="Write it.", agent_type="coder")
    assert [error_type] == errors(events)
    assert [("error", "error"), ("done", None)] == [(name, data.get("type")) for name, data in events[-2:]]
    assert ["llm_request_started", "llm_request_failed", *FAILED] == types(service, fault)[-4:]
    (completed,) = stored(service, session_id=fault, event_type="agent_processing_completed")
    assert ("coder", False) == (completed["data"]["agent"], completed["data"]["success"])
    service.wait_until(lambda: failures(service, error_type) == before + 1, "the failed run to be counted")
    exposition = metrics(service)
    name = "gen_ai_client_inference_duration_seconds_count"
    assert calls_before + 1 == total(exposition, name, error_type=error_type)
    assert 0 == total(exposition, "agent_runtime_agents_active")
    assert 0 < service.client.get("/events/metrics").json()["metrics"]["agent_processing"]["coder"]["failure_count"]
    check_usable(service, fault)


def test_a_model_that_is_down(service: Service, model: OpenAIServer) -> None:
    """Also while the message is being routed: the orchestrator's run is the failed one."""
    model.stop()
    try:
        assert ["connection"] == errors(send(service, "down", content="Write it."))
        (completed,) = stored(service, session_id="down", event_type="agent_processing_completed")
        assert ("orchestrator", False) == (completed["data"]["agent"], completed["data"]["success"])
        assert 1 == service.client.get("/events/metrics").json()["metrics"]["errors"]["orchestrator"]["connection"]
    finally:
        model.start()
    model.play(HELLO)
    check_usable(service, "down")


def test_ten_calls_at_once(service: Service, model: OpenAIServer) -> None:
    """Each is run, handed out, put before a person or refused; the model hears of all of them, under their ids."""
    model.play(
        HELLO,
        calls(
            ("c0", "list_files", {"path": "."}),
            ("c1", "write_file", {"path": "b.txt", "content": "b"}),
            ("c2", "read_file", {"path": "no-such-file"}),
            ("c3", "launch_rocket", {"where": "to"}),
            ("c4", "read_file", "{not json"),
            ("c5", "switch_mode", {"mode": "ask"}),
            ("c6", "create_directory", {"path": "d"}),
            ("c7", "search_in_code", {"query": "text"}),
            ("c8", "read_file", {"path": 7}),
            ("c9", "read_file", '{"path": NaN}'),
            when="^user: Do",
        ),
        says("All ten."),
    )
    events = send(service, "ten", content="Do it all.", agent_type="coder")
    told = {data["call_id"]: data for _, data in events if data.get("type") == "tool_call"}
    assert {f"c{number}" for number in range(10)} == set(told)
    assert ["c1", "c6"] == [call_id for call_id, data in told.items() if data["requires_approval"]]
    assert ["c7"] == [call_id for call_id, data in told.items() if data.get("metadata") == {"remote": True}]
    assert (409, "this session waits for a decision on, or the result of, c1, c6, c7") == refusal(
        service, "ten", content="Hello?"
    )
    failed = stored(service, session_id="ten", event_type="tool_execution_failed")
    assert ["unknown_tool", "invalid_arguments", "not_allowed", "invalid_arguments", "invalid_arguments"] == [
        event["data"]["error_type"] for event in failed if event["data"]["call_id"] != "c2"
    ]
    pending = service.client.get("/sessions/ten/pending-approvals").json()["pending_approvals"]
    assert ["c1", "c6"] == [row["call_id"] for row in pending]
    assert [] == errors(send(service, "ten", type="tool_result", call_id="c7", error="no disk"))
    assert [] == errors(send(service, "ten", type="hitl_decision", call_id="c6", decision="APPROVE"))
    rejected = {"type": "hitl_decision", "call_id": "c1", "decision": "reject", "feedback": "Not that file."}
    assert "All ten." == text(send(service, "ten", **rejected))
    answers = {m["tool_call_id"]: m["content"] for m in model.bodies()[-1]["messages"] if m["role"] == "tool"}
    assert {f"c{number}" for number in range(10)} == set(answers)
    assert {"c0", "c6"} == {call_id for call_id, answer in answers.items() if not answer.startswith("Error: ")}
    assert ("Error: no disk", True) == (answers["c7"], answers["c1"].endswith("They say: Not that file."))
    requested = stored(service, session_id="ten", event_type="tool_execution_requested")
    assert (10, {"coder"}) == (len(requested), {event["data"]["agent"] for event in requested})
    check_usable(service, "ten")


def test_switching_for_ever(service: Service, model: OpenAIServer) -> None:
    """Two agents that pass a session to and fro are stopped after 50 switches; the run that wanted more has failed."""
    model.play(
        HELLO,
        to("architect"),
        {**calls(("c1", "switch_mode", {"mode": "debug"})), "when": {"system": "You are the architect"}},
        {**calls(("c1", "switch_mode", {"mode": "architect"})), "when": {"system": "You are the debugger"}},
    )
    events = send(service, "circle", content="Think.")
    assert ["too_many_switches"] == errors(events)
    assert 50 == sum(data.get("type") == "agent_switched" for _, data in events)
    switches = stored(service, session_id="circle", event_type="agent_switched")
    assert 50 == len(switches)
    assert [] == [event for event in switches if event["data"]["from_agent"] == event["data"]["to_agent"]]
    runs = stored(service, session_id="circle", event_type="agent_processing_completed")
    assert [True] * 50 + [False] == [event["data"]["success"] for event in runs]
    assert (51, "debug") == (len(runs), service.client.get("/agents/circle/current").json()["current_agent"])
    model.play(says("Hello again."))
    assert "Hello again." == text(send(service, "circle", content="Hello?"))


def test_switching_to_itself_and_to_nobody(service: Service, model: OpenAIServer) -> None:
    """The model is told; no switch happens, and none is counted."""
    model.play(
        calls(("c1", "switch_mode", {"mode": "architect"}), ("c2", "switch_mode", {"mode": "chef"})), says("I stay.")
    )
    assert "I stay." == text(send(service, "stay", content="Think.", agent_type="architect"))
    switches = stored(service, session_id="stay", event_type="agent_switched")
    assert [("orchestrator", "architect")] == [
        (event["data"]["from_agent"], event["data"]["to_agent"]) for event in switches
    ]


def test_calls_without_end(service: Service, model: OpenAIServer) -> None:
    """An agent that is never done is stopped after 50 calls of the model."""
    model.play(HELLO, calls(("c1", "list_files", {"path": "."}), when=""))
    assert ["step_limit"] == errors(send(service, "steps", content="Look.", agent_type="coder"))
    assert 50 == types(service, "steps").count("tool_execution_completed")
    assert FAILED == types(service, "steps")[-2:]
    check_usable(service, "steps")


def test_what_the_client_runs(service: Service, model: OpenAIServer) -> None:
    """A call goes to the client, and its result to the model; who answers twice, or something else, is told so."""
    model.play(calls(("r1", "search_in_code", {"query": "x"}), when="^user: Look"), says("Found.", when="^tool"), HELLO)
    send(service, "remote", content="Look.", agent_type="coder")
    assert 409 == refusal(service, "remote", content="Hello?")[0]
    assert 409 == refusal(service, "remote", type="switch_agent", agent_type="ask")[0]
    assert (404, "no result of call r2 is waited for") == refusal(
        service, "remote", type="tool_result", call_id="r2", result="x"
    )
    events = send(service, "remote", type="tool_result", call_id="r1", tool_name="search_in_code", result={"hits": [1]})
    assert "Found." == text(events)
    assert '{"hits":[1]}' == history(service, "remote")[2]["content"]
    assert 404 == refusal(service, "remote", type="tool_result", call_id="r1", result="x")[0]
    kinds = types(service, "remote")
    at = kinds.index("tool_execution_requested")
    assert ["tool_execution_requested", "tool_execution_started", "tool_execution_completed"] == kinds[at : at + 3]
    check_usable(service, "remote")


@pytest.mark.parametrize(
    ("message", "status", "said"),
    [
        ({"type": "telegram"}, 400, "'telegram'"),
        ({"content": "x", "agent_type": "chef"}, 400, "message.agent_type: there is no agent 'chef', only orchestra"),
        ({"type": "switch_agent", "agent_type": "chef"}, 400, "there is no agent 'chef'"),
        ({"type": "switch_agent", "agent_type": "ask"}, 404, "there is no session nobody"),
        ({"type": "tool_result", "result": "x"}, 400, "call_id: Field required"),
        ({"type": "hitl_decision", "decision": "approve"}, 400, "call_id: Field required"),
        ({"type": "tool_result", "call_id": "c1"}, 400, "either a result or an error"),
        ({"type": "tool_result", "call_id": "c1", "result": "x"}, 404, "there is no session nobody"),
        ({"type": "tool_result", "call_id": "c\0", "result": "x"}, 400, "call_id: Value error, has a control"),
        ({"type": "hitl_decision", "call_id": "c1", "decision": "perhaps"}, 400, "decision: must be one of"),
        ({"type": "hitl_decision", "call_id": "c1", "decision": "approve"}, 404, "no approval was asked for"),
        ({"content": ""}, 400, "content"),
        ({}, 400, "content: Field required"),
        ({"content": "x", "modified_argument": {}}, 400, "modified_argument"),
    ],
)
def test_what_is_no_message(service: Service, message: dict[str, Any], status: int, said: str) -> None:
    """It is refused before anything happens, and the answer says what was wrong."""
    answer = refusal(service, "nobody", **message)
    assert (status, True) == (answer[0], said in answer[1]), answer
    assert 404 == service.client.get("/sessions/nobody").status_code


def test_one_message_at_a_time(service: Service, model: OpenAIServer) -> None:
    """A second message while the first is under way is a 409; of many at once, one is taken."""
    model.play(says("Wait.", when="^user: Long", first_delay=1.0), HELLO)
    listeners = [Listener(service, "busy", content="Long work.", agent_type="coder") for _ in range(8)]
    streams = [listener.wait() for listener in listeners]
    assert ["Wait."] == [text(events) for events in streams if events]
    assert 1 == types(service, "busy").count("agent_processing_started")
    model.play(says("Wait.", when="^user: Long", first_delay=1.0), HELLO)
    listener = Listener(service, "busy", content="Long work.")
    service.wait_until(lambda: 2 == types(service, "busy").count("llm_request_started"), "the model to be asked")
    assert (409, "this session is in the middle of a turn; send the message when that is done") == refusal(
        service, "busy", content="Hello?"
    )
    assert "Wait." == text(listener.wait())
    check_usable(service, "busy")


def test_a_client_that_leaves(service: Service, model: OpenAIServer) -> None:
    """The call of the model is broken off, and the run is recorded as cancelled."""
    model.play(HELLO, says(*["word "] * 100, delay=0.1))
    listener = Listener(service, "leaver", content="Talk.", agent_type="coder")
    service.wait_until(lambda: text(listener.events), "the first word")
    listener.leave()
    service.wait_until(lambda: types(service, "leaver")[-2:] == FAILED, "the end of the run")
    assert "llm_request_failed" == types(service, "leaver")[-3]
    errors_ = [event["data"].get("error_type") for event in stored(service, session_id="leaver")]
    assert ["cancelled", "cancelled"] == [error for error in errors_ if error is not None]
    service.wait_until(lambda: model.seen()["left"] == 1, "the model to be left")
    check_usable(service, "leaver")


def test_a_client_that_leaves_a_running_tool(service: Service, model: OpenAIServer) -> None:
    """Who has approved over a stream and leaves cancels the tool; the call is answered, so the session goes on."""
    model.play(HELLO, calls(("c1", "execute_command", {"command": "sleep 20"})))
    send(service, "sleeper", content="Sleep.", agent_type="coder")
    listener = Listener(service, "sleeper", type="hitl_decision", call_id="c1", decision="approve")
    service.wait_until(lambda: types(service, "sleeper")[-1] == "tool_execution_started", "the tool to run")
    listener.leave()
    service.wait_until(lambda: types(service, "sleeper")[-2:] == ["agent_processing_completed", "message_added"], "it")
    (failed,) = stored(service, session_id="sleeper", event_type="tool_execution_failed")
    assert "cancelled" == failed["data"]["error_type"]
    check_usable(service, "sleeper")


def test_a_session_that_has_ended(service: Service, model: OpenAIServer) -> None:
    """It takes no message; what waited for a person is not run any more, and its run ends."""
    model.play(calls(("c1", "write_file", {"path": "late.txt", "content": "x"})))
    send(service, "ended", content="Write it.", agent_type="coder")
    assert 200 == service.client.delete("/sessions/ended").status_code
    assert (409, "session ended has been deleted") == refusal(service, "ended", content="Hello?")
    assert ["session_ended"] == errors(send(service, "ended", type="hitl_decision", call_id="c1", decision="approve"))
    assert 0 == types(service, "ended").count("tool_execution_started")
    (completed,) = stored(service, session_id="ended", event_type="agent_processing_completed")
    assert completed["data"]["success"] is False
