"""Which tool calls a person must approve: rules in order, each on a tool's whole name; the first that matches wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any


@dataclass(frozen=True, slots=True)
class ApprovalRule:
    """A row of the policy.

    Attributes:
        tool: the whole name of a tool, or a glob on the whole name (``*``, ``?``, ``[ab]``); capitals matter.
        required: whether a person must approve the call.
        reason: why, for that person; required where ``required`` is true.
    """

    tool: str
    required: bool
    reason: str = ""

    def __post_init__(self) -> None:
        if not self.tool:
            raise ValueError("a rule needs the name of a tool, or a glob such as '*'")
        if self.required and not self.reason:
            raise ValueError(f"the rule for {self.tool!r} must tell the person who decides why it asks")

    def matches(self, tool_name: str) -> bool:
        """Whether the rule is about the tool of that name."""
        return fnmatchcase(tool_name, self.tool)


# The tools that change something outside the conversation (CONTRACT 3.5).
DEFAULT_RULES = (
    ApprovalRule("write_file", True, "writes a file"),
    ApprovalRule("delete_file", True, "deletes a file"),
    ApprovalRule("execute_command", True, "runs a command"),
    ApprovalRule("create_directory", True, "creates a directory"),
    ApprovalRule("move_file", True, "moves or renames a file"),
    ApprovalRule("*", False),
)


class ApprovalPolicy:
    """Rules in order.

    Args:
        rules: the first that matches decides; a call that none matches needs no approval.

    Raises:
        ValueError: a rule could never match, because an earlier one has the same name or ``*``.
    """

    def __init__(self, rules: Sequence[ApprovalRule] = DEFAULT_RULES) -> None:
        self.rules = tuple(rules)
        earlier: set[str] = set()
        for rule in self.rules:
            if rule.tool in earlier or "*" in earlier:
                raise ValueError(f"the rule for {rule.tool!r} never matches: an earlier one always does")
            earlier.add(rule.tool)

    def decide(self, tool_name: str, arguments: Mapping[str, Any]) -> str | None:
        """Why a person must approve this call; None if nobody must.

        Args:
            tool_name: whole, as the model called it.
            arguments: these rules do not look at them; a policy of one's own may.
        """
        for rule in self.rules:
            if rule.matches(tool_name):
                return rule.reason if rule.required else None
        return None


DEFAULT_POLICY = ApprovalPolicy()
