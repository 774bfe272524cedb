import pytest

from agent_runtime.tools.talk import ask_followup_question, attempt_completion, echo, switch_mode


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (echo("as it is\n"), "as it is\n"),
        (switch_mode("coder", "it is about code"), "switch to coder"),
        (attempt_completion("done"), "done"),
        (ask_followup_question("which one?"), "which one?"),
    ],
)
def test_they_only_say_something(result: str, expected: str) -> None:
    """The orchestrator acts upon the call; the result is what the model reads."""
    assert expected == result
