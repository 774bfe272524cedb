"""A workspace, and a way to run the standard tools in it."""

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_runtime.events.event_bus import EventBus
from agent_runtime.tools import ToolExecutor, ToolResult, Workspace, standard_tools

Run = Callable[..., Awaitable[ToolResult]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty directory for the workspace."""
    path = tmp_path / "workspace"
    path.mkdir()
    return path


@pytest.fixture
def workspace(root: Path) -> Iterator[Workspace]:
    """A workspace in ``root``."""
    workspace = Workspace(root)
    yield workspace
    workspace.close()


@pytest.fixture
def run(workspace: Workspace) -> Run:
    """``await run(tool_name, file_rule=…, **arguments)``."""
    executor = ToolExecutor(EventBus(), standard_tools(workspace))

    async def run(tool_name: str, *, file_rule: str | None = None, **arguments: Any) -> ToolResult:
        return await executor.execute(
            session_id="s-1",
            agent="coder",
            tool_name=tool_name,
            call_id="call-1",
            arguments=arguments,
            file_rule=file_rule,
        )

    return run
