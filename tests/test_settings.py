"""Settings: read from the environment, refused by name, documented row by row."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agent_runtime.settings import (
    CAPTURE_VARIABLE,
    PREFIX,
    Settings,
    SettingsError,
    is_loopback,
    load_settings,
    misspelt,
    variable,
)
from telemetry.otlp_config import OtlpConfig
from tests.service import environ

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "settings.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", re.MULTILINE)
ROWS = {name: (default, text) for name, default, text in ROW.findall(DOCUMENT)}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine reaches a test."""
    for name in [name for name in os.environ if name.startswith((PREFIX, "OTEL_"))]:
        monkeypatch.delenv(name)


def shown(default: object) -> str:
    """A default as the document writes it."""
    if default is None:
        return "–"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def test_the_document_has_every_setting() -> None:
    """Each setting is a row of docs/settings.md with its default and its sentence, and no row is left over."""
    expected = {
        variable(name): (shown(field.default), field.description) for name, field in Settings.model_fields.items()
    }
    ours = {name: row for name, row in ROWS.items() if name.startswith(PREFIX) or name == CAPTURE_VARIABLE}
    assert expected == ours


def test_the_document_has_every_variable_of_opentelemetry() -> None:
    """What the code reads of OTEL_* is a row, and each such row is read."""
    read: set[str] = set()

    class Recorder(dict[str, str]):
        def get(self, name: str, default: str = "") -> str:  # type: ignore[override]
            read.add(name.replace("_TRACES_", "_"))
            # The variable INSECURE is read for gRPC only.
            return "grpc" if name == "OTEL_EXPORTER_OTLP_PROTOCOL" else default

    OtlpConfig.from_env(Recorder())
    for path in [*(ROOT / "agent_runtime").rglob("*.py"), *(ROOT / "telemetry").rglob("*.py")]:
        read |= set(re.findall(r"\"(OTEL_[A-Z_]*[A-Z])\"", path.read_text()))
    read |= {"OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"}  # by the SDK's Resource
    assert read == {name for name in ROWS if name.startswith("OTEL_")}


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are prefixed, flags go before variables, and an empty variable counts as unset."""
    monkeypatch.setenv("AGENT_RUNTIME__PORT", "9001")
    monkeypatch.setenv("AGENT_RUNTIME__SETTLE_SECONDS", "0.5")
    monkeypatch.setenv("AGENT_RUNTIME__LOG_LEVEL", "debug")
    monkeypatch.setenv("AGENT_RUNTIME__LABEL_BUDGET", "")
    monkeypatch.setenv("AGENT_RUNTIME__INGEST_KEY", "")
    settings = load_settings(host=None, mode="runtime")
    assert (9001, 0.5, "DEBUG", 100, None, "runtime", "127.0.0.1") == (
        settings.port,
        settings.settle_seconds,
        settings.log_level,
        settings.label_budget,
        settings.ingest_key,
        settings.mode,
        settings.host,
    )
    assert 9002 == load_settings(port=9002).port


@pytest.mark.parametrize(
    ("value", "captured"),
    [("true", True), ("TRUE", True), ("span_only", True), ("SPAN_AND_EVENT", True),
     ("false", False), ("no_content", False), ("", False)],
)  # fmt: skip
def test_capture_is_the_standard_variable(monkeypatch: pytest.MonkeyPatch, value: str, captured: bool) -> None:
    """The old values and the new ones of OpenTelemetry's switch are understood."""
    monkeypatch.setenv(CAPTURE_VARIABLE, value)
    assert captured == load_settings().capture_content


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("AGENT_RUNTIME__PORT", "abc", "valid integer"),
        ("AGENT_RUNTIME__PORT", "70000", "less than or equal to 65535"),
        ("AGENT_RUNTIME__MODE", "proxy", "'sidecar' or 'runtime'"),
        ("AGENT_RUNTIME__DB_URL", "mysql://x", "pattern"),
        ("AGENT_RUNTIME__SQLITE_SYNCHRONOUS", "OFF", "'FULL', 'NORMAL' or 'EXTRA'"),
        ("AGENT_RUNTIME__SETTLE_SECONDS", "-1", "greater than or equal to 0"),
        ("AGENT_RUNTIME__SETTLE_SECONDS", "nan", "finite"),
        ("AGENT_RUNTIME__PRICES_FILE", "no-such-file.json", "there is no file no-such-file.json"),
        ("AGENT_RUNTIME__WRITER_QUEUE_SIZE", "10", "at least one batch"),
        ("AGENT_RUNTIME__HOST", "0.0.0.0", "keys are needed"),
        (CAPTURE_VARIABLE, "maybe", "must be one of true"),
    ],
)
def test_a_bad_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    """The error names the variable, and says what it may be."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as raised:
        load_settings()
    assert name in str(raised.value)
    assert words in str(raised.value)


@pytest.mark.parametrize("key", [" ", "key ", "key\n", "\tkey", "k\ney", "k\x00ey"])
def test_a_key_that_no_request_could_carry(key: str) -> None:
    """It would lock everybody out, so it is refused, and not shown."""
    with pytest.raises(SettingsError, match="READ_KEY: must be printable characters, without a space") as error:
        load_settings(read_key=key)
    assert "key\n" not in str(error.value)
    assert {"read": "ключ und schlüssel"} == load_settings(read_key="ключ und schlüssel").keys


@pytest.mark.parametrize("seconds", ["settle_seconds", "turn_deadline_seconds", "checkpoint_seconds", "late_seconds"])
def test_durations_end(seconds: str) -> None:
    """A duration too long to be counted in nanoseconds is refused by name."""
    with pytest.raises(SettingsError, match=f"{seconds.upper()}: .* 1000000000"):
        load_settings(**{seconds: 1e300})


def test_every_bad_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three mistakes are three lines, not three starts."""
    for name in ("PORT", "LABEL_BUDGET", "MAX_BODY_BYTES"):
        monkeypatch.setenv(PREFIX + name, "x")
    with pytest.raises(SettingsError) as raised:
        load_settings()
    assert ["AGENT_RUNTIME__PORT", "AGENT_RUNTIME__MAX_BODY_BYTES", "AGENT_RUNTIME__LABEL_BUDGET"] == [
        line.split(":")[0] for line in str(raised.value).splitlines()
    ]


