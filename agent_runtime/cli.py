"""The command line: ``agent-runtime serve``, ``ingest`` and ``demo``."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from agent_runtime import demo as demonstration
from agent_runtime.demo_sessions import USUAL_RATE, LiveSessions
from agent_runtime.events.errors import StoreError
from agent_runtime.ingest_files import STDIN, Note, Source, ingest
from agent_runtime.sender import Answer, NotSent, Sender
from agent_runtime.settings import Settings, SettingsError, load_settings, misspelt

if TYPE_CHECKING:
    from agent_runtime.server import Server

SHOWN_ERRORS = 5
PORTS_TRIED = 20
DEMO_APPROVAL_SECONDS = 60.0

logger = logging.getLogger("agent_runtime")
console = Console()
errors = Console(stderr=True)

cli = typer.Typer(
    name="agent-runtime",
    help="Observability for agents: events in; metrics, traces and audit out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """The entry point."""
    cli()


@cli.command()
def serve(
    mode: Annotated[str | None, typer.Option(help="sidecar or runtime. [default: runtime]")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. [default: 8001]")] = None,
) -> None:
    """Run the service. Everything else is set by AGENT_RUNTIME__* and OTEL_* variables (docs/settings.md)."""
    settings = _settings(mode=mode, host=host, port=port)
    server = _server(settings, settings.log_level)
    url = _url(settings.host, settings.port)
    logger.info("send events to %s/events, scrape %s/metrics, read %s/docs", url, url, url)
    server.run()


@cli.command("ingest")
def ingest_command(
    names: Annotated[list[str], typer.Argument(metavar="FILE...", help=".jsonl, .jsonl.gz, or - for standard input.")],
    url: Annotated[str, typer.Option(help="Of the service.")] = "http://127.0.0.1:8001",
    key: Annotated[
        str | None,
        typer.Option(help="Ingest key.", envvar=["AGENT_RUNTIME__INGEST_KEY", "AGENT_RUNTIME__INTERNAL_API_KEY"]),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Events in one request.")] = 500,
    patience: Annotated[float, typer.Option(min=0, help="Seconds to wait for a service that is away.")] = 120.0,
) -> None:
    """Send files of events, one JSON object a line.

    An unfinished run is continued by the next one (a note <file>.ingest is kept beside the file meanwhile). Sending a
    file twice is harmless: events that the service knows are counted as duplicates.
    """
    answers = asyncio.run(_ingest(names, url, key, batch, patience))
    total = Answer()
    for answer in answers.values():
        total.accepted += answer.accepted
        total.duplicates += answer.duplicates
        total.rejected += answer.rejected
    console.print(
        f"accepted {total.accepted}, duplicates {total.duplicates}, rejected {len(total.rejected)}", highlight=False
    )
    rows = [(name, number, error) for name, answer in answers.items() for number, error in answer.rejected]
    for name, number, error in rows[:SHOWN_ERRORS]:
        errors.print(f"{name}, line {number}: {error}", markup=False, highlight=False, soft_wrap=True)
    if len(rows) > SHOWN_ERRORS:
        errors.print(f"and {len(rows) - SHOWN_ERRORS} more", highlight=False)
    if rows:
        raise typer.Exit(1)


async def _ingest(names: list[str], url: str, key: str | None, batch: int, patience: float) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    async with httpx.AsyncClient(timeout=60.0, trust_env=False) as client:
        sender = Sender(client, url, key, patience)
        with Progress(*columns, console=errors, transient=True) as bars:
            for name in names:
                try:
                    with closing(Source(name)) as source:
                        shown = "standard input" if name == STDIN else os.path.basename(name)
                        bar = bars.add_task(shown, total=source.size)
                        note = Note(name, url)
                        answers[name] = await ingest(
                            source,
                            note,
                            sender,
                            batch,
                            lambda done, bar=bar: bars.update(bar, completed=done),  # type: ignore[misc]
                        )
                except NotSent as error:
                    _fail(1, f"{error}\n{name} is not done; the same command goes on where it stopped")
                except (OSError, EOFError) as error:
                    _fail(1, f"{name} can't be read: {error}")
    return answers


@cli.command()
def demo(
    port: Annotated[int | None, typer.Option(help="Port to listen on; the next free one if it is taken.")] = None,
    rate: Annotated[float, typer.Option(min=0, max=6_000, help="Live sessions a minute; 0 is none.")] = USUAL_RATE,
    sessions: Annotated[
        int | None, typer.Option(min=0, help="Live sessions in all. [default: no end; none with --once]")
    ] = None,
    once: Annotated[bool, typer.Option(help="Stop after the table.")] = False,
) -> None:
    """Start the service, play real agent sessions into it, show what it makes of them, and keep playing.

    The live sessions run on the runtime itself with its scripted model, in a workspace that is thrown away. A simulated
    person answers their approvals. Models, keys of models and remote tools that are set are left alone.
    """
    settings = _settings(port=port)
    free = _free_port(settings.host, settings.port)
    if free != settings.port:
        console.print(f"Port {settings.port} is taken, so this is port {free}.", highlight=False)
        settings = _settings(port=free)
    if once and sessions is None:
        sessions = 0
    with TemporaryDirectory(prefix="agent-runtime-demo-") as workspace:
        settings = _demo_settings(settings, Path(workspace))
        server = _server(settings, "WARNING" if settings.log_level == "INFO" else settings.log_level)
        # Its lines, one for each decision, would bury the table; they can be read at /events/audit-log.
        logging.getLogger("agent_runtime.audit").setLevel(logging.CRITICAL)
        asyncio.run(_demo(server, settings, once, rate, 0 if rate == 0 else sessions))


def _demo_settings(settings: Settings, workspace: Path) -> Settings:
    """The runtime, whose model costs nothing and whose files are nobody's; people have a minute, if not set."""
    changes: dict[str, Any] = {"mode": "runtime", "llm_proxy_url": None, "remote_tools": "", "workspace": workspace}
    if "approval_timeout_seconds" not in settings.model_fields_set:
        changes["approval_timeout_seconds"] = DEMO_APPROVAL_SECONDS
    return settings.model_copy(update=changes)


