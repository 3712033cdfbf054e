"""A reward function of the user's: `file.py:name`."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fettle.data.record import Record
from fettle.errors import UserError, did_you_mean
from fettle.rl.rewards.scorer import checked, shown
from fettle.rl.rollout import Rollout

_EXPECTED = "def f(prompts, completions, **columns) -> list[float]"


class FunctionScorer:
    """`f(prompts, completions, **columns) -> list[float]`: text for prompts that are text, messages for messages; of
    the columns those it names, or all where it takes `**columns`."""

    def __init__(self, function: str, resolve: Callable[[str], Path], /, **where: Any) -> None:
        """function: `file.py:name`. resolve: a path of the recipe. where: file, line, field, for a UserError."""
        path, _, self.name = function.rpartition(":")
        self.file = resolve(path)
        self._function = load_named(self.file, self.name, **where)
        self._takes = _keywords(self._function, self.name, self.file)

    def score(self, rollouts: Sequence[Rollout], records: Sequence[Record]) -> list[float]:
        """Raises UserError, at the user's own line, where the function raises or gives anything but rewards."""
        told = shown(rollouts, records)
        columns = {name: of for name, of in told.columns.items() if self._takes is None or name in self._takes}
        try:
            found = self._function(prompts=told.prompts, completions=told.completions, **columns)
        except Exception as error:  # the function is the user's; it may raise anything
            line = line_in(self.file, error)
            said = f"{type(error).__name__}: {error}"
            raise UserError(
                f"{self.name} raised {said}", file=self.file, line=line, fix=_fix(error, told.columns)
            ) from error
        line = defined_at(self._function)
        return checked(found, len(rollouts), f"the reward function {self.name}", file=self.file, line=line)


def load_named(file: Path, name: str, /, **where: Any) -> Callable[..., Any]:
    """What a Python file calls `name`, a function or a class. Raises UserError where the file is not there, does not
    run, or has nothing to call by that name. where: file, line, field of the recipe."""
    if not file.is_file():
        raise UserError(f"no file {file}", **where, expected="file.py:name, relative to the recipe")
    spec = importlib.util.spec_from_file_location(f"fettle_of_recipe_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the file is the user's
        line = error.lineno if isinstance(error, SyntaxError) else line_in(file, error)
        raise UserError(f"this file does not run: {type(error).__name__}: {error}", file=file, line=line) from error
    found = getattr(module, name, None)
    if not callable(found):
        ours = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"{file} has nothing to call that is named {name}{did_you_mean(name, ours)}", **where)
    return found


def line_in(file: Path, error: BaseException) -> int | None:
    """The last line of the user's file that was running; None where none was."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    return lines[-1] if lines else None


def defined_at(function: Callable[..., Any]) -> int | None:
    """The line on which a function of the user's begins; None of what is no function."""
    code = getattr(function, "__code__", None)
    return code.co_firstlineno if code is not None else None


def _keywords(function: Callable[..., Any], name: str, file: Path) -> set[str] | None:
    """The columns it names; None where it takes any."""
    line = defined_at(function)
    if inspect.iscoroutinefunction(function):
        raise UserError(f"{name} is async, and rewards are asked for in turn", file=file, line=line, expected=_EXPECTED)
    taken = inspect.signature(function).parameters.values()
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken):
        named = None
    else:
        named = {one.name for one in taken if one.kind is not inspect.Parameter.POSITIONAL_ONLY}
    names = {one.name for one in taken if one.kind is not inspect.Parameter.POSITIONAL_ONLY}
    if named is not None and not {"prompts", "completions"} <= names:
        raise UserError(f"{name} does not take prompts and completions", file=file, line=line, expected=_EXPECTED)
    return named


def _fix(error: Exception, columns: dict[str, list[Any]]) -> str | None:
    """What to do about a column that is not there, which Python calls a missing argument."""
    if isinstance(error, TypeError) and "required" in str(error):
        return f"the records have the columns {', '.join(columns) or '(none)'}"
    return None
