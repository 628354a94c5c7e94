import math
from pathlib import Path

import pytest

from verifier.errors import OptionsError
from verifier.options import AttackOptions, BoundOptions, Options, SearchOptions


def test_defaults_are_valid_and_survive_a_round_trip() -> None:
    assert Options.from_mapping(Options().to_mapping()) == Options()


def test_options_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Options().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("mapping", "needle"),
    [
        ({"devise": "cpu"}, "did you mean device"),
        ({"search": {"bach": 3}}, "search.bach: did you mean batch"),
        ({"search": {"batch": 0}}, "search.batch: found 0, expected a number >= 1"),
        ({"search": {"batch": "many"}}, "expected a whole number or null"),
        ({"search": {"batch": True}}, "found True, expected a whole number"),
        ({"search": 3}, "option search: found 3, expected a group"),
        ({"device": "gpu"}, "expected one of auto, cpu, cuda"),
        ({"device": "cuda0"}, "did you mean cuda"),
        ({"bounds": {"method": "beta"}}, "bounds.method"),
        ({"timeout": 0}, "option timeout: found 0.0, expected a number > 0"),
        ({"timeout": math.nan}, "option timeout"),
        ({"timeout": "soon"}, "found 'soon', expected a number or null"),
        ({"seed": -1}, "option seed"),
        ({"seed": 1.5}, "option seed: found 1.5, expected a whole number"),
        ({3: 4}, "unknown option 3"),
    ],
)
def test_impossible_options_are_refused_by_name(mapping: dict[str, object], needle: str) -> None:
    with pytest.raises(OptionsError, match=".") as caught:
        Options.from_mapping(mapping)
    assert needle in str(caught.value)


def test_checks_run_on_direct_construction_too() -> None:
    with pytest.raises(OptionsError, match=r"search\.max_depth"):
        SearchOptions(max_depth=0)
    with pytest.raises(OptionsError, match=r"attack\.steps"):
        AttackOptions(steps=0)
    with pytest.raises(OptionsError, match=r"bounds\.alpha_steps"):
        BoundOptions(alpha_steps=-1)


def test_whole_numbers_serve_as_numbers_and_yaml_exponents_too(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text("timeout: 1e2\nseed: 4\nsearch:\n  batch: 16\n")
    options = Options.from_yaml(path)
    assert (options.timeout, options.seed, options.search.batch) == (100.0, 4, 16)
    assert isinstance(options.timeout, float)


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "o.yaml").write_text("# nothing\n")
    assert Options.from_yaml(tmp_path / "o.yaml") == Options()


@pytest.mark.parametrize(
    "content",
    [
        b"seed: [1\n",
        b"- 1\n- 2\n",
        b"just words",
        b"\xff\xfe\x00",
        b"!!python/object/apply:os.system ['true']",
        b"seed: " + b"[" * 5000,
        b"a: &a [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(9)),
        b"seed: 1\n" * 200_000,
    ],
)
def test_hostile_files_give_one_short_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "o.yaml"
    path.write_bytes(content)
    with pytest.raises(OptionsError) as caught:
        Options.from_yaml(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 600


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match=r"none\.yaml: cannot read"):
        Options.from_yaml(tmp_path / "none.yaml")
