"""An environment for reinforcement learning: a calculator, which the policy calls by writing `<calc>12 * 7</calc>`.

In a stage of `kind: rl`: `environment: environments/calculator.py:Calculator`. Answers go to the policy as a user's
messages, which every chat template has; `"role": "tool"` reads better where the base's template knows it.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from typing import Any

HOW_TO = (
    "To calculate, write for example <calc>12 * 7</calc> and end your answer there: the result will be sent to you."
)
_CALL = re.compile(r"<calc>(.*?)</calc>", re.DOTALL)
_MOST_CALLS = 4
_LONGEST = 100  # characters of an expression, so that no product is too long to compute
_OF_TWO = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_OF_ONE = {ast.UAdd: operator.pos, ast.USub: operator.neg}


class Calculator:
    """Ends with the first answer that calls nothing. A call that cannot be computed costs 0.1."""

    def __init__(self) -> None:
        self.num_calls = 0

    def reset(self, prompt: list[dict[str, Any]], **columns: Any) -> list[dict[str, Any]]:
        """The prompt, with how to call the calculator at its end."""
        *before, last = prompt
        return [*before, last | {"content": f"{last['content']}\n{HOW_TO}"}]

    def step(self, messages: list[dict[str, Any]]) -> Any:
        """The result of the last call in the policy's answer; nothing where there is none, or were too many."""
        calls = _CALL.findall(messages[-1]["content"])
        if not calls or self.num_calls == _MOST_CALLS:
            return None
        self.num_calls += 1
        try:
            return [{"role": "user", "content": f"Result: {calculate(calls[-1])}"}]
        except ValueError as error:
            return [{"role": "user", "content": f"Error: {error}"}], -0.1


def calculate(expression: str) -> str:
    """The value of + - * / // % and parentheses over numbers. Raises ValueError, with the reason, for anything else."""
    if len(expression) > _LONGEST:
        raise ValueError(f"more than {_LONGEST} characters")
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
    except SyntaxError:
        raise ValueError("this is no expression") from None
    except ArithmeticError as error:
        raise ValueError(str(error)) from None
    if not math.isfinite(value):
        raise ValueError("the result is too large")
    return str(value) if isinstance(value, int) else f"{value:.12g}"


def _value(node: ast.expr) -> int | float:
    """Walked, not evaluated: what the policy writes is not to run as a program."""
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OF_ONE:
            return _OF_ONE[type(op)](_value(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OF_TWO:
            return _OF_TWO[type(op)](_value(left), _value(right))
    raise ValueError("only numbers, + - * / // % and parentheses")
