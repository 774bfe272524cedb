"""Arithmetic without ``eval``: Python's own grammar, of which a few nodes are walked and all others are refused.

Whatever could take long or fill the memory is refused before it is computed.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from agent_runtime.tools.errors import ToolError

MAX_EXPRESSION = 1_000
MAX_BITS = 4_096

Number = int | float

_BINARY: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Number], Number]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_CONSTANTS = {"pi": math.pi, "e": math.e, "tau": math.tau}
_FUNCTIONS: dict[str, Callable[..., Number]] = {
    "abs": abs,
    "min": min,
    "max": max,
    "round": lambda value, digits=0: _round(value, digits),
    **{
        name: getattr(math, name)
        for name in (
            *("sqrt", "cbrt", "exp", "log", "log2", "log10", "hypot"),
            *("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "degrees", "radians"),
            *("floor", "ceil", "trunc", "gcd", "lcm"),
        )
    },
}


def calculator(expr: Annotated[str, Field(min_length=1, max_length=MAX_EXPRESSION)]) -> str:
    """Compute an arithmetic expression exactly as Python would: 2 + 3 * 4, 2 ** 10, 7 // 2, sqrt(2), sin(pi / 6).

    Args:
        expr: numbers, + - * / // % **, parentheses, pi, e, tau, and the functions abs, round, min, max, sqrt, cbrt,
            exp, log, log2, log10, hypot, sin, cos, tan, asin, acos, atan, atan2, degrees, radians, floor, ceil, trunc,
            gcd, lcm.
    """
    return repr(calculate(expr))


def calculate(expression: str) -> Number:
    """The value of an arithmetic expression.

    Raises:
        ToolError: ``invalid_expression``, or ``arithmetic`` where there is no value, or none of a bearable size.
    """
    if len(expression) > MAX_EXPRESSION:
        raise ToolError("invalid_expression", f"has more than {MAX_EXPRESSION} characters")
    try:
        return _value(_parsed(expression))
    except RecursionError:
        raise ToolError("invalid_expression", "is nested too deeply") from None
    except ZeroDivisionError:
        raise ToolError("arithmetic", "divides by zero") from None
    except OverflowError:
        raise ToolError("arithmetic", "the result is too large") from None
    except (ValueError, TypeError):
        raise ToolError("arithmetic", "a function is not defined for these arguments") from None


def _parsed(expression: str) -> ast.expr:
    try:
        return ast.parse(" ".join(expression.split()), mode="eval").body
    except (SyntaxError, ValueError, MemoryError):
        raise ToolError("invalid_expression", "can't be read as an arithmetic expression") from None


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=value) if type(value) is int or type(value) is float:
            return _bounded(value)
        case ast.BinOp(left, op, right) if type(op) in _BINARY:
            a, b = _value(left), _value(right)
            _refuse_size(op, a, b)
            return _bounded(_BINARY[type(op)](a, b))
        case ast.UnaryOp(op, operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand))
        case ast.Name(name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.Call(ast.Name(name), arguments, []) if name in _FUNCTIONS:
            return _bounded(_FUNCTIONS[name](*[_value(argument) for argument in arguments]))
        case ast.BinOp(op=ast.BitXor()):
            raise ToolError("invalid_expression", "^ is not an operator here; a power is written **")
        case _:
            raise ToolError("invalid_expression", "only numbers, + - * / // % **, parentheses and known functions")


def _refuse_size(op: ast.operator, a: Number, b: Number) -> None:
    """Refuse a power that would take long to compute; sums and products of bounded numbers are cheap."""
    whole = isinstance(op, ast.Pow) and isinstance(a, int) and isinstance(b, int)
    if whole and abs(a) > 1 and b > 0 and int(a).bit_length() * b > 2 * MAX_BITS:
        raise ToolError("arithmetic", "the result is too large")


def _round(value: Number, digits: Number = 0) -> Number:
    """``round``, but not to a place so far away that finding it is work."""
    if not isinstance(digits, int) or abs(digits) > MAX_EXPRESSION:
        raise ToolError("arithmetic", f"round takes a whole number of digits, at most {MAX_EXPRESSION}")
    return round(value, digits) if digits else round(value)


def _bounded(value: object) -> Number:
    if isinstance(value, int) and value.bit_length() <= MAX_BITS:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, complex):
        raise ToolError("arithmetic", "the result is not a real number")
    raise ToolError("arithmetic", "the result is too large")
