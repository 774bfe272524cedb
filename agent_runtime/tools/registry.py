"""A registry of tools: typed Python functions, and the JSON schemas that follow from their signatures and docstrings.

A function is a tool as it stands: its name, the first part of its docstring, its annotations, its defaults and the
``Args:`` of its docstring are all that the model is told. ``Annotated[int, Field(ge=1, le=300)]`` adds limits.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from agent_runtime.tools.errors import ToolError


@dataclass(frozen=True, slots=True)
class Call:
    """Who calls. A tool that needs it has a parameter of this type, which the model does not see.

    Attributes:
        file_rule: a glob that the name of each file must match that this agent creates, changes, moves or deletes;
            None for any.
    """

    session_id: str | None = None
    agent: str | None = None
    call_id: str = ""
    file_rule: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call.

    Attributes:
        parameters: the JSON schema of its arguments.
        call_parameter: the name of its parameter of type ``Call``, or None.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    function: Callable[..., Any]
    model: type[BaseModel]
    call_parameter: str | None

    def validated(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments to call the function with; defaults are left to it. A null stands for an absent argument.

        Raises:
            ToolError: ``invalid_arguments``, with each argument that is wrong and why; values are not repeated.
        """
        if not isinstance(arguments, Mapping):
            raise ToolError("invalid_arguments", "the arguments must be a JSON object")
        required = self.parameters.get("required", ())
        given = {name: value for name, value in arguments.items() if value is not None or name in required}
        try:
            checked = self.model.model_validate(given)
        except ValidationError as error:
            raise ToolError("invalid_arguments", self._problems(error)) from None
        return {name: getattr(checked, name) for name in given}

    def _problems(self, error: ValidationError) -> str:
        known = self.parameters["properties"]
        problems = []
        for row in error.errors(include_input=False, include_url=False, include_context=False):
            name = str(row["loc"][0]) if row["loc"] else ""
            if name in known:
                problems.append(f"{name}: {row['msg'][:1].lower()}{row['msg'][1:]}")
            else:
                problems.append(f"there is an argument that is not one of {', '.join(known)}")
        return "; ".join(dict.fromkeys(problems))

    async def run(self, arguments: Mapping[str, Any], call: Call) -> str:
        """Call the function with checked arguments; one that is not async, in a thread.

        Raises:
            ToolError: the arguments are wrong, or the tool could not do it. Anything else: a fault of the tool.
        """
        keywords = self.validated(arguments)
        if self.call_parameter is not None:
            keywords[self.call_parameter] = call
        if inspect.iscoroutinefunction(self.function):
            return str(await self.function(**keywords))
        return str(await asyncio.to_thread(self.function, **keywords))

    def spec(self) -> dict[str, Any]:
        """The tool as the chat API of OpenAI takes it."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


class ToolRegistry:
    """Tools by name, in the order in which they were added."""

    def __init__(self, functions: Iterable[Callable[..., Any]] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        for function in functions:
            self.add(function)

    def add(self, function: Callable[..., Any]) -> Tool:
        """Make a tool of a function.

        Raises:
            ValueError: the name is taken, or the function or a parameter of it has no description.
            TypeError: a parameter has no annotation, or there is none such as ``*args``.
        """
        tool = as_tool(function)
        if tool.name in self._tools:
            raise ValueError(f"there is a tool {tool.name} already")
        self._tools[tool.name] = tool
        return tool

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all tools."""
        return tuple(self._tools)

    def get(self, name: str) -> Tool | None:
        """The tool of that name, or None."""
        return self._tools.get(name)

    def specs(self, names: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """The OpenAI function schemas of the tools named, in that order; of all without ``names``.

        Raises:
            KeyError: there is no such tool.
        """
        return [self._tools[name].spec() for name in (self.names if names is None else names)]


def as_tool(function: Callable[..., Any]) -> Tool:
    """A tool of a function; see ``ToolRegistry.add``."""
    name = function.__name__
    description, described = _parse_docstring(inspect.getdoc(function) or "")
    if not description:
        raise ValueError(f"{name} has no docstring")
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    call_parameter = None
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise TypeError(f"{name}: {parameter} can't be given by name")
        if parameter.name not in hints:
            raise TypeError(f"{name}: {parameter.name} has no annotation")
        hint = hints[parameter.name]
        if hint is Call:
            call_parameter = parameter.name
            continue
        if parameter.name not in described:
            raise ValueError(f"{name}: {parameter.name} is not described under Args: in its docstring")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (_without_none(hint), Field(default, description=described[parameter.name]))
    model = create_model(name, __config__=ConfigDict(strict=True, extra="forbid"), **fields)
    return Tool(name, description, _plain(model.model_json_schema()), function, model, call_parameter)


def _without_none(hint: Any) -> Any:
    """``X`` for ``X | None``: to the model, an argument is optional because it may be left out."""
    if get_origin(hint) in (Union, UnionType):
        rest = [option for option in get_args(hint) if option is not NoneType]
        if len(rest) == 1:
            return rest[0]
    return hint


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without titles, which repeat the names, and without defaults of null."""
    properties = {
        name: {
            key: value for key, value in field.items() if key != "title" and not (key == "default" and value is None)
        }
        for name, field in schema["properties"].items()
    }
    plain: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if schema.get("required"):
        plain["required"] = schema["required"]
    return plain


_SECTION = re.compile(r"^(Args|Returns|Raises):\s*$", re.MULTILINE)
_ARGUMENT = re.compile(r"^ {4}(\w+): ", re.MULTILINE)


def _parse_docstring(text: str) -> tuple[str, dict[str, str]]:
    """The text before the first section, and the descriptions under ``Args:``, each on one line."""
    description, *sections = _SECTION.split(text)
    described: dict[str, str] = {}
    for title, body in zip(sections[::2], sections[1::2], strict=True):
        if title == "Args":
            _, *pieces = _ARGUMENT.split(body)
            described = {name: " ".join(words.split()) for name, words in zip(pieces[::2], pieces[1::2], strict=True)}
    return " ".join(description.split()), described
