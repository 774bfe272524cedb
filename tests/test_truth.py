"""Real agent runs through the whole service: every number that anyone can look at equals the truth."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests import real_data
from tests.otlp_fixture import OtlpReceiver
from tests.prometheus_server import PrometheusServer
from tests.real_data import domain_series, lines, total, truth
from tests.service import Service

NDJSON = {"content-type": "application/x-ndjson"}
PATIENT = {"AGENT_RUNTIME__SETTLE_SECONDS": "5"}
SPANS = {"invoke_workflow": 1096, "invoke_agent": 1096, "chat": 1808, "execute_tool": 862, "await_approval": 184}


@pytest.fixture(scope="module", autouse=True)
def data() -> None:
    """The data must be there before a server is started for them."""
    real_data.require()


def send(service: Service, events: Sequence[bytes], batch: int = 500) -> Counter[str]:
    """Send events in batches; how many were accepted, duplicates and rejected."""
    outcome: Counter[str] = Counter()
    for start in range(0, len(events), batch):
        response = service.client.post("/events", content=b"\n".join(events[start : start + batch]), headers=NDJSON)
        assert 202 == response.status_code, response.text
        answer = response.json()
        outcome.update(accepted=answer["accepted"], duplicates=answer["duplicates"], rejected=len(answer["rejected"]))
    return outcome


def exposition(service: Service) -> str:
    """What Prometheus would get."""
    return service.client.get("/metrics").text


def settle(service: Service) -> str:
    """The exposition once no turn is open and every projection has caught up."""

    def settled() -> bool:
        text = exposition(service)
        return not total(text, "agent_runtime_turns_open") and not total(text, "agent_runtime_projection_lag_events")

    service.wait_until(settled, "the turns to settle", 60)
    return exposition(service)


def check(service: Service) -> str:
    """Hold metrics, JSON views and audit log against the truth; the settled exposition."""
    text, true = settle(service), truth()
    for kind, count in true["by_type"].items():
        assert count == total(text, "agent_runtime_events_total", event_type=kind), kind
    for tool, count in true["tool_requested"].items():
        failed = true["tool_failed"].get(tool, 0)
        label = {"gen_ai_tool_name": tool}
        duration = "gen_ai_execute_tool_duration_seconds_count"
        assert count == total(text, "agent_runtime_tool_requests_total", **label), tool
        assert count - failed == total(text, duration, error_type="", **label), tool
        assert count == total(text, duration, **label), tool
    for tool, count in true["hitl_approved"].items():
        label = {"gen_ai_tool_name": tool}
        assert count == total(text, "agent_runtime_hitl_requests_total", **label), tool
        assert count == total(text, "agent_runtime_hitl_decisions_total", decision="approve", **label), tool
        assert count == total(text, "agent_runtime_hitl_wait_seconds_count", **label), tool
    sums = {
        "agent_runtime_agent_switches_total": true["switches"],
        "agent_runtime_sessions_total": true["sessions"],
        "gen_ai_client_inference_usage_input_tokens_total": true["prompt_tokens"],
        "gen_ai_client_inference_usage_output_tokens_total": true["completion_tokens"],
        "gen_ai_client_inference_duration_seconds_count": true["llm_requests"],
        "gen_ai_invoke_agent_duration_seconds_count": true["turns_completed"],
        "gen_ai_invoke_workflow_duration_seconds_count": true["turns_completed"],
        "agent_runtime_hitl_pending": 0,
        "agent_runtime_sessions_active": 0,
        "agent_runtime_agents_active": 0,
        "agent_runtime_late_events_total": 0,
        "agent_runtime_negative_durations_total": 0,
    }
    assert sums == {name: total(text, name) for name in sums}
    assert true["messages_user"] == total(text, "agent_runtime_messages_total", role="user")
    assert true["messages_assistant"] == total(text, "agent_runtime_messages_total", role="assistant")
    check_views(service)
    return text


def check_views(service: Service) -> None:
    """Hold ``/events/metrics`` and ``/events/audit-log`` against the truth."""
    true = truth()
    metrics = service.client.get("/events/metrics").json()["metrics"]
    tools = metrics["tool_executions"]
    assert true["tool_requested"] == {tool: row["requested"] for tool, row in tools.items()}
    assert true["tool_failed"] == {tool: row["failed"] for tool, row in tools.items() if row["failed"]}
    approvals = {tool: row["requires_approval"] for tool, row in tools.items() if row["requires_approval"]}
    assert true["hitl_approved"] == approvals
    assert true["hitl_approved"] == {tool: row["APPROVE"] for tool, row in metrics["hitl_decisions"].items()}
    assert true["switches"] == sum(metrics["agent_switches"].values())
    assert true["turns_completed"] == sum(row["count"] for row in metrics["agent_processing"].values())
    audit = service.client.get("/events/audit-log", params={"limit": 10_000}).json()
    kinds = Counter(row["event_type"] for row in audit["audit_log"])
    audited = ("agent_switched", "hitl_decision_made", "tool_execution_failed", "tool_approval_required")
    assert {kind: true["by_type"][kind] for kind in audited} == dict(kinds)


def test_the_ingest_command_brings_in_the_truth(tmp_path: Path) -> None:
    """`agent-runtime ingest` of the whole file: metrics, views and audit equal the truth; sent again, nothing moves."""
    with Service(tmp_path) as service:
        command = [sys.executable, "-m", "agent_runtime.cli", "ingest", str(real_data.EVENTS), "--url", service.url]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert 0 == done.returncode, done.stderr
        before = check(service)
        assert {"accepted": 0, "duplicates": 11_139, "rejected": 0} == send(service, lines())
        assert domain_series(before) == domain_series(check(service))


def test_order_duplicates_and_a_crash_change_nothing(tmp_path: Path) -> None:
    """Shuffled, doubled, and cut by a ``kill -9`` with all sent again: the same bytes as in order."""
    (tmp_path / "ordered").mkdir()
    (tmp_path / "crashed").mkdir()
    with Service(tmp_path / "ordered", PATIENT) as service:
        send(service, lines())
        expected = domain_series(check(service))
    shuffled = list(lines()) * 2
    random.Random(7).shuffle(shuffled)
    with Service(tmp_path / "crashed", PATIENT) as service:
        send(service, shuffled[: len(shuffled) // 3])
        service.kill9()
        service.start()
        send(service, shuffled)
        assert expected == domain_series(check(service))
        service.kill9()
        service.start()
        assert expected == domain_series(check(service))


def test_prometheus_answers_the_truth_and_its_exemplars_lead_to_spans(tmp_path: Path) -> None:
    """A real Prometheus scrapes the service; PromQL gives the true counts, exemplars name exported spans."""
    with OtlpReceiver(tmp_path) as receiver, Service(tmp_path, traces(receiver, "http/protobuf")) as service:
        send(service, lines())
        settle(service)
        began = time.time()
        with PrometheusServer([f"127.0.0.1:{service.port}"], tmp_path, scrape_seconds=1.0) as prometheus:
            prometheus.wait_until_scraped()
            true = truth()
            assert true["prompt_tokens"] == prometheus.value("sum(gen_ai_client_inference_usage_input_tokens_total)")
            failures = 'sum(gen_ai_execute_tool_duration_seconds_count{error_type!=""})'
            assert sum(true["tool_failed"].values()) == prometheus.value(failures)
            share = 'sum(agent_runtime_turn_seconds_total{phase="human"}) / sum(agent_runtime_turn_seconds_total)'
            assert prometheus.value(share) == pytest.approx(seconds_waited() / seconds_of_turns())
            wait_until_exported(receiver)
            exported: dict[str, set[str]] = {}
            for span in receiver.spans():
                exported.setdefault(span["trace_id"], set()).add(span["span_id"])
            day = 86_400
            for name in (
                "gen_ai_execute_tool_duration_seconds_bucket",
                "gen_ai_client_inference_duration_seconds_bucket",
                "gen_ai_invoke_agent_duration_seconds_bucket",
                "gen_ai_invoke_workflow_duration_seconds_bucket",
                "agent_runtime_hitl_wait_seconds_bucket",
            ):
                found = prometheus.query_exemplars(name, 1_793_000_000 - day, began + day)
                assert found, name
                for exemplar in found:
                    labels = exemplar["labels"]
                    assert labels["span_id"] in exported[labels["trace_id"]], name


def seconds_of_turns() -> float:
    """The summed length of all turns, from the file alone."""
    times: dict[str, list[datetime]] = {}
    for line in lines():
        event = json.loads(line)
        if event["correlation_id"]:
            times.setdefault(event["correlation_id"], []).append(datetime.fromisoformat(event["timestamp"]))
    return sum((max(moments) - min(moments)).total_seconds() for moments in times.values())


def seconds_waited() -> float:
    """The summed time between each decision and the request that is its cause, from the file alone."""
    events = {event["event_id"]: event for event in map(json.loads, lines())}
    moment = {event_id: datetime.fromisoformat(event["timestamp"]) for event_id, event in events.items()}
    decisions = [event for event in events.values() if event["event_type"] == "hitl_decision_made"]
    return sum((moment[d["event_id"]] - moment[d["causation_id"]]).total_seconds() for d in decisions)


def traces(receiver: OtlpReceiver, protocol: str) -> dict[str, str]:
    """The variables that send spans there."""
    return {"OTEL_TRACES_EXPORTER": "otlp", **receiver.environ(protocol, TIMEOUT=1000)}


def wait_until_exported(receiver: OtlpReceiver, seconds: float = 90.0) -> None:
    """Wait until as many different spans have arrived as there are."""
    give_up = time.monotonic() + seconds
    while len({span["span_id"] for span in receiver.spans()}) < sum(SPANS.values()):
        assert time.monotonic() < give_up, f"{len(receiver.spans())} spans arrived"
        time.sleep(0.2)


def check_spans(spans: list[dict[str, Any]]) -> None:
    """Hold what a backend received against the truth."""
    by_id: dict[str, dict[str, Any]] = {}
    for span in spans:
        # A crash may send a span again, and then it is the same span to the last byte.
        assert by_id.setdefault(span["span_id"], span)["sha256"] == span["sha256"]
    assert SPANS == Counter(span["name"].split()[0] for span in by_id.values())
    traces_of_events = {line.partition(b'"correlation_id":"')[2][:32].decode() for line in lines()} - {""}
    for span in by_id.values():
        attributes = span["attributes"]
        parent = span["parent_span_id"]
        assert span["trace_id"] == attributes["agent_runtime.correlation_id"]
        assert span["trace_id"] in traces_of_events
        assert attributes["session.id"] == attributes["gen_ai.conversation.id"]
        assert "agent_runtime.event_id" in attributes
        assert span["name"] == "invoke_workflow" if not parent else by_id[parent]["trace_id"] == span["trace_id"]


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[OtlpReceiver]:
    """A backend that is up."""
    with OtlpReceiver(tmp_path) as running:
        yield running


def backend_down(receiver: OtlpReceiver, service: Service) -> None:
    """The backend comes up only after everything was sent."""
    receiver.stop()
    send(service, lines())
    time.sleep(1)
    receiver.start()


def backend_hangs(receiver: OtlpReceiver, service: Service) -> None:
    """The backend accepts connections and answers nothing for a while."""
    receiver.control("hang")
    send(service, lines())
    time.sleep(2)
    receiver.control("ok")


def backend_refuses(receiver: OtlpReceiver, service: Service) -> None:
    """The backend refuses 70 % of all requests."""
    receiver.control("refuse", share=0.7)
    send(service, lines())


def backend_broken(receiver: OtlpReceiver, service: Service) -> None:
    """The backend answers 500 (INTERNAL) to everything for a while."""
    receiver.control("refuse", status=500)
    send(service, lines())
    service.wait_until(lambda: receiver.seen()["requests"] >= 3, "a few tries", 60)
    receiver.control("ok")


def service_killed(receiver: OtlpReceiver, service: Service) -> None:
    """The service dies twice while it exports."""
    for part in (lines()[:6_000], lines()[5_000:]):
        send(service, part)
        before = len(receiver.spans())
        service.wait_until(lambda before=before: len(receiver.spans()) > before, "spans", 30)
        service.kill9()
        service.start()


def all_is_well(receiver: OtlpReceiver, service: Service) -> None:
    """Nothing goes wrong."""
    send(service, lines())


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize(
    "happens", [all_is_well, backend_down, backend_hangs, backend_refuses, backend_broken, service_killed]
)
def test_every_span_arrives_whatever_happens(
    tmp_path: Path, receiver: OtlpReceiver, protocol: str, happens: Callable[[OtlpReceiver, Service], None]
) -> None:
    """All spans, no orphan, none twice, trace ids from correlation ids, session ids everywhere; over HTTP and gRPC."""
    with Service(tmp_path, {**traces(receiver, protocol), **PATIENT}) as service:
        happens(receiver, service)
        wait_until_exported(receiver)
        settle(service)
        spans = receiver.spans()
        check_spans(spans)
        if happens is not service_killed:
            assert len(spans) == len({span["span_id"] for span in spans})
