from pathlib import Path

import pytest

from telemetry.otlp_config import OtlpConfig, OtlpConfigError

PREFIX = "OTEL_EXPORTER_OTLP_"


def read(**options: str) -> OtlpConfig:
    """The configuration that these variables, named without their common prefix, give."""
    return OtlpConfig.from_env({PREFIX + name: value for name, value in options.items()})


def complaint(**options: str) -> str:
    """The error that these variables give."""
    with pytest.raises(OtlpConfigError) as caught:
        read(**options)
    return str(caught.value)


def test_defaults_are_the_specifications() -> None:
    """Without a variable spans go over HTTP to the local collector, within ten seconds, uncompressed."""
    assert OtlpConfig("http/protobuf", "http://localhost:4318/v1/traces", {}, 10.0, "none") == read()


def test_empty_variables_are_unset_ones() -> None:
    """An empty or blank value is as good as none, also where the general variable has a value."""
    expected = read(ENDPOINT="http://a", TIMEOUT="500")

    assert expected == read(ENDPOINT="http://a", TRACES_ENDPOINT="", TIMEOUT="500", TRACES_TIMEOUT=" ", HEADERS="")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"ENDPOINT": "http://collector:4318"}, "http://collector:4318/v1/traces"),
        ({"ENDPOINT": "http://collector:4318/"}, "http://collector:4318/v1/traces"),
        ({"ENDPOINT": "https://host/otlp"}, "https://host/otlp/v1/traces"),
        ({"ENDPOINT": "https://host/otlp/?tenant=a"}, "https://host/otlp/v1/traces?tenant=a"),
        ({"ENDPOINT": "http://[::1]:4318"}, "http://[::1]:4318/v1/traces"),
        ({"TRACES_ENDPOINT": "http://host:4318"}, "http://host:4318/"),
        ({"TRACES_ENDPOINT": "http://host:4318/mine"}, "http://host:4318/mine"),
        ({"TRACES_ENDPOINT": "http://own/mine", "ENDPOINT": "http://general"}, "http://own/mine"),
    ],
)
def test_http_endpoints(options: dict[str, str], expected: str) -> None:
    """A general endpoint is a base for the path of traces; an endpoint for traces is used as it is."""
    assert expected == read(**options).endpoint


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("localhost:4317", True)),
        ({"ENDPOINT": "http://collector:4317"}, ("collector:4317", True)),
        ({"ENDPOINT": "https://collector:4317", "INSECURE": "true"}, ("collector:4317", False)),
        ({"ENDPOINT": "http://collector"}, ("collector:4317", True)),
        ({"ENDPOINT": "https://collector/ignored"}, ("collector:443", False)),
        ({"ENDPOINT": "http://[::1]:4317"}, ("[::1]:4317", True)),
        ({"ENDPOINT": "collector:4317"}, ("collector:4317", False)),
        ({"ENDPOINT": "collector:4317", "INSECURE": "TRUE"}, ("collector:4317", True)),
        ({"ENDPOINT": "collector:4317", "INSECURE": "true", "TRACES_INSECURE": "false"}, ("collector:4317", False)),
        ({"ENDPOINT": "unix:///run/otlp.sock", "INSECURE": "true"}, ("unix:///run/otlp.sock", True)),
    ],
)
def test_grpc_endpoints(options: dict[str, str], expected: tuple[str, bool]) -> None:
    """The scheme says whether there is TLS; without one the INSECURE option does."""
    config = read(TRACES_PROTOCOL="grpc", **options)

    assert expected == (config.endpoint, config.insecure)


