"""``agent-runtime demo``: real agent sessions through the HTTP door, and what the service makes of them."""

from __future__ import annotations

import asyncio
import gzip
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from hashlib import blake2b
from importlib.resources import files
from typing import Any, NamedTuple

import httpx
import orjson
from prometheus_client.parser import text_string_to_metric_families

from agent_runtime.events.base_event import as_time_us, format_time_us
from agent_runtime.sender import Answer, Sender

SAMPLE = "tau_airline_sample.jsonl.gz"
BATCH = 200
POLL_SECONDS = 0.25

Series = dict[str, list[tuple[dict[str, str], float]]]


def sample_events(run: str, now_us: int) -> list[bytes]:
    """The packaged sample as if it had ended just now: one event a line, oldest first.

    Args:
        run: every id of an event, turn, call, request and session is a function of the sample's own id and of this, so
            that another run brings other events, joined in the same way.
        now_us: time of the last event, microseconds since 1970.
    """
    lines = gzip.decompress((files("agent_runtime") / "sample" / SAMPLE).read_bytes()).splitlines()
    events = [orjson.loads(line) for line in lines]
    times = [as_time_us(event["timestamp"]) for event in events]
    shift = now_us - times[-1]
    for event, time_us in zip(events, times, strict=True):
        _renew(event, run)
        event["timestamp"] = format_time_us(time_us + shift)
    return [orjson.dumps(event) for event in events]


def _renew(event: dict[str, Any], run: str) -> None:
    for key in ("event_id", "causation_id"):
        if event[key] is not None:
            event[key] = str(uuid.UUID(bytes=_hash(run, event[key]), version=5))
    if event["correlation_id"] is not None:
        event["correlation_id"] = _hash(run, event["correlation_id"]).hex()
    event["session_id"] = f"{event['session_id']}-{run[:8]}"
    data = event["data"]
    for key in ("call_id", "request_id"):
        if data.get(key) is not None:
            data[key] = f"{key.partition('_')[0]}_{_hash(run, data[key]).hex()}"


def _hash(run: str, text: str) -> bytes:
    return blake2b(f"{run}/{text}".encode(), digest_size=16).digest()


class Figure(NamedTuple):
    """One row of the table."""

    name: str
    value: str


class Demo:
    """Plays the sample into a running service, and reads the service's own metrics.

    Args:
        client: an open client.
        url: of the service.
        key: admin key, if the service has keys.
    """

    def __init__(self, client: httpx.AsyncClient, url: str, key: str | None) -> None:
        self._client = client
        self._url = url
        self._key = key

    async def play(self, progress: Callable[[int, int], None]) -> Answer:
        """Send the sample; ``progress`` is called with the events sent and their total. Raises ``NotSent``."""
        sender = Sender(self._client, self._url, self._key)
        lines = sample_events(uuid.uuid4().hex, time.time_ns() // 1_000)
        total = Answer()
        for start in range(0, len(lines), BATCH):
            total.add(await sender.send(lines[start : start + BATCH]), start)
            progress(min(start + BATCH, len(lines)), len(lines))
        return total

    async def settled(self, events: float, open_turns: float, timeout: float) -> bool:
        """Wait until the metrics show ``events`` events and at most ``open_turns`` turns; False after ``timeout`` s."""
        give_up = time.monotonic() + timeout
        while time.monotonic() < give_up:
            series = await self.metrics()
            if events_in(series) >= events and total(series, "agent_runtime_turns_open") <= open_turns:
                return True
            await asyncio.sleep(POLL_SECONDS)
        return False

    async def metrics(self) -> Series:
        """The service's ``/metrics``: labels and value of each sample, by its name."""
        headers = {"X-Internal-Auth": self._key} if self._key else {}
        response = await self._client.get(f"{self._url}/metrics", headers=headers)
        response.raise_for_status()
        series: Series = defaultdict(list)
        for family in text_string_to_metric_families(response.text):
            for sample in family.samples:
                series[sample.name].append((sample.labels, sample.value))
        return series


def events_in(series: Series) -> float:
    """How many events the metrics have counted, those about the service itself aside."""
    rows = series.get("agent_runtime_events_total", [])
    return sum(value for labels, value in rows if not labels["event_type"].startswith(("system_", "agent_registered")))


def total(series: Series, name: str, **labels: str) -> float:
    """The sum of the samples of that name which have those labels."""
    return sum(value for found, value in series.get(name, []) if labels.items() <= found.items())


def figures(series: Series) -> list[Figure]:
    """The numbers worth seeing first."""
    turns = total(series, "gen_ai_invoke_workflow_duration_seconds_count")
    turn_seconds = total(series, "gen_ai_invoke_workflow_duration_seconds_sum")
    calls = total(series, "gen_ai_execute_tool_duration_seconds_count")
    good = total(series, "gen_ai_execute_tool_duration_seconds_count", error_type="")
    decided = total(series, "agent_runtime_hitl_wait_seconds_count")
    waited = total(series, "agent_runtime_hitl_wait_seconds_sum")
    human = total(series, "agent_runtime_turn_seconds_total", phase="human")
    tokens_in = total(series, "gen_ai_client_inference_usage_input_tokens_total")
    tokens_out = total(series, "gen_ai_client_inference_usage_output_tokens_total")
    cost = total(series, "agent_runtime_llm_cost_usd_total")
    sessions = total(series, "agent_runtime_sessions_total")
    return [
        Figure("Events", f"{events_in(series):,.0f}"),
        Figure("Sessions", f"{sessions:,.0f}"),
        Figure("Turns", f"{turns:,.0f}, {_ratio(turn_seconds, turns):.1f} s on average"),
        Figure("Waiting for people", f"{_ratio(human, turn_seconds):.0%} of the turns' time"),
        Figure("Tool calls", f"{calls:,.0f}, {_ratio(good, calls):.1%} of them successful"),
        Figure("Tool that fails most", _worst_tool(series)),
        Figure("Approvals", f"{decided:,.0f}, decided after {_ratio(waited, decided):.1f} s on average"),
        Figure("Tokens", f"{tokens_in:,.0f} in, {tokens_out:,.0f} out"),
        Figure("Cost", f"${cost:,.2f}, ${_ratio(cost, sessions):.3f} a session"),
    ]


def _worst_tool(series: Series) -> str:
    failed: dict[str, float] = defaultdict(float)
    for labels, value in series.get("gen_ai_execute_tool_duration_seconds_count", []):
        if labels["error_type"]:
            failed[labels["gen_ai_tool_name"]] += value
    if not any(failed.values()):
        return "none has failed"
    tool, count = max(failed.items(), key=lambda item: item[1])
    calls = total(series, "gen_ai_execute_tool_duration_seconds_count", gen_ai_tool_name=tool)
    return f"{tool}, {count:,.0f} of {calls:,.0f}"


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
