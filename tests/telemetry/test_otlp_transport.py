import asyncio
import io
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from telemetry.otlp import OtlpEncoder, encode_span
from telemetry.otlp_transport import (
    ConsoleTransport,
    GrpcTransport,
    HttpTransport,
    OtlpConfig,
    OtlpConfigError,
    Outcome,
    Result,
    Transport,
    open_transport,
)
from telemetry.span import Span
from tests.otlp_fixture import OtlpReceiver

both = pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
ENCODER = OtlpEncoder({"service.name": "shop"}, "agent_runtime")
ACCEPTED = Result(Outcome.ACCEPTED)
SPAN = Span(
    trace_id=bytes(range(16)),
    span_id=bytes(range(8)),
    parent_span_id=b"parent__",
    name="chat gpt",
    kind=3,
    start_ns=1_700_000_000_000_000_001,
    end_ns=1_700_000_000_000_000_002,
    attributes={"session.id": "s1", "n": -5, "x": 0.5, "ok": True, "list": ["a", "é"]},
    events=((1_700_000_000_000_000_001, "switched", {"to": "coder"}),),
    dropped_events=2,
    links=((b"t" * 16, b"l" * 8, {"why": "before"}),),
    status_code=2,
    status_message="boom",
)
BODY = ENCODER.encode([SPAN])


@pytest.fixture
def otlp_receiver(tmp_path: Path) -> Iterator[OtlpReceiver]:
    """A running OTLP backend."""
    with OtlpReceiver(tmp_path) as receiver:
        yield receiver


def opened(receiver: OtlpReceiver, protocol: str, **options: object) -> Transport:
    """A transport to the receiver."""
    transport = open_transport(receiver.environ(protocol, **options))
    assert transport is not None
    return transport


async def sent(receiver: OtlpReceiver, protocol: str, body: bytes = BODY, /, **options: object) -> Result:
    """What comes of sending one body to the receiver."""
    transport = opened(receiver, protocol, **options)
    try:
        return await transport.send(body)
    finally:
        await transport.close()


async def until_accepted(transport: Transport) -> Result:
    """Send the body again and again, as an outbox would, until it is not RETRY; at most some seconds."""
    result = await transport.send(BODY)
    for _ in range(200):
        if result.outcome is not Outcome.RETRY:
            break
        await asyncio.sleep(0.05)
        result = await transport.send(BODY)
    return result


async def hung(receiver: OtlpReceiver, requests: int) -> None:
    """Wait until the receiver has seen so many requests."""
    while receiver.seen()["requests"] < requests:
        await asyncio.sleep(0.01)


