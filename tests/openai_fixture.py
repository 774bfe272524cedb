"""The OpenAI-compatible endpoint for tests, on a port that stays its own while it is stopped and started again.

A test module makes it a fixture:

    @pytest.fixture(scope="module")
    def model_server() -> Iterator[OpenAIServer]:
        with OpenAIServer() as server:
            yield server
"""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, Self

from tests.openai_server import Row
from tests.otlp_fixture import free_ports

REPOSITORY = Path(__file__).parents[1]


class OpenAIServer:
    """A process that runs `tests.openai_server`."""

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self._process: subprocess.Popen[str] | None = None

    @property
    def base_url(self) -> str:
        """What AGENT_RUNTIME__LLM_PROXY_URL is for it."""
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Start the process, without a scenario; returns when it listens."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.openai_server", "--port", str(self.port)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            self.stop()
            raise RuntimeError("the model's test server did not start, see its standard error")

    def stop(self) -> None:
        """Kill the process, as a crash would."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def play(self, *rows: Row) -> None:
        """Play these rows from now on (see `tests.openai_server`), and forget what was seen."""
        self._call(json.dumps(rows).encode())

    def seen(self) -> dict[str, Any]:
        """Since the scenario began: `requests` (headers, body), `open` streams, and how many the client has `left`."""
        return self._call(None)

    def bodies(self) -> list[dict[str, Any]]:
        """The bodies of the requests since the scenario began."""
        return [request["body"] for request in self.seen()["requests"]]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _call(self, body: bytes | None) -> dict[str, Any]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.port}/control", body, timeout=10) as response:
            answer: dict[str, Any] = json.load(response)
        return answer
