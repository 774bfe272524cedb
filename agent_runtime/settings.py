"""Every setting of the service: one row each. Only ``main`` and ``cli`` read them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "AGENT_RUNTIME__"
CAPTURE_VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"

_CAPTURE_WORDS = {
    **dict.fromkeys(("true", "1", "yes", "on", "span_only", "event_only", "span_and_event"), True),
    **dict.fromkeys(("false", "0", "no", "off", "no_content"), False),
}


# Thirty years: as nanoseconds still a whole number of 64 bits, also when added to the time.
MAX_SECONDS = 1e9


class SettingsError(ValueError):
    """A setting can't be used. The message names each variable and what is wrong with it, and shows no key."""


def _upper(value: Any) -> Any:
    return value.strip().upper() if isinstance(value, str) else value


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _capture(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return _CAPTURE_WORDS[value.strip().lower()]
    except KeyError:
        raise ValueError(f"must be one of {', '.join(_CAPTURE_WORDS)}, got {value!r}") from None


def _key(value: SecretStr) -> SecretStr:
    key = value.get_secret_value()
    if not key.isprintable() or key != key.strip():
        raise ValueError("must be printable characters, without a space or a line end at its ends")
    return value


LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)]
LogFormat = Annotated[Literal["auto", "json", "console"], BeforeValidator(_lower)]
Synchronous = Annotated[Literal["FULL", "NORMAL", "EXTRA"], BeforeValidator(_upper)]
Seconds = Annotated[float, Field(allow_inf_nan=False, le=MAX_SECONDS)]
Key = Annotated[SecretStr, AfterValidator(_key)]


