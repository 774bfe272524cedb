"""The OTLP receiver for tests, on ports that stay its own while it is stopped and started again.

A test module makes it a fixture:

    @pytest.fixture
    def otlp_receiver(tmp_path: Path) -> Iterator[OtlpReceiver]:
        with OtlpReceiver(tmp_path) as receiver:
            yield receiver
"""

import json
import random
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, Self

REPOSITORY = Path(__file__).parents[1]


class OtlpReceiver:
    """A receiver process (`tests.otlp_receiver`) that writes to `spans.jsonl` in a directory.

    arguments: further command-line arguments of the process.
    """

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.file = directory / "spans.jsonl"
        self.http_port, self.grpc_port = free_ports(2)
        self._arguments = arguments
        self._process: subprocess.Popen[str] | None = None

    @property
    def http_endpoint(self) -> str:
        """What OTEL_EXPORTER_OTLP_ENDPOINT is for http/protobuf."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc_endpoint(self) -> str:
        """What OTEL_EXPORTER_OTLP_ENDPOINT is for grpc."""
        return f"http://127.0.0.1:{self.grpc_port}"

    def environ(self, protocol: str, **options: object) -> dict[str, str]:
        """The OTEL_EXPORTER_OTLP_* variables that point here; options such as TIMEOUT=500 are added."""
        endpoint = self.grpc_endpoint if protocol == "grpc" else self.http_endpoint
        variables = {"PROTOCOL": protocol, "ENDPOINT": endpoint, **options}
        return {f"OTEL_EXPORTER_OTLP_{name}": str(value) for name, value in variables.items()}

    def start(self) -> None:
        """Start the process; returns when it listens."""
        command = [sys.executable, "-m", "tests.otlp_receiver", "--file", str(self.file)]
        ports = ["--http-port", str(self.http_port), "--grpc-port", str(self.grpc_port)]
        self._process = subprocess.Popen(
            [*command, *ports, *self._arguments],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.stop()
            raise RuntimeError("the OTLP receiver did not start, see its standard error")

    def stop(self) -> None:
        """Kill the process, as a crash would; what it took is in the file."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def control(self, mode: str, **options: object) -> None:
        """Set how it behaves, see `tests.otlp_receiver`."""
        self._call(json.dumps({"mode": mode, **options}).encode())

    def seen(self) -> dict[str, Any]:
        """The counts since the start: requests, refused, spans; and headers, bytes and protocol of the last request."""
        return self._call(None)

    def spans(self) -> list[dict[str, Any]]:
        """Every span that was taken, in the order of arrival, over all starts."""
        if not self.file.exists():
            return []
        whole = self.file.read_bytes().rpartition(b"\n")[0]  # the last line may be under way
        return [json.loads(line) for line in whole.splitlines()]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _call(self, body: bytes | None) -> dict[str, Any]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.http_endpoint}/control", body, timeout=10) as response:
            answer: dict[str, Any] = json.load(response)
        return answer


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, below those that systems hand to outgoing connections.

    Among those, a client that calls a stopped receiver again and again could be connected to itself.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            if port not in ports and probe.connect_ex(("127.0.0.1", port)) != 0:
                ports.append(port)
    return ports
