"""Health, readiness, and the scrape."""

from collections.abc import Iterator

import pytest

from agent_runtime import __version__
from tests.service import Service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all of them."""
    with Service(tmp_path_factory.mktemp("views")) as service:
        yield service


def test_health(service: Service) -> None:
    """The three keys that users know."""
    expected = {"status": "healthy", "service": "agent-runtime", "version": __version__}
    assert expected == service.client.get("/health").json()


def test_ready(service: Service) -> None:
    """Ready once the folds have caught up."""
    response = service.client.get("/ready")
    assert (200, {"status": "ready"}) == (response.status_code, response.json())


@pytest.mark.parametrize(
    ("accept", "content_type", "end"),
    [
        ("", "text/plain", False),
        ("*/*", "text/plain", False),
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "application/openmetrics-text", True),
    ],
)
def test_metrics(service: Service, accept: str, content_type: str, end: bool) -> None:
    """A plain 200 on /metrics, in the format that is asked for, with one charset."""
    response = service.client.get("/metrics", headers={"Accept": accept})
    assert 200 == response.status_code
    assert response.headers["content-type"].startswith(content_type)
    assert 1 == response.headers["content-type"].count("charset")
    assert end == response.text.endswith("# EOF\n")
    assert "agent_runtime_events_total" in response.text


def test_own_figures(service: Service) -> None:
    """Beside the folds: process metrics, and how far each projection is behind."""
    text = service.client.get("/metrics").text
    assert "process_resident_memory_bytes" in text
    for projection in ("metrics", "metrics_collector", "audit_logger", "session_metrics_collector"):
        assert f'agent_runtime_projection_lag_events{{projection="{projection}"}} 0.0' in text


def test_the_docs_pages(service: Service) -> None:
    """The schema names every view, and the pages that show it are there."""
    assert {200} == {service.client.get(path).status_code for path in ("/docs", "/redoc")}
    paths = service.client.get("/openapi.json").json()["paths"]
    assert {"/events", "/events/stream", "/events/audit-log", "/metrics", "/health", "/ready"} <= paths.keys()