@asynccontextmanager
async def answering(*parts: bytes, forever: bytes = b"", pause: float = 0) -> AsyncIterator[OtlpConfig]:
    """A server that answers any request with these bytes, then with some more for half a minute, or hangs up."""
    tasks: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await reader.readuntil(BODY)
            writer.writelines(parts)
            await writer.drain()
            for _ in range(3_000 if forever else 0):
                writer.write(forever)
                await writer.drain()
                await asyncio.sleep(pause)
            writer.close()
            await writer.wait_closed()
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield OtlpConfig(endpoint=f"http://127.0.0.1:{port}/v1/traces", timeout=2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@both
@pytest.mark.parametrize("compression", ["none", "gzip"])
async def test_a_span_arrives_whole(otlp_receiver: OtlpReceiver, protocol: str, compression: str) -> None:
    """Every field of a span, and the resource, is what the backend has when the result says accepted."""
    result = await sent(otlp_receiver, protocol, COMPRESSION=compression)
    spans = otlp_receiver.spans()
    expected = {
        "trace_id": "000102030405060708090a0b0c0d0e0f",
        "span_id": "0001020304050607",
        "parent_span_id": b"parent__".hex(),
        "name": "chat gpt",
        "kind": 3,
        "start_ns": 1_700_000_000_000_000_001,
        "end_ns": 1_700_000_000_000_000_002,
        "attributes": {"session.id": "s1", "n": -5, "x": 0.5, "ok": True, "list": ["a", "é"]},
        "events": [{"time_ns": 1_700_000_000_000_000_001, "name": "switched", "attributes": {"to": "coder"}}],
        "dropped_events": 2,
        "links": [{"trace_id": (b"t" * 16).hex(), "span_id": (b"l" * 8).hex(), "attributes": {"why": "before"}}],
        "status": {"code": 2, "message": "boom"},
        "scope": "agent_runtime",
        "resource": {"service.name": "shop"},
        "protocol": protocol,
        "sha256": spans[0]["sha256"],
    }

    assert (ACCEPTED, [expected]) == (result, spans)


@both
async def test_headers_are_sent(otlp_receiver: OtlpReceiver, protocol: str) -> None:
    """The configured headers arrive with the request, decoded."""
    await sent(otlp_receiver, protocol, HEADERS="X-Api-Key=a%20secret,tenant=b")
    headers = otlp_receiver.seen()["headers"]

    assert ("a secret", "b") == (headers["x-api-key"], headers["tenant"])


async def test_gzip_makes_http_bodies_small(otlp_receiver: OtlpReceiver) -> None:
    """With compression a body of repetitions is a fraction of its size on the wire."""
    body = ENCODER.encode([SPAN] * 100)
    await sent(otlp_receiver, "http/protobuf", body, COMPRESSION="gzip")
    seen = otlp_receiver.seen()

    assert (True, "gzip", 100) == (seen["bytes"] < len(body) / 10, seen["headers"]["content-encoding"], seen["spans"])


@both
async def test_512_spans_of_8_kib_arrive_whole(otlp_receiver: OtlpReceiver, protocol: str) -> None:
    """The batches of many large spans pass a server with its default limits, none of them missing."""
    encoded = [
        encode_span(SPAN._replace(span_id=bytes([1, 1]) + number.to_bytes(6), attributes={"text": "x" * 8_192}))
        for number in range(512)
    ]
    transport = opened(otlp_receiver, protocol)
    results = [await transport.send(ENCODER.request(batch)) for batch in ENCODER.batches(encoded)]
    await transport.close()
    ids = {span["span_id"] for span in otlp_receiver.spans() if len(span["attributes"]["text"]) == 8_192}

    assert ([ACCEPTED, ACCEPTED], 512) == (results, len(ids))


async def test_a_request_over_the_limit_of_grpc_is_too_large(otlp_receiver: OtlpReceiver) -> None:
    """Over 4 MiB, which our side sends without a limit, a gRPC server refuses; the result says why."""
    result = await sent(otlp_receiver, "grpc", ENCODER.encode([SPAN._replace(attributes={"text": "x" * 5_000_000})]))

    assert (Outcome.REFUSED, True) == (result.outcome, result.too_large)
    assert "Received message larger than max" in result.message


@both
async def test_partial_success_is_reported(otlp_receiver: OtlpReceiver, protocol: str) -> None:
    """How many spans the backend rejected, and why, is in the result; the others were taken."""
    otlp_receiver.control("partial", pattern="poison")
    body = ENCODER.encode([SPAN, SPAN._replace(name="poison"), SPAN._replace(attributes={"a": "poison"})])
    result = await sent(otlp_receiver, protocol, body)

    assert (Result(Outcome.ACCEPTED, "rejected as told", 2), 1) == (result, len(otlp_receiver.spans()))


@pytest.mark.parametrize(
    ("protocol", "status", "expected"),
    [
        ("http/protobuf", 503, Result(Outcome.RETRY, "HTTP 503: try later")),
        ("http/protobuf", 429, Result(Outcome.RETRY, "HTTP 429: refused as told")),
        ("http/protobuf", 400, Result(Outcome.REFUSED, "HTTP 400: refused as told")),
        ("http/protobuf", 401, Result(Outcome.RETRY, "HTTP 401: refused as told", misconfigured=True)),
        ("http/protobuf", 413, Result(Outcome.REFUSED, "HTTP 413: message larger than max", too_large=True)),
        ("grpc", 503, Result(Outcome.RETRY, "UNAVAILABLE: try later")),
        ("grpc", 429, Result(Outcome.RETRY, "RESOURCE_EXHAUSTED: refused as told")),
        ("grpc", 504, Result(Outcome.RETRY, "DEADLINE_EXCEEDED: refused as told")),
        ("grpc", 400, Result(Outcome.REFUSED, "INVALID_ARGUMENT: refused as told")),
        ("grpc", 500, Result(Outcome.REFUSED, "INTERNAL: refused as told", uncertain=True)),
        ("grpc", 401, Result(Outcome.RETRY, "UNAUTHENTICATED: refused as told", misconfigured=True)),
        ("grpc", 404, Result(Outcome.RETRY, "UNIMPLEMENTED: refused as told", misconfigured=True)),
        ("grpc", 413, Result(Outcome.REFUSED, "RESOURCE_EXHAUSTED: message larger than max", too_large=True)),
    ],
)
async def test_refusals(otlp_receiver: OtlpReceiver, protocol: str, status: int, expected: Result) -> None:
    """What a backend answers is told apart: again later, never, or not the spans' fault; nothing was taken."""
    otlp_receiver.control("refuse", status=status)

    assert (expected, []) == (await sent(otlp_receiver, protocol), otlp_receiver.spans())


@both
@pytest.mark.parametrize("status", [429, 503])
async def test_the_backend_says_when(otlp_receiver: OtlpReceiver, protocol: str, status: int) -> None:
    """Retry-After over HTTP and RetryInfo over gRPC are seconds in the result."""
    otlp_receiver.control("refuse", status=status, retry_after=7)
    result = await sent(otlp_receiver, protocol)

    assert (Outcome.RETRY, 7.0) == (result.outcome, result.retry_after)


@both
async def test_a_refused_share_is_even(otlp_receiver: OtlpReceiver, protocol: str) -> None:
    """The receiver that refuses 70 % of requests refuses seven of ten, and takes the spans of the others."""
    otlp_receiver.control("refuse", share=0.7)
    transport = opened(otlp_receiver, protocol)
    outcomes = [(await transport.send(BODY)).outcome for _ in range(10)]
    await transport.close()

    assert (7, 3, 3) == (
        outcomes.count(Outcome.RETRY),
        outcomes.count(Outcome.ACCEPTED),
        len(otlp_receiver.spans()),
    )


@both
async def test_a_poisoned_batch_is_refused_and_its_neighbours_are_not(
    otlp_receiver: OtlpReceiver, protocol: str
) -> None:
    """One span makes a backend refuse the batch it is in; without it the others pass."""
    otlp_receiver.control("poison", pattern="poison")
    encoded = [encode_span(SPAN), encode_span(SPAN._replace(name="poison"))]
    transport = opened(otlp_receiver, protocol)
    bodies = [encoded, encoded[1:], encoded[:1]]
    outcomes = [(await transport.send(ENCODER.request(body))).outcome for body in bodies]
    await transport.close()
    expected = [Outcome.REFUSED, Outcome.REFUSED, Outcome.ACCEPTED]

    assert (expected, ["chat gpt"]) == (outcomes, [span["name"] for span in otlp_receiver.spans()])


@both
async def test_a_hanging_backend_is_bounded_by_the_timeout(otlp_receiver: OtlpReceiver, protocol: str) -> None:
    """No answer in time is RETRY; when the backend recovers the same transport goes on."""
    otlp_receiver.control("hang")
    transport = opened(otlp_receiver, protocol, TIMEOUT=200)
    first = await transport.send(BODY)
    otlp_receiver.control("ok")
    second = await until_accepted(transport)
    await transport.close()

    assert (Outcome.RETRY, ACCEPTED) == (first.outcome, second)


@both
async def test_a_backend_that_was_down(otlp_receiver: OtlpReceiver, protocol: str) -> None:
    """While the backend is down the result is RETRY; when it is back the same transport goes on."""
    transport = opened(otlp_receiver, protocol)
    before = await transport.send(BODY)
    otlp_receiver.stop()
    down = [(await transport.send(BODY)).outcome for _ in range(3)]
    otlp_receiver.start()
    after = await until_accepted(transport)
    await transport.close()

    assert (ACCEPTED, [Outcome.RETRY] * 3, ACCEPTED) == (before, down, after)
    assert len(otlp_receiver.spans()) == 2


@both
async def test_a_host_that_does_not_exist(protocol: str) -> None:
    """A name that does not resolve is RETRY, it may be there tomorrow."""
    transport = open_transport(
        {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://nowhere.invalid:4318"}
    )
    assert transport is not None
    result = await transport.send(BODY)
    await transport.close()

    assert (Outcome.RETRY, False) == (result.outcome, result.misconfigured)


@both
async def test_closing_ends_a_request_under_way(otlp_receiver: OtlpReceiver, protocol: str) -> None:
    """Closing while the backend hangs returns, and the request returns RETRY, as does any later one."""
    otlp_receiver.control("hang")
    transport = opened(otlp_receiver, protocol, TIMEOUT=60_000)
    task = asyncio.create_task(transport.send(BODY))
    await hung(otlp_receiver, 1)
    await transport.close()
    await transport.close()

    assert [Outcome.RETRY] * 2 == [(await task).outcome, (await transport.send(BODY)).outcome]


@both
async def test_cancelling_a_request_cancels_it(otlp_receiver: OtlpReceiver, protocol: str) -> None:
    """A task that sends can be cancelled, and the transport is usable afterwards."""
    otlp_receiver.control("hang")
    transport = opened(otlp_receiver, protocol, TIMEOUT=60_000)
    task = asyncio.create_task(transport.send(BODY))
    await hung(otlp_receiver, 1)
    task.cancel()
    await asyncio.wait([task])
    otlp_receiver.control("ok")
    result = await transport.send(BODY)
    await transport.close()

    assert (True, ACCEPTED) == (task.cancelled(), result)


@both
async def test_closing_before_the_first_request(otlp_receiver: OtlpReceiver, protocol: str) -> None:
    """A transport that was never used closes, and takes nothing any more."""
    transport = opened(otlp_receiver, protocol)
    await transport.close()

    assert (Outcome.RETRY, 0) == ((await transport.send(BODY)).outcome, otlp_receiver.seen()["requests"])


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"], Outcome.ACCEPTED),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], Outcome.ACCEPTED),
        ([b"HTTP/1.1 301 Moved\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"], Outcome.RETRY),
        ([b"SSH-2.0-OpenSSH_9.2\r\n"], Outcome.RETRY),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut"], Outcome.RETRY),
        ([], Outcome.RETRY),
    ],
    ids=["text", "no content", "moved", "not http", "cut", "hangs up"],
)
async def test_strange_answers(parts: list[bytes], expected: Outcome) -> None:
    """Whatever is at the port, the transport says what to do and does not raise."""
    async with answering(*parts) as config:
        transport = HttpTransport(config)
        result = await transport.send(BODY)
        await transport.close()

    assert expected == result.outcome