class Settings(BaseSettings):
    """Read from ``AGENT_RUNTIME__<NAME>``; an empty variable counts as unset. ``docs/settings.md`` shows this table.

    Raises:
        ValidationError: use ``load_settings`` for an error that names the variables.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", populate_by_name=True, frozen=True
    )

    host: str = Field("127.0.0.1", description="Address to listen on. Any that is not loopback needs keys.")
    port: int = Field(8001, ge=0, le=65_535, description="Port to listen on; 0 takes a free one.")
    mode: Literal["sidecar", "runtime"] = Field(
        "runtime", description="`sidecar` takes events over HTTP; `runtime` runs agents of its own as well."
    )
    db_url: str = Field(
        "sqlite:///agent-runtime.db",
        pattern=r"^(memory://|sqlite:///.+)$",
        description="Where events are kept: `sqlite:///relative.db`, `sqlite:////absolute.db`, or `memory://`.",
    )
    sqlite_synchronous: Synchronous = Field(
        "FULL",
        description="`FULL` keeps what was acknowledged through a power failure, `NORMAL` through a crash only.",
    )

    internal_api_key: Key | None = Field(None, description="Admin key: may do everything.")
    ingest_key: Key | None = Field(None, description="Key that may send events.")
    read_key: Key | None = Field(None, description="Key that may read events, audit log and JSON metrics.")
    approver_key: Key | None = Field(None, description="Runtime mode: key that may read and decide approvals.")
    scrape_key: Key | None = Field(None, description="Key that may read `/metrics`.")

    log_level: LogLevel = Field("INFO", description="Least severe level that is logged.")
    log_format: LogFormat = Field("auto", description="`json`, `console`, or `auto`: console on a terminal, else JSON.")

    max_body_bytes: int = Field(
        16 * 1024 * 1024, ge=1024, description="Largest request body in bytes, before and after decompression."
    )
    max_batch_events: int = Field(10_000, ge=1, description="Most events in one request.")
    rate_limit_per_second: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Requests a second that each key may make; 0 is no limit."
    )
    writer_queue_size: int = Field(
        50_000, ge=1, description="Events that may wait for the store before senders are told to come back later."
    )
    handler_timeout_seconds: Seconds = Field(60.0, gt=0, description="Longest a subscriber may take for one event.")

    settle_seconds: Seconds = Field(
        5.0, ge=0, description="How long a turn waits for late events before its metrics and spans are settled."
    )
    turn_deadline_seconds: Seconds = Field(
        3_600.0, gt=0, description="A turn without an end is closed after this long and marked incomplete."
    )
    approval_deadline_seconds: Seconds = Field(
        86_400.0, gt=0, description="The same for an approval that nobody decides."
    )
    late_seconds: Seconds = Field(
        60.0, ge=0, description="How long a turn waits for a cause or a beginning that nobody has seen yet."
    )
    label_budget: int = Field(100, ge=1, description="Distinct values of one label before the rest becomes `_other`.")
    prices_file: Path | None = Field(None, description="JSON table of model prices that goes before the built-in one.")
    checkpoint_seconds: Seconds = Field(
        5.0, gt=0, description="How often folds are made durable; what a restart folds again, at most."
    )

    use_event_driven_persistence: bool = Field(
        False, description="Runtime mode: save sessions by the events that change them instead of by a timer."
    )
    multi_agent_mode: bool = Field(True, description="Runtime mode: several agents, or one that may use every tool.")

    llm_proxy_url: str | None = Field(
        None, description="Runtime mode: an OpenAI-compatible endpoint; without one a scripted model plays."
    )
    llm_model: str = Field("gpt-4o-mini", min_length=1, description="Runtime mode: name of the model.")
    llm_api_key: Key | None = Field(None, description="Runtime mode: key for that endpoint.")
    llm_timeout_seconds: Seconds = Field(300.0, gt=0, description="Runtime mode: longest a model call may take.")
    sessions_db_url: str | None = Field(
        None,
        pattern=r"^(memory://|sqlite:///.+|postgresql://.+)$",
        description="Runtime mode: where sessions are kept, SQLite or PostgreSQL; a file beside the events by default.",
    )
    workspace: Path = Field(Path("workspace"), description="Runtime mode: the directory that tools can't leave.")
    remote_tools: str = Field("", description="Runtime mode: names of tools that the client runs, with commas between.")
    approval_timeout_seconds: Seconds = Field(
        300.0, gt=0, description="Runtime mode: how long a person has to approve a call."
    )
    session_idle_seconds: Seconds = Field(
        86_400.0, gt=0, description="Runtime mode: a session in which nothing happens for this long expires."
    )

    capture_content: Annotated[bool, BeforeValidator(_capture)] = Field(
        False,
        validation_alias=CAPTURE_VARIABLE,
        description="Keep messages, arguments and results in events. Without it arguments are kept as hashes.",
    )

    @model_validator(mode="after")
    def _hang_together(self) -> Self:
        if self.writer_queue_size < self.max_batch_events:
            raise ValueError(f"{PREFIX}WRITER_QUEUE_SIZE: must hold at least one batch of {PREFIX}MAX_BATCH_EVENTS")
        if self.prices_file is not None and not self.prices_file.is_file():
            raise ValueError(f"{PREFIX}PRICES_FILE: there is no file {self.prices_file}")
        if not self.keys and not is_loopback(self.host):
            raise ValueError(
                f"{PREFIX}HOST: {self.host} is not a loopback address, so keys are needed: set "
                f"{PREFIX}INTERNAL_API_KEY, and INGEST_KEY, READ_KEY, SCRAPE_KEY, APPROVER_KEY for those who may do "
                "less; or listen on 127.0.0.1"
            )
        return self

    @property
    def keys(self) -> dict[str, str]:
        """The keys that are set, by role: admin, ingest, read, approver, scrape."""
        rows = {
            "admin": self.internal_api_key,
            "ingest": self.ingest_key,
            "read": self.read_key,
            "approver": self.approver_key,
            "scrape": self.scrape_key,
        }
        return {
            role: key.get_secret_value() for role, key in rows.items() if key is not None and key.get_secret_value()
        }


def load_settings(**overrides: Any) -> Settings:
    """The settings of the environment; ``overrides`` that are not None go first (the command line's flags).

    Raises:
        SettingsError: names every variable that can't be used, and why.
    """
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        raise SettingsError("\n".join(_sentence(row) for row in error.errors())) from None


def _sentence(row: Mapping[str, Any]) -> str:
    what = str(row["msg"]).removeprefix("Value error, ")
    if not row["loc"]:
        return what
    name = variable(str(row["loc"][0]))
    got = row.get("input")
    # What has an @ may be a URL with a password in it.
    secret = name.endswith("_KEY") or "@" in str(got)
    shown = "" if secret or row["type"] == "value_error" else f", got {str(got)[:80]!r}"
    return f"{name}: {what[0].lower()}{what[1:]}{shown}"


def variable(name: str) -> str:
    """The environment variable of the setting ``name``."""
    return CAPTURE_VARIABLE if name in ("capture_content", CAPTURE_VARIABLE) else f"{PREFIX}{name.upper()}"


def misspelt(environ: Mapping[str, str]) -> list[str]:
    """A sentence for each ``AGENT_RUNTIME__`` variable of ``environ`` that is no setting."""
    known = [name.upper() for name in Settings.model_fields]
    sentences = []
    for name in sorted(environ):
        own = name.upper().removeprefix(PREFIX)
        if not name.upper().startswith(PREFIX) or own in known:
            continue
        near = difflib.get_close_matches(own, known, 1)
        sentences.append(f"{name} is no setting" + (f"; did you mean {PREFIX}{near[0]}?" if near else ""))
    return sentences


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a service that listens on ``host``."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
