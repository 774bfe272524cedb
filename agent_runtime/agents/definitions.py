"""AGENTS: one row an agent, with its prompt, its tools and the files it may write."""

from __future__ import annotations

from dataclasses import dataclass

READING = ("read_file", "list_files", "search_in_code")
TALKING = ("attempt_completion", "ask_followup_question")


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent.

    Attributes:
        name: as events, labels and the API call it.
        prompt: the system prompt of its model calls.
        tools: names of the tools it may call; None for all.
        file_rule: pattern of the file names it may write; None for any file of the workspace, empty for none.
        keywords: words of a message that speak for it when the model does not decide.
    """

    name: str
    prompt: str
    tools: tuple[str, ...] | None
    file_rule: str | None
    keywords: tuple[str, ...] = ()


_COMMON = (
    "Work in small steps and use your tools to look before you answer. Say plainly what you did, what you found and "
    "what "
    "you could not do. Never invent the content of a file or the output of a command."
)

AGENTS: dict[str, Agent] = {
    agent.name: agent
    for agent in (
        Agent(
            "orchestrator",
            "You are the orchestrator of a team of specialists: coder, architect, debug and ask. You decide which "
            "of them "
            "should take the user's message; you may look at the workspace to decide. " + _COMMON,
            READING,
            "",
        ),
        Agent(
            "coder",
            "You are the coder. You write and change code in the workspace, create directories and run commands to "
            "check "
            "your work. Changes and commands may need a person's approval: ask for what is needed and no more. "
            + _COMMON,
            (
                "read_file",
                "write_file",
                "list_files",
                "search_in_code",
                "create_directory",
                "execute_command",
                *TALKING,
            ),
            None,
            ("implement", "write", "create", "add", "refactor", "code", "function", "class", "rename", "build"),
        ),
        Agent(
            "architect",
            "You are the architect. You think about structure, interfaces and trade-offs, and write your designs "
            "down in "
            "Markdown files. You change no code; when code is to be written, switch to the coder. " + _COMMON,
            ("read_file", "write_file", "list_files", "search_in_code", *TALKING, "switch_mode"),
            "*.md",
            ("design", "architecture", "plan", "structure", "diagram", "proposal", "spec", "trade-off"),
        ),
        Agent(
            "debug",
            "You are the debugger. You reproduce failures, read logs and code, and find the cause before you propose a "
            "mend. You change no files; when a change is due, switch to the coder. " + _COMMON,
            ("read_file", "list_files", "search_in_code", "execute_command", *TALKING, "switch_mode"),
            "",
            ("bug", "error", "fix", "debug", "crash", "traceback", "fails", "failing", "exception", "broken"),
        ),
        Agent(
            "ask",
            "You are the one who explains. You answer questions about the workspace and about programming, from "
            "what you "
            "read. You change nothing and run nothing. " + _COMMON,
            ("read_file", "search_in_code", "list_files", "attempt_completion", "switch_mode"),
            "",
            ("what", "why", "how", "explain", "?", "who", "when", "where", "describe", "compare"),
        ),
        Agent(
            "universal",
            "You are a software engineer with every tool at hand: you plan, write, run, debug and explain by yourself. "
            "Changes and commands may need a person's approval. " + _COMMON,
            None,
            None,
        ),
    )
}

ORCHESTRATOR = "orchestrator"
UNIVERSAL = "universal"
SPECIALISTS = ("coder", "architect", "debug", "ask")