async def test_an_endless_answer_is_not_read_to_its_end() -> None:
    """Of an answer without an end only the beginning is read."""
    async with answering(b"HTTP/1.1 400 Bad\r\n\r\n", forever=b"words " * 1_000) as config:
        transport = HttpTransport(config)
        result = await transport.send(BODY)
        await transport.close()

    assert (Outcome.REFUSED, 300) == (result.outcome, len(result.message))


async def test_an_answer_in_drops_is_bounded_by_the_timeout() -> None:
    """A server whose answer never ends, each drop of it in time, is cut off by the timeout of the whole request."""
    async with answering(b"HTTP/1.1 200 OK\r\n\r\n", forever=b"x", pause=0.01) as config:
        transport = HttpTransport(replace(config, timeout=0.25))
        result = await transport.send(BODY)
        await transport.close()

    assert Result(Outcome.RETRY, "no answer within 0.25 s") == result


async def test_the_console_prints_a_line_a_span() -> None:
    """Each span is one line of JSON, also if it holds line breaks and numbers that JSON lacks."""
    stream = io.StringIO()
    spans = [SPAN, SPAN._replace(name="two\nlines", attributes={"x": float("nan")})]
    result = await ConsoleTransport(stream).send(ENCODER.encode(spans))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]

    assert ACCEPTED == result
    assert [("chat gpt", 0.5), ("two\nlines", "nan")] == [(line["name"], line["attributes"]["x"]) for line in lines]


