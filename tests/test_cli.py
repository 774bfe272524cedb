"""The command line, as users type it."""

import gzip
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent_runtime.demo import sample_events
from agent_runtime.events import parse_event
from agent_runtime.events.base_event import format_time_us
from tests.api.examples import switched
from tests.service import SETTLE, Service, environ, free_port

SAMPLE = gzip.decompress((files("agent_runtime") / "sample" / "tau_airline_sample.jsonl.gz").read_bytes())
NOW_US = 1_800_000_000_000_000


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A running service."""
    with Service(tmp_path) as service:
        yield service


def run(
    *arguments: str, stdin: bytes = b"", folder: Path | None = None, env: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Run `agent-runtime` with these arguments; exit code, standard output, standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "agent_runtime.cli", *arguments],
        input=stdin,
        cwd=folder,
        env=environ(**(env or {})),
        capture_output=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def total(service: Service) -> int:
    """How many agent events the service has."""
    sessions = service.client.get("/metrics").text.splitlines()
    rows = [line for line in sessions if line.startswith("agent_runtime_events_total{") and "system_" not in line]
    return int(sum(float(line.split()[-1]) for line in rows))


@pytest.mark.parametrize("name", ["sample.jsonl", "sample.jsonl.gz", "-"])
def test_ingest(service: Service, tmp_path: Path, name: str) -> None:
    """A plain file, a gzip file, and standard input; a second time everything is known."""
    if name != "-":
        (tmp_path / name).write_bytes(gzip.compress(SAMPLE) if name.endswith("gz") else SAMPLE)
    arguments = ["ingest", name, "--url", service.url, "--batch", "300"]
    expected = [
        (0, "accepted 2660, duplicates 0, rejected 0\n", ""),
        (0, "accepted 0, duplicates 2660, rejected 0\n", ""),
    ]
    for code, output, errors in expected:
        found = run(*arguments, stdin=SAMPLE if name == "-" else b"", folder=tmp_path)
        assert (code, output, errors) == (found[0], found[1], "" if "Traceback" not in found[2] else found[2])
    assert [] == list(tmp_path.glob("*.ingest*"))


def test_ingest_of_several_files(service: Service, tmp_path: Path) -> None:
    """Their answers are added up; blank lines are none, and the last line needs no end."""
    lines = [json.dumps(switched()) for _ in range(6)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines[:4]))
    (tmp_path / "b.jsonl").write_text("\n\n" + "\r\n".join(lines[2:]) + "\n\n")
    code, output, _ = run("ingest", "a.jsonl", "b.jsonl", "--url", service.url, folder=tmp_path)
    assert (0, "accepted 6, duplicates 2, rejected 0\n") == (code, output)


def test_ingest_names_what_is_refused(service: Service, tmp_path: Path) -> None:
    """Exit code 1, and file, line and reason of the first few."""
    good = json.dumps(switched())
    lines = [good, "", "no JSON", *[json.dumps(switched(event_type="x")) for _ in range(6)], good]
    (tmp_path / "bad.jsonl").write_text("\n".join(lines))
    code, output, errors = run("ingest", "bad.jsonl", "--url", service.url, "--batch", "4", folder=tmp_path)
    assert (1, "accepted 1, duplicates 1, rejected 7\n") == (code, output)
    assert [
        "bad.jsonl, line 3: is not valid JSON: Expecting value: line 1 column 1 (char 0)",
        *[f"bad.jsonl, line {number}: event_type: there is no event type 'x'" for number in range(4, 8)],
        "and 2 more",
    ] == errors.strip().splitlines()[-6:]


def test_ingest_of_nothing_but_rubbish(service: Service, tmp_path: Path) -> None:
    """A batch in which nothing is JSON is a 400; the next one is sent all the same."""
    (tmp_path / "bad.jsonl").write_text(f"a\nb\n{json.dumps(switched())}\n")
    code, output, errors = run("ingest", "bad.jsonl", "--url", service.url, "--batch", "2", folder=tmp_path)
    assert (1, "accepted 1, duplicates 0, rejected 2\n") == (code, output)
    assert "bad.jsonl, line 2: the body is not JSON" in errors


def test_ingest_splits_what_is_too_large(tmp_path: Path) -> None:
    """What is too large for the service is halved until it fits; a line that never does is named."""
    lines = [json.dumps(switched()) for _ in range(20)]
    lines[7] = json.dumps(switched(data={"from_agent": "a", "to_agent": "b", "reason": "x" * 3_000}))
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    limits = {"AGENT_RUNTIME__MAX_BODY_BYTES": "2048", "AGENT_RUNTIME__MAX_BATCH_EVENTS": "3"}
    with Service(tmp_path, limits) as service:
        code, output, errors = run("ingest", "a.jsonl", "--url", service.url, folder=tmp_path)
    assert (1, "accepted 19, duplicates 0, rejected 1\n") == (code, output)
    assert "a.jsonl, line 8: the body has more than 2048 bytes" in errors


def test_ingest_with_a_key(tmp_path: Path) -> None:
    """From the flag or the service's own variable; without it the answer says what is missing."""
    (tmp_path / "a.jsonl").write_text(json.dumps(switched()))
    with Service(tmp_path, {"AGENT_RUNTIME__INGEST_KEY": "an-ingest-key"}) as service:
        arguments = ["ingest", "a.jsonl", "--url", service.url]
        code, _, errors = run(*arguments, folder=tmp_path)
        assert (1, True) == (code, "401: a key is needed" in errors)
        assert 0 == run(*arguments, "--key", "an-ingest-key", folder=tmp_path)[0]
        assert 0 == run(*arguments, folder=tmp_path, env={"AGENT_RUNTIME__INGEST_KEY": "an-ingest-key"})[0]