async def _demo(server: Server, settings: Settings, once: bool, rate: float, sessions: int | None) -> None:
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():
        await asyncio.sleep(0.02)
    showing = asyncio.create_task(_show(settings, once, rate, sessions))
    await asyncio.wait((serving, showing), return_when=asyncio.FIRST_COMPLETED)
    failed = showing.done() and not showing.cancelled() and showing.exception()
    showing.cancel()
    await asyncio.wait((showing,))
    if once or failed:
        server.should_exit = True
    await serving
    if failed:
        _fail(1, str(failed) or type(failed).__name__)


async def _show(settings: Settings, once: bool, rate: float, sessions: int | None) -> None:
    url = _url(settings.host, settings.port)
    key = settings.keys.get("admin")
    async with httpx.AsyncClient(timeout=30.0, trust_env=False, limits=httpx.Limits(max_connections=None)) as client:
        demo = demonstration.Demo(client, url, key)
        before = await demo.metrics()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=console) as bars:
            bar = bars.add_task("Events sent", total=None)
            answer = await demo.play(lambda done, total: bars.update(bar, completed=done, total=total))
        if answer.rejected:
            raise NotSent(f"{len(answer.rejected)} events of the sample were rejected: {answer.rejected[0][1]}")
        if once and sessions != 0:
            await _play_live(client, url, key, rate, sessions)
        events = demonstration.events_in(before) + answer.accepted
        with Progress(SpinnerColumn(), TextColumn("{task.description}"), console=console, transient=True) as bars:
            bars.add_task(f"Turns are settled {settings.settle_seconds:g} s after their last event")
            open_turns = demonstration.total(before, "agent_runtime_turns_open")
            settled = await demo.settled(events, open_turns, settings.settle_seconds + 30)
        console.print(_table(demonstration.figures(await demo.metrics()), url))
        if not settled:
            errors.print("Not every turn is settled yet; the numbers above are behind.")
        _print_places(url)
        if once:
            return
        console.print("Serving until Ctrl-C.")
        if sessions != 0:
            await _play_live(client, url, key, rate, sessions)


async def _play_live(client: httpx.AsyncClient, url: str, key: str | None, rate: float, sessions: int | None) -> None:
    with Progress(SpinnerColumn(), TextColumn("{task.description}", markup=False), console=console) as bars:
        bar = bars.add_task("Live sessions begin")
        live = LiveSessions(
            client, url, key, rate=rate, progress=lambda said: bars.update(bar, description=f"Live: {said}")
        )
        await live.play(sessions)


def _table(rows: list[demonstration.Figure], url: str) -> Table:
    table = Table(title=f"What {url}/metrics says", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    for name, value in rows:
        table.add_row(name, value)
    return table


def _print_places(url: str) -> None:
    for path, what in (
        ("/metrics", "for Prometheus"),
        ("/events/metrics", "the same counts as JSON"),
        ("/events/audit-log", "switches, decisions, failures"),
        ("/events/stream", "live, as Server-Sent Events"),
        ("/docs", "the whole API"),
    ):
        console.print(f"  {url}{path:<20} {what}", highlight=False, soft_wrap=True)


def _settings(**overrides: Any) -> Settings:
    try:
        return load_settings(**overrides)
    except SettingsError as error:
        _fail(2, str(error))


def _server(settings: Settings, log_level: str) -> Server:
    # Here, not above: whoever only sends a file need not wait for the whole service to be loaded.
    from agent_runtime.main import create_app
    from agent_runtime.server import Server
    from telemetry.logs import configure_logging

    configure_logging(log_level, settings.log_format, secrets=settings.keys.values())
    for sentence in misspelt(os.environ):
        logger.warning(sentence)
    try:
        return Server(create_app(settings), settings.host, settings.port)
    except (StoreError, ValueError) as error:
        _fail(2, str(error))


def _fail(code: int, message: str) -> NoReturn:
    errors.print(message, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def _url(host: str, port: int) -> str:
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def _free_port(host: str, first: int) -> int:
    """``first``, or the next port behind it on which nobody listens."""
    for port in range(first, min(first + PORTS_TRIED, 65_536)):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    _fail(1, f"ports {first} to {first + PORTS_TRIED - 1} are all taken")


if __name__ == "__main__":
    main()