def test_a_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in an error nor when the settings are printed."""
    monkeypatch.setenv("AGENT_RUNTIME__INGEST_KEY", "very-secret-key")
    monkeypatch.setenv("AGENT_RUNTIME__PORT", "x")
    with pytest.raises(SettingsError) as raised:
        load_settings()
    monkeypatch.delenv("AGENT_RUNTIME__PORT")
    settings = load_settings()
    assert "very-secret-key" not in f"{raised.value} {settings!r} {settings}"
    assert {"ingest": "very-secret-key"} == settings.keys


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("[::1]", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("", False), ("192.168.0.1", False), ("example.org", False)],
)  # fmt: skip
def test_loopback(host: str, loopback: bool) -> None:
    """Only addresses that this machine alone can reach count as loopback."""
    assert loopback == is_loopback(host)


def test_a_misspelt_variable_is_named() -> None:
    """With the setting that was meant, if there is one that is close."""
    expected = [
        "AGENT_RUNTIME__SETLE_SECONDS is no setting; did you mean AGENT_RUNTIME__SETTLE_SECONDS?",
        "AGENT_RUNTIME__XYZZY is no setting",
    ]
    found = misspelt({"AGENT_RUNTIME__SETLE_SECONDS": "1", "AGENT_RUNTIME__XYZZY": "1", "AGENT_RUNTIME__PORT": "1"})
    assert expected == found


@pytest.mark.parametrize(
    "variables",
    [
        {"AGENT_RUNTIME__PORT": "x"},
        {"AGENT_RUNTIME__HOST": "0.0.0.0"},
        {"AGENT_RUNTIME__DB_URL": "sqlite:////no/such/folder/events.db"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "carrier-pigeon"},
    ],
)
def test_the_service_does_not_start_with_it(tmp_path: Path, variables: dict[str, str]) -> None:
    """Exit code 2, a sentence on standard error, no traceback."""
    command = [sys.executable, "-m", "agent_runtime.cli", "serve", "--port", "0"]
    command = command[:4] if "AGENT_RUNTIME__PORT" in variables else command
    done = subprocess.run(
        command, cwd=tmp_path, env=environ(**variables), capture_output=True, text=True, timeout=60, check=False
    )
    assert 2 == done.returncode, done.stderr
    assert "Traceback" not in done.stderr
    assert any(word in done.stderr for word in (*variables, "/no/such/folder"))
