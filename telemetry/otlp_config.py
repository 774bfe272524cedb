"""Where spans go and how: the standard `OTEL_EXPORTER_OTLP_*` environment variables.

Each option has two variables, `OTEL_EXPORTER_OTLP_TRACES_<OPTION>` and `OTEL_EXPORTER_OTLP_<OPTION>`; the first that is
set and not empty holds. Source: OpenTelemetry specification, "OpenTelemetry Protocol Exporter". The unit of TIMEOUT is
the specification's, milliseconds, although the Python SDK reads seconds.
"""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

GRPC = "grpc"
HTTP = "http/protobuf"
_COMPRESSIONS = ("none", "gzip")
_SHORTEST_TIMEOUT_MS = 100
# Names as in RFC 9110; values that HTTP and gRPC both carry: printable ASCII.
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(r"[ -~]*")
_GRPC_NAME = re.compile(r"(?!grpc-)[0-9a-z_.\-]+(?<!-bin)")


class OtlpConfigError(ValueError):
    """An `OTEL_*` variable holds what cannot be used. The text names the variable and never shows a header's value."""


@dataclass(frozen=True, slots=True)
class OtlpConfig:
    """How to reach an OTLP backend.

    protocol: "http/protobuf" or "grpc". endpoint: the URL that is posted to, or the gRPC target. headers: names in
    lower case. timeout: seconds for one request, connecting included. compression: "none" or "gzip". insecure: gRPC
    without TLS. certificate, client_certificate, client_key: PEM files (trusted roots; mutual TLS).
    """

    protocol: str = HTTP
    endpoint: str = "http://localhost:4318/v1/traces"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: float = 10.0
    compression: str = "none"
    insecure: bool = False
    certificate: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "OtlpConfig":
        """Read the variables of traces and the general ones. Raises `OtlpConfigError` on the first that is wrong."""
        protocol = _one_of(_read(environ, "PROTOCOL"), (HTTP, GRPC))
        endpoint, insecure = (_grpc_endpoint if protocol == GRPC else _http_endpoint)(environ)
        files = [_read(environ, option) for option in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")]
        certificate, client_certificate, client_key = map(_file, files)
        if (client_certificate is None) != (client_key is None):
            name = files[1].name if client_key is None else files[2].name
            raise OtlpConfigError(f"{name}: a client certificate and its key are given together or not at all")
        config = cls(
            protocol=protocol,
            endpoint=endpoint,
            headers=_headers(_read(environ, "HEADERS"), protocol),
            timeout=_seconds(_read(environ, "TIMEOUT")),
            compression=_one_of(_read(environ, "COMPRESSION"), _COMPRESSIONS),
            insecure=insecure,
            certificate=certificate,
            client_certificate=client_certificate,
            client_key=client_key,
        )
        try:
            config.ssl_context()
        except ssl.SSLError as error:
            names = ", ".join(setting.name for setting in files if setting.value)
            raise OtlpConfigError(f"{names}: not usable PEM files ({error.reason or error})") from None
        return config

    def ssl_context(self) -> ssl.SSLContext | bool:
        """Return what httpx verifies a server with, True for its own roots. Raises `ssl.SSLError` on unusable files."""
        if self.certificate is None and self.client_certificate is None:
            return True
        context = ssl.create_default_context(cafile=self.certificate)
        if self.client_certificate is not None:
            # An empty password refuses an encrypted key; none would ask for it at the terminal.
            context.load_cert_chain(self.client_certificate, self.client_key, password="")
        return context


class _Setting(NamedTuple):
    """A variable's name and its value; the value is empty if neither variable of the option is set."""

    name: str
    value: str

    @property
    def is_for_traces(self) -> bool:
        return self.name.startswith("OTEL_EXPORTER_OTLP_TRACES_")


def _read(environ: Mapping[str, str], option: str) -> _Setting:
    general = f"OTEL_EXPORTER_OTLP_{option}"
    own = f"OTEL_EXPORTER_OTLP_TRACES_{option}"
    name = own if environ.get(own, "").strip() else general
    return _Setting(name, environ.get(name, "").strip())


def _one_of(setting: _Setting, choices: tuple[str, ...]) -> str:
    """Return the value if it is one of the choices, the first of them if nothing is set."""
    value = setting.value.lower() or choices[0]
    if value not in choices:
        raise OtlpConfigError(f"{setting.name}: {setting.value!r} is not supported, use one of {', '.join(choices)}")
    return value


def _http_endpoint(environ: Mapping[str, str]) -> tuple[str, bool]:
    """Return the URL to post to: `v1/traces` below a general endpoint, an endpoint of traces as it is."""
    setting = _read(environ, "ENDPOINT")
    url = _url(setting._replace(value=setting.value or "http://localhost:4318"))
    path = (url.path or "/") if setting.is_for_traces else url.path.rstrip("/") + "/v1/traces"
    return url._replace(path=path, fragment="").geturl(), False


def _grpc_endpoint(environ: Mapping[str, str]) -> tuple[str, bool]:
    """Return the gRPC target, and whether it is without TLS. The scheme decides; without http(s) INSECURE does."""
    setting = _read(environ, "ENDPOINT")
    insecure = _one_of(_read(environ, "INSECURE"), ("false", "true")) == "true"
    value = setting.value or "http://localhost:4317"
    if not value.lower().startswith(("http://", "https://")):
        if re.search(r"\s|@", value) or not value.strip(":/"):
            raise OtlpConfigError(f"{setting.name}: not a URL of http or https, nor a gRPC target such as host:4317")
        return value, insecure
    url = _url(setting._replace(value=value))
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return f"{host}:{url.port or (443 if url.scheme == 'https' else 4317)}", url.scheme == "http"


def _url(setting: _Setting) -> SplitResult:
    # The value is not shown, and credentials in it are refused: an endpoint ends up in logs.
    wrong = OtlpConfigError(
        f"{setting.name}: not a URL such as http://localhost:4318 (http or https, a host, no spaces, no credentials)"
    )
    try:
        url = urlsplit(setting.value)
        usable = url.scheme in ("http", "https") and url.hostname and url.port != 0 and "@" not in url.netloc
    except ValueError:
        raise wrong from None
    if not usable or re.search(r"\s", setting.value):
        raise wrong
    return url


def _headers(setting: _Setting, protocol: str) -> dict[str, str]:
    """Parse `name=value,name=value`, the values percent-encoded, names to lower case."""
    headers = {}
    for place, pair in enumerate(setting.value.split(","), 1):
        if not pair.strip():
            continue
        name, equals, value = pair.partition("=")
        name, value = unquote(name).strip().lower(), unquote(value).strip()
        if not equals or not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise OtlpConfigError(
                f"{setting.name}: entry {place} is not name=value in printable ASCII, percent-encoded"
            )
        if protocol == GRPC and not _GRPC_NAME.fullmatch(name):
            raise OtlpConfigError(f"{setting.name}: the name of entry {place} cannot be sent as gRPC metadata")
        headers[name] = value
    return headers


def _seconds(setting: _Setting) -> float:
    if not setting.value:
        return 10.0
    if not setting.value.isascii() or not setting.value.isdigit() or int(setting.value) < _SHORTEST_TIMEOUT_MS:
        raise OtlpConfigError(
            f"{setting.name}: {setting.value!r} is not a number of milliseconds of at least {_SHORTEST_TIMEOUT_MS} "
            "(10 seconds are 10000)"
        )
    return int(setting.value) / 1_000


def _file(setting: _Setting) -> Path | None:
    if not setting.value:
        return None
    path = Path(setting.value)
    try:
        path.open("rb").close()
    except OSError as error:
        raise OtlpConfigError(f"{setting.name}: cannot read {setting.value!r}: {error.strerror}") from None
    return path
