"""A real OTLP backend for tests, a process of its own: `python -m tests.otlp_receiver --file spans.jsonl`.

It serves OTLP/HTTP and OTLP/gRPC on loopback with the servers' usual limits, prints its ports as one line of JSON, and
appends every span it takes to the file, one JSON object a line (`telemetry.otlp_decode`, and `sha256` of the span's
bytes and `protocol`), synced to the disk before it answers. It ends when its standard input does.

`POST /control` on the HTTP port sets how it behaves, `GET /control` tells what it has seen:

    {"mode": "ok"}
    {"mode": "hang"}                                       takes requests, never answers, keeps nothing
    {"mode": "refuse", "share": 0.7, "status": 503, "retry_after": 2}      seven of every ten requests, evenly
    {"mode": "poison", "pattern": "regex", "status": 400}  refuses requests with a span whose name or attributes match
    {"mode": "partial", "pattern": "regex"}                takes a request, but for such spans (partial_success)
"""

import argparse
import gzip
import hashlib
import json
import os
import re
import ssl
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from telemetry.otlp_decode import read_spans

GRPC_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.UNIMPLEMENTED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
WORDS = {413: "message larger than max", 503: "try later"}


@dataclass(frozen=True)
class Answer:
    """What a request is answered: an HTTP status, and for 200 how many spans were rejected."""

    status: int = 200
    message: str = ""
    rejected: int = 0
    retry_after: int | None = None

    def response(self) -> bytes:
        """The body of an accepted request."""
        response = ExportTraceServiceResponse()
        if self.rejected:
            response.partial_success.rejected_spans = self.rejected
            response.partial_success.error_message = self.message
        return response.SerializeToString()

    def error(self) -> bytes:
        """The body, or the gRPC details, of a refusal."""
        status = Status(code=GRPC_CODES[self.status].value[0], message=self.message)
        if self.retry_after is not None:
            info = RetryInfo()
            info.retry_delay.seconds = self.retry_after
            status.details.add().Pack(info)
        return bytes(status.SerializeToString())


class Receiver:
    """What both servers share: the mode, the counts, the file."""

    def __init__(self, file: Path) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._changed = threading.Condition()
        self._mode: Mapping[str, Any] = {"mode": "ok"}
        self._considered = 0
        self._seen: dict[str, Any] = {"requests": 0, "refused": 0, "spans": 0, "bytes": 0, "headers": {}}

    def control(self, mode: Mapping[str, Any]) -> None:
        """Behave like this from now on; requests that hang are dropped."""
        with self._changed:
            self._mode, self._considered = mode, 0
            self._changed.notify_all()

    def seen(self) -> dict[str, Any]:
        """Tell the mode and the counts since the start; headers and bytes are those of the last request."""
        with self._changed:
            return {**self._mode, **self._seen}

    def receive(self, body: bytes, protocol: str, headers: Mapping[str, str], sent_bytes: int) -> Answer | None:
        """Take or refuse a request as the mode says. None: leave it unanswered."""
        with self._changed:
            self._seen["requests"] += 1
            self._seen |= {"headers": dict(headers), "bytes": sent_bytes, "protocol": protocol}
            mode = self._mode
            if mode["mode"] == "hang":
                self._changed.wait_for(lambda: self._mode is not mode)
                return None
            answer = self._decide(mode, body, protocol)
            self._seen["refused"] += answer.status != 200
            return answer

    def _decide(self, mode: Mapping[str, Any], body: bytes, protocol: str) -> Answer:
        status = mode.get("status", 400 if mode["mode"] == "poison" else 503)
        refusal = Answer(status, WORDS.get(status, "refused as told"), retry_after=mode.get("retry_after"))
        if mode["mode"] == "refuse":
            share, before = mode.get("share", 1), self._considered
            self._considered += 1
            if int((before + 1) * share + 1e-9) > int(before * share + 1e-9):
                return refusal
        try:
            records = [
                record | {"protocol": protocol, "sha256": hashlib.sha256(span.SerializeToString()).hexdigest()}
                for record, span in read_spans(body)
            ]
        except DecodeError:
            return Answer(400, "not an ExportTraceServiceRequest")
        bad = [record for record in records if "pattern" in mode and _matches(mode["pattern"], record)]
        if bad and mode["mode"] == "poison":
            return refusal
        good = [record for record in records if record not in bad]
        os.write(self._file, "".join(json.dumps(record) + "\n" for record in good).encode())
        os.fsync(self._file)
        self._seen["spans"] += len(good)
        return Answer(message="rejected as told", rejected=len(bad))


