"""The service for tests, as users run it: `agent-runtime serve`, a process of its own on a free port and a SQLite file.

    with Service(tmp_path) as service:
        service.client.post("/events", json={...})

It can be stopped, killed and started again; port and file stay.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx

START_SECONDS = 30.0
SETTLE = {"AGENT_RUNTIME__SETTLE_SECONDS": "0.2"}


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environ(**variables: str) -> dict[str, str]:
    """This process's environment without settings of ours and OpenTelemetry's, and with `variables`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AGENT_RUNTIME__", "OTEL_"))}
    return {**kept, "OTEL_TRACES_EXPORTER": "none", **variables}


class Service:
    """A running service.

    folder: where its database `events.db` and its log `service.log` are. env: variables that it is given.
    arguments: further arguments of `serve`. headers: sent by `client` with every request. program: what Python runs.
    """

    def __init__(
        self,
        folder: Path,
        env: Mapping[str, str] | None = None,
        arguments: Sequence[str] = ("--mode", "sidecar"),
        headers: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "agent_runtime.cli"),
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.database = folder / "events.db"
        self.client = httpx.Client(base_url=self.url, timeout=30, trust_env=False, headers=headers)
        self.process: subprocess.Popen[bytes] | None = None
        self._folder = folder
        self._env = environ(**{"AGENT_RUNTIME__DB_URL": f"sqlite:///{self.database}", **SETTLE, **(env or {})})
        self._arguments = arguments
        self._program = program

    def start(self) -> None:
        """Start the process; returns when it is ready."""
        command = [sys.executable, *self._program, "serve", "--port", str(self.port), *self._arguments]
        with open(self._folder / "service.log", "ab") as log:
            self.process = subprocess.Popen(command, cwd=self._folder, env=self._env, stdout=log, stderr=log)
        give_up = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > give_up:
                self.kill9()
                raise RuntimeError(f"the service did not start:\n{self.log}")
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/ready", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> int:
        """End it as an orchestrator does, with SIGTERM; its exit code. Killed, and an error, after 15 s."""
        process = self._take()
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise RuntimeError(f"the service did not stop:\n{self.log}") from None

    def kill9(self) -> None:
        """End it as a crash does."""
        process = self._take()
        process.kill()
        process.wait()

    def restart(self) -> None:
        """Stop it in order and start it again."""
        self.stop()
        self.start()

    def _take(self) -> "subprocess.Popen[bytes]":
        process, self.process = self.process, None
        assert process is not None, "it does not run"
        return process

    @property
    def log(self) -> str:
        """What it has written so far."""
        return (self._folder / "service.log").read_text(errors="replace")

    def post(self, events: Any) -> dict[str, Any]:
        """Send events as JSON; the answer, which must be a 202."""
        response = self.client.post("/events", json=events)
        assert 202 == response.status_code, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def wait_until(self, holds: Any, what: str, seconds: float = 15.0) -> None:
        """Wait until `holds()` is true."""
        give_up = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < give_up, f"waited in vain for {what}"
            time.sleep(0.05)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        if self.process is not None:
            self.kill9()
