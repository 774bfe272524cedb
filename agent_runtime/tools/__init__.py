"""Tools: what a model may call, where it may reach, and the events around it. Knows ``agent_runtime.events`` only.

``registry``      JSON schemas from typed functions            ``executor``   runs a tool, publishes start and end
``paths``, ``workspace``  a directory that cannot be left      ``file_tools`` read, write, list, search, move …
``calculator``    arithmetic without ``eval``                  ``talk``       echo, and what the orchestrator acts upon
``command``       runs programs through ``sandbox``            ``search``     runs ``line_search``
                  (a process of its own each, killed when its time is over)
"""

from __future__ import annotations

from agent_runtime.tools.calculator import calculator
from agent_runtime.tools.command import CommandTool
from agent_runtime.tools.errors import ToolError
from agent_runtime.tools.executor import ToolExecutor, ToolResult
from agent_runtime.tools.file_tools import FileTools
from agent_runtime.tools.registry import Call, Tool, ToolRegistry
from agent_runtime.tools.talk import ask_followup_question, attempt_completion, echo, switch_mode
from agent_runtime.tools.workspace import Workspace

__all__ = [
    "Call",
    "Tool",
    "ToolError",
    "ToolExecutor",
    "ToolRegistry",
    "ToolResult",
    "Workspace",
    "standard_tools",
]


def standard_tools(workspace: Workspace, *, allow_network: bool = False) -> ToolRegistry:
    """The thirteen tools of the agents, working in ``workspace``.

    Args:
        allow_network: see ``CommandTool``.
    """
    return ToolRegistry(
        [
            *(echo, calculator, switch_mode),
            *FileTools(workspace).functions(),
            CommandTool(workspace, allow_network=allow_network).execute_command,
            *(attempt_completion, ask_followup_question),
        ]
    )
