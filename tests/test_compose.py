"""docker-compose.yml and what it mounts fit together, as far as can be told without a Docker engine."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.prometheus_server import installed

ROOT = Path(__file__).parent.parent
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SCRAPE = yaml.safe_load((ROOT / "prometheus.yml").read_text())
SOURCES = {
    source["uid"]: source
    for source in yaml.safe_load((ROOT / "grafana/provisioning/datasources/datasources.yml").read_text())["datasources"]
}
ENV_EXAMPLE = dict(re.findall(r"^([A-Z][A-Z0-9_]*)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))

each_service = pytest.mark.parametrize("name", SERVICES)


def container_port(service: str) -> set[int]:
    """Returns the ports that a service publishes, as the other containers see them."""
    return {int(port.rsplit(":", 1)[1]) for port in SERVICES[service]["ports"]}


@each_service
def test_images_are_pinned(name: str) -> None:
    """Each image has a full version, so that it is the same tomorrow."""
    image = SERVICES[name]["image"]
    assert re.search(r":v?\d+\.\d+\.\d+$", image), image


def test_the_sidecar_image_is_pinned_and_not_root() -> None:
    """Our image stands on a pinned one, installs pinned versions, and runs as a user of its own."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert re.match(r"FROM python:3\.11\.\d+-slim", lines[0])
    assert any("--constraint requirements.txt" in line for line in lines)
    assert ["USER agent"] == [line for line in lines if line.startswith("USER")]


@each_service
def test_ports_are_loopback(name: str) -> None:
    """Nothing is published beyond this machine."""
    assert [] == [port for port in SERVICES[name]["ports"] if not port.startswith("127.0.0.1:")]


@each_service
def test_each_service_has_a_health_check(name: str) -> None:
    """A command, without a shell, at an interval."""
    check = SERVICES[name]["healthcheck"]
    assert "CMD" == check["test"][0]
    assert {"interval", "timeout", "start_period"} <= check.keys()


@each_service
def test_mounts_exist(name: str) -> None:
    """Each path is in the repository and read-only, each volume is declared."""
    for mount in SERVICES[name].get("volumes", []):
        source, _, options = mount.split(":", 2) if mount.count(":") == 2 else (*mount.split(":"), "")
        if source.startswith("."):
            assert (ROOT / source).exists(), source
            assert "ro" == options
        else:
            assert source in COMPOSE["volumes"]


def test_no_secret_has_a_default() -> None:
    """Every key and password must be given: compose stops with a sentence if one is missing."""
    secrets = {
        name: value
        for service in SERVICES.values()
        for name, value in service.get("environment", {}).items()
        if name.endswith(("_KEY", "_PASSWORD"))
    }
    assert 6 == len(secrets)
    assert [] == [name for name, value in secrets.items() if not re.fullmatch(r"\$\{\w+:\?.+\}", value)]


def test_every_variable_is_in_the_example() -> None:
    """.env.example names whatever compose reads, and leaves the secrets empty."""
    text = (ROOT / "docker-compose.yml").read_text()
    read = set(re.findall(r"\$\{(\w+)", text)) | {secret["environment"] for secret in COMPOSE["secrets"].values()}
    assert set() == read - ENV_EXAMPLE.keys()
    assert {""} == {value for name, value in ENV_EXAMPLE.items() if name.endswith(("_KEY", "_PASSWORD"))}


def test_make_env_fills_every_secret(tmp_path: Path) -> None:
    """`make env` writes a .env in which every secret has a value of its own, readable by its owner only."""
    for name in ("Makefile", ".env.example"):
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run(["make", "env"], cwd=tmp_path, check=True, capture_output=True)
    written = (tmp_path / ".env").read_text()
    values = re.findall(r"^\w+_(?:KEY|PASSWORD)=(.*)$", written, re.MULTILINE)
    assert 6 == len(set(values))
    assert [48] * 6 == [len(value) for value in values]
    assert 0o600 == (tmp_path / ".env").stat().st_mode & 0o777


