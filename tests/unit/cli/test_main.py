"""What the command exits with, and what it says then."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import pytest

from fettle.cli import main as command
from fettle.cli.run import parse_overrides
from fettle.errors import DoesNotFit, Interrupted, StageFailed, UserError


@pytest.fixture
def fettle(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """`fettle(word, …)`: (exit code, standard output, standard error) of the command."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fettle", *(str(word) for word in words)])
        with pytest.raises(SystemExit) as left:
            command.main()
        return (int(left.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def raising(monkeypatch) -> Callable[[BaseException], None]:
    """`raising(error)`: every verb raises it."""

    def set_up(error: BaseException) -> None:
        def app() -> None:
            raise error

        monkeypatch.setattr(command, "app", app)

    return set_up


def test_help_exits_with_0_and_names_the_verbs(fettle):
    code, out, _ = fettle("--help")
    assert code == 0 and all(verb in out for verb in ("run", "submit", "serve", "chat", "data", "demo"))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("no such recipe", file="a.yaml"), 2),
        (DoesNotFit("too large"), 2),
        (StageFailed("it broke"), 1),
        (Interrupted("stopped by SIGINT"), 130),
    ],
)
def test_an_error_of_ours_is_one_message_and_its_exit_code(fettle, raising, error, code):
    raising(error)
    assert fettle("run", "a.yaml") == (code, "", f"fettle: {error}\n")


def test_ctrl_c_exits_with_130_and_no_traceback(fettle, raising):
    raising(KeyboardInterrupt())
    assert fettle("run", "a.yaml") == (130, "", "")


def test_an_error_that_is_a_bug_shows_its_traceback(raising):
    raising(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        command.main()


@pytest.mark.parametrize("words", [["run"], ["submit"], ["data", "check"]])
def test_a_missing_file_exits_with_2_and_one_clear_message(fettle, tmp_path, words):
    code, out, told = fettle(*words, tmp_path / "none.yaml")
    assert (code, out) == (2, "")
    assert told.startswith(f"fettle: {tmp_path / 'none.yaml'}: no such ") and "Traceback" not in told


@pytest.mark.parametrize("verb", ["run", "submit"])
@pytest.mark.parametrize("given", ["stages.sft.lr", "=1", ""])
def test_set_without_a_key_and_a_value_exits_with_2(fettle, verb, given):
    code, _, told = fettle(verb, "a.yaml", "--set", given)
    assert code == 2
    assert told == f"fettle: --set {given}\n  expected: KEY=VALUE, as in --set stages.sft.lr=1e-5\n"


@pytest.mark.parametrize("words", [["fly"], ["run"], ["run", "a.yaml", "--colour"]])
def test_a_command_that_does_not_exist_exits_with_2(fettle, words: Sequence[str]):
    code, _, told = fettle(*words)
    assert code == 2 and "Usage" in told and "Traceback" not in told


def test_overrides_are_split_at_their_first_equals_sign():
    assert parse_overrides(["a.b=1", "c=x=y", " d =", "a.b=2"]) == {"a.b": "2", "c": "x=y", "d": ""}
