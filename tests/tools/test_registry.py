from typing import Annotated, Any

import pytest
from pydantic import Field

from agent_runtime.tools import Call, ToolError, ToolRegistry, Workspace, standard_tools
from agent_runtime.tools.registry import as_tool

# CONTRACT 3.5: each tool's parameters in order, and how many of them, from the first, are required.
TOOLS = {
    "echo": ("text", 1),
    "calculator": ("expr", 1),
    "switch_mode": ("mode reason", 1),
    "read_file": ("path encoding start_line end_line", 1),
    "write_file": ("path content encoding create_dirs backup", 2),
    "list_files": ("path recursive include_hidden pattern", 1),
    "create_directory": ("path recursive", 1),
    "execute_command": ("command cwd timeout", 1),
    "search_in_code": ("query path file_pattern case_sensitive regex max_results", 1),
    "delete_file": ("path", 1),
    "move_file": ("source destination", 2),
    "attempt_completion": ("result", 1),
    "ask_followup_question": ("question", 1),
}


def greet(name: str, times: Annotated[int, Field(ge=1, le=3)] = 1, tone: str | None = None, *, call: Call) -> str:
    """Greet somebody.

    Loudly, if asked to.

    Args:
        name: who; on
            two lines.
        times: how often.
        tone: how.

    Returns:
        Nothing that matters.
    """
    return f"{call.agent} greets {name} {times} times, {tone}"


@pytest.fixture
def parameters(workspace: Workspace) -> dict[str, Any]:
    """Each standard tool's JSON schema."""
    specs = standard_tools(workspace).specs()
    return {spec["function"]["name"]: spec["function"]["parameters"] for spec in specs}


def test_the_standard_tools_are_those_of_the_contract(parameters: dict[str, Any]) -> None:
    """Thirteen, with exactly these parameters, in this order, and these of them required."""
    found = {name: (list(schema["properties"]), schema["required"]) for name, schema in parameters.items()}
    expected = {name: (names.split(), names.split()[:required]) for name, (names, required) in TOOLS.items()}
    assert expected == found


def test_limits_of_the_contract(parameters: dict[str, Any]) -> None:
    """A command's time and a search's results have their greatest values in the schema."""
    assert 300 == parameters["execute_command"]["properties"]["timeout"]["maximum"]
    assert 1000 == parameters["search_in_code"]["properties"]["max_results"]["maximum"]


def test_schemas_are_what_the_chat_api_takes(workspace: Workspace) -> None:
    """Each is an object schema of plain types, described throughout and closed."""
    for spec in standard_tools(workspace).specs():
        assert {"type", "function"} == spec.keys()
        assert "function" == spec["type"]
        assert {"name", "description", "parameters"} == spec["function"].keys()
        schema = spec["function"]["parameters"]
        assert ("object", False) == (schema["type"], schema["additionalProperties"])
        for field in schema["properties"].values():
            assert field["type"] in {"string", "integer", "boolean"}
            assert field["description"].endswith(".")
            assert "title" not in field


def test_schema_of_a_function() -> None:
    """Names, types, limits, defaults and descriptions come from the signature and the docstring; a Call is hidden."""
    expected = {
        "type": "function",
        "function": {
            "name": "greet",
            "description": "Greet somebody. Loudly, if asked to.",
            "parameters": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "description": "who; on two lines."},
                    "times": {
                        "type": "integer",
                        "minimum": 1,
                        "maximum": 3,
                        "default": 1,
                        "description": "how often.",
                    },
                    "tone": {"type": "string", "description": "how."},
                },
                "additionalProperties": False,
                "required": ["name"],
            },
        },
    }
    assert expected == as_tool(greet).spec()


async def test_run_passes_checked_arguments_and_the_call() -> None:
    """What is null or left out takes the function's default."""
    call = Call(agent="coder")
    assert "coder greets Ann 1 times, None" == await as_tool(greet).run({"name": "Ann", "tone": None}, call)
    assert "coder greets Ann 3 times, low" == await as_tool(greet).run({"name": "Ann", "times": 3, "tone": "low"}, call)


async def test_run_awaits_what_is_async() -> None:
    """An async function is a tool as well."""

    async def wave() -> str:
        """Wave."""
        return "o/"

    assert "o/" == await as_tool(wave).run({}, Call())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "name: field required"),
        ({"name": None}, "name: input should be a valid string"),
        ({"name": 5}, "name: input should be a valid string"),
        ({"name": "Ann", "times": 4}, "times: input should be less than or equal to 3"),
        ({"name": "Ann", "times": "2"}, "times: input should be a valid integer"),
        ({"name": "Ann", "times": True}, "times: input should be a valid integer"),
        ({"name": "Ann", "sk-secret": 1}, "there is an argument that is not one of name, times, tone"),
        ({"name": "Ann", "call": {}}, "there is an argument that is not one of name, times, tone"),
        ({"times": 0}, "name: field required; times: input should be greater than or equal to 1"),
        (["Ann"], "the arguments must be a JSON object"),
    ],
)
def test_wrong_arguments_are_named_and_not_repeated(arguments: Any, expected: str) -> None:
    """The error says which argument is wrong and why, without its value."""
    with pytest.raises(ToolError) as caught:
        as_tool(greet).validated(arguments)
    assert ("invalid_arguments", expected) == (caught.value.error_type, caught.value.what)


def test_names_and_specs_keep_their_order() -> None:
    """Tools come as they were added; schemas, as they were asked for."""

    def one() -> str:
        """One."""
        return "1"

    def two() -> str:
        """Two."""
        return "2"

    registry = ToolRegistry([two, one])
    assert ("two", "one") == registry.names
    assert ["one", "two"] == [spec["function"]["name"] for spec in registry.specs(["one", "two"])]
    assert ["two", "one"] == [spec["function"]["name"] for spec in registry.specs()]
    assert (None, "two") == (registry.get("three"), registry.get("two").name)
    with pytest.raises(KeyError):
        registry.specs(["three"])
    with pytest.raises(ValueError, match="there is a tool one already"):
        registry.add(one)


def test_mistakes_are_refused_when_a_tool_is_defined() -> None:
    """A parameter without an annotation or a description, or a function without a docstring, is no tool."""

    def silent(a: int) -> None:
        pass

    def undescribed(a: int) -> None:
        """Do it."""

    def untyped(a) -> None:  # type: ignore[no-untyped-def]
        """Do it.

        Args:
            a: something.
        """

    def open_ended(*a: int) -> None:
        """Do it."""

    for function, error in [
        (silent, ValueError),
        (undescribed, ValueError),
        (untyped, TypeError),
        (open_ended, TypeError),
    ]:
        with pytest.raises(error):
            as_tool(function)