def _matches(pattern: str, record: Mapping[str, Any]) -> bool:
    return re.search(pattern, json.dumps([record["name"], record["attributes"]], ensure_ascii=False)) is not None


class HttpHandler(BaseHTTPRequestHandler):
    """OTLP/HTTP on /v1/traces, and /control."""

    protocol_version = "HTTP/1.1"
    receiver: Receiver

    def do_GET(self) -> None:
        """Tell what was seen."""
        self._answer(200, json.dumps(self.receiver.seen()).encode(), "application/json")

    def do_POST(self) -> None:
        """Take spans, or orders."""
        raw = body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/control":
            self.receiver.control(json.loads(body))
            return self.do_GET()
        if self.path != "/v1/traces":
            return self._answer(404, b"no such page", "text/plain")
        if self.headers.get("content-type") != "application/x-protobuf":
            return self._answer(415, b"application/x-protobuf is spoken here", "text/plain")
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.receiver.receive(body, "http/protobuf", headers, len(raw))
        if answer is None:
            self.close_connection = True
        elif answer.status == 200:
            self._answer(200, answer.response(), "application/x-protobuf")
        else:
            self._answer(answer.status, answer.error(), "application/x-protobuf", answer.retry_after)
        return None

    def _answer(self, status: int, body: bytes, content_type: str, retry_after: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if retry_after is not None:
            self.send_header("Retry-After", str(retry_after))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


def export_method(receiver: Receiver) -> Any:
    """The gRPC handler of TraceService/Export, on raw bytes."""

    def export(body: bytes, context: Any) -> bytes:
        headers = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        answer = receiver.receive(body, "grpc", headers, len(body))
        if answer is None:
            context.abort(grpc.StatusCode.UNAVAILABLE, "dropped")
        elif answer.status != 200:
            context.set_trailing_metadata((("grpc-status-details-bin", answer.error()),))
            context.abort(GRPC_CODES[answer.status], answer.message)
        else:
            return answer.response()
        raise AssertionError("abort raises")

    methods = {"Export": grpc.unary_unary_rpc_method_handler(export)}
    return grpc.method_handlers_generic_handler("opentelemetry.proto.collector.trace.v1.TraceService", methods)


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(description="an OTLP backend for tests")
    parser.add_argument("--http-port", type=int, default=0)
    parser.add_argument("--grpc-port", type=int, default=0)
    parser.add_argument("--file", type=Path, required=True, help="spans are appended here")
    parser.add_argument(
        "--certificate", type=Path, help="PEM: serve TLS, and ask clients for a certificate of its issuer"
    )
    parser.add_argument("--key", type=Path, help="PEM: the certificate's key")
    options = parser.parse_args()
    receiver = HttpHandler.receiver = Receiver(options.file)

    http_server = ThreadingHTTPServer(("127.0.0.1", options.http_port), HttpHandler)
    # Without SO_REUSEPORT a port that is taken is an error, not a share of somebody else's spans.
    grpc_server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    grpc_server.add_generic_rpc_handlers((export_method(receiver),))
    grpc_address = f"127.0.0.1:{options.grpc_port}"
    if options.certificate is None:
        grpc_port = grpc_server.add_insecure_port(grpc_address)
    else:
        certificate, key = options.certificate.read_bytes(), options.key.read_bytes()
        credentials = grpc.ssl_server_credentials([(key, certificate)], certificate, require_client_auth=True)
        grpc_port = grpc_server.add_secure_port(grpc_address, credentials)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=options.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(options.certificate, options.key)
        http_server.socket = context.wrap_socket(http_server.socket, server_side=True)
    grpc_server.start()
    threading.Thread(target=http_server.serve_forever, daemon=True).start()
    print(json.dumps({"http_port": http_server.server_address[1], "grpc_port": grpc_port}), flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
