"""The shared command line: every command says mistakes in one line, suggests names, and reads one syntax."""

from __future__ import annotations

import argparse
import importlib

import pytest

from verifier.command.umbrella import COMMANDS
from verifier.console import arguments
from verifier.console.arguments import PIXELS, SHARE, CommandParser, Tolerance, tolerance
from verifier.errors import OptionsError
from verifier.perturbation.options import add_perturbation
from verifier.perturbation.perturbation import Perturbation
from verifier.perturbation.text import STILL

MISSPELT = {
    "verify": "--timout", "prune": "--rato", "spec": "--imge", "coverage": "--toleranse", "compare": "--imags",
    "train": "--epoch5", "check": "--versoin", "benchmark-pack": "--imags",
}  # fmt: skip


def left(capsys: pytest.CaptureFixture[str], main: object, *given: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command that leaves while it reads its arguments."""
    with pytest.raises(SystemExit) as caught:
        main(list(given))  # type: ignore[operator]
    shown = capsys.readouterr()
    return caught.value.code, shown.out, shown.err  # type: ignore[return-value]


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_suggests_knows_its_version_and_says_one_line(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main = importlib.import_module(COMMANDS[command][0]).main
    code, out, error = left(capsys, main, MISSPELT[command], "5")
    assert code == 2 and out == "" and error.count("\n") == 1
    assert f"error: unknown option {MISSPELT[command]}: did you mean --" in error
    code, out, error = left(capsys, main, "--version")
    assert (code, error) == (0, "") and out.split()[-1] == arguments.version()


def parser() -> CommandParser:
    p = CommandParser("try", "A parser.")
    p.add_argument("file", nargs="?")
    p.add_argument("--timeout", type=float)
    p.add_argument("--count", type=int)
    p.add_argument("--device", choices=("auto", "cpu", "cuda"))
    add_perturbation(p.add_argument_group("ranges"))
    return p


def said(*given: str) -> Perturbation:
    """What the parser's options for ranges say."""
    return Perturbation.parse(parser().parse_args(list(given)).semantic)


BOTH = Perturbation.of(contrast=(0.8, 1.2), brightness=(-0.1, 0.1))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--timout", "5"], "unknown option --timout: did you mean --timeout?"),
        (["--timout=5"], "unknown option --timout: did you mean --timeout?"),
        (["--zzz"], "unknown option --zzz (try --help"),
        (["--timeout", "soon"], "--timeout: found 'soon', expected a number"),
        (["--count", "1.5"], "--count: found '1.5', expected a whole number"),
        (["--device", "cudda"], "--device: found 'cudda', expected one of auto, cpu, cuda (did you mean cuda?)"),
        (["--timeout"], "--timeout: expected one argument"),
        (["a", "b"], "unexpected argument: b"),
        (["--brightness", "1"], "--brightness: found '1', expected LOW,HIGH or LOW:HIGH"),
        (["--brightness", "0,inf"], "expected two finite numbers"),
    ],
)
def test_mistakes_are_one_line(given: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, error = left(capsys, parser().parse_args, *given)
    assert code == 2 and out == "" and error.count("\n") == 1
    assert error.startswith("try: error: ") and words in error


def test_beginnings_negative_values_and_what_follows_two_dashes() -> None:
    found = parser().parse_args(["--time", "3", "--brightness", "-0.1,0.1", "--", "--odd-name"])
    assert (found.timeout, found.semantic, found.file) == (3.0, "brightness=-0.1:0.1", "--odd-name")
    assert said("--brightness", "-.1:.1") == Perturbation.of(brightness=(-0.1, 0.1))


@pytest.mark.parametrize("text", ["brightness=-0.1:0.1,contrast=0.8:1.2", "brightness=-0.1,0.1, contrast = 0.8,1.2"])
def test_one_syntax_for_ranges(text: str) -> None:
    assert Perturbation.parse(text) == BOTH == said("--semantic", text)


def test_ranges_as_options_and_as_text_are_the_same() -> None:
    p = CommandParser("try", None)
    add_perturbation(p.add_argument_group("ranges"), "--rectangle", dest="rectangle", default="medium")
    assert p.parse_args([]).rectangle == "medium"
    assert p.parse_args(["--rectangle", "small", "--anchor", "0.5"]).rectangle == "small,anchor=0.5"
    found = p.parse_args(["--brightness=-0.1,1e-05", "--contrast", "0.8:1.2"]).rectangle
    assert Perturbation.parse(found) == Perturbation.of(contrast=(0.8, 1.2), brightness=(-0.1, 1e-05))
    found = p.parse_args(["--anchor", "mean", "--contrast", "0.8:1.2"]).rectangle
    assert Perturbation.parse(found, STILL) == Perturbation.of(contrast=(0.8, 1.2), brightness=(0, 0), anchor="mean")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("blur=0:1", "unknown parameter blur; expected one of gamma, fog"),
        ("blurred", "unknown level blurred; expected NAME=LOW:HIGH, such as brightness=-0.1:0.1"),
        ("brightness=1", "range brightness: found '1'"),
    ],
)
def test_mistakes_in_ranges_are_told_by_name(text: str, words: str) -> None:
    with pytest.raises(OptionsError, match=words):
        said("--semantic", text)


@pytest.mark.parametrize("text", ["0.1:0.2", "=1:2", "haze=0:1,haze=0:1", "haze=1:2:3", "haze=b:c", "haze=1", "a=0:1"])
def test_ranges_that_are_none(text: str) -> None:
    with pytest.raises(OptionsError):
        Perturbation.parse(text)


@pytest.mark.parametrize("command", ["spec", "coverage", "compare", "prune", "train"])
def test_every_command_takes_every_parameter_and_constant(command: str) -> None:
    from verifier.perturbation.table import PARAMETERS, known_constants

    known = importlib.import_module(COMMANDS[command][0]).parser().format_help()
    for name in (*PARAMETERS, *known_constants()):
        assert f"--{name.replace('_', '-')} " in known, name


def test_one_syntax_for_tolerances() -> None:
    assert tolerance("3") == tolerance("3px") == tolerance(" 3 px ") == Tolerance(3.0, PIXELS)
    assert tolerance("5%") == tolerance("5 %", SHARE) == Tolerance(0.05, SHARE)
    assert tolerance("0.03", SHARE) == Tolerance(0.03, SHARE)
    assert tolerance("5%").pixels(64) == pytest.approx(3.2) and tolerance("3px").share(64) == 3 / 64
    assert arguments.tolerances("3,4px,5%") == (Tolerance(3, PIXELS), Tolerance(4, PIXELS), Tolerance(0.05, SHARE))
    for text in ("", "px", "%", "three", "3 pix", "-1", "0", "nan", "inf", "3%px"):
        with pytest.raises(argparse.ArgumentTypeError):
            tolerance(text)
