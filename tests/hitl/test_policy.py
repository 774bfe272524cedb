import pytest

from agent_runtime.hitl.policy import DEFAULT_POLICY, ApprovalPolicy, ApprovalRule


@pytest.mark.parametrize("tool", ["write_file", "delete_file", "execute_command", "create_directory", "move_file"])
def test_what_changes_the_world_is_asked_about(tool: str) -> None:
    """The five tools of the contract need approval, and the person is told why."""
    assert (DEFAULT_POLICY.decide(tool, {}) or "") != ""


@pytest.mark.parametrize(
    "tool",
    ["read_file", "list_files", "search_in_code", "calculator", "echo", "switch_mode", "attempt_completion"],
)
def test_what_changes_nothing_is_not(tool: str) -> None:
    """Reading, computing and talking need no approval."""
    assert None is DEFAULT_POLICY.decide(tool, {})


@pytest.mark.parametrize("tool", ["xwrite_file", "write_file2", "WRITE_FILE", "write_file\n", "my.write_file", ""])
def test_a_name_matches_whole_or_not_at_all(tool: str) -> None:
    """A rule on write_file is about no other name that contains it."""
    policy = ApprovalPolicy([ApprovalRule("write_file", True, "writes")])
    assert [None, "writes"] == [policy.decide(tool, {}), policy.decide("write_file", {})]


def test_the_first_match_wins() -> None:
    """An exception stands before its rule, and what no rule matches needs nothing."""
    policy = ApprovalPolicy(
        [
            ApprovalRule("mcp_read_*", False),
            ApprovalRule("mcp_*", True, "runs elsewhere"),
            ApprovalRule("git_?", True, "g"),
        ]
    )
    tools = ["mcp_read_mail", "mcp_send_mail", "xmcp_send", "git_a", "git_ab", "other"]
    assert [None, "runs elsewhere", None, "g", None, None] == [policy.decide(tool, {}) for tool in tools]


@pytest.mark.parametrize(
    ("rules", "complaint"),
    [
        ([("", True, "why")], "needs the name of a tool"),
        ([("rm", True, "")], "must tell the person"),
        ([("*", False, ""), ("rm", True, "deletes")], "'rm' never matches"),
        ([("rm", False, ""), ("rm", True, "deletes")], "'rm' never matches"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(rules: list[tuple[str, bool, str]], complaint: str) -> None:
    """An empty name, a question without a reason, and a rule behind one that always matches first."""
    with pytest.raises(ValueError, match=complaint):
        ApprovalPolicy([ApprovalRule(*rule) for rule in rules])
