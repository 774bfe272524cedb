"""One request to an OTLP backend, over HTTP, gRPC or to a console, and what came of it.

A transport sends an encoded `ExportTraceServiceRequest` once and says what happened; to wait, to try again or to split
a batch is the outbox's part. `send` never raises for what a network or a backend does, and ends within the timeout.
"""

import asyncio
import gzip
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol, TextIO
from urllib.parse import urlsplit

import grpc  # type: ignore[import-untyped]
import httpx

from telemetry.otlp_config import GRPC, OtlpConfig, OtlpConfigError
from telemetry.otlp_decode import read_spans
from telemetry.otlp_result import CLOSED, Outcome, Result, accepted, grpc_result, http_result, timed_out, unreachable

__all__ = [
    "ConsoleTransport",
    "GrpcTransport",
    "HttpTransport",
    "OtlpConfig",
    "OtlpConfigError",
    "Outcome",
    "Result",
    "Transport",
    "open_transport",
]

_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_CLOSE_SECONDS = 0.9
_LARGEST_ANSWER = 65_536
_CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    # gRPC waits up to two minutes before it tries a dead address again; the outbox decides that, not the channel.
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


class Transport(Protocol):
    """What the outbox sends with."""

    async def send(self, body: bytes) -> Result:
        """Send one encoded `ExportTraceServiceRequest`."""

    async def close(self) -> None:
        """Let go of connections, within a second; a request that is under way ends with RETRY."""


class HttpTransport:
    """OTLP/HTTP with binary protobuf bodies. Connects when first used, and belongs to that event loop."""

    def __init__(self, config: OtlpConfig) -> None:
        self._config = config
        # For complaints: without what may be secret in a URL, the user's part and the query.
        self._where = urlsplit(config.endpoint).netloc.rpartition("@")[2]
        self._client: httpx.AsyncClient | None = None
        self._closed = False
        self._headers = {"user-agent": "agent-runtime", **config.headers, "content-type": "application/x-protobuf"}
        if config.compression == "gzip":
            self._headers["content-encoding"] = "gzip"

    async def send(self, body: bytes) -> Result:
        """Post the request once; see `Result`."""
        if self._config.compression == "gzip":
            # Level 1: nearly as small as 9 for spans, at a fifth of the time. zlib releases the interpreter lock.
            body = await asyncio.to_thread(gzip.compress, body, 1)
        if self._closed:
            return CLOSED
        try:
            async with asyncio.timeout(self._config.timeout):
                return await self._post(body)
        except TimeoutError:
            return timed_out(self._config.timeout)
        except (httpx.HTTPError, OSError) as error:
            return CLOSED if self._closed else unreachable(error, self._where)

    async def close(self) -> None:
        """Close the connections."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await client.aclose()

    async def _post(self, body: bytes) -> Result:
        if self._client is None:
            # For plain HTTP no roots are loaded, which takes 60 ms.
            verify = self._config.ssl_context() if self._config.endpoint.startswith("https:") else False
            self._client = httpx.AsyncClient(verify=verify, timeout=self._config.timeout)
        request = self._client.stream("POST", self._config.endpoint, content=body, headers=self._headers)
        async with request as response:
            answer = bytearray()
            async for chunk in response.aiter_bytes():
                answer += chunk
                if len(answer) > _LARGEST_ANSWER:
                    break
            return http_result(response.status_code, response.headers, bytes(answer[:_LARGEST_ANSWER]))


class GrpcTransport:
    """OTLP/gRPC. Connects when first used, and belongs to that event loop."""

    def __init__(self, config: OtlpConfig) -> None:
        self._config = config
        self._channel: Any = None
        self._closed = False
        self._metadata = tuple(config.headers.items())

    async def send(self, body: bytes) -> Result:
        """Call `TraceService/Export` once; see `Result`."""
        if self._closed:
            return CLOSED
        if self._channel is None:
            self._channel = _open_channel(self._config)
        export = self._channel.unary_unary(_EXPORT)
        try:
            answer = await export(body, timeout=self._config.timeout, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            if self._closed:
                return CLOSED
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                await self._drop_channel()
            return grpc_result(error)
        except asyncio.CancelledError:
            # A channel that is closed cancels its calls as if their tasks had been cancelled.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return CLOSED
        return accepted(answer)

    async def close(self) -> None:
        """Close the channel."""
        self._closed = True
        await self._drop_channel()

    async def _drop_channel(self) -> None:
        """Close the channel. Also done after a timeout: a connection that went dead would be kept for minutes."""
        channel, self._channel = self._channel, None
        if channel is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await channel.close()


class ConsoleTransport:
    """Prints each span as one line of JSON (`OTEL_TRACES_EXPORTER=console`)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    async def send(self, body: bytes) -> Result:
        """Print the spans of the request; a console that is gone is tried again."""
        stream = self._stream or sys.stdout
        try:
            stream.writelines(json.dumps(record) + "\n" for record, _ in read_spans(body))
            stream.flush()
        except (OSError, ValueError) as error:
            return unreachable(error)
        return Result(Outcome.ACCEPTED)

    async def close(self) -> None:
        """Leave the stream open: it is not ours."""


def open_transport(environ: Mapping[str, str]) -> Transport | None:
    """Return the transport that `OTEL_TRACES_EXPORTER` and `OTEL_EXPORTER_OTLP_*` ask for; None if spans go nowhere.

    Raises `OtlpConfigError` naming the variable that is wrong.
    """
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() or "otlp"
    if exporter not in ("otlp", "console", "none"):
        raise OtlpConfigError(f"OTEL_TRACES_EXPORTER: {exporter!r} is not supported, use one of otlp, console, none")
    if exporter == "none" or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if exporter == "console":
        return ConsoleTransport()
    config = OtlpConfig.from_env(environ)
    return GrpcTransport(config) if config.protocol == GRPC else HttpTransport(config)


def _open_channel(config: OtlpConfig) -> Any:
    compression = grpc.Compression.Gzip if config.compression == "gzip" else grpc.Compression.NoCompression
    if config.insecure:
        return grpc.aio.insecure_channel(config.endpoint, _CHANNEL_OPTIONS, compression)
    roots, key, chain = (
        path.read_bytes() if path else None
        for path in (config.certificate, config.client_key, config.client_certificate)
    )
    credentials = grpc.ssl_channel_credentials(roots, key, chain)
    return grpc.aio.secure_channel(config.endpoint, credentials, _CHANNEL_OPTIONS, compression)
