"""A real PostgreSQL for tests: a cluster of its own, on loopback, on a free port, thrown away afterwards."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import pytest

_START_SECONDS = 60.0
_POLL_SECONDS = 0.05


class PostgresServer:
    """PostgreSQL, running while the `with` block lasts.

    PostgreSQL refuses to run as root; then it runs as `postgres` (or `nobody`), in a folder that this user can reach.

    Args:
        directory: Where its data and its log go, if the user it runs as can reach it; a test's `tmp_path`.
        options: Settings of the server, such as `{"max_connections": "300"}`.

    Attributes:
        url: Of its first database, as the superuser: `postgresql://…`. password: The superuser's.

    Raises:
        AssertionError: If it does not start, with its own words.
    """

    def __init__(self, directory: Path, options: dict[str, str] | None = None) -> None:
        self._directory = directory
        self._options = options or {}
        self.password = secrets.token_hex(8)
        self._user: dict[str, Any] = {}
        self._made: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._databases = 0
        self.url = ""

    def __enter__(self) -> Self:
        initdb = installed("initdb")
        if os.geteuid() == 0:
            self._user = _somebody()
            self._made = self._directory = Path(tempfile.mkdtemp(prefix="postgres-"))
        password = self._directory / "password"
        password.write_text(self.password)
        for path in (self._directory, password):
            os.chown(path, self._user.get("user", -1), self._user.get("group", -1))
        try:
            command = [initdb, "--username=postgres", f"--pwfile={password}", "--auth=scram-sha-256", "--no-sync"]
            self._run([*command, "--encoding=UTF8", "--no-locale", f"--pgdata={self._directory / 'data'}"])
            self._port = _free_port()
            self.url = self._url("postgres")
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._made is not None:
            shutil.rmtree(self._made, ignore_errors=True)

    def start(self) -> None:
        """Starts it, again after a `stop` or a `kill`, on the same port."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": "",
            "fsync": "off",
            **self._options,
        }
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with self._log().open("ab") as log:
            self._process = subprocess.Popen(
                [installed("postgres"), "-D", str(self._directory / "data"), *flags],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                **self._user,
            )
        deadline = time.monotonic() + _START_SECONDS
        while subprocess.run([installed("pg_isready"), "-q", "-d", self.url]).returncode:
            assert self._process.poll() is None, f"PostgreSQL ended: {self._log().read_text()}"
            assert time.monotonic() < deadline, f"PostgreSQL did not start: {self._log().read_text()}"
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """Ends it in order; its clients are cut off."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Ends it without a word, as a crash would; `start` recovers its data."""
        self._end(signal.SIGQUIT)

    def new_database(self) -> str:
        """Returns the URL of a fresh, empty database."""
        self._databases += 1
        name = f"test_{self._databases}"
        command = ["createdb", "--host=127.0.0.1", f"--port={self._port}", "--username=postgres", name]
        self._run([installed(command[0]), *command[1:]], PGPASSWORD=self.password)
        return self._url(name)

    def _url(self, database: str) -> str:
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self._port}/{database}"

    def _log(self) -> Path:
        return self._directory / "postgres.log"

    def _run(self, command: Sequence[str], **environment: str) -> None:
        done = subprocess.run(
            command,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self._directory,
            **self._user,
        )
        assert done.returncode == 0, f"{command[0]} failed: {done.stdout.decode(errors='replace')}"

    def _end(self, with_signal: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(with_signal)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def installed(program: str) -> str:
    """Returns the path of one of PostgreSQL's programs; without it the test is skipped, or fails where `CI=true`."""
    # Debian keeps the server's programs out of the path, a folder for each version.
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    path = shutil.which(program, path=os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")]))
    if path is not None:
        return path
    reason = f"{program} is not installed (Debian package: postgresql)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _somebody() -> dict[str, Any]:
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL does not run as root, and there is no other user")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
