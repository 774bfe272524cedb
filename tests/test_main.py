"""The service as a whole: what it does at its start and its end, in order and out of order."""

import contextlib
import gzip
import json
import threading
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.examples import switched
from tests.otlp_fixture import OtlpReceiver
from tests.service import Service

SAMPLE = gzip.decompress((files("agent_runtime") / "sample" / "tau_airline_sample.jsonl.gz").read_bytes()).splitlines()


@pytest.fixture
def otlp_receiver(tmp_path: Path) -> Iterator[OtlpReceiver]:
    """A backend for spans."""
    with OtlpReceiver(tmp_path) as receiver:
        yield receiver


def stored(service: Service, **filters: str) -> list[dict[str, Any]]:
    """All events that match."""
    events: list[dict[str, Any]] = []
    cursor: int | None = 0
    while cursor is not None:
        page = service.client.get("/events", params={"limit": 1000, "cursor": cursor, **filters}).json()
        events += page["events"]
        cursor = page["next_cursor"]
    return events


def test_start_and_stop_are_events(tmp_path: Path) -> None:
    """Each start and each orderly stop is recorded; a kill leaves no stop."""
    with Service(tmp_path) as service:
        service.restart()
        service.kill9()
        service.start()
        types = [event["event_type"] for event in stored(service)]
    assert ["system_startup", "system_shutdown", "system_startup", "system_startup"] == types


def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    """A kill -9 in the middle of ingest: each event that was answered is there; sending all again adds the rest."""
    acknowledged: list[str] = []
    ids = [json.loads(line)["event_id"] for line in SAMPLE]
    with Service(tmp_path) as service:

        def send() -> None:
            with httpx.Client(base_url=service.url, trust_env=False) as client:
                for start in range(0, len(SAMPLE), 20):
                    try:
                        body = b"\n".join(SAMPLE[start : start + 20])
                        response = client.post(
                            "/events", content=body, headers={"Content-Type": "application/x-ndjson"}
                        )
                    except httpx.TransportError:
                        return
                    assert 202 == response.status_code
                    acknowledged.extend(ids[start : start + 20])

        thread = threading.Thread(target=send)
        thread.start()
        service.wait_until(lambda: len(acknowledged) >= 400, "some events to be acknowledged")
        service.kill9()
        thread.join()
        service.start()
        found = {event["event_id"] for event in stored(service)}
        assert set() == set(acknowledged) - found
        headers = {"Content-Type": "application/x-ndjson"}
        answer = service.client.post("/events", content=b"\n".join(SAMPLE), headers=headers).json()
        known = len(set(ids) & found)
        assert (len(ids) - known, known) == (answer["accepted"], answer["duplicates"])
        positions = [event["position"] for event in stored(service)]
        assert list(range(1, len(positions) + 1)) == positions


def test_it_stops_within_five_seconds(tmp_path: Path, otlp_receiver: OtlpReceiver) -> None:
    """With an open stream, a request that never ends, and a backend that takes spans and never answers."""
    otlp_receiver.control("hang")
    environ = {"OTEL_TRACES_EXPORTER": "otlp", **otlp_receiver.environ("http/protobuf")}
    with Service(tmp_path, environ) as service:
        headers = {"Content-Type": "application/x-ndjson"}
        assert 202 == service.client.post("/events", content=b"\n".join(SAMPLE), headers=headers).status_code
        service.wait_until(lambda: otlp_receiver.seen()["requests"] > 0, "the backend to be asked")
        ended = threading.Event()

        def follow() -> None:
            with httpx.stream("GET", f"{service.url}/events/stream", timeout=30, trust_env=False) as response:
                if "event: end" in list(response.iter_lines()):
                    ended.set()

        def body() -> Iterator[bytes]:
            yield b"["
            time.sleep(8)

        def hold() -> None:
            with contextlib.suppress(httpx.TransportError):
                httpx.post(f"{service.url}/events", content=body(), timeout=30, trust_env=False)

        threads = [threading.Thread(target=target, daemon=True) for target in (follow, hold)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        began = time.monotonic()
        assert 0 == service.stop()
        # The bar of the design itself, not a measurement.
        assert time.monotonic() - began < 5
        assert ended.wait(1)
        service.start()
        assert len(SAMPLE) == sum(not event["event_type"].startswith("system_") for event in stored(service))


def test_one_store_one_service(tmp_path: Path) -> None:
    """A second service on the same file does not start, and says why."""
    with Service(tmp_path) as service:
        other = Service(tmp_path)
        with pytest.raises(RuntimeError, match="in use by another process"):
            other.start()
        other.client.close()
        assert 200 == service.client.get("/health").status_code


@pytest.mark.parametrize("disabled", ["true", "false"])
def test_with_and_without_the_sdk(tmp_path: Path, disabled: str) -> None:
    """OTEL_SDK_DISABLED switches spans off, and nothing else; on the console they bear the resource of the
    variables."""
    environ = {
        "AGENT_RUNTIME__LATE_SECONDS": "0.2",
        "OTEL_TRACES_EXPORTER": "console",
        "OTEL_SDK_DISABLED": disabled,
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test,team=a%20b",
    }
    turn = {"session_id": "s1", "correlation_id": "4bf92f3577b34da6a3ce929d0e0e4736"}
    call = {"tool_name": "read_file", "call_id": "c1"}
    events = [
        {"event_type": "tool_execution_started", **turn, "data": call},
        {"event_type": "tool_execution_completed", **turn, "data": {**call, "duration_ms": 1, "result_length": 1}},
    ]
    with Service(tmp_path, environ) as service:
        assert 2 == service.post(events)["accepted"]
        settled = 'gen_ai_invoke_workflow_duration_seconds_count{error_type=""} 1.0'
        service.wait_until(lambda: settled in service.client.get("/metrics").text, "the turn to settle")
        assert 0 == service.stop()
        assert "Traceback" not in service.log
        spans = [json.loads(line) for line in service.log.splitlines() if line.startswith('{"trace_id"')]
    names = [] if disabled == "true" else ["execute_tool read_file", "invoke_workflow"]
    assert names == sorted(span["name"] for span in spans)
    for span in spans:
        resource = span["resource"]
        found = [resource.get(key) for key in ("service.name", "deployment.environment.name", "team")]
        assert ["shop", "test", "a b"] == found


def test_memory_store(tmp_path: Path) -> None:
    """`memory://` serves everything but a restart."""
    with Service(tmp_path, {"AGENT_RUNTIME__DB_URL": "memory://"}) as service:
        assert 1 == service.post(switched())["accepted"]
        assert 2 == len(stored(service))
        assert 1 == service.client.get("/events/audit-log").json()["count"]
        assert 0 == service.stop()
        assert not service.database.exists()
