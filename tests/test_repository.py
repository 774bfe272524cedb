"""The repository can be cloned anywhere: pinned, free of one machine's paths, its words and its files agreeing."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINNED = dict(re.findall(r"^([a-z0-9.\-]+)==(\S+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def tracked() -> list[Path]:
    """Returns the files that git knows, without the binary ones."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:8000]]


@pytest.mark.parametrize(
    "pattern",
    [
        r"--(extra-)?index-url|--find-links|--trusted-host",
        r"https?://[^\s/\"']*/(simple|pypi)\b",
        # Split, so that this file is not found.
        r"(?<![\w.~$}-])/(" + "root|home|Users" + r")/\w",
        r"(?<![\w.~$}/-])/" + "work" + r"/(main|shared)",
    ],
)
def test_no_file_names_a_machine_or_a_registry(pattern: str) -> None:
    """A path or a package index of one machine breaks on every other one."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in tracked()
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert [] == found


def test_every_dependency_is_pinned() -> None:
    """requirements.txt is nothing but name==version, and has whatever pyproject.toml asks for."""
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line]
    assert [] == [line for line in lines if not re.fullmatch(r"[a-z0-9.\-]+==\S+", line)]
    wanted = PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"]
    names = {re.match(r"[A-Za-z0-9.\-_]+", requirement)[0].lower().replace("_", "-") for requirement in wanted}
    assert set() == names - PINNED.keys()


def test_every_dependency_says_what_it_is_for() -> None:
    """Each line of the runtime's dependencies ends with a few words."""
    text = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)[1]
    assert [] == [line for line in block.splitlines() if not re.search(r"# \w+", line)]


def test_make_targets_that_the_documents_name_exist() -> None:
    """Who follows the README or the contributing guide never reads “No rule to make target”."""
    for name in ("README.md", "CONTRIBUTING.md", "docker-compose.yml", ".env.example", ".ci/run"):
        named = set(re.findall(r"(?:`|^\s*|# |&& )make ([a-z]+)", (ROOT / name).read_text(), re.MULTILINE))
        assert set() == named - TARGETS, name
    assert {"install", "run", "test", "lint", "bench", "dashboards", "clean"} <= TARGETS


def test_ci_is_executable() -> None:
    """`./.ci/run` runs everything."""
    assert (ROOT / ".ci/run").stat().st_mode & 0o100
    assert "make test" in (ROOT / ".ci/run").read_text()


def test_files_that_the_readme_links_exist() -> None:
    """A relative link leads somewhere."""
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", (ROOT / "README.md").read_text())
    assert [] == [link for link in links if not (ROOT / link).exists()]