async def test_a_console_that_is_gone_is_no_crash() -> None:
    """Printing to a closed stream is RETRY."""
    stream = io.StringIO()
    transport = ConsoleTransport(stream)
    stream.close()
    result = await transport.send(BODY)
    await transport.close()

    assert Outcome.RETRY == result.outcome


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, HttpTransport),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, GrpcTransport),
        ({"OTEL_TRACES_EXPORTER": "Console"}, ConsoleTransport),
        ({"OTEL_TRACES_EXPORTER": "none"}, type(None)),
        ({"OTEL_SDK_DISABLED": "TRUE"}, type(None)),
        ({"OTEL_SDK_DISABLED": "no"}, HttpTransport),
    ],
)
def test_the_environment_chooses_the_transport(environ: dict[str, str], expected: type[Any]) -> None:
    """OTEL_TRACES_EXPORTER, the protocol and OTEL_SDK_DISABLED choose where spans go."""
    assert expected is type(open_transport(environ))


def test_an_unknown_exporter_is_an_error() -> None:
    """An exporter that we lack is refused by name, at the start."""
    with pytest.raises(OtlpConfigError, match=r"^OTEL_TRACES_EXPORTER: 'zipkin' is not supported"):
        open_transport({"OTEL_TRACES_EXPORTER": "zipkin"})


@pytest.fixture
def identity(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate that is its own issuer, for 127.0.0.1, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(
        [*command.split(), "-keyout", str(key), "-out", str(certificate)], check=True, stderr=subprocess.DEVNULL
    )
    return certificate, key


@both
async def test_mutual_tls(tmp_path: Path, identity: tuple[Path, Path], protocol: str) -> None:
    """With CERTIFICATE, CLIENT_CERTIFICATE and CLIENT_KEY spans go over TLS; without them nothing does."""
    certificate, key = identity
    arguments = ("--certificate", str(certificate), "--key", str(key))
    files = {"CERTIFICATE": certificate, "CLIENT_CERTIFICATE": certificate, "CLIENT_KEY": key}
    with OtlpReceiver(tmp_path, *arguments) as receiver:
        endpoint = (receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint).replace("http", "https")
        outcomes = [
            (await sent(receiver, protocol, BODY, ENDPOINT=endpoint, TIMEOUT=5_000, **options)).outcome
            for options in (files, {"CERTIFICATE": certificate}, {})
        ]

    assert [Outcome.ACCEPTED, Outcome.RETRY, Outcome.RETRY] == outcomes
    assert len(receiver.spans()) == 1
