from collections.abc import Callable
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter

from tests.otlp_fixture import OtlpReceiver


@pytest.mark.parametrize(
    "exporter",
    [
        lambda receiver: HttpExporter(endpoint=f"{receiver.http_endpoint}/v1/traces"),
        lambda receiver: GrpcExporter(endpoint=receiver.grpc_endpoint, insecure=True),
    ],
    ids=["http", "grpc"],
)
def test_the_official_exporters_deliver_to_it(tmp_path: Path, exporter: Callable[[OtlpReceiver], SpanExporter]) -> None:
    """The receiver takes what OpenTelemetry's own exporters send, and has it on disk after a crash."""
    provider = TracerProvider(resource=Resource({"service.name": "official"}))
    with OtlpReceiver(tmp_path) as receiver:
        provider.add_span_processor(SimpleSpanProcessor(exporter(receiver)))
        with provider.get_tracer("official").start_as_current_span("work", attributes={"n": 1}):
            pass
        provider.shutdown()
        receiver.stop()
        actual = [(span["name"], span["attributes"], span["resource"]) for span in receiver.spans()]

    assert [("work", {"n": 1}, {"service.name": "official"})] == actual