def test_prometheus_scrapes_the_sidecar_with_its_key() -> None:
    """The target is the sidecar's port, the credentials are the secret that compose mounts."""
    job = SCRAPE["scrape_configs"][0]
    assert [f"sidecar:{port}" for port in container_port("sidecar")] == job["static_configs"][0]["targets"]
    path = Path(job["authorization"]["credentials_file"])
    assert "/run/secrets" == str(path.parent)
    assert [path.name] == SERVICES["prometheus"]["secrets"]
    assert {path.name: {"environment": "AGENT_RUNTIME__SCRAPE_KEY"}} == COMPOSE["secrets"]


def test_prometheus_keeps_exemplars() -> None:
    """Without the flag every link from a graph to a trace is missing."""
    assert "--enable-feature=exemplar-storage" in SERVICES["prometheus"]["command"]


def test_prometheus_accepts_its_configuration() -> None:
    """promtool finds no fault in prometheus.yml; the secret's file exists only in the container."""
    command = [installed("promtool"), "check", "config", "--syntax-only", str(ROOT / "prometheus.yml")]
    assert 0 == subprocess.run(command, capture_output=True).returncode


def test_data_sources_point_at_the_services() -> None:
    """Each URL is a service of the compose file, at one of its ports."""
    for source in SOURCES.values():
        host, port = re.fullmatch(r"http://(\w+):(\d+)", source["url"]).groups()
        assert int(port) in container_port(host)


def test_data_sources_agree_with_each_other_and_with_the_scrape() -> None:
    """Exemplars lead to Jaeger by the label that they have, traces back to Prometheus, at the true scrape interval."""
    prometheus, jaeger = SOURCES["prometheus"]["jsonData"], SOURCES["jaeger"]["jsonData"]
    links = [(link["name"], link["datasourceUid"]) for link in prometheus["exemplarTraceIdDestinations"]]
    assert [("trace_id", "jaeger")] == links
    assert "prometheus" == jaeger["tracesToMetrics"]["datasourceUid"]
    assert SCRAPE["global"]["scrape_interval"] == prometheus["timeInterval"]


def test_dashboards_start_at_a_provisioned_data_source() -> None:
    """The data source that a board opens with is one that is there."""
    for path in (ROOT / "dashboards/json").glob("*.json"):
        variables = {v["name"]: v for v in json.loads(path.read_text())["templating"]["list"]}
        current = variables["datasource"]["current"]
        assert (SOURCES[current["value"]]["name"], "prometheus") == (current["text"], variables["datasource"]["query"])


def test_dollars_are_doubled_in_provisioning() -> None:
    """Grafana expands a single dollar sign in these files to an environment variable."""
    for path in (ROOT / "grafana/provisioning").rglob("*.yml"):
        code = "\n".join(line.split(" #")[0] for line in path.read_text().splitlines() if not line.startswith("#"))
        assert [] == re.findall(r"(?<!\$)\$(?!\$)\w+", code.replace("$$", ""))


def test_grafana_finds_its_dashboards() -> None:
    """The provider reads the directory that compose mounts, and the home board is in it."""
    provider = yaml.safe_load((ROOT / "grafana/provisioning/dashboards/dashboards.yml").read_text())["providers"][0]
    mounts = dict(mount.split(":")[:2] for mount in SERVICES["grafana"]["volumes"])
    assert provider["options"]["path"] == mounts["./dashboards/json"]
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert provider["options"]["path"] == str(home.parent)
    assert (ROOT / "dashboards/json" / home.name).exists()


def test_the_sidecar_exports_to_jaeger() -> None:
    """The endpoint is Jaeger's OTLP port over HTTP."""
    environment = SERVICES["sidecar"]["environment"]
    assert "http://jaeger:4318" == environment["OTEL_EXPORTER_OTLP_ENDPOINT"]
    assert "http/protobuf" == environment["OTEL_EXPORTER_OTLP_PROTOCOL"]
    assert 4318 in container_port("jaeger")
