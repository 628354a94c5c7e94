import sys
import types

import pytest

from verifier.command import umbrella


def install(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Two commands: one whose module is there, one whose is not."""
    seen: list[list[str]] = []
    module = types.ModuleType("fake_command")
    module.main = lambda argv: seen.append(argv) or 5  # type: ignore[attr-defined]
    module.__spec__ = types.SimpleNamespace(name="fake_command")  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "fake_command", module)
    commands = {"here": ("fake_command", "is there"), "absent": ("no_such_package.cli", "is not")}
    monkeypatch.setattr(umbrella, "COMMANDS", commands)
    return seen


def test_hands_over_arguments_and_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = install(monkeypatch)
    assert umbrella.main(["here", "--flag", "x"]) == 5
    assert seen == [["--flag", "x"]]


def test_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert umbrella.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("secateur ")


def test_lists_only_what_is_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    install(monkeypatch)
    assert umbrella.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "is there" in text and "absent" not in text
    assert umbrella.main([]) == 2


def test_unknown_commands_get_a_suggestion(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    install(monkeypatch)
    assert umbrella.main(["heer"]) == 2
    assert "did you mean here?" in capsys.readouterr().err
    assert umbrella.main(["absent"]) == 2
    assert "expected one of here" in capsys.readouterr().err
