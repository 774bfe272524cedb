"""A real Prometheus for tests: on loopback, on free ports, with exemplar storage, in a directory of the test's own."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

_START_SECONDS = 30.0
_SCRAPE_SECONDS = 30.0
_POLL_SECONDS = 0.05


class PrometheusServer:
    """Prometheus, scraping the targets while the `with` block lasts.

    Args:
        targets: Addresses (`host:port`) whose `/metrics` it scrapes, as job `test`.
        directory: Where its configuration, data and log go; a test's `tmp_path`.
        rule_files: Recording and alerting rules to load.
        scrape_seconds: How often it scrapes and evaluates rules.
        authorization: Bearer token that it sends to the targets.
        flags: Further command line flags.

    Raises:
        AssertionError: If it does not start, if a target cannot be scraped, or if a query is wrong; with its own words.
    """

    def __init__(
        self,
        targets: Sequence[str],
        directory: Path,
        *,
        rule_files: Iterable[Path] = (),
        scrape_seconds: float = 0.2,
        authorization: str | None = None,
        flags: Sequence[str] = (),
    ) -> None:
        self._directory = directory
        self._flags = list(flags)
        self._target_count = len(targets)
        every = f"{int(scrape_seconds * 1000)}ms"
        job: dict[str, Any] = {"job_name": "test", "static_configs": [{"targets": list(targets)}]}
        if authorization is not None:
            job["authorization"] = {"credentials": authorization}
        self._config = {
            "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
            "storage": {"exemplars": {"max_exemplars": 100_000}},
            "rule_files": [str(path) for path in rule_files],
            "scrape_configs": [job],
        }
        self.url = ""

    def __enter__(self) -> Self:
        binary = installed("prometheus")
        config = self._directory / "prometheus.yml"
        config.write_text(yaml.safe_dump(self._config))
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [
            binary,
            f"--config.file={config}",
            f"--storage.tsdb.path={self._directory / 'prometheus-data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--enable-feature=exemplar-storage",
            "--log.level=warn",
            *self._flags,
        ]
        self._log = (self._directory / "prometheus.log").open("w+b")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)
        try:
            _until(self._is_ready, _START_SECONDS, lambda: f"Prometheus did not start: {self.log()}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def query(self, expression: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Returns the values of an instant query now, by labels in order, without `job` and `instance`."""
        answer = self.get("/api/v1/query", query=expression)
        if answer["resultType"] == "scalar":
            return {(): float(answer["result"][1])}
        return {_labels(series["metric"]): float(series["value"][1]) for series in answer["result"]}

    def value(self, expression: str) -> float:
        """Returns the one value of an instant query."""
        values = self.query(expression)
        assert len(values) == 1, f"{expression} has {len(values)} values: {values}"
        return next(iter(values.values()))

    def query_exemplars(self, expression: str, start: float, end: float) -> list[dict[str, Any]]:
        """Returns the exemplars of a selector such as `x_bucket`, as the API gives them: labels, value, timestamp.

        `start` and `end` are in seconds since the epoch and are compared with the exemplars' own times.
        """
        answer = self.get("/api/v1/query_exemplars", query=expression, start=str(start), end=str(end))
        return [exemplar for series in answer for exemplar in series["exemplars"]]

    def wait_until_scraped(self, timeout: float = _SCRAPE_SECONDS) -> None:
        """Returns when every target was scraped with success after this call, and the result can be queried.

        Args:
            timeout: Seconds to wait for each of the two scrapes that this takes.
        """
        # Two, because a scrape is reported just before its samples are committed.
        self._wait_for_a_scrape(timeout)
        self._wait_for_a_scrape(timeout)

    def get(self, path: str, **parameters: str) -> Any:
        """Returns the `data` of an API answer.

        Raises:
            AssertionError: If Prometheus refuses the request.
        """
        try:
            with urlopen(f"{self.url}{path}?{urlencode(parameters)}", timeout=10) as answer:
                return json.load(answer)["data"]
        except URLError as error:
            words = error.read().decode() if hasattr(error, "read") else ""
            raise AssertionError(f"{path} {parameters}: {error} {words}") from None

    def log(self) -> str:
        """Returns what Prometheus wrote so far."""
        return (self._directory / "prometheus.log").read_text()

    def _is_ready(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"Prometheus ended with {self._process.returncode}: {self.log()}")
        try:
            with urlopen(f"{self.url}/-/ready", timeout=1):
                return True
        except OSError:
            return False

    def _wait_for_a_scrape(self, timeout: float) -> None:
        before = {target["scrapeUrl"]: target["lastScrape"] for target in self._targets()}

        def is_done() -> bool:
            now = self._targets()  # empty until Prometheus has read its own configuration
            return len(now) == self._target_count and all(
                target["health"] == "up" and target["lastScrape"] != before.get(target["scrapeUrl"]) for target in now
            )

        _until(is_done, timeout, lambda: f"not scraped: {self._targets()}")

    def _targets(self) -> list[dict[str, Any]]:
        active: list[dict[str, Any]] = self.get("/api/v1/targets", state="active")["activeTargets"]
        return active


def installed(program: str) -> str:
    """Returns the path of one of Prometheus' programs; without it the test is skipped, or fails where `CI=true`."""
    path = shutil.which(program)
    if path is not None:
        return path
    reason = f"{program} is not installed (Debian package: prometheus)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def free_port() -> int:
    """Returns a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _labels(metric: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in metric.items() if name not in ("job", "instance")))


def _until(is_done: Callable[[], bool], timeout: float, complaint: Callable[[], str]) -> None:
    deadline = time.monotonic() + timeout
    while not is_done():
        assert time.monotonic() < deadline, complaint()
        time.sleep(_POLL_SECONDS)
