"""What the scripted model plays: one row a scene.

A scene is for one or more agents and for messages that match its expression. Its steps are the answers of a turn, in
order: step 0 answers the person, step 1 follows the results of step 0's tool calls, and so on. Texts and arguments are
``string.Template``s; ``scripted`` fills in

    $path, $name        the file that the message names, or one that fits; its name without folder and ending
    $topic              the message, shortened
    $expr               the calculation in the message
    $result             the first line of the latest tool result
    $folder             the directory that the message names
    $opening, $advice   a phrase to begin with; one for whoever wants no tool
    $code, $document    what to write into $path; the same as a document

A switch leads to an agent that can't switch itself: that is how ``scripted`` knows that one has come about.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call of a step."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One answer."""

    text: str
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """One turn.

    Args:
        agents: who plays it.
        asks: an expression that is looked for in the message, in any case.
        steps: the answers.
        refused: the answer instead of the next step, if a guarded call has failed or was not allowed; without it the
            steps go on as if nothing was.
    """

    agents: tuple[str, ...]
    asks: str
    steps: tuple[Step, ...]
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """A message that makes the model fail, for demonstrations of failures."""

    asks: str
    error_type: str
    message: str


@dataclass(frozen=True, slots=True)
class Route:
    """Which agent the orchestrator's question is answered with."""

    agent: str
    asks: str
    confidence: str
    reasoning: str


# Who is speaking is told by the tools that are offered; the first row whose tools are all there. The last has none.
AGENTS: tuple[tuple[str, frozenset[str]], ...] = (
    ("universal", frozenset({"delete_file"})),
    ("coder", frozenset({"create_directory"})),
    ("architect", frozenset({"write_file", "switch_mode"})),
    ("debug", frozenset({"execute_command"})),
    ("ask", frozenset({"switch_mode"})),
    ("orchestrator", frozenset()),
)

_BUILD = r"\b(implement|build|program)\b|реализ|запрограмм"
_WRITE = r"\b(write|create|add|make|generate|save|edit|change|update|refactor)\b|напиши|создай|добавь|измени|" + _BUILD
_DESIGN = r"\b(design|architecture|plan|structure|diagram)\b|спроектир|архитектур|план"
_BROKEN = r"\b(bugs?|debug|errors?|fail(s|ed|ing)?|crash(es|ed)?|traceback|broken)\b|ошибк|сломал|падает|отлад"
_RUN = r"\b(run|test|execute|launch|start)\b|запусти|протестируй"

ROUTES: tuple[Route, ...] = (
    Route("debug", _BROKEN, "high", "Something does not work, and the cause has to be found first."),
    Route("architect", _DESIGN, "high", "The request is about structure; files other than documents stay as they are."),
    Route("coder", _WRITE, "high", "Files have to be written."),
    Route("coder", _RUN, "medium", "A command has to be run."),
    Route(
        "ask", r"\?|\b(what|how|why|explain|where|who)\b|что|как|почему|объясни", "high", "A question to be answered."
    ),
    Route("ask", "", "low", "No agent stands out; a question does no harm."),
)

FAULTS: tuple[Fault, ...] = (
    Fault(r"simulate an? outage", "server_error", "the scripted model plays an outage (503)"),
    Fault(r"simulate a timeout", "timeout", "the scripted model plays a timeout"),
    Fault(r"simulate a rate limit", "rate_limit", "the scripted model plays a rate limit (429)"),
)

# What is written into a file, by its ending; the last row is for all others.
CONTENTS: tuple[tuple[str, str], ...] = (
    (
        ".py",
        '"""$plain"""\n\n\ndef main() -> None:\n    """Say that it runs."""\n    print("$name runs")\n\n\n'
        'if __name__ == "__main__":\n    main()\n',
    ),
    (".md", "# $name\n\n$plain\n\n- What it is for\n- How it is used\n- What it leaves out\n"),
    (".json", '{"about": "$plain"}\n'),
    ("", "$plain\n"),
)

OPENINGS = ("", "Sure. ", "Right away. ", "On it. ")
ADVICE = (
    "it is a matter of keeping what changes apart from what stays",
    "start with the smallest thing that could work, and let a test say when it is done",
    "name things after what they mean, and most of the question answers itself",
)

# Their calls may be refused by a person, or go wrong for other reasons that end the scene.
GUARDED = frozenset({"write_file", "delete_file", "execute_command", "create_directory", "move_file"})

_LOOK = (
    Call("list_files", {"path": "."}),
    Call("search_in_code", {"query": "$name", "path": ".", "max_results": 20}),
)
_STOPPED = "I stopped there: $result\nTell me how you would like to go on."

