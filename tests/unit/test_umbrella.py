import subprocess
import sys
from importlib.metadata import version

import pytest

from tests.unit import fake_command
from verifier.command import umbrella
from verifier.console import about


def install(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Two commands: one whose module is there, one whose is not."""
    fake_command.seen.clear()
    commands = {"here": (fake_command.__name__, "is there"), "absent": ("no_such_package.cli", "is not")}
    monkeypatch.setattr(umbrella, "COMMANDS", commands)
    return fake_command.seen


def test_hands_over_arguments_and_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = install(monkeypatch)
    assert umbrella.main(["here", "--flag", "x"]) == 5
    assert seen == [["--flag", "x"]]


def test_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert umbrella.main(["--version"]) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("secateur ")
    assert all(f"{name} {version(name)}" in second for name in ("torch", "onnxruntime")) and "device: " in third


def test_knows_the_commit_of_a_source_tree_and_says_when_it_was_changed(tmp_path, monkeypatch) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
        return subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    monkeypatch.setattr(about, "__file__", str(tmp_path / "verifier/console/about.py"))
    head = git("rev-parse", "HEAD").strip()[:12]
    assert about.commit() == head
    (tmp_path / "file").write_text("2")
    assert about.commit() == f"{head}+"


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


def test_a_reader_that_goes_away_is_no_error(tmp_path) -> None:
    """`secateur check .. | head -0`, with a command that prints more than a pipe holds."""
    code = (
        "import sys, types\nfrom verifier.command import umbrella\n"
        "talks = types.ModuleType('talks'); talks.main = lambda argv: print('x' * 1_000_000)\n"
        "talks.__spec__ = types.SimpleNamespace(name='talks'); sys.modules['talks'] = talks\n"
        "umbrella.COMMANDS['talk'] = ('talks', ''); sys.argv[1:] = ['talk']\numbrella.run()"
    )
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert writer.stdout is not None and writer.stderr is not None
    writer.stdout.close()
    with writer.stderr as errors:
        assert errors.read() == b"" and writer.wait(timeout=60) == 0
