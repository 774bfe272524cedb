"""The classic views: exactly the keys that users know, over real events."""

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.examples import switched
from tests.service import Service

FAILURE = {"tool_name": "write_file", "call_id": "c3", "error_message": "e", "error_type": "E"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that was sent one session with a switch, a run, tools, decisions, an error and model calls."""
    with Service(tmp_path_factory.mktemp("classic")) as service:
        kinds: list[tuple[str, dict[str, Any]]] = [
            ("agent_switched", {"from_agent": "orchestrator", "to_agent": "coder", "reason": "code"}),
            ("agent_processing_completed", {"agent": "coder", "duration_ms": 1000.126, "success": True}),
            ("agent_processing_completed", {"agent": "coder", "duration_ms": 2000, "success": False}),
            ("agent_error_occurred", {"agent": "coder", "error_message": "no", "error_type": "FileNotFoundError"}),
            ("tool_execution_requested", {"tool_name": "write_file", "arguments": {"path": "x"}, "call_id": "c1"}),
            ("tool_approval_required", {"tool_name": "write_file", "arguments": {"path": "x"}, "call_id": "c1"}),
            ("hitl_decision_made", {"call_id": "c1", "decision": "approve", "tool_name": "write_file"}),
            ("tool_execution_completed", {"tool_name": "write_file", "call_id": "c1", "duration_ms": 5}),
            ("tool_execution_completed", {"tool_name": "write_file", "call_id": "c2", "duration_ms": 5}),
            ("tool_execution_failed", FAILURE),
            ("llm_request_completed", {"model": "m", "duration_ms": 10, "prompt_tokens": 7, "completion_tokens": 3}),
            ("llm_request_failed", {"model": "m", "error": "e", "error_type": "timeout", "duration_ms": 20}),
        ]  # fmt: skip
        service.post([switched(event_type=kind, data=data) for kind, data in kinds])
        service.wait_until(lambda: get(service, "/events/metrics/sessions")["count"] == 1, "the folds")
        yield service


def get(service: Service, path: str, **parameters: Any) -> Any:
    """The JSON of a path, which must be a 200."""
    response = service.client.get(path, params=parameters)
    assert 200 == response.status_code, response.text
    return response.json()


def test_metrics(service: Service) -> None:
    """Counts, means to 2 decimals, rates to 3, and the time."""
    body = get(service, "/events/metrics")
    assert ["metrics", "computed", "timestamp"] == list(body)
    expected = {
        "agent_switches": {"orchestrator_to_coder": 1},
        "agent_processing": {
            "coder": {"count": 2, "total_duration_ms": 3000.126, "success_count": 1, "failure_count": 1}
        },
        "tool_executions": {"write_file": {"requested": 1, "completed": 2, "failed": 1, "requires_approval": 1}},
        "hitl_decisions": {"write_file": {"APPROVE": 1, "EDIT": 0, "REJECT": 0}},
        "errors": {"coder": {"FileNotFoundError": 1}},
    }
    assert expected == body["metrics"]
    assert {"coder_avg_duration_ms": 1500.06, "write_file_success_rate": 0.667} == body["computed"]


def test_audit_log(service: Service) -> None:
    """Rows, their count, and the filters that were asked for; `limit` takes the last ones."""
    body = get(service, "/events/audit-log")
    assert ["audit_log", "count", "filters"] == list(body)
    assert [
        *("agent_switched", "agent_error", "tool_approval_required", "hitl_decision_made", "tool_execution_failed")
    ] == [row["event_type"] for row in body["audit_log"]]
    assert (5, {"session_id": None, "event_type": None, "limit": 100}) == (body["count"], body["filters"])
    last = get(service, "/events/audit-log", limit=1, session_id="s1")
    assert ["tool_execution_failed"] == [row["event_type"] for row in last["audit_log"]]
    assert {"session_id": "s1", "event_type": None, "limit": 1} == last["filters"]


@pytest.mark.parametrize(
    ("event_type", "count"),
    [("agent_switched", 1), ("agent.switched", 1), ("agent_error_occurred", 1), ("agent_error", 1), ("nothing", 0)],
)
def test_audit_log_by_type(service: Service, event_type: str, count: int) -> None:
    """Either spelling, and both names of an agent's error."""
    assert count == get(service, "/events/audit-log", event_type=event_type)["count"]


def test_stats(service: Service) -> None:
    """What the bus has done; the system's own start is one of the events."""
    body = get(service, "/events/stats")
    keys = ["total_published", "successful_handlers", "failed_handlers", "last_event_time", "success_rate"]
    assert keys == list(body)
    assert (13, 0, 1.0) == (body["total_published"], body["failed_handlers"], body["success_rate"])
    assert body["last_event_time"].endswith("Z")


def test_session_metrics(service: Service) -> None:
    """The totals of one session, of all, and a 404 in the known words."""
    body = get(service, "/events/metrics/session/s1")
    assert {
        *("session_id", "total_requests", "successful_requests", "failed_requests", "total_duration_ms"),
        *("average_duration_ms", "total_prompt_tokens", "total_completion_tokens", "total_tokens"),
        *("average_tokens_per_request", "requests_with_tools", "requests"),
    } == body.keys()
    assert (2, 1, 1, 30.0, 10.0, 10) == tuple(
        body[key]
        for key in (
            *("total_requests", "successful_requests", "failed_requests"),
            *("total_duration_ms", "average_duration_ms", "total_tokens"),
        )
    )
    assert {"sessions": [body], "count": 1} == get(service, "/events/metrics/sessions")
    missing = service.client.get("/events/metrics/session/no/such")
    assert (404, {"error": "No metrics found for session no/such"}) == (missing.status_code, missing.json())


def test_they_survive_a_restart(service: Service) -> None:
    """Each view says after a restart what it said before, but for what the process itself has done."""
    paths = ["/events/metrics", "/events/audit-log", "/events/metrics/sessions"]

    def views() -> str:
        bodies = [get(service, path) for path in paths]
        bodies[0].pop("timestamp")
        return json.dumps(bodies)

    before = views()
    service.restart()
    assert before == views()
    service.kill9()
    service.start()
    assert before == views()


def test_the_sample(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The packaged sessions, gzip as they lie there: every tool call that was requested has ended."""
    from importlib.resources import files

    body = (files("agent_runtime") / "sample" / "tau_airline_sample.jsonl.gz").read_bytes()
    headers = {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}
    requested = sum(
        json.loads(line)["event_type"] == "tool_execution_requested" for line in gzip.decompress(body).splitlines()
    )
    with Service(tmp_path_factory.mktemp("sample")) as service:
        assert 2_660 == service.client.post("/events", content=body, headers=headers).json()["accepted"]

        def tools() -> list[dict[str, int]]:
            return list(get(service, "/events/metrics")["metrics"]["tool_executions"].values())

        service.wait_until(lambda: sum(tool["requested"] for tool in tools()) == requested, "the folds")
        service.wait_until(
            lambda: sum(tool["completed"] + tool["failed"] for tool in tools()) == requested, "the calls to end"
        )