def test_variables_of_traces_win() -> None:
    """Each option is taken from its variable for traces if there is one, from the general one otherwise."""
    actual = read(
        PROTOCOL="http/protobuf",
        TRACES_PROTOCOL="grpc",
        HEADERS="a=general,b=2",
        TRACES_HEADERS="a=own",
        TIMEOUT="9000",
        TRACES_TIMEOUT="1500",
        COMPRESSION="none",
        TRACES_COMPRESSION="gzip",
    )

    assert OtlpConfig("grpc", "localhost:4317", {"a": "own"}, 1.5, "gzip", insecure=True) == actual


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("api-key=secret", {"api-key": "secret"}),
        ("A=1, b = two words ,", {"a": "1", "b": "two words"}),
        ("authorization=Basic%20dXNlcjpwYXNz", {"authorization": "Basic dXNlcjpwYXNz"}),
        ("authorization=Basic dXNlcjpwYXNz==", {"authorization": "Basic dXNlcjpwYXNz=="}),
        ("list=a%2Cb%3Dc", {"list": "a,b=c"}),
        ("empty=", {"empty": ""}),
    ],
)
def test_headers(value: str, expected: dict[str, str]) -> None:
    """Headers are separated by commas, percent-decoded, and named in lower case."""
    assert expected == read(HEADERS=value).headers


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("PROTOCOL", "http/json"),
        ("TRACES_PROTOCOL", "carrier pigeon"),
        ("COMPRESSION", "zstd"),
        ("TIMEOUT", "soon"),
        ("TIMEOUT", "-1"),
        ("TRACES_TIMEOUT", "0"),
        ("TIMEOUT", "10"),
        ("TIMEOUT", "1e4"),
        ("TIMEOUT", "٣٠٠٠"),
        ("ENDPOINT", "collector:4318"),
        ("ENDPOINT", "ftp://collector"),
        ("ENDPOINT", "http://"),
        ("ENDPOINT", "http://host:99999"),
        ("ENDPOINT", "http://ho st"),
        ("TRACES_ENDPOINT", "http://[::1"),
        ("HEADERS", "no equals sign"),
        ("TRACES_HEADERS", "bad name=x"),
        ("HEADERS", "a=line%0Abreak"),
        ("HEADERS", "a=%C3%A9"),
        ("CERTIFICATE", "no/such/file.pem"),
        ("CERTIFICATE", __file__),
        ("CLIENT_CERTIFICATE", __file__),
        ("TRACES_CLIENT_KEY", __file__),
    ],
)
def test_a_bad_value_is_an_error_that_names_the_variable(option: str, value: str) -> None:
    """Whoever mistypes an option is told which."""
    assert PREFIX + option == complaint(**{option: value}).split(":")[0]


@pytest.mark.parametrize(
    ("option", "value"),
    [("INSECURE", "maybe"), ("ENDPOINT", "a b:4317"), ("HEADERS", "grpc-x=1"), ("HEADERS", "x-bin=1")],
)
def test_bad_values_for_grpc_name_the_variable(option: str, value: str) -> None:
    """What HTTP would not look at, or would take, is an error when the protocol is gRPC."""
    assert PREFIX + option == complaint(PROTOCOL="grpc", **{option: value}).split(":")[0]


def test_secrets_are_never_shown() -> None:
    """Neither an error nor the configuration's text shows what a header holds, nor a password in an endpoint."""
    texts = [
        complaint(HEADERS="authorization=secret\x00"),
        complaint(HEADERS="authorization secret"),
        complaint(HEADERS="x=1,secret"),
        complaint(PROTOCOL="grpc", HEADERS="x-bin=secret"),
        complaint(ENDPOINT="http://user:secret@host"),
        complaint(PROTOCOL="grpc", ENDPOINT="user:secret@host:1"),
        repr(read(HEADERS="authorization=secret")),
    ]

    assert [text for text in texts if "secret" not in text] == texts


def test_files_are_read_at_the_start(tmp_path: Path) -> None:
    """A file that is not PEM, or a client certificate without its key, is told at the start, not at the first span."""
    noise = tmp_path / "noise.pem"
    noise.write_text("noise")

    assert f"{PREFIX}CERTIFICATE: not usable PEM files" == complaint(CERTIFICATE=str(noise)).split(" (")[0]
    both = complaint(CLIENT_CERTIFICATE=str(noise), TRACES_CLIENT_KEY=str(noise))
    assert f"{PREFIX}CLIENT_CERTIFICATE, {PREFIX}TRACES_CLIENT_KEY: not usable PEM files" == both.split(" (")[0]
