"""Tools that only say something. The orchestrator looks at the call, and does what it means."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Text = Annotated[str, Field(max_length=100_000)]
Mode = Annotated[str, Field(min_length=1, max_length=64)]


def echo(text: Text) -> str:
    """Give a text back as it is.

    Args:
        text: the text.
    """
    return text


def switch_mode(mode: Mode, reason: Text = "") -> str:
    """Hand the conversation over to another agent, which is better at what comes next.

    Args:
        mode: the name of the agent, such as coder, architect, debug or ask.
        reason: why, in one sentence.
    """
    return f"switch to {mode}"


def attempt_completion(result: Text) -> str:
    """Say that the task is done, and give its result to the user.

    Args:
        result: what was done, final and complete, without a question at its end.
    """
    return result


def ask_followup_question(question: Text) -> str:
    """Ask the user a question, and wait for the answer; for what no other tool can find out.

    Args:
        question: one clear question.
    """
    return question
