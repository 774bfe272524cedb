"""Who may do what."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.routing import Route

from agent_runtime.api.auth import ACCESS, ADMINS, Keys, RateLimit, Role, access_to
from agent_runtime.main import create_app
from agent_runtime.settings import Settings
from tests.api.examples import switched
from tests.service import Service

KEYS = {role: f"the-key-of-{role}-0123456789" for role in Role}
VARIABLES = {
    "AGENT_RUNTIME__INTERNAL_API_KEY": KEYS[Role.ADMIN],
    "AGENT_RUNTIME__INGEST_KEY": KEYS[Role.INGEST],
    "AGENT_RUNTIME__READ_KEY": KEYS[Role.READ],
    "AGENT_RUNTIME__APPROVER_KEY": KEYS[Role.APPROVER],
    "AGENT_RUNTIME__SCRAPE_KEY": KEYS[Role.SCRAPE],
}
EXAMPLES = {"{letter_id}": "1", "{session_id:path}": "s1"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a key for every role."""
    with Service(tmp_path_factory.mktemp("auth"), VARIABLES) as service:
        service.client.post("/events", json=switched(), headers={"X-Internal-Auth": KEYS[Role.INGEST]})
        yield service


def routes() -> list[tuple[str, str]]:
    """Method and path of every route of the application."""
    app = create_app(Settings(db_url="memory://"))
    found = []

    def walk(items: Any) -> None:
        for route in items:
            if isinstance(route, Route | APIRoute):
                found.extend((method, route.path) for method in (route.methods or ()) if method != "HEAD")
            else:
                walk(route.original_router.routes)

    walk(app.routes)
    return sorted(found)


def test_every_route_declares_its_role() -> None:
    """A route that is not in the table can be reached by admins only; none may be forgotten."""
    assert [] == [route for route in routes() if route not in ACCESS]
    assert ("POST", "/events") in routes()


def example(path: str) -> str:
    """A path that fits a template."""
    for template, value in EXAMPLES.items():
        path = path.replace(template, value)
    return path


def test_the_table_is_found_by_path() -> None:
    """Every row is found by a path that fits it; whatever is in no row is for admins."""
    assert dict(ACCESS) == {(method, path): access_to(method, example(path)) for method, path in ACCESS}
    assert (
        ADMINS == access_to("POST", "/no/such/path") == access_to("DELETE", "/events") == access_to("GET", "/events/")
    )


@pytest.mark.parametrize(("method", "path"), ACCESS)
@pytest.mark.parametrize("role", [None, *Role])
def test_each_role_on_each_route(service: Service, method: str, path: str, role: Role | None) -> None:
    """401 without a key, 403 with one that is not enough, and neither with one that is."""
    if path == "/events/stream":
        pytest.skip("an open stream has no end; it is tested on its own")
    headers = {} if role is None else {"X-Internal-Auth": KEYS[role]}
    status = service.client.request(method, example(path), headers=headers).status_code
    access = ACCESS[method, path]
    if access is None or role in access:
        assert status not in (401, 403)
    else:
        assert (401 if role is None else 403) == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-Internal-Auth": KEYS[Role.READ]}, 200),
        ({"Authorization": f"Bearer {KEYS[Role.READ]}"}, 200),
        ({"Authorization": f"bearer  {KEYS[Role.READ]}"}, 200),
        ({"Authorization": f"Basic {KEYS[Role.READ]}"}, 401),
        ({"X-Internal-Auth": "wrong"}, 401),
        ({"X-Internal-Auth": ""}, 401),
        ({"X-Internal-Auth": KEYS[Role.READ] + "x"}, 401),
        ({"X-Internal-Auth": "wrong", "Authorization": f"Bearer {KEYS[Role.READ]}"}, 401),
        ({"X-Internal-Auth": "\xff".encode("latin-1").decode("latin-1")}, 401),
    ],
)
def test_how_a_key_is_sent(service: Service, headers: dict[str, str], status: int) -> None:
    """In either header; X-Internal-Auth goes first; an error is JSON, and a 401 says what to send."""
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    response = service.client.get("/events/stats", headers=raw)
    assert status == response.status_code
    if status == 401:
        assert "error" in response.json()
        assert "Bearer" == response.headers["www-authenticate"]


def test_keys_are_never_logged(service: Service) -> None:
    """Not at the start, not for a request that is refused."""
    service.client.get("/events", headers={"X-Internal-Auth": "a-wrong-key-0123456789"})
    assert [] == [key for key in [*KEYS.values(), "a-wrong-key-0123456789"] if key in service.log]


def test_without_keys_it_says_so(tmp_path: Path) -> None:
    """On a loopback address everything is open, and the log says it loudly."""
    with Service(tmp_path) as service:
        assert 200 == service.client.get("/events").status_code
        assert "no keys are configured" in service.log


def test_one_key_closes_the_rest(tmp_path: Path) -> None:
    """With an ingest key alone, nobody may read."""
    with Service(tmp_path, {"AGENT_RUNTIME__INGEST_KEY": "only-ingest"}) as service:
        headers = {"X-Internal-Auth": "only-ingest"}
        assert 202 == service.client.post("/events", json=switched(), headers=headers).status_code
        assert (401, 403) == (
            service.client.get("/events").status_code,
            service.client.get("/events", headers=headers).status_code,
        )


def test_one_key_for_two_roles() -> None:
    """It has both, and a key that is unknown has none."""
    keys = Keys({"ingest": "a", "read": "a", "scrape": "b"})
    assert [{Role.INGEST, Role.READ}, {Role.SCRAPE}, set()] == [set(keys.roles_of(key)) for key in (b"a", b"b", b"c")]


def test_the_rate_limit_is_per_sender() -> None:
    """Each sender has a second's worth of requests at once; then it is told how long to wait."""
    limit = RateLimit(2)
    assert [True, True, False] == [limit.wait("a") == 0 for _ in range(3)]
    assert 0 < limit.wait("a") <= 0.5
    assert 0 == limit.wait("b")


def test_too_many_requests(tmp_path: Path) -> None:
    """A 429 with Retry-After for that key; another key and the open routes go on."""
    variables = {**VARIABLES, "AGENT_RUNTIME__RATE_LIMIT_PER_SECOND": "0.01"}
    with Service(tmp_path, variables) as service:

        def post(key: str) -> httpx.Response:
            return service.client.post("/events", json=switched(), headers={"X-Internal-Auth": key})

        assert [202, 429, 202] == [post(KEYS[role]).status_code for role in (Role.INGEST, Role.INGEST, Role.ADMIN)]
        assert 90 < int(post(KEYS[Role.INGEST]).headers["retry-after"]) <= 100
        assert 200 == service.client.get("/health").status_code
