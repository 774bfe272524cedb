"""`python -m dashboards` writes json/*.json; with `--check` it only compares, and exits with 1 if a file is stale."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards.overview import overview

JSON_DIRECTORY = Path(__file__).parent / "json"
BOARDS = (overview,)


def render() -> dict[str, str]:
    """Returns the text of every file in json/ by its name, which is the board's uid."""
    boards = [make() for make in BOARDS]
    return {f"{board.uid}.json": json.dumps(board, cls=JSONEncoder, indent=2) + "\n" for board in boards}


def stale(directory: Path = JSON_DIRECTORY) -> list[str]:
    """Returns the names of files that are missing, differ from the code, or belong to no board."""
    current = {path.name: path.read_text() for path in directory.glob("*.json")}
    wanted = render()
    return sorted(name for name in current.keys() | wanted.keys() if current.get(name) != wanted.get(name))


def write(directory: Path = JSON_DIRECTORY) -> list[str]:
    """Brings json/ up to date and returns the names of the files that changed."""
    changed = stale(directory)
    wanted = render()
    directory.mkdir(exist_ok=True)
    for name in changed:
        if name in wanted:
            (directory / name).write_text(wanted[name])
        else:
            (directory / name).unlink()
    return changed


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m dashboards", description="Writes dashboards/json.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 if a file is stale")
    check = parser.parse_args(arguments).check
    changed = stale() if check else write()
    for name in changed:
        print(f"{'stale' if check else 'wrote'} {name}")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
