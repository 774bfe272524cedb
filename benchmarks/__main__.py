"""Runs each benchmark module in a process of its own, and writes what they measured to ``benchmarks/results.md``.

Usage: ``python -m benchmarks [NAME …]``; names are modules without ``bench_``. With names, the results are only
    printed.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PACKAGES = (
    "prometheus-client",
    "opentelemetry-sdk",
    "fastapi",
    "uvicorn",
    "pydantic",
    "orjson",
    "bubus",
    "pyee",
    "blinker",
)


def main() -> int:
    """Run, print, and (without names) write; the exit code is 1 if a module failed."""
    wanted = sys.argv[1:]
    modules = sorted(path.stem for path in HERE.glob("bench_*.py"))
    chosen = [module for module in modules if not wanted or module.removeprefix("bench_") in wanted]
    rows: list[dict[str, Any]] = []
    failed = []
    for module in chosen:
        print(f"running {module} …", file=sys.stderr, flush=True)
        program = f"import json, benchmarks.{module} as m; print(json.dumps(m.rows()))"
        done = subprocess.run([sys.executable, "-c", program], cwd=HERE.parent, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            failed.append(module)
        else:
            rows += json.loads(done.stdout.splitlines()[-1])
    text = report(rows, failed)
    print(text)
    if not wanted:
        (HERE / "results.md").write_text(text)
    return 1 if failed else 0


def report(rows: list[dict[str, Any]], failed: list[str]) -> str:
    """The rows as a Markdown page, with the machine and the versions they were measured on."""
    lines = [
        "# Benchmark results",
        "",
        "Written by `make bench`. Ours and the yardstick take turns in one run; times are medians in microseconds.",
        "The machine is shared, so ratios mean more than times. A bar that is missed says so, and why.",
        "",
        f"{datetime.now(UTC):%Y-%m-%d} · {_processor()} · CPython {platform.python_version()} · "
        + " · ".join(f"{name} {version(name)}" for name in PACKAGES),
        "",
        "| work | ours µs | yardstick | yardstick µs | ratio | bar | |",
        "|---|---:|---|---:|---:|---:|---|",
    ]
    notes = []
    for row in rows:
        ratio, bar = row.get("ratio"), row.get("bar")
        verdict = "" if bar is None or ratio is None else "met" if ratio <= bar else "**missed**"
        lines.append(
            f"| {row['work']} | {_number(row['ours_us'])} | {row['yardstick']} | {_number(row.get('yardstick_us'))} "
            f"| {_number(ratio)} | {_number(bar)} | {verdict} |"
        )
        if row.get("note"):
            notes.append(f"- {row['work']}: {row['note']}")
    if notes:
        lines += ["", "## Notes", "", *notes]
    lines += [f"\n{module} failed." for module in failed]
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _processor() -> str:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return f"{len(names)} × {names[0]}" if names else platform.machine()


if __name__ == "__main__":
    raise SystemExit(main())