SCENES: tuple[Scene, ...] = (
    # -- universal, which has tools that nobody else has
    Scene(
        ("universal",),
        r"\d\s*[-+*/]\s*\(*\d|\b(calculate|compute)\b|посчитай",
        (
            Step("Let me calculate that.", (Call("calculator", {"expr": "$expr"}),)),
            Step("$expr comes to $result."),
        ),
    ),
    Scene(
        ("universal",),
        r"\becho\b",
        (Step("", (Call("echo", {"text": "$topic"}),)), Step("It came back as: $result")),
    ),
    Scene(
        ("universal",),
        r"\b(delete|remove)\b|удали",
        (
            Step("${opening}Deleting $path needs your approval.", (Call("delete_file", {"path": "$path"}),)),
            Step("$path is gone."),
        ),
        refused=_STOPPED,
    ),
    Scene(
        ("universal",),
        r"\b(move|rename)\b|переименуй",
        (
            Step(
                "${opening}Moving $path needs your approval.",
                (Call("move_file", {"source": "$path", "destination": "$path.old"}),),
            ),
            Step("$path is $path.old now."),
        ),
        refused=_STOPPED,
    ),
    # -- coder
    Scene(
        ("coder", "universal"),
        r"^\W*(help|hi|hello|do something)\W*$|^\W*помоги\W*$",
        (
            Step(
                "", (Call("ask_followup_question", {"question": "Which file should I write, and what should it do?"}),)
            ),
            Step("Tell me which file I should write, and what it should do."),
        ),
    ),
    Scene(
        ("coder", "universal"),
        r"\b(folder|directory|mkdir)\b|папк|каталог",
        (
            Step(
                "${opening}A new directory needs your approval.",
                (Call("create_directory", {"path": "$folder", "recursive": True}),),
            ),
            Step("", (Call("attempt_completion", {"result": "The directory $folder is there."}),)),
            Step("The directory $folder is there."),
        ),
        refused=_STOPPED,
    ),
    Scene(
        ("coder", "universal"),
        _WRITE + "|" + _BROKEN,
        (
            Step("${opening}First I look at what is there already.", _LOOK),
            Step(
                "Nothing stands in the way, so I write $path.",
                (Call("write_file", {"path": "$path", "content": "$code", "create_dirs": True}),),
            ),
            Step("", (Call("attempt_completion", {"result": "$path is written."}),)),
            Step("$path is written. Its first version is short on purpose: tell me what to change."),
        ),
        refused="I have not written $path: $result\nTell me what to change, and I will try again.",
    ),
    Scene(
        ("coder", "universal"),
        _RUN,
        (
            Step("${opening}This needs a command.", (Call("execute_command", {"command": "ls -l", "timeout": 30}),)),
            Step("The command has run. Its first line: $result"),
        ),
        refused=_STOPPED,
    ),
    # -- architect
    Scene(
        ("architect",),
        _BUILD,
        (
            Step(
                "${opening}Before anything is built, the plan goes on paper.",
                (Call("write_file", {"path": "docs/$name.md", "content": "$document", "create_dirs": True}),),
            ),
            Step(
                "The plan stands. The coder takes over from here.",
                (Call("switch_mode", {"mode": "coder", "reason": "The plan is written, now it has to be built."}),),
            ),
            Step("The plan is in docs/$name.md."),
        ),
        refused="Without docs/$name.md there is no plan to build from: $result",
    ),
    Scene(
        ("architect", "universal"),
        _DESIGN + "|" + _WRITE,
        (
            Step("${opening}I look at the present structure first.", _LOOK),
            Step(
                "Now the decision goes on paper.",
                (Call("write_file", {"path": "docs/$name.md", "content": "$document", "create_dirs": True}),),
            ),
            Step("", (Call("attempt_completion", {"result": "The decision is in docs/$name.md."}),)),
            Step("The decision is in docs/$name.md: two modules, one direction of imports, one place that wires them."),
        ),
        refused="I have not written docs/$name.md: $result",
    ),
    # -- debug
    Scene(
        ("debug",),
        r"\b(fix|repair|solve)|почини|исправь",
        (
            Step(
                "${opening}I read $path and look for what uses it.",
                (
                    Call("read_file", {"path": "$path"}),
                    Call("search_in_code", {"query": "$name", "case_sensitive": False}),
                ),
            ),
            Step(
                "The cause is clear: an input that nobody checks. The coder should mend it.",
                (Call("switch_mode", {"mode": "coder", "reason": "The cause is found, the file has to be changed."}),),
            ),
            Step("The cause is an input that nobody checks, in $path."),
        ),
    ),
    Scene(
        ("debug",),
        _BROKEN + "|" + _RUN,
        (
            Step(
                "${opening}I look at the code and at the machine at once.",
                (
                    Call("list_files", {"path": ".", "recursive": True}),
                    Call("search_in_code", {"query": "raise", "regex": False}),
                    Call("execute_command", {"command": "ls -l", "timeout": 30}),
                ),
            ),
            Step("", (Call("attempt_completion", {"result": "The cause is an input that nobody checks."}),)),
            Step("The cause is an input that nobody checks. Ask me to fix it, and I hand over to the coder."),
        ),
    ),
    # -- ask
    Scene(
        ("ask",),
        _WRITE + "|" + r"\b(fix|repair)",
        (
            Step(
                "${opening}That needs a change of files, which is the coder's work.",
                (Call("switch_mode", {"mode": "coder", "reason": "The request needs files to be written."}),),
            ),
            Step("I can explain it, but not write it."),
        ),
    ),
    Scene(
        ("ask",),
        r"\b(file|code|module|project|function|class)\b|файл|код|проект",
        (
            Step("${opening}Let me look.", _LOOK),
            Step("", (Call("attempt_completion", {"result": "Answered from the files."}),)),
            Step("From what I found: each module does one thing, and the names say which. Ask about any of them."),
        ),
    ),
    # -- whoever it is, and whatever was asked
    Scene(
        ("orchestrator",),
        "",
        (
            Step("${opening}I look at what we have.", (Call("list_files", {"path": "."}),)),
            Step("I see the project. Say what you want, and I pass it to whoever does that best."),
        ),
    ),
    Scene(
        ("coder", "debug", "architect"),
        "",
        (Step("${opening}I look around first.", _LOOK), Step("I have looked around. What should I do about “$topic”?")),
    ),
    Scene(
        ("ask", "universal", ""),
        "",
        (Step("${opening}On “$topic”: $advice."),),
    ),
)
