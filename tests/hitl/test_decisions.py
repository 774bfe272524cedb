import pytest

from agent_runtime.hitl.decisions import Decision, Status, read_decision
from agent_runtime.hitl.errors import InvalidDecision


@pytest.mark.parametrize("word", ["approve", "APPROVE", "Approve", " approve "])
def test_any_case_is_accepted(word: str) -> None:
    """Older clients send capitals."""
    assert Decision(Status.APPROVED, None, None) == read_decision(word)


def test_an_edit_brings_its_arguments() -> None:
    """They are copied."""
    modified = {"path": "b.txt"}
    decision = read_decision("EDIT", modified, "not there")
    modified["path"] = "c.txt"
    assert Decision(Status.EDITED, {"path": "b.txt"}, "not there") == decision


def test_an_edit_may_take_all_arguments_away() -> None:
    """An empty object is an object."""
    assert Decision(Status.EDITED, {}, None) == read_decision("edit", {})


@pytest.mark.parametrize("word", ["reject", "feedback"])
def test_feedback_says_no(word: str) -> None:
    """A decision of that name is a rejection with words."""
    assert Decision(Status.REJECTED, None, "use a list") == read_decision(word, feedback="use a list")


@pytest.mark.parametrize(
    ("sent", "complaint"),
    [
        (("maybe",), "decision: must be one of approve, edit, reject, feedback, got 'maybe'"),
        (("",), "decision: must be one of approve, edit, reject, feedback, got ''"),
        ((None,), "decision: must be one of approve, edit, reject, feedback, got null"),
        ((True,), "decision: must be one of approve, edit, reject, feedback, got true or false"),
        (("expired",), "decision: must be one of approve, edit, reject, feedback, got 'expired'"),
        (("x" * 99,), f"decision: must be one of approve, edit, reject, feedback, got '{'x' * 80}…'"),
        (("edit",), "modified_arguments: is required"),
        (("edit", [1]), "modified_arguments: expected an object, got an array"),
        (("edit", "{}"), "modified_arguments: expected an object, got a string"),
        (("edit", {"a": "\0"}), "modified_arguments.a: contains a NUL"),
        (("approve", {"path": "b"}), "modified_arguments: can't go with approve"),
        (("reject", {}), "modified_arguments: can't go with reject"),
        (("feedback",), "feedback: is required"),
        (("feedback", None, "  "), "feedback: is required"),
        (("reject", None, 3), "feedback: expected a string, got a whole number"),
        (("reject", None, "\ud800"), "decision.feedback: contains a lone surrogate"),
    ],
)
def test_what_is_no_decision_is_refused(sent: tuple[object, ...], complaint: str) -> None:
    """The error says what was expected; above all, an edit is never taken for an approval."""
    with pytest.raises(InvalidDecision) as caught:
        read_decision(*sent)
    assert complaint == str(caught.value)[: len(complaint)]