def test_ingest_waits_for_a_service_that_is_away(tmp_path: Path) -> None:
    """It is started first, the service is killed in the middle and started again: everything arrives once."""
    (tmp_path / "sample.jsonl").write_bytes(SAMPLE)
    service = Service(tmp_path)
    results: list[tuple[int, str, str]] = []
    command = ["ingest", "sample.jsonl", "--url", service.url, "--batch", "10"]
    sender = threading.Thread(target=lambda: results.append(run(*command, folder=tmp_path)))
    sender.start()
    with service:
        service.wait_until(lambda: total(service) > 100, "some events")
        service.kill9()
        service.start()
        sender.join(60)
        service.wait_until(lambda: total(service) == 2_660, "all events")
    code, output, _ = results[0]
    accepted, duplicates, rejected = (int(part.split()[-1]) for part in output.split(","))
    assert (0, 2_660, 0) == (code, accepted + duplicates, rejected)


def test_ingest_gives_up_and_goes_on(service: Service, tmp_path: Path) -> None:
    """A run that finds the service gone stops with exit code 1; the next one goes on behind what was acknowledged."""
    lines = [json.dumps(switched()) for _ in range(30)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    arguments = ["ingest", "a.jsonl", "--batch", "10", "--patience", "0"]
    answers = iter([202, 202, 503])
    with server(lambda: next(answers)) as url:
        code, _, errors = run(*arguments, "--url", url, folder=tmp_path)
        assert (1, True) == (code, "goes on where it stopped" in errors)
        note = json.loads((tmp_path / "a.jsonl.ingest").read_text())
        assert (url, 20) == (note["url"], note["lines"])
        answers = iter([202])
        assert (0, "accepted 10, duplicates 0, rejected 0\n") == run(*arguments, "--url", url, folder=tmp_path)[:2]
    # Of another service nothing is known.
    assert (0, "accepted 30, duplicates 0, rejected 0\n") == run(*arguments, "--url", service.url, folder=tmp_path)[:2]


def test_ingest_comes_back_when_it_is_told(tmp_path: Path) -> None:
    """After a 429 or a 503 with Retry-After it sends the same batch again, not before."""
    (tmp_path / "a.jsonl").write_text(json.dumps(switched()))
    asked: list[float] = []
    answers = iter([429, 503, 202])

    def answer() -> int:
        asked.append(time.monotonic())
        return next(answers)

    with server(answer, retry_after="1") as url:
        assert 0 == run("ingest", "a.jsonl", "--url", url, folder=tmp_path)[0]
    assert 3 == len(asked)
    assert min(asked[1] - asked[0], asked[2] - asked[1]) >= 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ingest", "nothing.jsonl"], "nothing.jsonl can't be read"),
        (["ingest", "broken.jsonl.gz"], "broken.jsonl.gz can't be read"),
        (["ingest", "a.jsonl", "--url", "nonsense"], "nonsense"),
        (["ingest", "a.jsonl", "--url", "http://127.0.0.1:1", "--patience", "0"], "took nothing"),
        (["ingest", "a.jsonl", "--batch", "0"], "--batch"),
        (["ingest"], "Missing argument"),
        (["serve", "--mode", "proxy"], "AGENT_RUNTIME__MODE"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: list[str], words: str) -> None:
    """A sentence, an exit code that is not 0, no traceback."""
    (tmp_path / "a.jsonl").write_text(json.dumps(switched()))
    (tmp_path / "broken.jsonl.gz").write_bytes(gzip.compress(SAMPLE)[:1_000])
    url = [] if "--url" in arguments or arguments[0] == "serve" else ["--url", "http://127.0.0.1:1"]
    patience = [] if "--patience" in arguments or arguments[0] == "serve" else ["--patience", "0"]
    code, _, errors = run(*arguments, *url, *patience, folder=tmp_path)
    assert code != 0
    assert words in errors
    assert "Traceback" not in errors


def server(answer: Any, retry_after: str = "0") -> "Stub":
    """A server that answers each POST with the status that `answer()` gives, and takes everything with a 202."""
    return Stub(answer, retry_after)


class Stub:
    """See `server`."""

    def __init__(self, answer: Any, retry_after: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                """Answer as told."""
                lines = self.rfile.read(int(self.headers["Content-Length"])).splitlines()
                status = answer()
                body = (
                    {"accepted": len(lines), "duplicates": 0, "rejected": []} if status == 202 else {"error": "later"}
                )
                self.send_response(status)
                self.send_header("Retry-After", retry_after)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def test_demo(tmp_path: Path) -> None:
    """It plays the sample, shows what its own /metrics says, and where to look; a second run adds new sessions."""
    variables = {**SETTLE, "AGENT_RUNTIME__DB_URL": f"sqlite:///{tmp_path}/demo.db", "COLUMNS": "120"}
    for runs in (1, 2):
        port = free_port()
        code, output, errors = run("demo", "--once", "--port", str(port), folder=tmp_path, env=variables)
        assert 0 == code, errors
        rows = dict(
            (part.strip() for part in line.strip("│").split("│", 1))
            for line in output.splitlines()
            if line.count("│") == 3
        )
        assert (f"{2_660 * runs:,}", f"{30 * runs}") == (rows["Events"], rows["Sessions"])
        assert f"{282 * runs:,}, 7.1 s on average" == rows["Turns"]
        assert f"{181 * runs:,}, 91.7% of them successful" == rows["Tool calls"]
        assert f"{45 * runs}, decided after 29.4 s on average" == rows["Approvals"]
        assert f"{1_165_256 * runs:,} in, {25_796 * runs:,} out" == rows["Tokens"]
        assert rows["Cost"].startswith("$3.17" if runs == 1 else "$6.34")
        assert f"http://127.0.0.1:{port}/metrics" in output


def test_demo_beside_another_service(tmp_path: Path) -> None:
    """Where the port is taken it takes the next one, and says so; it goes on serving until it is told to stop."""
    with Service(tmp_path) as service:
        command = [sys.executable, "-m", "agent_runtime.cli", "demo", "--port", str(service.port)]
        variables = environ(**SETTLE, AGENT_RUNTIME__DB_URL="memory://")
        process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            port = int(first.rstrip(".\n").split()[-1])
            assert f"Port {service.port} is taken, so this is port {port}.\n" == first
            for line in process.stdout:
                if line.startswith("Serving until Ctrl-C"):
                    break
            assert 200 == httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code
        finally:
            process.terminate()
            process.communicate(timeout=20)
        assert 0 == process.returncode


def test_the_sample_is_moved_to_now() -> None:
    """The last event is now, every event is valid, and each run brings ids of its own, joined as before."""
    original = [json.loads(line) for line in SAMPLE.splitlines()]
    first, again, other = ([parse_event(line) for line in sample_events(run, NOW_US)] for run in ("one", "one", "two"))
    assert format_time_us(NOW_US) == format_time_us(first[-1].time_us)
    assert max(event.time_us for event in first) == NOW_US
    assert [event.to_dict() for event in first] == [event.to_dict() for event in again]
    for key in ("event_id", "session_id", "correlation_id"):
        assert set() == {getattr(event, key) for event in first} & {getattr(event, key) for event in other} - {None}

    def joins(rows: list[Any], get: Any) -> list[Any]:
        """For each event, the index of its cause, and the first index with the same session, turn, call and request."""
        index = {get(row, "event_id"): number for number, row in enumerate(rows)}
        seen: dict[Any, int] = {}
        return [
            (
                index.get(get(row, "causation_id")),
                *(
                    seen.setdefault((key, value), number) if value is not None else None
                    for key, value in (
                        ("session", get(row, "session_id")),
                        ("turn", get(row, "correlation_id")),
                        ("call", get(row, "data").get("call_id")),
                        ("request", get(row, "data").get("request_id")),
                    )
                ),
            )
            for number, row in enumerate(rows)
        ]

    assert joins(original, lambda row, key: row[key]) == joins(first, getattr)
    assert all(event.correlation_id is None or len(event.correlation_id) == 32 for event in first)


def test_the_wheel_has_the_sample() -> None:
    """The sample, where it comes from, and its licence lie in the package."""
    folder = files("agent_runtime") / "sample"
    assert ["LICENSE-tau-bench.txt", "README.md", "tau_airline_sample.jsonl.gz"] == sorted(
        path.name for path in folder.iterdir()
    )
    assert "Copyright (c) 2024 Sierra" in (folder / "LICENSE-tau-bench.txt").read_text()
