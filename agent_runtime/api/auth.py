"""Who may do what: one table of routes and roles, and the gate that holds every request against it."""

from __future__ import annotations

import hmac
import math
import re
import time
from collections.abc import Mapping
from enum import StrEnum
from hashlib import sha256

from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from agent_runtime.api.answers import Refusal


class Role(StrEnum):
    """What a key allows. ``ADMIN`` may do everything."""

    INGEST = "ingest"
    READ = "read"
    APPROVER = "approver"
    SCRAPE = "scrape"
    ADMIN = "admin"


Access = frozenset[Role] | None
ANYONE: Access = None
ADMINS: Access = frozenset({Role.ADMIN})


def _only(*roles: Role) -> Access:
    return frozenset({*roles, Role.ADMIN})


# Method and path template of every route. What is not here only an admin may reach; a test compares it with the routes.
ACCESS: dict[tuple[str, str], Access] = {
    ("GET", "/health"): ANYONE,
    ("GET", "/ready"): ANYONE,
    ("GET", "/docs"): ANYONE,
    ("GET", "/redoc"): ANYONE,
    ("GET", "/openapi.json"): ANYONE,
    ("GET", "/metrics"): _only(Role.SCRAPE),
    ("POST", "/events"): _only(Role.INGEST),
    ("GET", "/events"): _only(Role.READ),
    ("GET", "/events/stream"): _only(Role.READ),
    ("GET", "/events/dead-letters"): _only(Role.READ),
    ("POST", "/events/dead-letters/{letter_id}/retry"): ADMINS,
    ("GET", "/events/metrics"): _only(Role.READ),
    ("GET", "/events/metrics/session/{session_id:path}"): _only(Role.READ),
    ("GET", "/events/metrics/sessions"): _only(Role.READ),
    ("GET", "/events/audit-log"): _only(Role.READ),
    ("GET", "/events/stats"): _only(Role.READ),
    ("POST", "/sessions"): ADMINS,
    ("GET", "/sessions"): _only(Role.READ),
    ("GET", "/sessions/{session_id}"): _only(Role.READ),
    ("DELETE", "/sessions/{session_id}"): ADMINS,
    ("GET", "/sessions/{session_id}/history"): _only(Role.READ),
    ("GET", "/sessions/{session_id}/pending-approvals"): _only(Role.READ, Role.APPROVER),
    ("GET", "/agents"): _only(Role.READ),
    ("GET", "/agents/{session_id}/current"): _only(Role.READ),
    ("POST", "/agents/{session_id}/switch"): ADMINS,
    ("POST", "/agent/message/stream"): _only(Role.APPROVER),
    ("GET", "/approvals"): _only(Role.READ, Role.APPROVER),
    ("POST", "/approvals/{call_id:path}/decision"): _only(Role.APPROVER),
}
_TEMPLATES: tuple[tuple[str, re.Pattern[str], Access], ...] = tuple(
    (method, compile_path(path)[0], access) for (method, path), access in ACCESS.items() if "{" in path
)


def access_to(method: str, path: str) -> Access:
    """Who may send a request; admins only, where the table says nothing."""
    if method == "HEAD":
        method = "GET"
    try:
        return ACCESS[method, path]
    except KeyError:
        pass
    for known, template, access in _TEMPLATES:
        if known == method and template.match(path):
            return access
    return ADMINS


class Keys:
    """The keys that are configured, as hashes; compared in constant time.

    Args:
        keys: key by role; one key may stand for several roles. None at all: whoever can reach the service may do
            everything.
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        hashes: dict[bytes, set[Role]] = {}
        for role, key in keys.items():
            hashes.setdefault(sha256(key.encode()).digest(), set()).add(Role(role))
        self._keys = [(known, frozenset(roles)) for known, roles in hashes.items()]

    @property
    def exist(self) -> bool:
        """Whether any key is configured."""
        return bool(self._keys)

    def roles_of(self, key: bytes) -> frozenset[Role]:
        """The roles of a key; empty for one that is not known. Every known key is compared, found or not."""
        presented = sha256(key).digest()
        roles: frozenset[Role] = frozenset()
        for known, its_roles in self._keys:
            if hmac.compare_digest(known, presented):
                roles = its_roles
        return roles


class RateLimit:
    """A token bucket for each of a few senders, with room for one second's requests.

    Args:
        per_second: requests that each may make a second.
    """

    def __init__(self, per_second: float) -> None:
        self._rate = per_second
        self._room = max(1.0, per_second)
        self._buckets: dict[object, tuple[float, float]] = {}

    def wait(self, sender: object) -> float:
        """0 if ``sender`` may go on, else the seconds until it may."""
        now = time.monotonic()
        tokens, then = self._buckets.get(sender, (self._room, now))
        tokens = min(self._room, tokens + (now - then) * self._rate)
        if tokens >= 1.0:
            self._buckets[sender] = (tokens - 1.0, now)
            return 0.0
        self._buckets[sender] = (tokens, now)
        return (1.0 - tokens) / self._rate


class Gate:
    """Pure ASGI middleware: nothing passes that its key does not allow.

    Args:
        app: what is guarded.
        keys: the keys that are configured.
        limit: for each key, or for each address while there are no keys.
    """

    def __init__(self, app: ASGIApp, keys: Keys, limit: RateLimit | None = None) -> None:
        self._app = app
        self._keys = keys
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer it with 401, 403 or 429."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            self.check(scope)
        except Refusal as refusal:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await refusal.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def check(self, scope: Scope) -> None:
        """Hold one request against the table, and leave the roles of its key in ``scope["roles"]`` (None without keys).

        Raises:
            Refusal: 401 without a known key, 403 with one that is not enough, 429 above the rate limit.
        """
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        needed = access_to(scope.get("method", "WEBSOCKET"), path)
        if needed is None:
            return
        roles = scope["roles"] = self._roles(scope, needed) if self._keys.exist else None
        sender: object = _address(scope) if roles is None else roles
        if self._limit is not None:
            seconds = self._limit.wait(sender)
            if seconds:
                raise Refusal(429, "too many requests for this key", retry_after=math.ceil(seconds))

    def _roles(self, scope: Scope, needed: frozenset[Role]) -> frozenset[Role]:
        key = presented_key(scope)
        if key is None:
            raise Refusal(401, "a key is needed: send it in X-Internal-Auth, or as Authorization: Bearer")
        roles = self._keys.roles_of(key)
        if not roles:
            raise Refusal(401, "this key is not known")
        if roles.isdisjoint(needed):
            raise Refusal(403, f"this needs a key of the role {' or '.join(sorted(needed))}")
        return roles


def principal(scope: Scope) -> str:
    """Who sent a request that has passed the gate: the roles of its key, or its address while there are no keys."""
    roles = scope.get("roles")
    return " and ".join(sorted(roles)) if roles else f"someone at {_address(scope) or 'an unknown address'}"


def _address(scope: Scope) -> str:
    return str((scope.get("client") or ("",))[0])


def presented_key(scope: Scope) -> bytes | None:
    """The key that a request carries: ``X-Internal-Auth``, else ``Authorization: Bearer``."""
    bearer = None
    for name, value in scope["headers"]:
        if name == b"x-internal-auth":
            key: bytes = value
            return key
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            bearer = value[7:].strip()
    return bearer
