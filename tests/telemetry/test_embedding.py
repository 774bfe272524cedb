import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.otlp_fixture import OtlpReceiver, free_ports
from tests.telemetry.folds import REPOSITORY

RUNS = 'gen_ai_invoke_agent_duration_seconds_count{error_type="",gen_ai_agent_name="coder"} '
TOKENS = (
    'gen_ai_client_inference_usage_input_tokens_total{gen_ai_agent_name="unknown",'
    'gen_ai_provider_name="openai",gen_ai_request_model="gpt-4o"} '
)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[OtlpReceiver]:
    """A backend of its own process."""
    with OtlpReceiver(tmp_path) as receiver:
        yield receiver


def value(exposition: str, series: str) -> float:
    """The value of one series in an exposition."""
    found = re.search(f"^{re.escape(series)}(.*)$", exposition, re.MULTILINE)
    assert found is not None, exposition
    return float(found[1])


def run_plain(receiver: OtlpReceiver, *arguments: str) -> str:
    """Run the asyncio program to its end; what it printed."""
    command = [sys.executable, "-m", "tests.telemetry.embedding_plain", *arguments]
    environ = {**os.environ, **receiver.environ("http/protobuf")}
    done = subprocess.run(command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout


def test_asyncio_program(receiver: OtlpReceiver) -> None:
    """Its series stand in its own registry, and its spans arrive, with events in memory."""
    assert 1 == value(run_plain(receiver, "a" * 32), RUNS)
    assert [("invoke_agent coder", "a" * 32), ("invoke_workflow", "a" * 32)] == sorted(
        (span["name"], span["trace_id"]) for span in receiver.spans()
    )


def test_asyncio_program_continues(receiver: OtlpReceiver, tmp_path: Path) -> None:
    """With a SQLite file its counters go on after a restart, and no span comes twice."""
    database = str(tmp_path / "events.db")
    counts = [value(run_plain(receiver, turn * 32, database), RUNS) for turn in "abc"]
    assert [1, 2, 3] == counts
    assert 6 == len(receiver.spans()) == len({span["span_id"] for span in receiver.spans()})


class Shop:
    """The FastAPI program as a process of its own."""

    def __init__(self, receiver: OtlpReceiver, *database: str) -> None:
        self._address = f"http://127.0.0.1:{(port := free_ports(1)[0])}"
        command = [sys.executable, "-m", "tests.telemetry.embedding_fastapi", str(port), *database]
        environ = {**os.environ, **receiver.environ("grpc")}
        self._process = subprocess.Popen(command, cwd=REPOSITORY, env=environ)

    def call(self, path: str, method: str = "GET") -> str:
        """The answer's text; empty while nobody listens."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(urllib.request.Request(self._address + path, method=method), timeout=10) as answer:
                return str(answer.read().decode())
        except urllib.error.URLError:
            return ""

    def stop(self) -> None:
        """End it as a service manager would."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(20)


def until(condition: Callable[[], Any], process: "subprocess.Popen[Any] | None" = None) -> None:
    """Wait for the condition; a test that waits in vain fails."""
    deadline = time.monotonic() + 40
    while not condition():
        assert process is None or process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_fastapi_program(receiver: OtlpReceiver, tmp_path: Path) -> None:
    """Its own series and ours stand side by side under make_asgi_app, spans arrive, and all goes on after a restart."""
    database = str(tmp_path / "events.db")
    for number, turn in enumerate("ab", 1):
        shop = Shop(receiver, database)
        try:
            until(lambda shop=shop: shop.call("/metrics/"))  # type: ignore[misc]
            assert f'{{"turn":"{turn * 32}"}}' == shop.call(f"/orders/{turn * 32}", "POST")
            until(lambda shop=shop, number=number: f"{TOKENS}{number * 1000}.0" in shop.call("/metrics/"))  # type: ignore[misc]
            until(lambda number=number: len(receiver.spans()) >= 2 * number)  # type: ignore[misc]
            assert 1 == value(shop.call("/metrics/"), "shop_orders_total ")
        finally:
            shop.stop()
    assert [("chat gpt-4o", "a" * 32), ("chat gpt-4o", "b" * 32)] == sorted(
        (span["name"], span["trace_id"]) for span in receiver.spans() if span["name"] != "invoke_workflow"
    )
    assert 4 == len(receiver.spans())
