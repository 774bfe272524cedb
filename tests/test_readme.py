"""What the README prints is what happens."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from agent_runtime.settings import Settings
from telemetry.otlp_config import OtlpConfig
from tests.service import Service, environ

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
ACCEPTED = '{"accepted":2,"duplicates":0,"rejected":[]}'


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """The service where the README has it at port 8001."""
    with Service(tmp_path) as service:
        yield service


def program(words: str) -> str:
    """The one program of the README in which these words stand."""
    (found,) = (text for text in PROGRAMS if words in text)
    return found


def run(text: str, folder: Path) -> str:
    """Run a program in a folder; what it printed."""
    variables = environ(PYTHONPATH=str(ROOT))
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=folder, env=variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout


def test_three_programs() -> None:
    """Each is run by a test below."""
    assert 3 == len(PROGRAMS)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl(service: Service) -> None:
    """The command sends two events, and the answer is the printed one."""
    (command,) = (text for text in COMMANDS if text.startswith("curl"))
    variables = {**os.environ, "AGENT_RUNTIME__INGEST_KEY": "", "no_proxy": "*"}
    command = command.replace("http://127.0.0.1:8001", service.url)
    answer = subprocess.run(
        ["sh", "-c", command], env=variables, capture_output=True, text=True, timeout=30, check=True
    )
    assert ACCEPTED == answer.stdout
    assert f"`{ACCEPTED}`" in README


def test_python_over_http(service: Service, tmp_path: Path) -> None:
    """Two events, stored under the turn of the text."""
    text = program("httpx.post").replace("http://127.0.0.1:8001", service.url)
    assert "{'accepted': 2, 'duplicates': 0, 'rejected': []}\n" == run(text, tmp_path)
    page = service.client.get("/events", params={"correlation_id": "0af7651916cd43dd8448eb211c80319c"}).json()
    assert ["llm_request_started", "llm_request_completed"] == [event["event_type"] for event in page["events"]]


def test_python_on_the_bus(tmp_path: Path) -> None:
    """The subscriber is told."""
    assert "coder took 900 ms\n" == run(program("@event_bus.subscribe"), tmp_path)


def test_embedding(tmp_path: Path) -> None:
    """The series stand in the registry, and a second run counts on."""
    series = 'agent_runtime_agent_switches_total{from_agent="ask",to_agent="coder"} '
    outputs = [run(program("attach("), tmp_path) for _ in range(2)]
    assert [series + "1.0", series + "2.0"] == [
        line for output in outputs for line in output.splitlines() if line.startswith(series)
    ]


def test_opentelemetry_variables() -> None:
    """They can be used as they are printed."""
    (block,) = (text for text in COMMANDS if "OTEL_" in text)
    exports = [shlex.split(line, comments=True)[1] for line in block.splitlines() if line.startswith("export ")]
    config = OtlpConfig.from_env(dict(export.split("=", 1) for export in exports))
    assert ("http://127.0.0.1:4318/v1/traces", {"x-api-key": "your-key"}) == (config.endpoint, dict(config.headers))


def test_prometheus_scrapes_the_default_port() -> None:
    """The printed configuration is YAML and names the service's own port."""
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (job,) = yaml.safe_load(block)["scrape_configs"]
    assert [f"127.0.0.1:{Settings.model_fields['port'].default}"] == job["static_configs"][0]["targets"]
